//! The write-ahead log: it stays short, nobody waits for it, and an orderly stop leaves none.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use switchboard_protocol::reply::Reply;
use tokio::task::JoinSet;

use crate::support::{Server, command};

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
