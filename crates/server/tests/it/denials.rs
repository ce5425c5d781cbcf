//! The server counts the clients that it denies by reason, and logs their address but no data that they sent.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use switchboard::auth::ApiKey;
use switchboard::denial::Denial;
use tempfile::TempDir;

use crate::proxy::PROXY;
use crate::support::{Process, RawSocket, Server, TextSocket, eventually};

async fn denied_count(server: &Server, reason: &str) -> f64 {
    server.metric(&format!("switchboard_denied_total{{reason=\"{reason}\"}}")).await
}

/// Sends a first frame, which the server must refuse.
async fn send_first_frame(server: &Server, frame: &str) {
    let mut socket = server.open_socket().await;
    socket.says(frame).await;
    let (refused, _) = socket.error_and_close_code().await;
    assert!(refused.is_some(), "{frame}");
}

#[tokio::test]
async fn every_denial_reason_has_a_counter_that_starts_at_zero() {
    let server = Server::start_with_auth().await;
    for denial in Denial::ALL {
        assert_eq!(denied_count(&server, denial.as_str()).await, 0.0);
    }
    let good = server.token("alice", Duration::from_secs(60));
    let hello = |token: &str| json!({"type": "hello", "token": token}).to_string();
    send_first_frame(&server, &hello("garbage")).await;
    let (content, _) = good.rsplit_once('.').expect("a signature");
    send_first_frame(&server, &hello(&format!("{content}.{}", "A".repeat(43)))).await;
    send_first_frame(&server, r#"{"type":"hello"}"#).await;
    send_first_frame(&server, "no frame").await;
    server.posts("ping", json!({})).await;
    server.posts_as(ApiKey::generate().expect("random bytes").expose(), "ping", json!({"as": "a"})).await;
    server.posts_as(&good, "ping", json!({"as": "bob"})).await;
    server.gets("/?token=x").await;
    server.gets("/v1/ws").await;
    server.request(server.asks("POST", "/v1/ping").header("origin", "https://evil.example")).await;
    let mut raw = RawSocket::connect(server.address()).await;
    raw.writes("no request\r\n\r\n").await;
    raw.wait_for_end().await;
    for (reason, times) in [
        ("malformed_token", 1.0),
        ("wrong_signature", 1.0),
        ("no_credentials", 2.0),
        ("malformed_hello", 1.0),
        ("bad_key", 1.0),
        ("not_permitted", 1.0),
        ("secret_in_address", 1.0),
        ("malformed_handshake", 1.0),
        ("foreign_origin", 1.0),
        ("malformed_request", 1.0),
        ("expired_token", 0.0),
    ] {
        let there = async || (denied_count(&server, reason).await == times).then_some(());
        eventually(&format!("{times} {reason}"), there).await;
    }
}

/// Runs an attack on a production server behind a trusted proxy, and returns the lines of the server's log.
async fn log_of_attack(settings: &[(&str, &str)], attack: impl AsyncFnOnce(&Process)) -> Vec<String> {
    let data = TempDir::new().expect("a directory");
    let log = data.path().join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let proxy = PROXY.to_string();
    let settings = [&[("SWITCHBOARD_TRUSTED_PROXIES", proxy.as_str())], settings].concat();
    let mut server = Process::start_production(data.path(), &settings, Stdio::from(file)).await;
    attack(&server).await;
    server.log_after_stop(&log).await.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_denied_client_is_logged_with_its_address_and_without_its_data() {
    let secret = "eyJ-something-in-confidence";
    let lines = log_of_attack(&[], async |server| {
        let mut raw = RawSocket::connect_from(PROXY, server.address()).await;
        let headers = format!(
            "X-Forwarded-For: 203.0.113.5\r\nOrigin: https://{secret}.example\r\nAuthorization: Bearer {secret}\r\n"
        );
        assert_eq!(raw.upgrade_status(&headers).await, 403);
    })
    .await;
    let line = lines.iter().find(|line| line.contains("turned away")).expect("a line");
    assert!(line.contains("reason=\"foreign_origin\" suppressed=0"), "{line}");
    assert!(line.contains("address=203.0.113.5"), "{line}");
    assert!(lines.iter().all(|line| !line.contains(secret)), "{lines:?}");
}

#[tokio::test]
async fn a_flood_of_bad_tokens_is_logged_once_a_second_with_a_count() {
    let began = tokio::time::Instant::now();
    let lines = log_of_attack(&[], async |server| {
        for _ in 0..100 {
            let mut socket = TextSocket::open(&format!("ws://{}/v1/ws", server.address())).await;
            socket.says(r#"{"type":"hello","token":"garbage"}"#).await;
            socket.error_and_close_code().await;
        }
    })
    .await;
    let denials: Vec<_> = lines.iter().filter(|line| line.contains("turned away")).collect();
    assert!(denials[0].contains("reason=\"malformed_token\" suppressed=0"), "{denials:?}");
    assert!(denials[0].contains("address=127.0.0.1"), "{denials:?}");
    let most = began.elapsed().as_secs() + 1;
    assert!(denials.len() as u64 <= most, "{} lines in {most} s", denials.len());
}

#[tokio::test]
async fn the_connection_limit_is_logged_once_a_minute() {
    let limits = [("SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS", "3")];
    let lines = log_of_attack(&limits, async |server| {
        let mut open = Vec::new();
        for _ in 0..50 {
            let mut raw = RawSocket::connect_from(PROXY, server.address()).await;
            let status = raw.upgrade_status("X-Forwarded-For: 2001:db8::1\r\n").await;
            open.push((status, raw));
        }
        assert_eq!(open.iter().filter(|(status, _)| *status == 101).count(), 3);
    })
    .await;
    let denials: Vec<_> = lines.iter().filter(|line| line.contains("per_address is reached")).collect();
    assert_eq!(denials.len(), 1, "{lines:?}");
    assert!(denials[0].contains("address=2001:db8::1"), "{denials:?}");
}
