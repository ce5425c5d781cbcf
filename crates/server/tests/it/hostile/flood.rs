//! A flood from one user and from one address: what it stores, what it costs, and what others notice.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use switchboard_protocol::Limits;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Process, Raw, crowd, room_for_a_crowd};

/// Connections of the user who floods: twice as many as one may have.
const CONNECTIONS: usize = 100;

/// Users that come from one address: more than it may have connections.
const USERS: usize = 1_300;

/// Bytes by which the server's memory may grow: of each connection a part of a frame and the answers that it does not
/// read, for as long as it lives, and the allocator's own pages.
const GROWTH: u64 = 32 * 1024 * 1024;

/// How long a message of somebody else's may take, besides the time for which the machine has other things to run.
const UNHARMED: Duration = Duration::from_secs(2);

/// Sends without a pause until it is cut, if it is let in at all: with which code.
async fn floods(server: &Process, number: usize) -> u16 {
    let mut raw = Raw::connect(server.address()).await;
    raw.shakes_hands().await;
    raw.says(&json!({"type": "hello", "token": server.token("mallory")}).to_string()).await;
    let first = raw.next().await;
    if first.json()["type"] == "error" {
        assert_eq!(first.json()["code"], "rate_limited");
        return raw.next().await.close_code();
    }
    raw.floods(&format!(r#"{{"type":"send","to":"@bob","text":"flood {number}"}}"#)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_24_a_flood_from_a_hundred_connections_of_one_user_is_cut_and_harms_nobody() {
    let data = TempDir::new().expect("a directory");
    // A server that was not optimised, on a machine with other tests to run, does not read 5,000 frames a second.
    let settings = [("SWITCHBOARD_LIMITS_FRAMES_PER_CONNECTION", "20")];
    let server = std::sync::Arc::new(Process::serves(data.path(), &settings, Stdio::null()).await);
    let mut alice = server.connects("alice").await;
    let mut carol = server.connects("carol").await;
    alice.says("@carol", "before").await;
    carol.hears("before").await;
    let before = server.resident();
    let started = Instant::now();
    let mut flooding = JoinSet::new();
    for number in 0..CONNECTIONS {
        let server = server.clone();
        flooding.spawn(async move { floods(&server, number).await });
    }
    let (mut codes, mut slowest, mut most) = (Vec::new(), Duration::ZERO, 0);
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    while !flooding.is_empty() {
        tokio::select! {
            code = flooding.join_next() => codes.extend(code.map(|code| code.expect("it ran"))),
            _ = tick.tick() => {
                let (said, waited) = (Instant::now(), server.kept_waiting());
                alice.says("@carol", "meanwhile").await;
                carol.hears("meanwhile").await;
                let kept_waiting = server.kept_waiting().saturating_sub(waited);
                slowest = slowest.max(said.elapsed().saturating_sub(kept_waiting));
                most = most.max(server.resident());
            }
        }
    }
    let lasted = started.elapsed();
    let limits = Limits::default();
    let let_in = codes.iter().filter(|code| **code == 4429).count();
    let turned_away = codes.iter().filter(|code| **code == 1013).count();
    assert_eq!(let_in + turned_away, CONNECTIONS, "{codes:?}");
    assert!(let_in >= limits.connections_per_user as usize && turned_away > 0, "{let_in}, {turned_away}");

    let mut mallory = server.connects("bob").await;
    let stored = mallory.summary("@bob:mallory").await.head.0;
    let rate = u64::from(limits.sends_per_user);
    let (least, allowed) = (rate, rate * (5 + lasted.as_secs() + 1));
    let growth = most.saturating_sub(before);
    println!("{stored} messages stored in {lasted:?}, others took {slowest:?}, growth {growth}");
    assert!((least..=allowed).contains(&stored), "{stored} stored in {lasted:?}, more than {allowed}");
    assert!(slowest < UNHARMED, "{slowest:?}");
    assert!(growth < GROWTH, "grew by {growth} bytes");
}

#[tokio::test]
async fn hostile_24_one_address_has_so_many_connections_however_many_users_it_has() {
    let _room = room_for_a_crowd().await;
    let data = TempDir::new().expect("a directory");
    let server = Process::serves(data.path(), &[], Stdio::null()).await;
    let tokens: std::sync::Arc<Vec<_>> =
        std::sync::Arc::new((0..USERS).map(|number| server.token(&format!("user{number}"))).collect());
    let places = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let connections = crowd(0..USERS, server.address(), |address, number| {
        let (tokens, places) = (tokens.clone(), places.clone());
        async move {
            let mut raw = Raw::connect(address).await;
            let answer = raw.asks_for_upgrade("").await;
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
