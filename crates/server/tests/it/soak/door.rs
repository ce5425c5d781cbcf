//! What a stranger costs in memory and processor time.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use switchboard_client::Client;
use switchboard_protocol::Hello;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Process, Raw, every_dribble_is_cheap, room_for_a_crowd, soon};

/// Bytes that each connection says: nearly `limits.frame`.
const BYTES: usize = 60_000;

/// The same before `hello`: nearly `limits.hello_frame`.
const HELLO_BYTES: usize = 8_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak"]
async fn bytes_that_come_one_by_one_cost_at_most_200_bytes_each() {
    println!("{}", every_dribble_is_cheap(BYTES, HELLO_BYTES).await);
}

/// Tasks that flood, and connections that each holds open before it drops the oldest.
const FLOODERS: usize = 8;
const HELD: usize = 500;

/// How long the flood lasts: more than the time between two lines of the log.
const FLOOD_TIME: Duration = Duration::from_secs(65);

/// How long 99 of 100 probes may take: an orchestrator gives each a second or more, and asks again.
const MAX_PROBE_TIME: Duration = Duration::from_secs(1);

/// Connects again and again, and begins a request whose body never comes. How many connections it made.
async fn flood(address: SocketAddr, until: Instant) -> usize {
    let (mut held, mut made) = (VecDeque::new(), 0);
    while Instant::now() < until {
        let mut raw = Raw::connect(address).await;
        let request =
            "POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
        let _ = raw.tries_to_write(request).await;
        held.push_back(raw);
        if held.len() > HELD {
            held.pop_front();
        }
        made += 1;
    }
    made
}

/// What came of a flood.
#[derive(Debug, Default)]
struct Flooded {
    connections: usize,
    median_probe: Duration,
    p99_probe: Duration,
    slowest_probe: Duration,
    users: usize,
    users_let_in: usize,
}

/// Asks for a page as another process does: on a thread of its own, since tasks wait for those that flood.
fn probe(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Floods a server while it is probed and users come in.
async fn probe_beside_a_flood(server: &Process) -> Flooded {
    let until = Instant::now() + FLOOD_TIME;
    let mut flooding = JoinSet::new();
    for _ in 0..FLOODERS {
        flooding.spawn(flood(server.address(), until));
    }
    let (mut came, mut probes, url) =
        (Flooded::default(), Vec::new(), format!("ws://{}/v1/ws", server.address()));
    while Instant::now() < until {
        for path in ["/livez", "/readyz", "/metrics"] {
            let (address, asked) = (server.address(), Instant::now());
            let answer = tokio::task::spawn_blocking(move || probe(address, path)).await.expect("it runs");
            let answer = answer.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            probes.push(asked.elapsed());
        }
        let token = Some(server.token("alice"));
        let hello = Hello { token, user: None, device: None, cursors: std::collections::BTreeMap::new() };
        came.users += 1;
        came.users_let_in += usize::from(soon("an answer", Client::connect(&url, hello)).await.is_ok());
        // waits for: the next round of probes
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    probes.sort_unstable();
    came.median_probe = probes[probes.len() / 2];
    came.p99_probe = probes[probes.len() * 99 / 100];
    came.slowest_probe = probes[probes.len() - 1];
    came.connections = flooding.join_all().await.into_iter().sum();
    came
}

/// A file for the log of a server.
fn log(path: &Path) -> Stdio {
    std::fs::File::create(path).expect("a file").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak"]
async fn probes_are_answered_and_users_let_in_beside_a_flood_of_strangers() {
    let _room = room_for_a_crowd().await;
    let settings =
        [("SWITCHBOARD_LIMITS_CONNECTIONS", "2000"), ("SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS", "0")];
    for descriptors in [256, 4_096] {
        let data = TempDir::new().expect("a directory");
        let path = data.path().join("log");
        let server = Process::serves_with_descriptors(descriptors, data.path(), &settings, log(&path)).await;
        let came = probe_beside_a_flood(&server).await;
        let log = std::fs::read_to_string(&path).expect("the log");
        let lines = log.matches("too many unauthenticated connections; closing the oldest").count();
        println!("{descriptors} descriptors: {came:?}, {lines} lines");
        assert!(came.p99_probe < MAX_PROBE_TIME, "{came:?}");
        // With 173 places a flood may be faster than a handshake.
        assert!(descriptors == 256 || came.users_let_in == came.users, "{came:?}");
        assert!((1..=2).contains(&lines), "{log}");
        assert!(!log.contains("cannot accept"), "{log}");
    }
}
