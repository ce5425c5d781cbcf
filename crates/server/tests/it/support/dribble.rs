//! What one byte costs the server that comes in a segment of its own.

use std::process::Stdio;
use std::time::Duration;

use switchboard::auth::ApiKey;
use switchboard_store::keys::{self, KeyStore};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::raw::{CONTINUATION, FIN, TEXT, frame, head};
use super::{Process, Raw};

/// Connections that dribble at once.
const CONNECTIONS: usize = 8;

/// Bytes of memory that a byte may cost.
const MAX_BYTES_PER_BYTE: u64 = 200;

/// Bytes that a process grows by without a reason that a test knows: its threads' caches, what its log keeps.
const NOISE: u64 = 512 * 1024;

/// How long a connection dribbles at most: a body has 10 s to come.
const DRIBBLE_TIME: Duration = Duration::from_secs(7);

/// Fewer fragments than `limits.fragments`.
const FRAGMENTS: usize = 1_000;

/// What dribbles.
#[derive(Debug, Clone)]
enum Dribble {
    /// The body of a request, with a token, a key or nothing.
    Body { bearer: Option<String> },
    /// A frame of a WebSocket on which nothing was said yet.
    FirstFrame,
    /// A frame after `hello` with a token.
    Frame { token: String },
    /// Fragments of a byte each after `hello` with a token.
    Fragments { token: String },
}

impl Dribble {
    /// A connection on which only the bytes are missing.
    async fn begin(&self, server: &Process, bytes: usize) -> Raw {
        let mut raw = Raw::connect(server.address()).await;
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
                raw.shakes_hands().await;
                raw.writes(head(FIN | TEXT, bytes as u64 + 1)).await;
            }
            Self::Frame { token } => {
                raw.enters_with(token).await;
                raw.writes(head(FIN | TEXT, bytes as u64 + 1)).await;
            }
            Self::Fragments { token } => {
                raw.enters_with(token).await;
                raw.writes(frame(TEXT, b"x")).await;
            }
        }
        raw
    }

    /// Says `bytes` bytes, each in a segment of its own, or fewer if the time is up or the server has had enough.
    async fn go_on(self, mut raw: Raw, bytes: usize) -> (Raw, usize) {
        let byte = match self {
            Self::Fragments { .. } => frame(CONTINUATION, b"x"),
            _ => b"x".to_vec(),
        };
        let began = Instant::now();
        for said in 0..bytes {
            if began.elapsed() > DRIBBLE_TIME || raw.tries_to_write(&byte).await.is_err() {
                return (raw, said);
            }
            // The other connections have their turn, and the server reads this byte before the next one comes.
            tokio::task::yield_now().await;
        }
        (raw, bytes)
    }
}

/// Lets this dribble over eight connections, `bytes` over each: how many bytes were said, and by how many the server grew.
async fn dribble(server: &Process, what: Dribble, bytes: usize) -> (u64, u64) {
    // Whatever is made once, at first use, is no cost of a byte.
    drop(dribbling(server, &what, 10).await);
    let before = server.resident();
    let connections = dribbling(server, &what, bytes).await;
    assert_eq!(server.gets("/livez").await.status, 200, "others are served");
    let growth = server.resident().saturating_sub(before);
    (connections.iter().map(|(_, said)| *said as u64).sum(), growth)
}

async fn dribbling(server: &Process, what: &Dribble, bytes: usize) -> Vec<(Raw, usize)> {
    let mut dribbling = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let raw = what.begin(server, bytes).await;
        dribbling.spawn(what.clone().go_on(raw, bytes));
    }
    dribbling.join_all().await
}

/// The same, and it fails if a byte costs more than [`MAX_BYTES_PER_BYTE`]. What was measured, for a person.
async fn dribble_is_cheap(server: &Process, what: Dribble, bytes: usize) -> String {
    let name = format!("{what:?}").chars().take(20).collect::<String>();
    let (said, growth) = dribble(server, what, bytes).await;
    assert!(said >= 1_000, "{name}: only {said} bytes were said");
    assert!(growth <= said * MAX_BYTES_PER_BYTE + NOISE, "{name}: {growth} bytes for {said}");
    format!("{name}: {growth} bytes of memory for {said} bytes")
}

/// Dribbles in every way, as a stranger, with a token and with a key, and says what each cost. `bytes` are of a body or a
/// message, `hello_bytes` of a first frame.
pub(crate) async fn every_dribble_is_cheap(bytes: usize, hello_bytes: usize) -> String {
    let data = TempDir::new().expect("a directory");
    let server = Process::serves(data.path(), &[], Stdio::null()).await;
    let key = ApiKey::generate().expect("random bytes");
    let store = KeyStore::Directory(data.path().to_owned());
    keys::create(&store, "billing", &ApiKey::hash(key.expose())).expect("stored");
    let token = server.token("alice");
    let mut costs = Vec::new();
    for bearer in [None, Some(token.clone()), Some(key.expose().to_owned())] {
        costs.push(dribble_is_cheap(&server, Dribble::Body { bearer }, bytes).await);
    }
    costs.push(dribble_is_cheap(&server, Dribble::FirstFrame, hello_bytes).await);
    costs.push(dribble_is_cheap(&server, Dribble::Frame { token: token.clone() }, bytes).await);
    costs.push(dribble_is_cheap(&server, Dribble::Fragments { token }, FRAGMENTS).await);
    costs.join("\n")
}
