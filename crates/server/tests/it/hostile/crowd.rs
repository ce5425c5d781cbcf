//! What many unauthenticated connections, readers that have stopped, and members of a large room cost the server.

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::Limits;
use switchboard_store::CommitMetrics;
use switchboard_store::clock::Clock;
use switchboard_store::sqlite::{Settings, fill_if_new};
use switchboard_store::{Change, Request};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{
    CROWD_SIZE, Person, Process, RawSocket, command, connect_crowd, eventually,
    reserve_descriptors_for_a_crowd, user,
};

const MIB: u64 = 1024 * 1024;

/// Memory that the allocator may keep after the connections have ended.
const MAX_BYTES_AFTER_CLOSE: u64 = 24 * MIB;

/// The most memory for an unauthenticated connection: 10 KB as in `limits.rs`, and a buffer of 8 KiB for the head of its request.
const MAX_BYTES_PER_UNAUTHENTICATED: u64 = 18 * 1024;

/// Creates a room with this number of members in a database that no server uses yet.
fn insert_room_with_members(data: &std::path::Path, room: &str, members: usize) {
    let members = (0..members).map(|number| user(&format!("u{number}"))).collect();
    let settings = Settings {
        data: data.to_owned(),
        limits: Limits { create_members: u32::MAX, ..Limits::default() },
        strangers: true,
        tells_reads: false,
        clock: Clock::system(),
        metrics: CommitMetrics::default(),
    };
    let Request::Change(Change::Create(mut create)) = command("create", &json!({"room": room})).into() else {
        panic!("no change")
    };
    create.members = members;
    let alice = user("alice");
    assert!(fill_if_new(&settings, vec![(alice, Change::Create(create))]).expect("filled"));
}

/// Opens an unauthenticated connection. By its number, it sends nothing, a part of a request, or a handshake without `hello`.
async fn connect_unauthenticated(address: std::net::SocketAddr, number: usize) -> RawSocket {
    let mut raw = RawSocket::connect(address).await;
    match number % 3 {
        0 => {}
        1 => {
            let request = raw.handshake();
            raw.writes(request).await;
        }
        _ => raw.upgrades().await,
    }
    raw
}

#[tokio::test]
async fn hostile_03_ten_thousand_unauthenticated_connections_are_closed_and_their_memory_is_freed() {
    let _room = reserve_descriptors_for_a_crowd().await;
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    drop(connect_crowd(0..150, server.address(), connect_unauthenticated).await);
    let before = server.resident_bytes();

    let (mut unauthenticated_connections, mut most, started) =
        (Vec::with_capacity(CROWD_SIZE), before, Instant::now());
    for first in (0..CROWD_SIZE).step_by(1_000) {
        unauthenticated_connections
            .extend(connect_crowd(first..first + 1_000, server.address(), connect_unauthenticated).await);
        most = most.max(server.resident_bytes());
    }
    let there = started.elapsed();
    alice.says("@bob", "stored meanwhile").await;
    bob.receives_message("stored meanwhile").await;
    server.connects("carol").await.says("@bob", "and connected").await;
    bob.receives_message("and connected").await;

    for raw in &mut unauthenticated_connections {
        raw.wait_for_end().await;
    }
    let lasted = started.elapsed();
    let growth = most - before;
    println!(
        "{CROWD_SIZE} unauthenticated connections in {there:?}, closed after {lasted:?}: {growth} bytes while they were there"
    );
    assert!(growth / CROWD_SIZE as u64 <= MAX_BYTES_PER_UNAUTHENTICATED, "{growth} bytes");
    assert!(lasted < there + Duration::from_secs(12), "{lasted:?}");
    // Only the server can have closed the connections, because the clients still have their ends open.
    let back = || async { (server.resident_bytes() < before + MAX_BYTES_AFTER_CLOSE).then_some(()) };
    eventually("the memory is free again", back).await;
    drop(unauthenticated_connections);
}

/// The room whose readers stop.
const ROOM: &str = "#busy";

/// Messages in the room, and the length of each: together far more than `limits.queue`.
const MESSAGES: usize = 60;
const TEXT_BYTES: usize = 16 * 1024;

/// The most memory for a stopped reader: some 40 bytes for each queued frame, and an entry for the lagging room. All readers share
/// the frames' bytes; a copy for each reader would take up to `limits.queue`, 64 times as much.
const MAX_BYTES_PER_STOPPED_READER: u64 = 4 * 1024;

