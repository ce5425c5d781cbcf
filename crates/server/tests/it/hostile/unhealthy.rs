//! A disk that takes no more: nothing is acknowledged, reading goes on, and once there is room again
//! the retries are stored.
//!
//! The limit on the size of the server's files stands in for the full disk: to the server it is an error
//! of `write(2)`, as ENOSPC is, and it needs no file system of its own and no rights. An error of
//! `fsync(2)` is played by the library of `crates/faults-preload`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use faults::{Dropped, Syncs};
use serde_json::json;
use switchboard_client::ClientError;
use switchboard_protocol::ErrorCode;
use switchboard_protocol::reply::{OkBody, Reply};
use switchboard_protocol::{CommandId, reply::Failure};
use switchboard_store::clock::Clock;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{
    FailingDisk, Person, Process, Server, Stalled, command, eventually, text_of, unless_stalled,
};

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

/// Somebody is told that the disk is full, and waits for as long as they are told.
async fn is_unavailable(person: &mut Person, name: &str, fields: serde_json::Value) {
    let failure = person.tries(name, fields).await.expect_err("the disk is full");
    assert_eq!((failure.code, failure.retryable), (ErrorCode::Unavailable, true), "{failure:?}");
    // waits for: the time that was told; before it the server does not even try
    tokio::time::sleep(Duration::from_millis(failure.retry_after.expect("how long"))).await;
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
    let (mut refused, mut wait) = (0, 0);
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
                    wait = failure.retry_after.expect("how long");
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
    // waits for: the time that was told
    tokio::time::sleep(Duration::from_millis(wait)).await;
    for key in 0..SENDS {
        alice.says_once("@bob", &key.to_string(), &"x".repeat(500)).await;
    }
    server.dies().await;
    let server = Process::start(data.path()).await;
    let log = server.connects("bob").await.log("@alice").await;
    assert_eq!(log.len() as u64, SENDS + 1, "each once");
    assert!((1..).zip(&log).all(|(seq, event)| event.seq.0 == seq), "without a gap");
}

/// Milliseconds that a client is told to wait at least, so that all that was given back can come again in its order.
const SLACK: u64 = 250;

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
async fn is_given_up_until_a_restart(
    mut server: Process,
    mut alice: Person,
    disk: &FailingDisk,
    stored: usize,
) {
    is_not_ready(&server).await;
    for _ in 0..2 {
        is_unavailable(&mut alice, "send", json!({"to": "@bob", "key": "later", "text": "hi"})).await;
    }
    assert_eq!(alice.log("@bob").await.len(), stored, "reads go on");
    let log = || std::fs::metadata(disk.data().join(WRITE_AHEAD_LOG)).expect("the log is there").len();
    let before = log();
    assert!(before > 0);
    server.signal("TERM").await;
    assert_eq!(server.ends().await.code(), Some(0));
    assert_eq!(log(), before, "what the database may lack is still in the log");

    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.log("@bob").await.len(), stored);
    assert!(!alice.says_once("@bob", "later", "hi").await.duplicate);
}

#[tokio::test]
async fn an_fsync_that_fails_while_deleted_messages_are_scrubbed_is_for_good() {
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "to be deleted").await;
    alice.says("@bob", "to stay").await;
    disk.control.fail_sync(1, Syncs::Other, Dropped::Later);
    alice.does("delete", json!({"conversation": "@bob", "target": 1})).await;
    is_given_up_until_a_restart(server, alice, &disk, 3).await;
    assert!(disk.control.sync_failures_left() == 0);
}

#[tokio::test]
async fn an_fsync_that_fails_when_the_log_has_become_long_is_for_good() {
    /// Three times what the log grows to.
    const MOST: usize = 96 * 1024 * 1024 / LONG;
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    disk.control.fail_sync(1, Syncs::Other, Dropped::Later);
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
    assert!(disk.control.sync_failures_left() == 0 && refused > 0, "{stored} stored");
    is_given_up_until_a_restart(server, alice, &disk, stored).await;
}

/// A message with a key that says the same.
fn keyed(key: &str) -> serde_json::Value {
    json!({"to": "@bob", "key": key, "text": key})
}

/// The answer to a send, which is that it was not stored.
async fn is_given_back(alice: &mut Person, id: i64) -> Failure {
    match alice.is_told().await {
        Reply::Error(failure) => {
            assert_eq!((failure.code, &failure.id), (ErrorCode::Unavailable, &Some(CommandId::Number(id))));
            failure
        }
        other => panic!("stored, though what was sent before it was not: {other:?}"),
    }
}

