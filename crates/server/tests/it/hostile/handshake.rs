//! Invalid handshakes: each is refused with the documented status or code, and the server keeps working.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::raw::{FIN, PING, PONG, TEXT, frame, frame_head};
use crate::support::{RawSocket, Server};

/// The header bit that marks a frame as compressed (RFC 7692 section 6).
const RSV1: u8 = 0x40;

/// The close code if the client does not send `hello` in time.
const SILENT_CODE: u16 = 4408;

/// The server's time-out for the head of a request: `HEAD_TIMEOUT` in `http/accept.rs`.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The HTTP status in the head of a response.
fn status_of_head(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

/// Writes the bytes one by one with a pause before each, until the server closes.
async fn write_slowly(raw: &mut RawSocket, bytes: &[u8], pause: Duration) {
    for byte in bytes {
        // waits for: the pause before the next byte
        tokio::time::sleep(pause).await;
        if raw.tries_to_write([*byte]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn hostile_01_a_slow_or_missing_handshake_is_closed_and_the_server_accepts_others() {
    let server = Server::start().await;
    let started = Instant::now();
    let mut dribbling = RawSocket::connect(server.address()).await;
    let mut silent = RawSocket::connect(server.address()).await;
    server.connects("alice").await.says("@bob", "meanwhile").await;
    let request = format!("{}\r\n", dribbling.handshake());
    // At one byte a second the whole request would take minutes.
    let ((), ()) = tokio::join!(
        async {
            tokio::select! {
                () = write_slowly(&mut dribbling, request.as_bytes(), Duration::from_secs(1)) => {}
                // waits for: longer than the server's time-out
                () = tokio::time::sleep(HEAD_TIMEOUT + Duration::from_secs(2)) => {}
            }
            dribbling.wait_for_end().await;
        },
        async {
            silent.is_disconnected().await;
            let lasted = started.elapsed();
            assert!(lasted >= HEAD_TIMEOUT - Duration::from_millis(100), "only {lasted:?}");
        },
    );
    assert!(started.elapsed() < HEAD_TIMEOUT + Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn hostile_01_a_slow_or_missing_hello_is_closed() {
    let server = Server::start_with(|config| config.limits.hello_timeout = 300).await;
    let mut silent = RawSocket::connect(server.address()).await;
    silent.upgrades().await;
    let mut dribbling = RawSocket::connect(server.address()).await;
    dribbling.upgrades().await;
    let pause = Duration::from_millis(20);
    write_slowly(&mut dribbling, &frame_head(FIN | TEXT, 2_000)[..7], pause).await;
    write_slowly(&mut dribbling, &[b'x'; 20], pause).await;
    for raw in [&mut silent, &mut dribbling] {
        assert_eq!(raw.is_closed().await, SILENT_CODE);
    }
    // The server answers a ping, but the ping does not replace `hello`.
    let mut pinging = RawSocket::connect(server.address()).await;
    pinging.upgrades().await;
    pinging.writes(frame(FIN | PING, b"x")).await;
    assert_eq!(pinging.next().await.opcode, PONG);
    assert_eq!(pinging.is_closed().await, SILENT_CODE);
}

#[tokio::test]
async fn hostile_02_a_head_that_is_too_long_is_refused() {
    let server = Server::start().await;
    let many: String = (0..1_000).map(|n| format!("x-header-{n}: y\r\n")).collect();
    let long = format!("x-header: {}\r\n", "y".repeat(64 * 1024));
    let protocols = format!("Sec-WebSocket-Protocol: {}switchboard.v1\r\n", "p, ".repeat(20_000));
    for headers in [many, long, protocols] {
        let answer = RawSocket::connect(server.address()).await.request_upgrade(&headers).await;
        assert_eq!(status_of_head(&answer), 431, "{answer}");
    }
    let line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(64 * 1024));
    let mut raw = RawSocket::connect(server.address()).await;
    let _ = raw.tries_to_write(line).await;
    let answer = raw.read_head().await;
    assert!([414, 431].contains(&status_of_head(&answer)), "{answer}");
    // A long head within the limit is read: the server finds the subprotocol among many.
    let protocols = format!("Sec-WebSocket-Protocol: {}switchboard.v1\r\n", "p, ".repeat(2_000));
    let answer = RawSocket::connect(server.address()).await.request_upgrade(&protocols).await;
    assert_eq!(status_of_head(&answer), 101, "{answer}");
    assert!(answer.to_ascii_lowercase().contains("sec-websocket-protocol: switchboard.v1\r\n"), "{answer}");
}

#[tokio::test]
async fn hostile_05_a_page_of_another_origin_cannot_connect() {
    let server =
        Server::start_with(|config| config.allowed_origins = vec!["https://chat.example".to_owned()]).await;
    let own = format!("http://{}", server.address());
    for (origin, expected) in [
        (Some("https://evil.example"), 403),
        (Some("https://chat.example.evil.example"), 403),
        (Some("http://chat.example"), 403),
        (Some("null"), 403),
        (Some(""), 403),
        (Some("https://*"), 403),
        (Some("https://chat.example"), 101),
        (Some(own.as_str()), 101),
        (None, 101),
    ] {
        let header = origin.map_or_else(String::new, |origin| format!("Origin: {origin}\r\n"));
        let answer = RawSocket::connect(server.address()).await.request_upgrade(&header).await;
        assert_eq!(status_of_head(&answer), expected, "{origin:?}: {answer}");
        let request = server.asks("POST", "/v1/ping").json(&json!({"as": "alice"}));
        let request = if let Some(origin) = origin { request.header("origin", origin) } else { request };
        let answer = server.request(request).await;
        assert_eq!(answer.status, if expected == 101 { 200 } else { expected }, "{origin:?}: {answer:?}");
        if expected == 403 {
            assert_eq!(answer.code(), "forbidden");
        }
    }
}

#[tokio::test]
async fn hostile_06_a_token_in_the_url_is_refused_and_not_echoed() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", Duration::from_secs(60));
    for name in ["token", "access_token", "Authorization", "jwt"] {
        let mut raw = RawSocket::connect(server.address()).await;
        let request = raw.handshake().replace("/v1/ws", &format!("/v1/ws?{name}={token}"));
        raw.writes(format!("{request}\r\n")).await;
        let answer = raw.read_head().await;
        assert_eq!(status_of_head(&answer), 401, "{answer}");
        let answer = server.gets(&format!("/v1/ws?{name}={token}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"));
        assert!(!answer.text.contains(&token), "{answer:?}");
    }
    for path in ["/v1/ws?v=1&jwt=", "/v1/ping?api_key=", "/?auth="] {
        let answer = server.gets(&format!("{path}{token}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{path}");
        assert!(!answer.text.contains(&token), "{answer:?}");
    }
    assert!(!server.gets("/metrics").await.text.contains(&token));
}

#[tokio::test]
async fn hostile_10_compression_is_not_negotiated() {
    let server = Server::start().await;
    let mut raw = RawSocket::connect(server.address()).await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let answer = raw.request_upgrade(offer).await;
    assert_eq!(status_of_head(&answer), 101, "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("sec-websocket-extensions"), "{answer}");
    // A client that compresses although the server did not accept compression violates the framing.
    raw.writes(frame(FIN | RSV1 | TEXT, b"\xaa\x56\x2a")).await;
    assert_eq!(raw.is_closed().await, 1002);
}
