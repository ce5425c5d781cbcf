//! The operators' listener answers probes and metrics under any load on the public listener.

use std::time::Duration;

use serde_json::Value;
use switchboard::config::Config;

use crate::support::{RawSocket, Server, eventually};

/// Silent connections: more than the operators' listener allows (`OPERATOR_CONNECTIONS` in `http/operator.rs`).
const SILENT_CONNECTIONS: usize = 150;

fn with_operators_listener(config: &mut Config) {
    config.operator_listen = Some(([127, 0, 0, 1], 0).into());
}

/// Requests a path and returns the status.
pub(crate) async fn request_status(raw: &mut RawSocket, path: &str) -> u16 {
    raw.writes(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).await;
    raw.read_head().await.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test]
async fn probes_and_metrics_are_only_on_the_operators_listener() {
    let server = Server::start_with_auth_and(with_operators_listener).await;
    for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
        assert_eq!(server.gets_as_operator(path).await.status, 200, "{path}");
    }
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/healthz", 404), ("/metrics", 404)] {
        assert_eq!(server.gets(path).await.status, status, "{path}");
    }
    for path in ["/", "/v1/ws", "/v1/openapi.json"] {
        assert_eq!(server.gets_as_operator(path).await.code(), "not_found", "{path}");
    }
    let health: Value = serde_json::from_str(&server.gets_as_operator("/healthz").await.text).expect("JSON");
    assert_eq!(health["delivers"], true);

    let without = Server::start_with_auth().await;
    for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
        assert_eq!(
            without.gets(path).await.status,
            200,
            "{path}: without an operators' listener the public one serves it"
        );
    }
}

#[tokio::test]
async fn the_operators_listener_answers_when_the_connection_limit_is_reached() {
    let server = Server::start_with_auth_and(|config| {
        with_operators_listener(config);
        config.limits.connections = 4;
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..12 {
        strangers.push(RawSocket::connect(server.address()).await);
    }
    for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
        assert_eq!(server.gets_as_operator(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_operators_listener_answers_when_silent_connections_fill_it() {
    let server = Server::start_with_auth_and(with_operators_listener).await;
    let mut silent = Vec::new();
    for _ in 0..SILENT_CONNECTIONS {
        silent.push(RawSocket::connect(server.operators()).await);
    }
    assert_eq!(request_status(&mut RawSocket::connect(server.operators()).await, "/readyz").await, 200);
    silent[0].is_disconnected().await;
    assert_eq!(
        request_status(&mut silent[SILENT_CONNECTIONS - 1], "/livez").await,
        200,
        "only the oldest are closed"
    );
}

#[tokio::test]
async fn the_operators_listener_answers_until_a_stopping_server_exits() {
    let mut server = Server::start_with(with_operators_listener).await;
    // This client does not read, so the server takes a while to stop.
    let mut deaf = RawSocket::connect(server.address()).await;
    deaf.says_hello_as("deaf").await;
    server.begin_shutdown();
    let stopping = eventually("not ready", async || {
        let answer = server.gets_as_operator("/readyz").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert!(stopping.text.contains("stopping"), "{stopping:?}");
    assert_eq!(server.gets_as_operator("/livez").await.status, 200);
    assert_eq!(server.gets_as_operator("/metrics").await.status, 200);
    drop(deaf);
    let operators = server.operators();
    server.wait_until_stopped().await;
    assert!(
        tokio::net::TcpStream::connect(operators).await.is_err(),
        "after the stop it refuses connections"
    );
}

#[tokio::test]
async fn the_operators_listener_does_not_delay_a_stop() {
    // The deadline is longer than any test may take, so the test passes only if the stop does not wait for it.
    let mut server = Server::start_with(|config| {
        with_operators_listener(config);
        config.shutdown_deadline = Duration::from_secs(3_600);
    })
    .await;
    // An operators' connection without a request must not keep the store open either.
    let silent = RawSocket::connect(server.operators()).await;
    assert_eq!(server.gets_as_operator("/readyz").await.status, 200);
    server.begin_shutdown();
    server.wait_until_stopped().await;
    drop(silent);
}
