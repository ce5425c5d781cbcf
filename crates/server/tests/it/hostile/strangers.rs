//! Unauthenticated connections cannot keep out users or probes.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use switchboard::config::Config;
use tempfile::TempDir;

use crate::support::raw::{FIN, PING, PONG, frame};
use crate::support::{Process, RawSocket, Server};

/// The number of refused connections: more than the server answers at a time (`REFUSED_PLACES` in `places.rs`).
const REFUSED_CONNECTIONS: usize = 300;

fn with_connection_limit(connections: u32) -> impl FnOnce(&mut Config) {
    move |config| {
        config.limits.connections = connections;
        config.limits.connections_per_address = 0;
    }
}

#[tokio::test]
async fn hostile_03_a_new_unauthenticated_connection_replaces_the_oldest_one_and_users_stay() {
    let server = Server::start_with_auth_and(with_connection_limit(4)).await;
    let mut alice = server.connects("alice").await;
    let token = server.token("bob", Duration::from_secs(60));
    let mut bob = RawSocket::connect(server.address()).await;
    let ping = format!(
        "POST /v1/ping HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    );
    bob.writes(&ping).await;
    let head = bob.read_head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    bob.reads_body(&head).await;

    let mut silent = RawSocket::connect(server.address()).await;
    let mut dribbling = RawSocket::connect(server.address()).await;
    dribbling.upgrades().await;
    let mut third = RawSocket::connect(server.address()).await;
    third.upgrades().await;
    silent.is_disconnected().await;
    let mut fourth = RawSocket::connect(server.address()).await;
    fourth.upgrades().await;
    dribbling.is_disconnected().await;
    third.writes(frame(FIN | PING, b"x")).await;
    assert_eq!(third.next().await.opcode, PONG, "the newer ones stay");
    // If all places are taken, a connection or request of a user replaces an unauthenticated connection.
    let mut carol = server.connects("carol").await;
    third.is_disconnected().await;
    assert_eq!(server.gets("/livez").await.status, 200);
    fourth.is_disconnected().await;

    bob.writes(&ping).await;
    assert!(bob.read_head().await.starts_with("HTTP/1.1 200 "), "a connection with a token stays");
    alice.says("@carol", "hi").await;
    carol.receives_message("hi").await;
    assert!(server.metric(r#"switchboard_dropped_total{reason="stranger_limit"}"#).await >= 4.0);
}

#[tokio::test]
async fn hostile_03_probes_are_answered_when_the_connection_limit_is_reached() {
    let server = Server::start_with_auth_and(with_connection_limit(2)).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut silent = Vec::new();
    for _ in 0..REFUSED_CONNECTIONS {
        silent.push(RawSocket::connect(server.address()).await);
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
    silent.swap_remove(0).is_disconnected().await;
    alice.says("@bob", "hi").await;
    bob.receives_message("hi").await;
}

/// File descriptors of the server, and the number of connections that it allows with so few (`cli/descriptors.rs`).
const DESCRIPTORS: u32 = 256;
const CONNECTIONS: usize = 173;

/// Asserts that each probe is answered, on a new connection.
async fn assert_probes_answered(server: &Process) {
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(server.gets(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn hostile_03_a_server_with_256_descriptors_answers_probes_and_logs_one_line() {
    let data = TempDir::new().expect("a directory");
    let log = data.path().join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let settings = [("SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS", "0")];
    let mut server =
        Process::start_production_with_descriptors(DESCRIPTORS, data.path(), &settings, Stdio::from(file))
            .await;
    let mut strangers = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        strangers.push(RawSocket::connect(server.address()).await);
    }
    assert_probes_answered(&server).await;
    let mut users = Vec::new();
    for number in 0..CONNECTIONS {
        let token = server.token(&format!("user{number}"));
        let mut user = RawSocket::connect(server.address()).await;
        user.says_hello_with(&token).await;
        users.push(user);
    }
    // Now authenticated users have all connections that the server allows.
    for _ in 0..DESCRIPTORS {
        strangers.push(RawSocket::connect(server.address()).await);
    }
    assert_probes_answered(&server).await;
    let mut late = RawSocket::connect(server.address()).await;
    let head = late.request_upgrade("").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    users[0].is_still_open().await;
    let log = server.log_after_stop(&log).await;
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
async fn hostile_03_without_descriptors_the_oldest_unauthenticated_connections_are_closed() {
    let data = TempDir::new().expect("a directory");
    let path = data.path().join("log");
    let log = std::fs::File::create(&path).expect("a file");
    let mut server = Process::start_production(data.path(), &[], Stdio::from(log)).await;
    assert_probes_answered(&server).await;
    server.limit_descriptors(20);
    let mut strangers = Vec::new();
    for _ in 0..100 {
        strangers.push(RawSocket::connect(server.address()).await);
    }
    assert_probes_answered(&server).await;
    server.connects("alice").await.says("@bob", "hi").await;
    strangers[0].is_disconnected().await;
    let log = server.log_after_stop(&path).await;
    assert_eq!(log.matches("cannot accept connections").count(), 1, "{log}");
}
