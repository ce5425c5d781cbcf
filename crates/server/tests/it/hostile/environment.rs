//! Faults of the clock and the disk, and restarts with many clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use faults::{DroppedPages, SyncFilter};
use serde_json::json;
use switchboard_protocol::{ErrorCode, Timestamp};
use switchboard_store::clock::Clock;
use tempfile::TempDir;

use crate::support::{FailingDisk, Process, RawSocket, Server, connect_crowd, text_of};

#[tokio::test]
async fn hostile_28_a_clock_set_back_an_hour_does_not_stop_the_server_or_reverse_times() {
    let ahead = Arc::new(AtomicI64::new(0));
    let added = ahead.clone();
    let now = move || Clock::system().now().as_millis() + added.load(Ordering::Relaxed);
    let clock = Clock::from_fn(move || Timestamp::from_millis(now()));
    let mut server = Server::start_with_auth_and_clock(clock, |_| {}).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "before").await;
    bob.receives_message("before").await;
    ahead.store(-3_600_000, Ordering::Relaxed);
    alice.says("@bob", "an hour earlier").await;
    bob.receives_message("an hour earlier").await;
    server.restart().await;
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.says_with_key("@bob", "k", "after a restart").await.seq, 3);
    assert!(alice.says_with_key("@bob", "k", "after a restart").await.duplicate);
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
    bob.receives_message("before").await;
    assert_eq!(server.gets("/readyz").await.status, 200);
    disk.control.fail_sync(u64::MAX, SyncFilter::Any, DroppedPages::Later);
    let send = || json!({"to": "@bob", "key": "k", "text": "hi"});
    let failure = alice.tries("send", send()).await.expect_err("the disk is broken");
    assert_eq!((failure.code, failure.retryable), (ErrorCode::Unavailable, true), "{failure:?}");
    // The disk works again, but the server cannot know which pages were lost.
    disk.control.clear_faults();
    for _ in 0..3 {
        assert_eq!(alice.is_refused("send", send()).await, ErrorCode::Unavailable);
    }
    assert_eq!(server.gets("/readyz").await.status, 503);
    bob.receives_nothing().await;
    assert_eq!(bob.log("@alice").await.len(), 1, "reads work");
    let mut phone = server.resumes("bob", &[("@alice:bob", 0)]).await;
    phone.receives_message("before").await;

    server.kill().await;
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    // The refused message may have been stored; it must not be stored twice.
    assert_eq!(alice.says_with_key("@bob", "k", "hi").await.seq, 2);
    let log = alice.log("@bob").await;
    assert_eq!(log.iter().map(text_of).collect::<Vec<_>>(), [Some("before"), Some("hi")]);
}

/// The number of clients that reconnect to the restarted server.
const CLIENTS: usize = 2_000;

/// Members of a room: the creator, and as many others as one `create` may name.
const MEMBERS_PER_ROOM: usize = 1_000;

/// The number of rooms that each client is in.
const ROOMS_PER_CLIENT: usize = 3;

/// The delays in `bye` are random, up to this many milliseconds: one for each client.
const RECONNECT_SPREAD_MS: u64 = CLIENTS as u64;

/// The most read system calls for each client that reconnects, with [`ROOMS_PER_CLIENT`] conversations of which two have new
/// events. 45 were measured, including reads by which threads wake each other. More clients do not raise this number.
const MAX_READS_PER_RECONNECT: u64 = 100;

/// The id of a client's room.
fn room_of_client(client: usize, number: usize) -> String {
    format!("room{}-{number}", client / MEMBERS_PER_ROOM)
}

#[tokio::test]
async fn hostile_30_after_a_restart_clients_reconnect_spread_out_and_each_costs_few_reads() {
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start(data.path()).await;
    for first in (0..CLIENTS).step_by(MEMBERS_PER_ROOM) {
        let members: Vec<_> =
            (first + 1..first + MEMBERS_PER_ROOM).map(|client| format!("user{client}")).collect();
        let mut creator = server.connects(&format!("user{first}")).await;
        for number in 0..ROOMS_PER_CLIENT {
            creator.does("create", json!({"room": room_of_client(first, number), "members": members})).await;
        }
        creator.client.close().await;
    }
    let clients = connect_crowd(0..CLIENTS, server.address(), |address, client| async move {
        let mut raw = RawSocket::connect(address).await;
        raw.says_hello_as(&format!("user{client}")).await;
        raw
    })
    .await;
    server.signal("TERM").await;
    let mut slices = [0; 10];
    for mut client in clients {
        let bye = client.next().await.json();
        assert_eq!(bye["type"], "bye", "{bye}");
        let retry_after = bye["retry_after"].as_u64().expect("a time");
        assert!(retry_after < RECONNECT_SPREAD_MS, "{retry_after}");
        slices[usize::try_from(retry_after * 10 / RECONNECT_SPREAD_MS).expect("one of ten")] += 1;
        assert_eq!(client.next().await.close_code(), 1012);
    }
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    let fair = CLIENTS / 10;
    assert!(slices.iter().all(|slice| (fair / 2..fair * 2).contains(slice)), "{slices:?}");

    let server = Process::start(data.path()).await;
    for first in (0..CLIENTS).step_by(MEMBERS_PER_ROOM) {
        let mut creator = server.connects(&format!("user{first}")).await;
        for number in [0, 2] {
            creator.says(&format!("#{}", room_of_client(first, number)), "you were away").await;
        }
        creator.client.close().await;
    }
    let before = server.file_reads();
    let come_back = |address, client| async move {
        let mut raw = RawSocket::connect(address).await;
        raw.upgrades().await;
        let cursors: serde_json::Map<_, _> = (0..ROOMS_PER_CLIENT)
            .map(|number| (format!("#{}", room_of_client(client, number)), json!(1)))
            .collect();
        let hello = json!({"type": "hello", "user": format!("user{client}"), "cursors": cursors});
        raw.says(&hello.to_string()).await;
        assert_eq!(raw.next().await.json()["type"], "welcome");
        for _ in 0..2 {
            assert_eq!(raw.next().await.json()["seq"], 2, "the event that the client missed");
        }
        raw.is_still_open().await;
        raw
    };
    let back = connect_crowd(0..CLIENTS, server.address(), come_back).await;
    let each = (server.file_reads() - before) / back.len() as u64;
    println!("a resume: {each} reads of files");
    assert!(each <= MAX_READS_PER_RECONNECT, "{each} reads of files for one resume");
}
