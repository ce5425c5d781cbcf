//! What is around the server fails: its clock, its disk, itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use faults::{Dropped, Syncs};
use serde_json::json;
use switchboard_protocol::{ErrorCode, Timestamp};
use switchboard_store::clock::Clock;
use tempfile::TempDir;

use crate::support::{FailingDisk, Process, Raw, Server, crowd, text_of};

#[tokio::test]
async fn hostile_28_the_clock_an_hour_back_neither_stops_the_server_nor_turns_times_around() {
    let ahead = Arc::new(AtomicI64::new(0));
    let added = ahead.clone();
    let now = move || Clock::system().now().as_millis() + added.load(Ordering::Relaxed);
    let clock = Clock::from_fn(move || Timestamp::from_millis(now()));
    let mut server = Server::serves_by(clock, |_| {}).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "before").await;
    bob.hears("before").await;
    ahead.store(-3_600_000, Ordering::Relaxed);
    alice.says("@bob", "an hour earlier").await;
    bob.hears("an hour earlier").await;
    server.restart().await;
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.says_once("@bob", "k", "after a restart").await.seq, 3);
    assert!(alice.says_once("@bob", "k", "after a restart").await.duplicate);
    let log = alice.log("@bob").await;
    assert!(log.is_sorted_by_key(|event| event.at), "{log:?}");
    assert_eq!(log.len(), 3);
}

#[tokio::test]
async fn hostile_28_after_a_failed_fsync_nothing_is_acknowledged_until_a_restart() {
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "before").await;
    bob.hears("before").await;
    assert_eq!(server.gets("/readyz").await.status, 200);
    disk.control.fail_sync(u64::MAX, Syncs::Any, Dropped::Later);
    let send = || json!({"to": "@bob", "key": "k", "text": "hi"});
    let failure = alice.tries("send", send()).await.expect_err("the disk is broken");
    assert_eq!((failure.code, failure.retryable), (ErrorCode::Unavailable, true), "{failure:?}");
    // The disk is well again, but what it dropped is not known.
    disk.control.clear();
    for _ in 0..3 {
        assert_eq!(alice.is_refused("send", send()).await, ErrorCode::Unavailable);
    }
    assert_eq!(server.gets("/readyz").await.status, 503);
    bob.hears_nothing().await;
    assert_eq!(bob.log("@alice").await.len(), 1, "reading goes on");
    let mut phone = server.resumes("bob", &[("@alice:bob", 0)]).await;
    phone.hears("before").await;

    server.dies().await;
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    // What was refused may be there all the same: nothing is known of it but that it is there once.
    assert_eq!(alice.says_once("@bob", "k", "hi").await.seq, 2);
    let log = alice.log("@bob").await;
    assert_eq!(log.iter().map(text_of).collect::<Vec<_>>(), [Some("before"), Some("hi")]);
}

/// Clients of a server that is restarted.
const CLIENTS: usize = 2_000;

/// Members of a room: as many as one `create` may name, with its creator.
const MEMBERS: usize = 1_000;

/// Rooms of each client.
const ROOMS: usize = 3;

/// Milliseconds over which clients are told to come back: the default of `reconnect_spread`.
const SPREAD: u64 = 5_000;

/// Reads of files that one client's coming back may cost, with [`ROOMS`] conversations of which two have news: 45 were
/// measured, those included by which threads wake each other. They do not grow with the number of clients.
const READS: u64 = 100;

/// A room of a client's.
fn room(client: usize, number: usize) -> String {
    format!("room{}-{number}", client / MEMBERS)
}

#[tokio::test]
async fn hostile_30_after_a_restart_clients_come_back_spread_out_and_each_costs_few_reads() {
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start(data.path()).await;
    for first in (0..CLIENTS).step_by(MEMBERS) {
        let members: Vec<_> = (first + 1..first + MEMBERS).map(|client| format!("user{client}")).collect();
        let mut creator = server.connects(&format!("user{first}")).await;
        for number in 0..ROOMS {
            creator.does("create", json!({"room": room(first, number), "members": members})).await;
        }
        creator.client.close().await;
    }
    let clients = crowd(0..CLIENTS, server.address(), |address, client| async move {
        let mut raw = Raw::connect(address).await;
        raw.enters_as(&format!("user{client}")).await;
        raw
    })
    .await;
    server.signal("TERM").await;
    let mut slices = [0; 10];
    for mut client in clients {
        let bye = client.next().await.json();
        assert_eq!(bye["type"], "bye", "{bye}");
        let retry_after = bye["retry_after"].as_u64().expect("a time");
        assert!(retry_after < SPREAD, "{retry_after}");
        slices[usize::try_from(retry_after * 10 / SPREAD).expect("one of ten")] += 1;
        assert_eq!(client.next().await.close_code(), 1012);
    }
    assert_eq!(server.ends().await.code(), Some(0));
    let fair = CLIENTS / 10;
    assert!(slices.iter().all(|slice| (fair / 2..fair * 2).contains(slice)), "{slices:?}");

    let server = Process::start(data.path()).await;
    for first in (0..CLIENTS).step_by(MEMBERS) {
        let mut creator = server.connects(&format!("user{first}")).await;
        for number in [0, 2] {
            creator.says(&format!("#{}", room(first, number)), "you were away").await;
        }
        creator.client.close().await;
    }
    let before = server.file_reads();
    let come_back = |address, client| async move {
        let mut raw = Raw::connect(address).await;
        raw.shakes_hands().await;
        let cursors: serde_json::Map<_, _> =
            (0..ROOMS).map(|number| (format!("#{}", room(client, number)), json!(1))).collect();
        let hello = json!({"type": "hello", "user": format!("user{client}"), "cursors": cursors});
        raw.says(&hello.to_string()).await;
        assert_eq!(raw.next().await.json()["type"], "welcome");
        for _ in 0..2 {
            assert_eq!(raw.next().await.json()["seq"], 2, "what came while they were away");
        }
        raw.goes_on().await;
        raw
    };
    let back = crowd(0..CLIENTS, server.address(), come_back).await;
    let each = (server.file_reads() - before) / back.len() as u64;
    println!("a resume: {each} reads of files");
    assert!(each <= READS, "{each} reads of files for one resume");
}
