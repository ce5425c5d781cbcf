//! Hostile TLS handshakes.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::certificates::{Authority, TlsRaw};
use crate::support::{RawSocket, eventually};
use crate::tls::{connects, counts_handshake_failures, read_metric, start_with};

/// The server's time-out of a handshake: `HANDSHAKE_TIMEOUT` in `tls/handshake.rs`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The first bytes of a ClientHello of 512 bytes.
const CLIENT_HELLO: [u8; 9] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC];

#[tokio::test]
async fn hostile_31_a_slow_or_missing_tls_handshake_is_closed_and_the_server_accepts_others() {
    let authority = Authority::new();
    let server = start_with(&authority, |_| {}).await;
    let started = Instant::now();
    let mut silent = RawSocket::connect(server.address()).await;
    let mut dribbling = RawSocket::connect(server.address()).await;
    connects(&server, &authority, "alice").await.says("@bob", "meanwhile").await;
    for byte in CLIENT_HELLO {
        // waits for: the pause before the next byte
        tokio::time::sleep(Duration::from_secs(1)).await;
        if dribbling.tries_to_write([byte]).await.is_err() {
            break;
        }
    }
    dribbling.is_disconnected().await;
    silent.is_disconnected().await;
    let lasted = started.elapsed();
    assert!(lasted >= HANDSHAKE_TIMEOUT - Duration::from_millis(100), "only {lasted:?}");
    assert!(lasted < HANDSHAKE_TIMEOUT + Duration::from_secs(10), "{lasted:?}");
    counts_handshake_failures(&server, "timed_out", 2.0).await;
}

#[tokio::test]
async fn hostile_31_garbage_in_place_of_a_client_hello_is_refused() {
    let authority = Authority::new();
    let server = start_with(&authority, |_| {}).await;
    let mut record_of_nothing = vec![0x16, 0x03, 0x01, 0x00, 0x00];
    record_of_nothing.resize(64, 0);
    let inputs: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x80\x2E\x01\x03\x01 an SSLv2 hello",
        &[0xFF; 64],
        &record_of_nothing,
        // A ServerHello, and a record that says that it is longer than TLS allows.
        &[0x16, 0x03, 0x03, 0x00, 0x04, 0x02, 0x00, 0x00, 0x00],
        &[0x16, 0x03, 0x01, 0xFF, 0xFF, 0x01],
    ];
    for input in inputs {
        let mut raw = RawSocket::connect(server.address()).await;
        raw.writes(input).await;
        raw.wait_for_end().await;
    }
    counts_handshake_failures(&server, "malformed", inputs.len() as f64).await;
    connects(&server, &authority, "alice").await.says("@bob", "hi").await;
}

#[tokio::test]
async fn hostile_31_a_flood_of_handshakes_keeps_no_client_out() {
    let authority = Authority::new();
    let server = start_with(&authority, |config| {
        config.limits.connections = 32;
        config.limits.connections_per_address = 0;
    })
    .await;
    let mut alice = connects(&server, &authority, "alice").await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        let mut raw = RawSocket::connect(server.address()).await;
        let _ = raw.tries_to_write(CLIENT_HELLO).await;
        flood.push(raw);
    }
    let mut bob = connects(&server, &authority, "bob").await;
    alice.says("@bob", "hi").await;
    bob.receives_message("hi").await;
    let mut probe = TlsRaw::connect(&authority.connector(&[]), server.address()).await.expect("TLS");
    assert!(probe.gets("/livez", "").await.starts_with("HTTP/1.1 200 "));
    let evicted = async || {
        let name = r#"switchboard_dropped_total{reason="stranger_limit"}"#;
        read_metric(&server, name).await.filter(|evicted| *evicted >= 60.0)
    };
    eventually("connections are evicted", evicted).await;
}
