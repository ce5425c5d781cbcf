//! A full disk: nothing is acknowledged, reads work, and when there is room again the retries are stored.
//!
//! The test limits the size of the server's files instead of filling a disk: the server gets an error of `write(2)`, as with
//! ENOSPC, and the test needs no file system and no privileges. The library of `crates/faults-preload` injects errors of
//! `fsync(2)`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use faults::{DroppedPages, SyncFilter};
use serde_json::json;
use switchboard_client::ClientError;
use switchboard_protocol::ErrorCode;
use switchboard_protocol::reply::{OkBody, Reply};
use switchboard_protocol::{CommandId, reply::Failure};
use switchboard_store::clock::Clock;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{
    FailingDisk, MachineStalled, Person, Process, Server, command, eventually, retry_if_stalled, text_of,
};

const WRITE_AHEAD_LOG: &str = "switchboard.db-wal";

/// Simulates a full disk: from now on, no file of the server can grow.
fn fill_disk(server: &Process, data: &Path) {
    let log = std::fs::metadata(data.join(WRITE_AHEAD_LOG)).expect("the log is there").len();
    assert!(log > 0, "the next write appends to the log");
    server.limit_files(log);
}

fn unfill_disk(server: &Process) {
    server.limit_files(rlimit::INFINITY);
}

/// Asserts that a command is refused as `unavailable`, and waits for `retry_after`.
async fn assert_unavailable(person: &mut Person, name: &str, fields: serde_json::Value) {
    let failure = person.tries(name, fields).await.expect_err("the disk is full");
    assert_eq!((failure.code, failure.retryable), (ErrorCode::Unavailable, true), "{failure:?}");
    // waits for: `retry_after`, because the server does not try to write earlier
    tokio::time::sleep(Duration::from_millis(failure.retry_after.expect("how long"))).await;
}

#[tokio::test]
async fn hostile_28_on_a_full_disk_nothing_is_acknowledged_and_reads_work() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "before").await;
    bob.receives_message("before").await;
    fill_disk(&server, data.path());

    for number in 0..3 {
        assert_unavailable(
            &mut alice,
            "send",
            json!({"to": "@bob", "key": number.to_string(), "text": "hi"}),
        )
        .await;
    }
    assert_unavailable(&mut alice, "edit", json!({"conversation": "@bob", "target": 1, "text": "x"})).await;
    assert_unavailable(&mut alice, "create", json!({"room": "r", "members": ["bob"]})).await;
    assert_unavailable(&mut bob, "read", json!({"conversation": "@alice", "upto": 1})).await;
    let url = format!("http://{}/v1/send", server.address());
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let body = json!({"as": "alice", "to": "@bob", "text": "hi"});
    let answer = http.post(url).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");

    bob.receives_nothing().await;
    assert_eq!(bob.log("@alice").await.len(), 1, "pages are served");
    assert_eq!(bob.history("@alice").await.len(), 1);
    let mut phone = server.resumes("bob", &[("@alice:bob", 0)]).await;
    phone.receives_message("before").await;
    assert_eq!(phone.summary("@alice:bob").await.unread, 1);

    unfill_disk(&server);
    for number in 0..3 {
        let stored = alice.says_with_key("@bob", &number.to_string(), "hi").await;
        assert_eq!((stored.seq, stored.duplicate), (number + 2, false), "the refused message was not stored");
        for device in [&mut bob, &mut phone] {
            assert_eq!(device.receives_message("hi").await.seq.0, number + 2);
        }
    }
    server.kill().await;
    let server = Process::start(data.path()).await;
    assert_eq!(server.connects("bob").await.log("@alice").await.len(), 4);
}

