//! A broken database: one row that cannot be read takes nothing else with it, and what a newer version
//! made is left as it is. The only test with SQL: it breaks what the server never would.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use serde_json::json;
use switchboard::clock::Clock;
use switchboard::metrics::Metrics;
use switchboard::store::sqlite::{Settings, SqliteStore};
use switchboard_protocol::{ErrorCode, Event, EventBody, Limits, Seq};
use tempfile::TempDir;

use crate::support::{Server, text_of};

const DATABASE: &str = "switchboard.db";

/// What can happen to a row, by the seq of the event that it happens to.
const POISON: [(u64, &str); 6] = [
    (3, "UPDATE events SET body = 'no JSON' WHERE seq = 3"),
    (4, "UPDATE events SET kind = 99 WHERE seq = 4"),
    (5, "UPDATE events SET body = '[1]' WHERE seq = 5"),
    (6, "UPDATE events SET body = '{\"text\":\"broken off' WHERE seq = 6"),
    (7, "UPDATE events SET body = CAST(x'7B22FF227D' AS TEXT) WHERE seq = 7"),
    (8, "UPDATE events SET sender = 9999 WHERE seq = 8"),
];

/// The last message, and it is poisoned too.
const LAST: u64 = 9;

fn poison(data: &Path) {
    let db = Connection::open(data.join(DATABASE)).expect("the database");
    for (seq, sql) in POISON {
        assert_eq!(db.execute(sql, []), Ok(1), "{seq}");
    }
    let last = "UPDATE events SET body = '' WHERE seq = 9";
    assert_eq!(db.execute(last, []), Ok(1));
}

/// A room with the events 1 to 9, of which most are poisoned.
async fn poisoned() -> Server {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &["bob"]).await;
    for seq in 2..=LAST {
        assert_eq!(alice.says("#r", &format!("message {seq}")).await, seq);
    }
    alice.says("@bob", "elsewhere").await;
    alice.client.close().await;
    poison(server.data());
    server.restart().await;
    server
}

fn is_unreadable(event: &Event) -> bool {
    matches!(event.body, EventBody::Unreadable {})
}

/// Every event is in its place, and only those that were poisoned cannot be read.
fn check_log(log: &[Event]) {
    assert_eq!(log.iter().map(|event| event.seq.0).collect::<Vec<_>>(), (1..=LAST).collect::<Vec<_>>());
    let unreadable: Vec<_> =
        log.iter().filter(|event| is_unreadable(event)).map(|event| event.seq.0).collect();
    assert_eq!(unreadable, POISON.iter().map(|(seq, _)| *seq).chain([LAST]).collect::<Vec<_>>());
    assert_eq!(text_of(&log[1]), Some("message 2"));
}

#[tokio::test]
async fn hostile_29_a_poisoned_row_is_told_as_unreadable_and_blocks_nobody() {
    let server = poisoned().await;
    let mut bob = server.connects("bob").await;
    check_log(&bob.log("#r").await);
    let summary = bob.summary("#r").await;
    assert_eq!((summary.head, summary.unread), (Seq(LAST), LAST - 1));
    assert_eq!(bob.summary("@alice:bob").await.head, Seq(1), "others are not affected");
    let history = bob.history("#r").await;
    let texts: BTreeMap<_, _> =
        history.iter().map(|m| (m.seq.0, m.text.as_ref().map(|t| t.as_str()))).collect();
    assert_eq!(texts[&2], Some("message 2"));
    assert_eq!((texts[&3], texts[&LAST]), (None, None));
    let answer = server.posts("sync", json!({"as": "bob", "conversation": "#r", "limit": 200})).await.ok();
    assert_eq!(answer["events"][2]["type"], "unreadable", "{answer}");
    assert_eq!(answer["events"].as_array().map(Vec::len), Some(9));

    let mut phone = server.resumes("bob", &[("#r", 0), ("@alice:bob", 0)]).await;
    let (mut log, mut elsewhere) = (Vec::new(), Vec::new());
    for _ in 0..=LAST {
        let event = phone.sees().await;
        if event.conversation.as_str() == "#r" { log.push(event) } else { elsewhere.push(event) }
    }
    check_log(&log);
    assert_eq!(text_of(&elsewhere[0]), Some("elsewhere"));
    phone.hears_nothing().await;
}

