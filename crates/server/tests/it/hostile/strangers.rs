//! Connections that have not authenticated: they keep nobody out, and no probe.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use switchboard::config::Config;
use tempfile::TempDir;

use crate::support::raw::{FIN, PING, PONG, frame};
use crate::support::{Process, Raw, Server};

/// More connections than are refused with an answer at once: `REFUSED_PLACES` of the server's `places.rs`.
const REFUSED: usize = 300;

fn places(connections: u32) -> impl FnOnce(&mut Config) {
    move |config| {
        config.limits.connections = connections;
        config.limits.connections_per_address = 0;
    }
}

#[tokio::test]
async fn hostile_03_the_newest_stranger_replaces_the_oldest_and_users_stay() {
    let server = Server::serves_with(places(4)).await;
    let mut alice = server.connects("alice").await;
    let token = server.token("bob", Duration::from_secs(60));
    let mut bob = Raw::connect(server.address()).await;
    let ping = format!(
        "POST /v1/ping HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    );
    bob.writes(&ping).await;
    let head = bob.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    bob.reads_body(&head).await;

    let mut silent = Raw::connect(server.address()).await;
    let mut dribbling = Raw::connect(server.address()).await;
    dribbling.shakes_hands().await;
    let mut third = Raw::connect(server.address()).await;
    third.shakes_hands().await;
    silent.is_cut().await;
    let mut fourth = Raw::connect(server.address()).await;
    fourth.shakes_hands().await;
    dribbling.is_cut().await;
    third.writes(frame(FIN | PING, b"x")).await;
    assert_eq!(third.next().await.opcode, PONG, "the newer ones stay");
    // A user who comes in takes the place of a stranger, and so does a request.
    let mut carol = server.connects("carol").await;
    third.is_cut().await;
    assert_eq!(server.gets("/livez").await.status, 200);
    fourth.is_cut().await;

    bob.writes(&ping).await;
    assert!(bob.head().await.starts_with("HTTP/1.1 200 "), "a connection with a token stays");
    alice.says("@carol", "hi").await;
    carol.hears("hi").await;
    assert!(server.metric(r#"switchboard_dropped_total{reason="stranger_limit"}"#).await >= 4.0);
}

#[tokio::test]
async fn hostile_03_probes_are_answered_when_all_places_are_taken() {
    let server = Server::serves_with(places(2)).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut silent = Vec::new();
    for _ in 0..REFUSED {
        silent.push(Raw::connect(server.address()).await);
        for path in
            ["/livez", "/readyz", "/metrics"].into_iter().take(usize::from(silent.len() % 100 == 0) * 3)
        {
            assert_eq!(server.gets(path).await.status, 200, "{path} beside {}", silent.len());
        }
    }
    for path in ["/", "/healthz", "/v1/openapi.json", "/nothing"] {
        let answer = server.gets(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"), "{path}");
    }
    let refused = server.posts("ping", json!({})).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "unavailable"));
    silent.swap_remove(0).is_cut().await;
    alice.says("@bob", "hi").await;
    bob.hears("hi").await;
}

/// Descriptors of the small server, and connections that it allows then: see the server's `cli/descriptors.rs`.
const DESCRIPTORS: u32 = 256;
const CONNECTIONS: usize = 173;

/// The probes, each of which must be answered on a connection of its own.
async fn probes_are_answered(server: &Process) {
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(server.gets(path).await.status, 200, "{path}");
    }
}

/// The whole log of a server, which is stopped: a thread of its own writes the lines, later than what they are about.
async fn log_after_stop(server: &mut Process, log: &Path) -> String {
    server.signal("TERM").await;
    assert!(server.ends().await.success());
    std::fs::read_to_string(log).expect("the log")
}

#[tokio::test]
async fn hostile_03_a_server_with_256_descriptors_answers_probes_and_logs_a_line() {
    let data = TempDir::new().expect("a directory");
    let log = data.path().join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let settings = [("SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS", "0")];
    let mut server =
        Process::serves_with_descriptors(DESCRIPTORS, data.path(), &settings, Stdio::from(file)).await;
    let mut strangers = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        strangers.push(Raw::connect(server.address()).await);
    }
    probes_are_answered(&server).await;
    let mut users = Vec::new();
    for number in 0..CONNECTIONS {
        let token = server.token(&format!("user{number}"));
        let mut user = Raw::connect(server.address()).await;
        user.enters_with(&token).await;
        users.push(user);
    }
    // All places are taken by users now.
    for _ in 0..DESCRIPTORS {
        strangers.push(Raw::connect(server.address()).await);
    }
    probes_are_answered(&server).await;
    let mut late = Raw::connect(server.address()).await;
    let head = late.asks_for_upgrade("").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    users[0].goes_on().await;
    let log = log_after_stop(&mut server, &log).await;
    for line in [
        "limits.connections exceeds the limit of open files",
        "too many unauthenticated connections; closing the oldest",
        "limits.connections is reached",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line} in {log}");
    }
    assert!(!log.contains("cannot accept"), "{log}");
}

#[tokio::test]
async fn hostile_03_out_of_descriptors_the_oldest_strangers_give_theirs() {
    let data = TempDir::new().expect("a directory");
    let path = data.path().join("log");
    let log = std::fs::File::create(&path).expect("a file");
    let mut server = Process::serves(data.path(), &[], Stdio::from(log)).await;
    probes_are_answered(&server).await;
    server.limit_descriptors(20);
    let mut strangers = Vec::new();
    for _ in 0..100 {
        strangers.push(Raw::connect(server.address()).await);
    }
    probes_are_answered(&server).await;
    server.connects("alice").await.says("@bob", "hi").await;
    strangers[0].is_cut().await;
    let log = log_after_stop(&mut server, &path).await;
    assert_eq!(log.matches("cannot accept connections").count(), 1, "{log}");
}
