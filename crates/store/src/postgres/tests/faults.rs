//! Lost connections and databases, and the outcomes of the writes in flight.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use switchboard_protocol::ErrorCode;
use tempfile::TempDir;

use super::proxy::{CutPoint, Proxy};
use super::{Node, assert_sound, count_by_text, new_database, query_texts};
use crate::postgres::connect::BlockingConnection;
use crate::postgres::target::Target;
use crate::{Committed, Store as _};

async fn proxy() -> (String, Proxy) {
    let url = new_database().await;
    let database = engines::shared_postgres().await.expect("a PostgreSQL").address();
    (url, Proxy::in_front_of(database).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcome_of_a_commit_without_an_answer_is_resolved() {
    let (url, proxy) = proxy().await;
    let mut node = Node::new(&proxy.url(&url)).await;
    node.says("alice", "@bob", "before").await;
    let cuts = [CutPoint::BeforeReading, CutPoint::BeforeCommit, CutPoint::AtCommit, CutPoint::AfterCommit];
    for (n, cut) in (2..).zip(cuts.iter().cycle().take(40)) {
        proxy.set_cut_point(*cut);
        // This message has no idempotency key, so only the outcome of the write tells whether it is stored.
        let event = node.says("alice", "@bob", &format!("{cut:?} {n}")).await;
        assert_eq!(event.seq.0, n, "{cut:?}");
        assert!(event.event.is_some(), "{cut:?}: it is not a repetition");
    }
    // A cursor command has no event. Its outcome is resolved like that of a message.
    proxy.set_cut_point(CutPoint::AfterCommit);
    let moved = node.tries("bob", "read", json!({"conversation": "@alice", "upto": 41})).await;
    assert!(matches!(moved, Ok(Committed::Cursor(cursor)) if cursor.has_moved));
    assert!(node.check.is_empty(), "{:?}", node.check);
    assert!(count_by_text(&url).await.values().all(|times| *times == 1));
    assert_sound(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_neither_duplicate_nor_lose_messages() {
    let (url, proxy) = proxy().await;
    let mut node = Node::new(&proxy.url(&url)).await;
    let mut random = Rng::with_seed(3);
    let mut stored = BTreeSet::new();
    for round in 0..60 {
        let cuts = [
            CutPoint::None,
            CutPoint::BeforeReading,
            CutPoint::BeforeCommit,
            CutPoint::AtCommit,
            CutPoint::AfterCommit,
        ];
        proxy.set_cut_point(cuts[random.usize(..cuts.len())]);
        let batch = random.u64(1..40);
        for n in 0..batch {
            node.submits(
                "alice",
                "send",
                &json!({"to": format!("@to{}", n % 7), "text": format!("{round} {n}")}),
            );
        }
        for n in 0..batch {
            node.outcome().await.expect("stored");
            stored.insert(format!("{round} {n}"));
        }
    }
    let said = count_by_text(&url).await;
    assert!(said.values().all(|times| *times == 1));
    assert_eq!(said.into_keys().collect::<BTreeSet<_>>(), stored);
    assert_sound(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_with_an_unknown_outcome_is_refused_and_resolved_later() {
    let (url, proxy) = proxy().await;
    let mut node = Node::new(&proxy.url(&url)).await;
    let first = node.says("alice", "@bob", "before").await;
    proxy.set_cut_point(CutPoint::AfterCommit);
    proxy.set_refuses_connections(true);
    node.submits("alice", "send", &json!({"to": "@bob", "text": "who knows"}));
    let refusal = node.outcome().await.expect_err("nobody knows");
    assert_eq!(refusal.code, ErrorCode::Unavailable);
    assert!(!node.store.is_writable());
    // The next writes do not wait for the database as long as the first one did.
    assert_eq!(
        node.tries("bob", "send", json!({"to": "@alice", "text": "no"})).await.map(drop).map_err(|r| r.code),
        Err(ErrorCode::Unavailable)
    );
    proxy.set_refuses_connections(false);
    while node.check.is_empty() {
        node.wait_for_batch().await;
    }
    assert_eq!(node.check, [first.conversation]);
    assert_eq!(node.says("bob", "@alice", "after").await.seq.0, 3);
    assert!(node.store.is_writable());
    assert_sound(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_backends_under_load_lose_no_message() {
    let url = new_database().await;
    let (mut one, mut two) = (Node::new(&url).await, Node::new(&url).await);
    one.stores("alice", "create", json!({"room": "a", "members": ["bob"]})).await;
    let mut told = BTreeSet::new();
    for round in 0..12 {
        for n in 0..100 {
            one.submits("alice", "send", &json!({"to": "#a", "text": format!("one {round} {n}")}));
            two.submits("bob", "send", &json!({"to": "#a", "text": format!("two {round} {n}")}));
        }
        query_texts(
            &url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
        for n in 0..100 {
            one.outcome().await.expect("stored");
            two.outcome().await.expect("stored");
            told.extend([format!("one {round} {n}"), format!("two {round} {n}")]);
        }
    }
    let said = count_by_text(&url).await;
    assert!(said.values().all(|times| *times == 1));
    assert_eq!(said.into_keys().collect::<BTreeSet<_>>(), told);
    assert_sound(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_locked_by_another_node_blocks_no_other() {
    let url = new_database().await;
    let mut node = Node::new(&url).await;
    for room in ["held", "free"] {
        node.stores("alice", "create", json!({"room": room})).await;
    }
    let (release, until) = std::sync::mpsc::sync_channel::<()>(1);
    let (held, is_held) = std::sync::mpsc::sync_channel(1);
    let holds = url.clone();
    let holder = tokio::task::spawn_blocking(move || {
        let link =
            BlockingConnection::open(&Target::new(&holds, None).expect("a target")).expect("a connection");
        let hold = "SET idle_in_transaction_session_timeout = 0; BEGIN;
                    SELECT * FROM conversations WHERE name = '#held' FOR UPDATE";
        link.run(link.client().batch_execute(hold)).expect("locked");
        held.send(()).expect("the receiver is alive");
        let _ = until.recv();
    });
    tokio::task::spawn_blocking(move || is_held.recv()).await.expect("no panic").expect("held");
    for n in 0..10 {
        for room in ["#held", "#free"] {
            node.submits("alice", "send", &json!({"to": room, "text": format!("{n}")}));
        }
    }
    for n in 2..12 {
        assert_eq!(
            node.outcome().await.map(drop).map_err(|refusal| refusal.code),
            Err(ErrorCode::Unavailable)
        );
        match node.outcome().await {
            Ok(Committed::Event(event)) => assert_eq!(event.seq.0, n),
            other => panic!("{other:?}"),
        }
    }
    release.send(()).expect("it holds");
    holder.await.expect("no panic");
    assert_eq!(node.says("alice", "#held", "now").await.seq.0, 2);
    assert_sound(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_has_every_acknowledged_message() {
    let scratch = TempDir::new().expect("a directory");
    let mut primary = engines::Postgres::start(scratch.path(), &[]).await.expect("a PostgreSQL");
    let standby = primary.start_standby(scratch.path(), true).await.expect("a standby");
    let hosts = format!("{},{}", primary.address(), standby.address());
    let url = primary.url().replace(&primary.address().to_string(), &hosts);
    let mut node = Node::new(&url).await;
    let mut told = BTreeSet::new();
    for n in 0..50 {
        node.says("alice", "@bob", &format!("{n}")).await;
        told.insert(format!("{n}"));
    }
    for n in 50..300 {
        node.submits("alice", "send", &json!({"to": "@bob", "text": format!("{n}"), "key": format!("{n}")}));
    }
    primary.kill().await.expect("killed");
    standby.promote().await.expect("promoted");
    for n in 50..300 {
        match node.outcome().await {
            Ok(_) => {
                told.insert(format!("{n}"));
            }
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::Unavailable),
        }
    }
    // Sends the message again until it is stored, as a client does.
    for n in 50..300 {
        let fields = json!({"to": "@bob", "text": format!("{n}"), "key": format!("{n}")});
        while node.tries("alice", "send", fields.clone()).await.is_err() {
            // waits for: the store to connect again
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let said = count_by_text(&standby.url()).await;
    assert!(told.iter().all(|text| said.contains_key(text)), "what was acknowledged is there");
    assert_eq!(said.len(), 300);
    assert!(said.values().all(|times| *times == 1));
    assert_sound(&standby.url()).await;
}
