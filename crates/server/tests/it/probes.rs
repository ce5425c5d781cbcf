//! Operators have an address of their own for probes and metrics, whatever comes to the other one.

use serde_json::Value;
use switchboard::config::Config;

use crate::support::{Raw, Server, eventually};

/// More silent connections than operators may have at once: `OPERATOR_CONNECTIONS` of the server's `http/operator.rs` and some.
const SILENT: usize = 150;

fn for_operators(config: &mut Config) {
    config.operator_listen = Some(([127, 0, 0, 1], 0).into());
}

/// The status of an answer to a request for a path.
pub(crate) async fn status(raw: &mut Raw, path: &str) -> u16 {
    raw.writes(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).await;
    raw.head().await.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test]
async fn operators_have_probes_and_metrics_to_themselves() {
    let server = Server::serves_with(for_operators).await;
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

    let without = Server::serves().await;
    for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
        assert_eq!(without.gets(path).await.status, 200, "{path}: all of it is on the one listener");
    }
}

#[tokio::test]
async fn operators_are_answered_when_no_connection_is_left_for_others() {
    let server = Server::serves_with(|config| {
        for_operators(config);
        config.limits.connections = 4;
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..12 {
        strangers.push(Raw::connect(server.address()).await);
    }
    for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
        assert_eq!(server.gets_as_operator(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn operators_are_answered_when_silent_connections_hold_every_place_of_theirs() {
    let server = Server::serves_with(for_operators).await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(Raw::connect(server.operators()).await);
    }
    assert_eq!(status(&mut Raw::connect(server.operators()).await, "/readyz").await, 200);
    silent[0].is_cut().await;
    assert_eq!(status(&mut silent[SILENT - 1], "/livez").await, 200, "only the oldest are closed");
}

#[tokio::test]
async fn a_server_that_stops_tells_operators_so_until_its_end() {
    let mut server = Server::start_with(for_operators).await;
    // It does not listen, so stopping takes a while.
    let mut deaf = Raw::connect(server.address()).await;
    deaf.enters_as("deaf").await;
    server.begins_to_stop();
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
    server.has_stopped().await;
    assert!(tokio::net::TcpStream::connect(operators).await.is_err(), "and then it is gone");
}
