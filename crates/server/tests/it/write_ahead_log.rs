//! The write-ahead log: it stays short, nobody waits for it, and an orderly stop leaves none.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use switchboard_protocol::reply::Reply;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Server, command, eventually};

const LOG: &str = "switchboard.db-wal";

/// At how many bytes the log is moved into the database.
const CHECKPOINT: u64 = 32 * 1024 * 1024;

fn log_length(data: &Path) -> u64 {
    std::fs::metadata(data.join(LOG)).map_or(0, |log| log.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_short_under_one_who_writes_and_many_who_come_to_read() {
    const TEXT: usize = 16 * 1024;
    let server = Arc::new(Server::start().await);
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    let mut reading = JoinSet::new();
    for _ in 0..4 {
        let server = server.clone();
        reading.spawn(async move {
            loop {
                server.posts("history", json!({"as": "bob", "conversation": "@alice"})).await.ok();
            }
        });
    }
    let mut longest = 0;
    let messages = 3 * usize::try_from(CHECKPOINT).expect("small") / TEXT;
    for _ in 0..messages / 100 {
        let send = || command("send", &json!({"to": "@bob", "text": "x".repeat(TEXT)}));
        for _ in alice.client.submit_all((0..100).map(|_| send())).await.expect("sent") {
            assert!(matches!(alice.is_told().await, Reply::Ok(_)));
        }
        longest = longest.max(log_length(server.data()));
    }
    reading.shutdown().await;
    println!("{longest} bytes at most, of {} written", messages * TEXT);
    assert!(longest > CHECKPOINT / 2, "{longest}: much was written");
    assert!(longest < 2 * CHECKPOINT, "{longest}");
}

/// A program that reads the database for long, as a backup does, begins to.
fn begins_to_read(db: &mut Connection) -> rusqlite::Transaction<'_> {
    let reading = db.transaction().expect("a transaction");
    let version: i64 = reading.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a read");
    assert!(version > 0);
    reading
}

#[tokio::test]
async fn a_long_read_and_a_deletion_keep_nobody_waiting() {
    const MESSAGES: usize = 20;
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "to be deleted").await;
    let mut backup = Connection::open(server.data().join("switchboard.db")).expect("the database");
    let reading = begins_to_read(&mut backup);
    alice.does("delete", json!({"conversation": "@bob", "target": 1})).await;
    let started = Instant::now();
    for _ in 0..MESSAGES {
        alice.says("@bob", "hi").await;
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(log_length(server.data()) > 0);
    drop(reading);
    eventually("the log is emptied", async || (log_length(server.data()) == 0).then_some(())).await;
}
