//! Databases that hang, databases that are killed, and a primary that waits for a killed standby.

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::ErrorCode;
use tempfile::TempDir;

use super::{Node, assert_sound, count_by_text};
use crate::Store as _;

/// Retries a send until it is stored, as a client does.
async fn retry_until_stored(node: &mut Node, text: &str) {
    let fields = json!({"to": "@bob", "text": text, "key": text});
    while node.tries("alice", "send", fields.clone()).await.is_err() {
        // waits for: the store to connect again
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_for_a_stalled_database_and_are_then_refused() {
    let scratch = TempDir::new().expect("a directory");
    let mut database = engines::Postgres::start(scratch.path(), &[]).await.expect("a PostgreSQL");
    let url = database.url();
    let mut node = Node::new(&url).await;
    node.says("alice", "@bob", "before").await;
    database.pause().expect("it stands still");
    // If the database hangs only briefly, the write is late but succeeds.
    node.submits("alice", "send", &json!({"to": "@bob", "text": "patience"}));
    // waits for: the batch to reach the database
    tokio::time::sleep(Duration::from_millis(300)).await;
    database.resume().expect("it goes on");
    assert_eq!(node.outcome().await.map(drop), Ok(()));
    database.pause().expect("it stands still");
    for text in ["now", "or never"] {
        let refusal = node.tries("alice", "send", json!({"to": "@bob", "text": text, "key": text})).await;
        assert_eq!(refusal.expect_err("the database is stalled").code, ErrorCode::Unavailable);
    }
    assert!(!node.store.is_writable());
    database.resume().expect("it goes on");
    retry_until_stored(&mut node, "now").await;
    database.kill().await.expect("killed");
    let refusal = node.tries("alice", "send", json!({"to": "@bob", "text": "gone"})).await;
    assert_eq!(refusal.expect_err("the database is down").code, ErrorCode::Unavailable);
    database.start_again().await.expect("started");
    retry_until_stored(&mut node, "there again").await;
    assert!(node.store.is_writable());
    let said = count_by_text(&url).await;
    assert!(
        ["before", "patience", "now", "there again"].iter().all(|text| said.get(*text) == Some(&1)),
        "{said:?}"
    );
    assert!(!said.contains_key("or never") && !said.contains_key("gone"), "{said:?}");
    assert_sound(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_the_standby_is_not_acknowledged() {
    let scratch = TempDir::new().expect("a directory");
    let primary = engines::Postgres::start(scratch.path(), &[]).await.expect("a PostgreSQL");
    let mut standby = primary.start_standby(scratch.path(), true).await.expect("a standby");
    let url = primary.url();
    let mut node = Node::new(&url).await;
    let first = node.says("alice", "@bob", "on two disks").await;
    standby.kill().await.expect("killed");
    let refusal = node.tries("alice", "send", json!({"to": "@bob", "text": "on one", "key": "k"})).await;
    assert_eq!(refusal.expect_err("not yet").code, ErrorCode::Unavailable);
    assert!(node.check.is_empty());
    standby.start_again().await.expect("started");
    while node.check.is_empty() {
        node.wait_for_batch().await;
    }
    assert_eq!(node.check, [first.conversation]);
    let again = node.stores("alice", "send", json!({"to": "@bob", "text": "on one", "key": "k"})).await;
    assert!(again.seq.0 == 2 && again.event.is_none(), "it has been stored: {again:?}");
    assert_sound(&url).await;
}