#[tokio::test]
async fn a_writer_that_panics_leaves_nobody_waiting() {
    let armed = Arc::new(AtomicBool::new(false));
    let arm = armed.clone();
    let clock = Clock::from_fn(move || {
        let writes = std::thread::current().name() == Some("writer");
        assert!(!(writes && arm.load(Ordering::Relaxed)), "a bug in the writer, which this test wants");
        Clock::system().now()
    });
    let mut server = Server::start_by(clock, |_| {}).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "before").await;
    bob.hears("before").await;
    armed.store(true, Ordering::Relaxed);
    alice.submits("send", json!({"to": "@bob", "text": "nobody learns what becomes of it"})).await;
    assert_eq!(alice.is_closed().await, Some(1013));
    assert_eq!(bob.is_closed().await, Some(1013), "events would not reach them any more");
    match server.tries_to_connect(server.hello("alice", &[])).await {
        Err(ClientError::Refused(failure)) => {
            assert_eq!((failure.code, failure.retryable), (ErrorCode::Unavailable, true), "{failure:?}");
        }
        Err(other) => panic!("{other}"),
        Ok(person) => panic!("{} is let in", person.name()),
    }
    let answer = server.posts("send", json!({"as": "alice", "to": "@bob", "text": "hi"})).await;
    assert_eq!(answer.status, 503);
    let ready = server.gets("/readyz").await;
    assert!(ready.status == 503 && ready.text.contains("the writer has panicked"), "{ready:?}");
    armed.store(false, Ordering::Relaxed);
    server.begins_to_stop();
    assert_eq!(server.has_failed().await, "the writer has panicked");
    server.starts_again().await;
    assert_eq!(server.connects("bob").await.log("@alice").await.len(), 1);
}

/// How long the writer waits for another program that writes: `BUSY_TIMEOUT` of the server's `store/sqlite.rs`.
const WAITS: Duration = Duration::from_secs(5);

/// How long nothing of a connection is stored after it was told of one that is not: `REJECTION_HOLD` of the server's `outbox/hold.rs`.
const HOLDS: Duration = Duration::from_millis(750);

/// A server, and how many batches its writer has begun with: it asks for the time when it has taken one.
async fn counts_batches() -> (Server, impl Fn() -> usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let clock = Clock::from_fn(move || {
        if std::thread::current().name() == Some("writer") {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Clock::system().now()
    });
    (Server::start_by(clock, |_| {}).await, move || count.load(Ordering::SeqCst))
}

/// One that is not stored, two that wait behind it, and one that is sent when the database could be written to again.
async fn sends_behind_one_that_is_not_stored() -> Result<(), Stalled> {
    let (server, batches) = counts_batches().await;
    let mut alice = server.connects("alice").await;
    let mut carol = server.connects("carol").await;
    alice.says("@bob", "before").await;
    let (lock, before, begun) = (server.holds_up_writes(), batches(), Instant::now());
    let first = alice.submits("send", keyed("first")).await;
    eventually("the writer is at the first one", async || (batches() > before).then_some(())).await;
    let second = alice.submits("send", keyed("second")).await;
    let third = alice.submits("send", keyed("third")).await;
    let wait = is_given_back(&mut alice, first).await.retry_after.expect("how long");
    let told = Instant::now();
    drop(lock);
    let fourth = alice.submits("send", keyed("fourth")).await;
    // The session may refuse the fourth before the writer has come to the second.
    let mut unheard = vec![second, third, fourth];
    while !unheard.is_empty() {
        let (id, later) = match alice.is_told().await {
            Reply::Error(Failure { id, code: ErrorCode::Unavailable, retry_after, .. }) => (id, retry_after),
            Reply::Ok(ok) if ok.id == Some(CommandId::Number(fourth)) => {
                return Err(Stalled::or_wrong("the fourth is stored", begun.elapsed(), WAITS + HOLDS));
            }
            other => panic!("stored, though what was sent before it was not: {other:?}"),
        };
        let at = unheard.iter().position(|open| id == Some(CommandId::Number(*open)));
        unheard.remove(at.unwrap_or_else(|| panic!("an answer to {id:?}")));
        let later = later.expect("how long");
        assert!((SLACK..=1_000).contains(&later), "{later}");
    }
    let all_told = told.elapsed();
    alice.does("read", json!({"conversation": "@bob", "upto": 1})).await;
    assert_eq!(alice.log("@bob").await.len(), 1);
    carol.says("@bob", "others go on").await;

    tokio::time::sleep_until(told + Duration::from_millis(wait)).await; // waits for: the time that was told
    let keys = ["first", "second", "third", "fourth"];
    for _ in alice.client.submit_all(keys.map(|key| command("send", &keyed(key)))).await.expect("sent") {
        match alice.is_told().await {
            Reply::Ok(_) => {}
            other => {
                return Err(Stalled::or_wrong(&format!("{other:?}"), all_told, Duration::from_millis(SLACK)));
            }
        }
    }
    let log = alice.log_after("@bob", 1).await;
    assert_eq!(log.iter().filter_map(text_of).collect::<Vec<_>>(), keys);
    Ok(())
}

#[tokio::test]
async fn what_was_sent_behind_a_message_that_was_not_stored_is_not_stored_before_it() {
    unless_stalled(sends_behind_one_that_is_not_stored).await;
}
