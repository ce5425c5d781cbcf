//! A disk that takes no more: nothing is acknowledged, reading goes on, and once there is room again
//! the retries are stored.
//!
//! The limit on the size of the server's files stands in for the full disk: to the server it is an error
//! of `write(2)`, as ENOSPC is, and it needs no file system of its own and no rights. An error of
//! `fsync(2)` comes from a library that stands before the C library's.

use std::path::Path;

use serde_json::json;
use switchboard_protocol::ErrorCode;
use switchboard_protocol::reply::{OkBody, Reply};
use tempfile::TempDir;

use crate::support::{FailingDisk, Person, Process, command, eventually};

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

/// The longest text.
const LONG: usize = 16 * 1024;

/// Waits until the server says that it is not well.
async fn is_not_ready(server: &Process) {
    let url = format!("http://{}/readyz", server.address());
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let asks = async || {
        let answer = http.get(&url).send().await.expect("an answer");
        (answer.status().as_u16() == 503).then_some(())
    };
    eventually("not ready", asks).await;
}

/// An fsync has failed: nothing is written any more, also by the end, and a new server finds all that was acknowledged.
async fn is_given_up_until_a_restart(mut server: Process, mut alice: Person, data: &Path, stored: usize) {
    is_not_ready(&server).await;
    for _ in 0..2 {
        is_unavailable(&mut alice, "send", json!({"to": "@bob", "key": "later", "text": "hi"})).await;
    }
    assert_eq!(alice.log("@bob").await.len(), stored, "reads go on");
    let log = || std::fs::metadata(data.join(WRITE_AHEAD_LOG)).expect("the log is there").len();
    let before = log();
    assert!(before > 0);
    server.signal("TERM").await;
    assert_eq!(server.ends().await.code(), Some(0));
    assert_eq!(log(), before, "what the database may lack is still in the log");

    let server = Process::start(data).await;
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.log("@bob").await.len(), stored);
    assert!(!alice.says_once("@bob", "later", "hi").await.duplicate);
}

#[tokio::test]
async fn an_fsync_that_fails_while_deleted_messages_are_scrubbed_is_for_good() {
    let (data, disk) = (TempDir::new().expect("a directory"), FailingDisk::new());
    let server = Process::start_with(data.path(), &disk.settings()).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "to be deleted").await;
    alice.says("@bob", "to stay").await;
    disk.is_to_fail();
    alice.does("delete", json!({"conversation": "@bob", "target": 1})).await;
    is_given_up_until_a_restart(server, alice, data.path(), 3).await;
    assert!(disk.has_failed());
}

#[tokio::test]
async fn an_fsync_that_fails_when_the_log_has_become_long_is_for_good() {
    /// Three times what the log may grow to.
    const MOST: usize = 96 * 1024 * 1024 / LONG;
    let (data, disk) = (TempDir::new().expect("a directory"), FailingDisk::new());
    let server = Process::start_with(data.path(), &disk.settings()).await;
    let mut alice = server.connects("alice").await;
    disk.is_to_fail();
    let (mut stored, mut refused) = (0, 0);
    while stored < MOST && refused == 0 {
        let send = || command("send", &json!({"to": "@bob", "text": "x".repeat(LONG)}));
        for _ in alice.client.submit_all((0..50).map(|_| send())).await.expect("sent") {
            match alice.is_told().await {
                Reply::Ok(_) => stored += 1,
                Reply::Error(failure) if failure.code == ErrorCode::Unavailable => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(disk.has_failed() && refused > 0, "{stored} stored");
    is_given_up_until_a_restart(server, alice, data.path(), stored).await;
}