#[tokio::test]
async fn hostile_23_ten_thousand_stopped_readers_share_one_copy_of_each_event_and_resume() {
    let _room = reserve_descriptors_for_a_crowd().await;
    let data = TempDir::new().expect("a directory");
    insert_room_with_members(data.path(), "busy", CROWD_SIZE);
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    let mut readers = connect_crowd(0..CROWD_SIZE, server.address(), |address, number| async move {
        let mut raw = RawSocket::connect_with_buffer(address, 4_096).await;
        raw.says_hello_as(&format!("u{number}")).await;
        raw
    })
    .await;
    let before = server.resident_bytes();
    let text = "x".repeat(TEXT_BYTES);
    for _ in 0..MESSAGES {
        alice.says(ROOM, &text).await;
    }
    // The stopped readers do not slow other users down.
    let mut bob = server.connects("bob").await;
    let sent = Instant::now();
    bob.says("@alice", "quick").await;
    alice.receives_message("quick").await;
    let elsewhere = sent.elapsed();
    let growth = server.resident_bytes().saturating_sub(before);
    println!("{CROWD_SIZE} stopped readers: {growth} bytes more, {elsewhere:?} for a message elsewhere");
    let shared = (MESSAGES * TEXT_BYTES) as u64;
    assert!(
        growth <= CROWD_SIZE as u64 * MAX_BYTES_PER_STOPPED_READER + shared + MAX_BYTES_AFTER_CLOSE,
        "{growth} bytes"
    );
    assert!(elsewhere < Duration::from_secs(5), "{elsewhere:?}");

    for reader in readers.iter_mut().step_by(CROWD_SIZE / 20) {
        for seq in 2..MESSAGES as u64 + 2 {
            assert_eq!(reader.next().await.json()["seq"], seq, "nothing is lost after `create`");
        }
        reader.is_still_open().await;
    }
    drop(readers);
    let back = || async { (server.resident_bytes() < before + MAX_BYTES_AFTER_CLOSE).then_some(()) };
    eventually("the memory is free again", back).await;
}

/// Members of the large room, and how many of them are connected.
const MEMBERS: usize = 100_000;
const CONNECTED_MEMBERS: usize = 500;

/// Messages a second in the large room, and the duration in seconds.
const MESSAGES_PER_SECOND: usize = 50;
const LOAD_SECONDS: usize = 2;

/// Sends messages one after another for `lasts`. Returns the 99th percentile of the time that they take from `one` to `other`.
async fn p99_delivery_time(one: &mut Person, other: &mut Person, lasts: Duration) -> Duration {
    let (started, mut took) = (Instant::now(), Vec::new());
    while started.elapsed() < lasts {
        let sent = Instant::now();
        one.submits("send", json!({"to": format!("@{}", other.name()), "text": "hi"})).await;
        other.receives_message("hi").await;
        took.push(sent.elapsed());
        one.receives_reply().await;
        // waits for: the pause between two messages
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_25_a_room_of_100_000_members_does_not_slow_down_other_rooms() {
    let data = TempDir::new().expect("a directory");
    insert_room_with_members(data.path(), "stadium", MEMBERS);
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    let (mut bob, mut carol) = (server.connects("bob").await, server.connects("carol").await);
    let mut here = JoinSet::new();
    let listeners = connect_crowd(0..CONNECTED_MEMBERS, server.address(), |address, number| async move {
        let mut raw = RawSocket::connect(address).await;
        raw.says_hello_as(&format!("u{number}")).await;
        raw
    })
    .await;
    for mut listener in listeners {
        here.spawn(async move {
            for number in 0..MESSAGES_PER_SECOND * LOAD_SECONDS {
                let event = listener.next().await.json();
                assert_eq!(event["seq"], number + 2, "in order, after `create`");
            }
        });
    }
    let alone = p99_delivery_time(&mut bob, &mut carol, Duration::from_secs(1)).await;
    let speaks = async {
        let mut tick = tokio::time::interval(
            Duration::from_secs(1) / u32::try_from(MESSAGES_PER_SECOND).expect("a rate"),
        );
        for _ in 0..MESSAGES_PER_SECOND * LOAD_SECONDS {
            tick.tick().await;
            alice.says("#stadium", "the same bytes for everybody").await;
        }
    };
    let ((), beside) = tokio::join!(
        speaks,
        p99_delivery_time(&mut bob, &mut carol, Duration::from_secs(LOAD_SECONDS as u64))
    );
    println!("{MEMBERS} members, {CONNECTED_MEMBERS} here: p99 elsewhere {alone:?} alone, {beside:?} beside");
    // The bound is loose, because the machine runs other tests at the same time.
    assert!(beside < alone * 10 + Duration::from_millis(500), "{alone:?}, {beside:?}");
    while let Some(listener) = here.join_next().await {
        listener.expect("every listener received every message");
    }
}