#[tokio::test]
async fn hostile_28_on_a_disk_that_fills_up_exactly_the_acknowledged_sends_are_stored() {
    const SENDS: u64 = 500;
    /// How many bytes the log may still grow: room for some of the batches.
    const FREE_BYTES: u64 = 200_000;
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    let log = std::fs::metadata(data.path().join(WRITE_AHEAD_LOG)).expect("the log is there").len();
    server.limit_files(log + FREE_BYTES);
    let mut acknowledged = Vec::new();
    let (mut refused, mut wait) = (0, 0);
    for first in (0..SENDS).step_by(10) {
        let send = |key: u64| {
            command("send", &json!({"to": "@bob", "key": key.to_string(), "text": "x".repeat(500)}))
        };
        let ids = alice.client.submit_all((first..first + 10).map(send)).await.expect("sent");
        for _ in ids {
            match alice.receives_reply().await {
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
    unfill_disk(&server);
    // waits for: `retry_after`
    tokio::time::sleep(Duration::from_millis(wait)).await;
    for key in 0..SENDS {
        alice.says_with_key("@bob", &key.to_string(), &"x".repeat(500)).await;
    }
    server.kill().await;
    let server = Process::start(data.path()).await;
    let log = server.connects("bob").await.log("@alice").await;
    assert_eq!(log.len() as u64, SENDS + 1, "each message once");
    assert!((1..).zip(&log).all(|(seq, event)| event.seq.0 == seq), "seqs without a gap");
}

/// The least `retry_after` in milliseconds: time for clients to send all rejected writes again, in order.
const MIN_EXPECTED_RETRY_AFTER_MS: u64 = 250;

/// The limit for the text of a message, in bytes.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Waits until `/readyz` reports that the server is not ready.
async fn wait_until_not_ready(server: &Process) {
    let url = format!("http://{}/readyz", server.address());
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let asks = async || {
        let answer = http.get(&url).send().await.expect("an answer");
        (answer.status().as_u16() == 503).then_some(())
    };
    eventually("not ready", asks).await;
}

/// Asserts that after a failed fsync the server writes nothing more, also when it stops, and that a new server has all
/// acknowledged messages.
async fn assert_read_only_until_restart(
    mut server: Process,
    mut alice: Person,
    disk: &FailingDisk,
    stored: usize,
) {
    wait_until_not_ready(&server).await;
    for _ in 0..2 {
        assert_unavailable(&mut alice, "send", json!({"to": "@bob", "key": "later", "text": "hi"})).await;
    }
    assert_eq!(alice.log("@bob").await.len(), stored, "reads work");
    let log = || std::fs::metadata(disk.data().join(WRITE_AHEAD_LOG)).expect("the log is there").len();
    let before = log();
    assert!(before > 0);
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    assert_eq!(log(), before, "the log still has the commits that the database may lack");

    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.log("@bob").await.len(), stored);
    assert!(!alice.says_with_key("@bob", "later", "hi").await.duplicate);
}

#[tokio::test]
async fn after_an_fsync_fails_during_scrubbing_the_database_stays_read_only() {
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "to be deleted").await;
    alice.says("@bob", "to stay").await;
    disk.control.fail_sync(1, SyncFilter::Other, DroppedPages::Later);
    alice.does("delete", json!({"conversation": "@bob", "target": 1})).await;
    assert_read_only_until_restart(server, alice, &disk, 3).await;
    assert!(disk.control.sync_failures_left() == 0);
}

#[tokio::test]
async fn after_an_fsync_fails_during_a_checkpoint_the_database_stays_read_only() {
    /// With so many messages the write-ahead log would be three times as long as the length at which the server checkpoints it.
    const MAX_MESSAGES: usize = 96 * 1024 * 1024 / MAX_TEXT_BYTES;
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    disk.control.fail_sync(1, SyncFilter::Other, DroppedPages::Later);
    let (mut stored, mut refused) = (0, 0);
    while stored < MAX_MESSAGES && refused == 0 {
        let send = || command("send", &json!({"to": "@bob", "text": "x".repeat(MAX_TEXT_BYTES)}));
        for _ in alice.client.submit_all((0..50).map(|_| send())).await.expect("sent") {
            match alice.receives_reply().await {
                Reply::Ok(_) => stored += 1,
                Reply::Error(failure) if failure.code == ErrorCode::Unavailable => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(disk.control.sync_failures_left() == 0 && refused > 0, "{stored} stored");
    assert_read_only_until_restart(server, alice, &disk, stored).await;
}

/// The fields of a message whose text is its idempotency key.
fn message_with_key(key: &str) -> serde_json::Value {
    json!({"to": "@bob", "key": key, "text": key})
}

/// Receives the answer to a send, which must be an error.
async fn receive_rejection(alice: &mut Person, id: i64) -> Failure {
    match alice.receives_reply().await {
        Reply::Error(failure) => {
            assert_eq!((failure.code, &failure.id), (ErrorCode::Unavailable, &Some(CommandId::Number(id))));
            failure
        }
        other => panic!("stored, although an earlier message was not: {other:?}"),
    }
}

#[tokio::test]
async fn a_writer_panic_answers_every_waiting_client() {
    let armed = Arc::new(AtomicBool::new(false));
    let arm = armed.clone();
    let clock = Clock::from_fn(move || {
        let writes = std::thread::current().name() == Some("writer");
        assert!(!(writes && arm.load(Ordering::Relaxed)), "a bug in the writer, which this test injects");
        Clock::system().now()
    });
    let mut server = Server::start_with_clock(clock, |_| {}).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "before").await;
    bob.receives_message("before").await;
    armed.store(true, Ordering::Relaxed);
    alice.submits("send", json!({"to": "@bob", "text": "nobody learns what becomes of it"})).await;
    assert_eq!(alice.is_closed().await, Some(1013));
    assert_eq!(bob.is_closed().await, Some(1013), "the server could not send further events");
    match server.tries_to_connect(server.hello("alice", &[])).await {
        Err(ClientError::Refused(failure)) => {
            assert_eq!((failure.code, failure.retryable), (ErrorCode::Unavailable, true), "{failure:?}");
        }
        Err(other) => panic!("{other}"),
        Ok(person) => panic!("{} is connected", person.name()),
    }
    let answer = server.posts("send", json!({"as": "alice", "to": "@bob", "text": "hi"})).await;
    assert_eq!(answer.status, 503);
    let ready = server.gets("/readyz").await;
    assert!(ready.status == 503 && ready.text.contains("the writer has panicked"), "{ready:?}");
    armed.store(false, Ordering::Relaxed);
    server.begin_shutdown();
    assert_eq!(server.wait_for_failure().await, "the writer has panicked");
    server.start_again().await;
    assert_eq!(server.connects("bob").await.log("@alice").await.len(), 1);
}

/// How long the writer waits for another program's write: `BUSY_TIMEOUT` in the SQLite store.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server refuses a connection's unnumbered writes after it rejected one of them: `HOLD_DURATION` in `outbox.rs`.
const HOLD_DURATION: Duration = Duration::from_secs(1);

/// Starts a server. Also returns a function that counts the batches that its writer has begun, by the writer's reads of the clock.
async fn server_with_batch_count() -> (Server, impl Fn() -> usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let clock = Clock::from_fn(move || {
        if std::thread::current().name() == Some("writer") {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Clock::system().now()
    });
    (Server::start_with_clock(clock, |_| {}).await, move || count.load(Ordering::SeqCst))
}

/// Sends a message that the store rejects, two messages that are queued after it, and one when the database can be written again.
async fn assert_message_after_a_rejected_one_is_not_stored_before_it() -> Result<(), MachineStalled> {
    let (server, batches) = server_with_batch_count().await;
    let mut alice = server.connects("alice").await;
    alice.client.leave_out_numbers();
    let mut carol = server.connects("carol").await;
    alice.says("@bob", "before").await;
    let (lock, before, begun) = (server.lock_for_writing(), batches(), Instant::now());
    let first = alice.submits("send", message_with_key("first")).await;
    eventually("the writer is at the first one", async || (batches() > before).then_some(())).await;
    let second = alice.submits("send", message_with_key("second")).await;
    let third = alice.submits("send", message_with_key("third")).await;
    let wait = receive_rejection(&mut alice, first).await.retry_after.expect("how long");
    let rejected_at = Instant::now();
    drop(lock);
    let fourth = alice.submits("send", message_with_key("fourth")).await;
    // The session may refuse the fourth message before the writer reaches the second.
    let mut unanswered = vec![second, third, fourth];
    while !unanswered.is_empty() {
        let (id, later) = match alice.receives_reply().await {
            Reply::Error(Failure { id, code: ErrorCode::Unavailable, retry_after, .. }) => (id, retry_after),
            Reply::Ok(ok) if ok.id == Some(CommandId::Number(fourth)) => {
                return Err(MachineStalled::assert_late_by_stall(
                    "the fourth is stored",
                    begun.elapsed(),
                    BUSY_TIMEOUT + HOLD_DURATION,
                ));
            }
            other => panic!("stored, although an earlier message was not: {other:?}"),
        };
        let at = unanswered.iter().position(|open| id == Some(CommandId::Number(*open)));
        unanswered.remove(at.unwrap_or_else(|| panic!("an answer to {id:?}")));
        let later = later.expect("how long");
        assert!((MIN_EXPECTED_RETRY_AFTER_MS..=1_000).contains(&later), "{later}");
    }
    let all_rejected = rejected_at.elapsed();
    alice.does("read", json!({"conversation": "@bob", "upto": 1})).await;
    assert_eq!(alice.log("@bob").await.len(), 1);
    carol.says("@bob", "others go on").await;

    tokio::time::sleep_until(rejected_at + Duration::from_millis(wait)).await; // waits for: `retry_after`
    let keys = ["first", "second", "third", "fourth"];
    for _ in
        alice.client.submit_all(keys.map(|key| command("send", &message_with_key(key)))).await.expect("sent")
    {
        match alice.receives_reply().await {
            Reply::Ok(_) => {}
            other => {
                return Err(MachineStalled::assert_late_by_stall(
                    &format!("{other:?}"),
                    all_rejected,
                    Duration::from_millis(MIN_EXPECTED_RETRY_AFTER_MS),
                ));
            }
        }
    }
    let log = alice.log_after("@bob", 1).await;
    assert_eq!(log.iter().filter_map(text_of).collect::<Vec<_>>(), keys);
    Ok(())
}

#[tokio::test]
async fn a_message_after_a_rejected_one_is_not_stored_before_it() {
    retry_if_stalled(assert_message_after_a_rejected_one_is_not_stored_before_it).await;
}
