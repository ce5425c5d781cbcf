//! Crowds that cost the server as little as they bring: strangers, readers that stop, members of a large room.

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

use crate::support::{CROWD, Person, Process, Raw, command, crowd, eventually, room_for_a_crowd, user};

const MIB: u64 = 1024 * 1024;

/// What the allocator may keep of what a crowd took, once the crowd has left.
const KEPT: u64 = 24 * MIB;

/// The most that a stranger may cost: `limits.rs` counts 10 KB for a connection, and while a request has not come whole
/// there is a first buffer of 8 KiB for its head besides.
const STRANGER: u64 = 18 * 1024;

/// Makes a room of so many members in a database that no server uses yet.
fn make_room(data: &std::path::Path, room: &str, members: usize) {
    let members = (0..members).map(|number| user(&format!("u{number}"))).collect();
    let settings = Settings {
        data: data.to_owned(),
        limits: Limits { create_members: u32::MAX, ..Limits::default() },
        strangers: true,
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

/// Strangers of three kinds: those who say nothing, who begin a request, who shake hands and say no `hello`.
async fn stranger(address: std::net::SocketAddr, number: usize) -> Raw {
    let mut raw = Raw::connect(address).await;
    match number % 3 {
        0 => {}
        1 => {
            let request = raw.handshake();
            raw.writes(request).await;
        }
        _ => raw.shakes_hands().await,
    }
    raw
}

#[tokio::test]
async fn hostile_03_ten_thousand_strangers_are_cut_and_leave_nothing_behind() {
    let _room = room_for_a_crowd().await;
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    drop(crowd(0..150, server.address(), stranger).await);
    let before = server.resident();

    let (mut strangers, mut most, started) = (Vec::with_capacity(CROWD), before, Instant::now());
    for first in (0..CROWD).step_by(1_000) {
        strangers.extend(crowd(first..first + 1_000, server.address(), stranger).await);
        most = most.max(server.resident());
    }
    let there = started.elapsed();
    alice.says("@bob", "taken meanwhile").await;
    bob.hears("taken meanwhile").await;
    server.connects("carol").await.says("@bob", "and let in").await;
    bob.hears("and let in").await;

    for raw in &mut strangers {
        raw.ends().await;
    }
    let lasted = started.elapsed();
    let growth = most - before;
    println!("{CROWD} strangers in {there:?}, cut after {lasted:?}: {growth} bytes while they were there");
    assert!(growth / CROWD as u64 <= STRANGER, "{growth} bytes");
    assert!(lasted < there + Duration::from_secs(12), "{lasted:?}");
    // Their client's ends are still open: it is the server that has let go.
    let back = || async { (server.resident() < before + KEPT).then_some(()) };
    eventually("the memory is free again", back).await;
    drop(strangers);
}

/// The room whose readers stop.
const ROOM: &str = "#busy";

/// Messages that the room has, and the bytes of each: together far more than `limits.queue`.
const MESSAGES: usize = 60;
const TEXT: usize = 16 * 1024;

/// What a reader that has stopped may cost: its queue, which is full, has some 40 bytes of its own for each frame, and a
/// lag; the frames' bytes are everybody's. With a copy for each it would be `limits.queue`, 64 times as much.
const STOPPED: u64 = 4 * 1024;

#[tokio::test]
async fn hostile_23_ten_thousand_readers_that_stop_share_one_copy_and_resume() {
    let _room = room_for_a_crowd().await;
    let data = TempDir::new().expect("a directory");
    make_room(data.path(), "busy", CROWD);
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    let mut readers = crowd(0..CROWD, server.address(), |address, number| async move {
        let mut raw = Raw::connect_with_buffer(address, 4_096).await;
        raw.enters_as(&format!("u{number}")).await;
        raw
    })
    .await;
    let before = server.resident();
    let text = "x".repeat(TEXT);
    for _ in 0..MESSAGES {
        alice.says(ROOM, &text).await;
    }
    // Nobody else notices.
    let mut bob = server.connects("bob").await;
    let said = Instant::now();
    bob.says("@alice", "quick").await;
    alice.hears("quick").await;
    let elsewhere = said.elapsed();
    let growth = server.resident().saturating_sub(before);
    println!("{CROWD} stopped readers: {growth} bytes more, {elsewhere:?} for a message elsewhere");
    let shared = (MESSAGES * TEXT) as u64;
    assert!(growth <= CROWD as u64 * STOPPED + shared + KEPT, "{growth} bytes");
    assert!(elsewhere < Duration::from_secs(5), "{elsewhere:?}");

    for reader in readers.iter_mut().step_by(CROWD / 20) {
        for seq in 2..MESSAGES as u64 + 2 {
            assert_eq!(reader.next().await.json()["seq"], seq, "nothing is lost after `create`");
        }
        reader.goes_on().await;
    }
    drop(readers);
    let back = || async { (server.resident() < before + KEPT).then_some(()) };
    eventually("the memory is free again", back).await;
}

/// Members of the large room, and how many of them are here.
const MEMBERS: usize = 100_000;
const HERE: usize = 500;

/// Messages of the large room a second, and for how many seconds.
const RATE: usize = 50;
const SECONDS: usize = 2;

/// How long messages take from one to the other, sent one after another for some time: the slowest of a hundred.
async fn p99(one: &mut Person, other: &mut Person, lasts: Duration) -> Duration {
    let (started, mut took) = (Instant::now(), Vec::new());
    while started.elapsed() < lasts {
        let said = Instant::now();
        one.submits("send", json!({"to": format!("@{}", other.name()), "text": "hi"})).await;
        other.hears("hi").await;
        took.push(said.elapsed());
        one.is_told().await;
        // waits for: the next message of people who talk
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_25_a_room_of_100_000_members_leaves_other_rooms_unharmed() {
    let data = TempDir::new().expect("a directory");
    make_room(data.path(), "stadium", MEMBERS);
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    let (mut bob, mut carol) = (server.connects("bob").await, server.connects("carol").await);
    let mut here = JoinSet::new();
    let listeners = crowd(0..HERE, server.address(), |address, number| async move {
        let mut raw = Raw::connect(address).await;
        raw.enters_as(&format!("u{number}")).await;
        raw
    })
    .await;
    for mut listener in listeners {
        here.spawn(async move {
            for number in 0..RATE * SECONDS {
                let event = listener.next().await.json();
                assert_eq!(event["seq"], number + 2, "in order, after `create`");
            }
        });
    }
    let alone = p99(&mut bob, &mut carol, Duration::from_secs(1)).await;
    let speaks = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(RATE).expect("a rate"));
        for _ in 0..RATE * SECONDS {
            tick.tick().await;
            alice.says("#stadium", "the same bytes for everybody").await;
        }
    };
    let ((), beside) = tokio::join!(speaks, p99(&mut bob, &mut carol, Duration::from_secs(SECONDS as u64)));
    println!("{MEMBERS} members, {HERE} here: p99 elsewhere {alone:?} alone, {beside:?} beside");
    // Loosely: a machine has other tests to run.
    assert!(beside < alone * 10 + Duration::from_millis(500), "{alone:?}, {beside:?}");
    while let Some(heard) = here.join_next().await {
        heard.expect("everybody heard everything");
    }
}
