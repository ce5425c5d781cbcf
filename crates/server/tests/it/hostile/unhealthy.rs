//! A disk that takes no more: nothing is acknowledged, reading goes on, and once there is room again
//! the retries are stored.
//!
//! The limit on the size of the server's files stands in for the full disk: to the server it is an error
//! of `write(2)`, as ENOSPC is, and it needs no file system of its own and no rights. An error of
//! `fsync(2)` cannot be had from outside; what follows from it is tested beside the writer.

use std::path::Path;

use serde_json::json;
use switchboard_protocol::ErrorCode;
use switchboard_protocol::reply::{OkBody, Reply};
use tempfile::TempDir;

use crate::support::{Person, Process, command};

const WRITE_AHEAD_LOG: &str = "switchboard.db-wal";

/// The disk is full: no file of the server's grows.
fn fill_disk(server: &Process, data: &Path) {
    let log = std::fs::metadata(data.join(WRITE_AHEAD_LOG)).expect("the log is there").len();
    assert!(log > 0, "what is to be written next is appended");
    server.limit_files(log);
}

fn empty_disk(server: &Process) {
    server.limit_files(rlimit::INFINITY);
}

async fn is_unavailable(person: &mut Person, name: &str, fields: serde_json::Value) {
    let failure = person.tries(name, fields).await.expect_err("the disk is full");
    assert_eq!((failure.code, failure.retryable), (ErrorCode::Unavailable, true), "{failure:?}");
    assert!(failure.retry_after.is_some_and(|ms| ms > 0), "{failure:?}");
}

#[tokio::test]
async fn hostile_28_on_a_full_disk_nothing_is_acknowledged_and_reading_goes_on() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "before").await;
    bob.hears("before").await;
    fill_disk(&server, data.path());

    for number in 0..3 {
        is_unavailable(&mut alice, "send", json!({"to": "@bob", "key": number.to_string(), "text": "hi"}))
            .await;
    }
    is_unavailable(&mut alice, "edit", json!({"conversation": "@bob", "target": 1, "text": "x"})).await;
    is_unavailable(&mut alice, "create", json!({"room": "r", "members": ["bob"]})).await;
    is_unavailable(&mut bob, "read", json!({"conversation": "@alice", "upto": 1})).await;
    let url = format!("http://{}/v1/send", server.address());
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let body = json!({"as": "alice", "to": "@bob", "text": "hi"});
    let answer = http.post(url).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");

    bob.hears_nothing().await;
    assert_eq!(bob.log("@alice").await.len(), 1, "pages go on");
    assert_eq!(bob.history("@alice").await.len(), 1);
    let mut phone = server.resumes("bob", &[("@alice:bob", 0)]).await;
    phone.hears("before").await;
    assert_eq!(phone.summary("@alice:bob").await.unread, 1);

    empty_disk(&server);
    for number in 0..3 {
        let stored = alice.says_once("@bob", &number.to_string(), "hi").await;
        assert_eq!((stored.seq, stored.duplicate), (number + 2, false), "nothing of it was stored before");
        for device in [&mut bob, &mut phone] {
            assert_eq!(device.hears("hi").await.seq.0, number + 2);
        }
    }
    server.dies().await;
    let server = Process::start(data.path()).await;
    assert_eq!(server.connects("bob").await.log("@alice").await.len(), 4);
}

#[tokio::test]
async fn hostile_28_of_many_sends_into_a_disk_that_fills_up_those_are_stored_that_were_acknowledged() {
    const SENDS: u64 = 500;
    /// Bytes that the log still takes: room for some of the batches.
    const ROOM: u64 = 200_000;
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    let log = std::fs::metadata(data.path().join(WRITE_AHEAD_LOG)).expect("the log is there").len();
    server.limit_files(log + ROOM);
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for first in (0..SENDS).step_by(10) {
        let send = |key: u64| {
            command("send", &json!({"to": "@bob", "key": key.to_string(), "text": "x".repeat(500)}))
        };
        let ids = alice.client.submit_all((first..first + 10).map(send)).await.expect("sent");
        for _ in ids {
            match alice.is_told().await {
                Reply::Ok(ok) => match ok.body {
                    OkBody::Stored { seq, .. } => acknowledged.push(seq.0),
                    other => panic!("{other:?}"),
                },
                Reply::Error(failure) => {
                    assert_eq!(failure.code, ErrorCode::Unavailable);
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(!acknowledged.is_empty() && refused > 0, "{} stored, {refused} refused", acknowledged.len());
    let stored: Vec<_> = alice.log_after("@bob", 1).await.iter().map(|event| event.seq.0).collect();
    assert_eq!(stored, acknowledged);
    empty_disk(&server);
    for key in 0..SENDS {
        alice.says_once("@bob", &key.to_string(), &"x".repeat(500)).await;
    }
    server.dies().await;
    let server = Process::start(data.path()).await;
    let log = server.connects("bob").await.log("@alice").await;
    assert_eq!(log.len() as u64, SENDS + 1, "each once");
    assert!((1..).zip(&log).all(|(seq, event)| event.seq.0 == seq), "without a gap");
}
