//! One user or one address sends as fast as it can: how much the server stores, and what it costs the server and other users.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use switchboard_protocol::Limits;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Process, RawSocket, connect_crowd, reserve_descriptors_for_a_crowd};

/// The number of connections of the flooding user: twice the limit.
const FLOODING_CONNECTIONS: usize = 100;

/// Users who connect from one address: more than the connections that an address may have.
const USERS_PER_ADDRESS: usize = 1_300;

/// The most by which the server's memory may grow: parts of frames, unread answers, and pages that the allocator keeps.
const MAX_GROWTH_BYTES: u64 = 32 * 1024 * 1024;

/// The most time that another user's message may take, not counting the delays of the machine's scheduler.
const MAX_DELIVERY_TIME: Duration = Duration::from_secs(2);

/// Connects and sends without a pause until the server closes. Returns the close code.
async fn flood_until_closed(server: &Process, number: usize) -> u16 {
    let mut raw = RawSocket::connect(server.address()).await;
    raw.upgrades().await;
    raw.says(&json!({"type": "hello", "token": server.token("mallory")}).to_string()).await;
    let first = raw.next().await;
    if first.json()["type"] == "error" {
        assert_eq!(first.json()["code"], "rate_limited");
        return raw.next().await.close_code();
    }
    raw.floods(&format!(r#"{{"type":"send","to":"@bob","text":"flood {number}"}}"#)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_24_a_flood_over_a_hundred_connections_of_one_user_is_closed_and_harms_no_other_user() {
    let data = TempDir::new().expect("a directory");
    // The rate is low because a debug build on a busy machine cannot read 5,000 frames a second.
    let settings = [("SWITCHBOARD_LIMITS_FRAMES_PER_CONNECTION", "20")];
    let server = std::sync::Arc::new(Process::start_production(data.path(), &settings, Stdio::null()).await);
    let mut alice = server.connects("alice").await;
    let mut carol = server.connects("carol").await;
    alice.says("@carol", "before").await;
    carol.receives_message("before").await;
    let before = server.resident_bytes();
    let started = Instant::now();
    let mut flooding = JoinSet::new();
    for number in 0..FLOODING_CONNECTIONS {
        let server = server.clone();
        flooding.spawn(async move { flood_until_closed(&server, number).await });
    }
    let (mut codes, mut slowest, mut most) = (Vec::new(), Duration::ZERO, 0);
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    while !flooding.is_empty() {
        tokio::select! {
            code = flooding.join_next() => codes.extend(code.map(|code| code.expect("it ran"))),
            _ = tick.tick() => {
                let (said, waited) = (Instant::now(), server.longest_scheduling_delay());
                alice.says("@carol", "meanwhile").await;
                carol.receives_message("meanwhile").await;
                let longest_scheduling_delay = server.longest_scheduling_delay().saturating_sub(waited);
                slowest = slowest.max(said.elapsed().saturating_sub(longest_scheduling_delay));
                most = most.max(server.resident_bytes());
            }
        }
    }
    let lasted = started.elapsed();
    let limits = Limits::default();
    let let_in = codes.iter().filter(|code| **code == 4429).count();
    let turned_away = codes.iter().filter(|code| **code == 1013).count();
    assert_eq!(let_in + turned_away, FLOODING_CONNECTIONS, "{codes:?}");
    assert!(let_in >= limits.connections_per_user as usize && turned_away > 0, "{let_in}, {turned_away}");

    let mut mallory = server.connects("bob").await;
    let stored = mallory.summary("@bob:mallory").await.head.0;
    let rate = u64::from(limits.sends_per_user);
    let (least, allowed) = (rate, rate * (5 + lasted.as_secs() + 1));
    let growth = most.saturating_sub(before);
    println!("{stored} messages stored in {lasted:?}, others took {slowest:?}, growth {growth}");
    assert!((least..=allowed).contains(&stored), "{stored} stored in {lasted:?}, more than {allowed}");
    assert!(slowest < MAX_DELIVERY_TIME, "{slowest:?}");
    assert!(growth < MAX_GROWTH_BYTES, "grew by {growth} bytes");
}

#[tokio::test]
async fn hostile_24_connections_from_one_address_are_limited_over_all_its_users() {
    let _room = reserve_descriptors_for_a_crowd().await;
    let data = TempDir::new().expect("a directory");
    let server = Process::start_production(data.path(), &[], Stdio::null()).await;
    let tokens: std::sync::Arc<Vec<_>> = std::sync::Arc::new(
        (0..USERS_PER_ADDRESS).map(|number| server.token(&format!("user{number}"))).collect(),
    );
    let places = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let connections = connect_crowd(0..USERS_PER_ADDRESS, server.address(), |address, number| {
        let (tokens, places) = (tokens.clone(), places.clone());
        async move {
            let mut raw = RawSocket::connect(address).await;
            let answer = raw.request_upgrade("").await;
            if answer.starts_with("HTTP/1.1 101 ") {
                raw.says(&json!({"type": "hello", "token": tokens[number]}).to_string()).await;
                assert_eq!(raw.next().await.json()["type"], "welcome");
                places.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            } else {
                assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
            }
            raw
        }
    })
    .await;
    let places = places.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(places, Limits::default().connections_per_address, "of {}", connections.len());
}