#[tokio::test]
async fn hostile_29_a_room_with_a_poisoned_row_goes_on() {
    let server = poisoned().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    assert_eq!(alice.says("#r", "still here").await, LAST + 1);
    assert_eq!(bob.hears("still here").await.seq, Seq(LAST + 1));
    bob.does("read", json!({"conversation": "#r", "upto": LAST + 1})).await;
    assert_eq!(bob.summary("#r").await.unread, 0);
    // What is no message any more cannot be edited; what is one can be deleted, and is well again.
    let edit = json!({"conversation": "#r", "target": 4, "text": "x"});
    assert_eq!(alice.is_refused("edit", edit).await, ErrorCode::NotFound);
    alice.does("delete", json!({"conversation": "#r", "target": 3})).await;
    let healed = &bob.log("#r").await[2];
    assert!(matches!(healed.body, EventBody::Message { deleted: true, .. }), "{healed:?}");
}

#[tokio::test]
async fn hostile_29_a_damaged_count_does_not_end_the_writer() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &["bob", "carol"]).await;
    for name in ["bob", "alice", "bob"] {
        server.connects(name).await.says("#r", "hi").await;
    }
    alice.client.close().await;
    let db = Connection::open(server.data().join(DATABASE)).expect("the database");
    db.execute_batch("UPDATE members SET sent = 0; UPDATE conversations SET members = 0, admins = 0;")
        .expect("damaged");
    drop(db);
    server.restart().await;
    let mut bob = server.connects("bob").await;
    bob.does("read", json!({"conversation": "#r", "upto": 3})).await;
    assert_eq!(bob.summary("#r").await.unread, 1, "as far as can be known");
    bob.does("read", json!({"conversation": "#r", "upto": 4})).await;
    assert_eq!(bob.summary("#r").await.unread, 0);
    bob.does("leave", json!({"conversation": "#r"})).await;
    let mut alice = server.connects("alice").await;
    alice.does("role", json!({"conversation": "#r", "user": "carol", "role": "admin"})).await;
    assert_eq!(alice.says("#r", "still here").await, 7);
}

/// Every file of a directory with what is in it, except the lock.
fn contents(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(data).expect("a directory").map(|entry| entry.expect("a file"));
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named
        .filter(|(name, _)| name != "lock")
        .map(|(name, path)| (name, std::fs::read(path).expect("readable")))
        .collect()
}

fn open(data: &Path) -> anyhow::Result<()> {
    let settings = Settings {
        data: data.to_owned(),
        limits: Limits::default(),
        strangers: true,
        clock: Clock::system(),
        metrics: Arc::new(Metrics::new()),
    };
    SqliteStore::open(settings).map(drop)
}

#[tokio::test]
async fn what_a_newer_version_made_is_refused_and_left_as_it_is() {
    let mut server = Server::start().await;
    server.connects("alice").await.says("@bob", "from the future").await;
    server.begins_to_stop();
    server.has_stopped().await;
    let data = server.data();
    let db = Connection::open(data.join(DATABASE)).expect("the database");
    db.execute_batch("PRAGMA user_version = 99; CREATE TABLE of_the_future (a INTEGER);").expect("changed");
    drop(db);
    let before = contents(data);
    let error = format!("{:#}", open(data).expect_err("not understood"));
    assert!(error.contains("newer version") && error.contains("99"), "{error}");
    assert_eq!(contents(data), before);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_as_it_is() {
    let data = TempDir::new().expect("a directory");
    std::fs::write(data.path().join(DATABASE), "something precious of somebody else's".repeat(100))
        .expect("written");
    let before = contents(data.path());
    let error = format!("{:#}", open(data.path()).expect_err("no database"));
    assert!(error.contains(DATABASE), "it says which file: {error}");
    assert_eq!(contents(data.path()), before);
}
