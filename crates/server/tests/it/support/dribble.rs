//! Measures the server's memory for bytes that arrive one per TCP segment.

use std::process::Stdio;
use std::time::Duration;

use switchboard::auth::ApiKey;
use switchboard_store::keys::{self, KeyStore};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::raw::{CONTINUATION, FIN, TEXT, frame, frame_head};
use super::{Process, RawSocket};

/// Concurrent connections that send single bytes.
const CONNECTIONS: usize = 8;

/// The most memory, in bytes, that the server may use for each received byte.
const MAX_MEMORY_PER_SENT_BYTE: u64 = 200;

/// By how much the server's memory may grow for other reasons, in bytes: caches of the threads, buffers of the log.
const MEMORY_NOISE_BYTES: u64 = 512 * 1024;

/// How long a connection sends at most: the server waits 10 s for a body.
const MAX_DRIBBLE_TIME: Duration = Duration::from_secs(7);

/// Fragments of a message, fewer than `limits.fragments`.
const FRAGMENTS: usize = 1_000;

/// What a connection sends byte by byte.
#[derive(Debug, Clone)]
enum SlowRequest {
    /// The connection sends the body of an HTTP request, with a token, an API key or neither.
    Body { bearer: Option<String> },
    /// The connection sends the first frame of a WebSocket.
    FirstFrame,
    /// The connection sends a frame after `hello` with a token.
    Frame { token: String },
    /// The connection sends fragments of one byte each, after `hello` with a token.
    Fragments { token: String },
}

impl SlowRequest {
    /// Opens a connection and sends everything that precedes the single bytes.
    async fn connect(&self, server: &Process, bytes: usize) -> RawSocket {
        let mut raw = RawSocket::connect(server.address()).await;
        match self {
            Self::Body { bearer } => {
                let bearer = bearer.as_ref().map(|bearer| format!("Authorization: Bearer {bearer}\r\n"));
                raw.writes(format!(
                    "POST /v1/send HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n",
                    server.address(),
                    bearer.unwrap_or_default(),
                    bytes + 1
                ))
                .await;
            }
            Self::FirstFrame => {
                raw.upgrades().await;
                raw.writes(frame_head(FIN | TEXT, bytes as u64 + 1)).await;
            }
            Self::Frame { token } => {
                raw.says_hello_with(token).await;
                raw.writes(frame_head(FIN | TEXT, bytes as u64 + 1)).await;
            }
            Self::Fragments { token } => {
                raw.says_hello_with(token).await;
                raw.writes(frame(TEXT, b"x")).await;
            }
        }
        raw
    }

    /// Sends `bytes` bytes, each in its own segment, or fewer if the time is up or the server disconnects. Returns how many.
    async fn send_bytes(self, mut raw: RawSocket, bytes: usize) -> (RawSocket, usize) {
        let byte = match self {
            Self::Fragments { .. } => frame(CONTINUATION, b"x"),
            _ => b"x".to_vec(),
        };
        let start = Instant::now();
        for sent in 0..bytes {
            if start.elapsed() > MAX_DRIBBLE_TIME || raw.tries_to_write(&byte).await.is_err() {
                return (raw, sent);
            }
            // Lets the other connections send, so that the server reads this byte before the next one arrives.
            tokio::task::yield_now().await;
        }
        (raw, bytes)
    }
}

/// Sends `bytes` single bytes over each of eight connections. Returns how many were sent, and the growth of the server in bytes.
async fn memory_of_slow_requests(server: &Process, what: SlowRequest, bytes: usize) -> (u64, u64) {
    // Warms up, because memory that the server allocates only at first use must not count as the cost of a byte.
    drop(dribble_over_connections(server, &what, 10).await);
    let before = server.resident_bytes();
    let connections = dribble_over_connections(server, &what, bytes).await;
    assert_eq!(server.gets("/livez").await.status, 200, "others are served");
    let growth = server.resident_bytes().saturating_sub(before);
    (connections.iter().map(|(_, sent)| *sent as u64).sum(), growth)
}

async fn dribble_over_connections(
    server: &Process,
    what: &SlowRequest,
    bytes: usize,
) -> Vec<(RawSocket, usize)> {
    let mut dribbling = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let raw = what.connect(server, bytes).await;
        dribbling.spawn(what.clone().send_bytes(raw, bytes));
    }
    dribbling.join_all().await
}

/// Fails if a byte costs more than [`MAX_MEMORY_PER_SENT_BYTE`]. Returns a line with the measurement.
async fn assert_slow_bytes_are_cheap(server: &Process, what: SlowRequest, bytes: usize) -> String {
    let name = format!("{what:?}").chars().take(20).collect::<String>();
    let (sent, growth) = memory_of_slow_requests(server, what, bytes).await;
    assert!(sent >= 1_000, "{name}: only {sent} bytes were sent");
    assert!(
        growth <= sent * MAX_MEMORY_PER_SENT_BYTE + MEMORY_NOISE_BYTES,
        "{name}: {growth} bytes for {sent}"
    );
    format!("{name}: {growth} bytes of memory for {sent} bytes")
}

/// Runs every kind of [`SlowRequest`] and returns the measurements. `bytes` is the length of a body or message, `hello_bytes`
/// that of a first frame.
pub(crate) async fn assert_single_bytes_are_cheap(bytes: usize, hello_bytes: usize) -> String {
    let data = TempDir::new().expect("a directory");
    let server = Process::start_production(data.path(), &[], Stdio::null()).await;
    let key = ApiKey::generate().expect("random bytes");
    let store = KeyStore::Directory(data.path().to_owned());
    keys::create(&store, &keys::NewKey::new("billing", ApiKey::hash(key.expose()))).expect("stored");
    let token = server.token("alice");
    let mut costs = Vec::new();
    for bearer in [None, Some(token.clone()), Some(key.expose().to_owned())] {
        costs.push(assert_slow_bytes_are_cheap(&server, SlowRequest::Body { bearer }, bytes).await);
    }
    costs.push(assert_slow_bytes_are_cheap(&server, SlowRequest::FirstFrame, hello_bytes).await);
    costs
        .push(assert_slow_bytes_are_cheap(&server, SlowRequest::Frame { token: token.clone() }, bytes).await);
    costs.push(assert_slow_bytes_are_cheap(&server, SlowRequest::Fragments { token }, FRAGMENTS).await);
    costs.join("\n")
}
