//! The memory and processor time that unauthenticated connections cost.

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

use crate::support::{
    Process, RawSocket, assert_single_bytes_are_cheap, in_time, reserve_descriptors_for_a_crowd,
};

/// Bytes that each connection sends: nearly `limits.frame`.
const MESSAGE_BYTES: usize = 60_000;

/// Bytes that a connection sends before `hello`: nearly `limits.hello_frame`.
const HELLO_BYTES: usize = 32_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak"]
async fn bytes_in_segments_of_their_own_cost_at_most_200_bytes_each() {
    println!("{}", assert_single_bytes_are_cheap(MESSAGE_BYTES, HELLO_BYTES).await);
}

/// Tasks that flood the server, and the connections that each task keeps open before it drops the oldest.
const FLOOD_TASKS: usize = 8;
const CONNECTIONS_PER_TASK: usize = 500;

/// The duration of the flood: longer than the interval between two log lines about it.
const FLOOD_TIME: Duration = Duration::from_secs(65);

/// The longest allowed 99th percentile of the time of a probe: orchestrators wait a second or more for a probe, and retry.
const MAX_PROBE_TIME: Duration = Duration::from_secs(1);

/// Repeatedly connects and begins a request whose body never arrives. Returns the number of connections.
async fn flood_until(address: SocketAddr, until: Instant) -> usize {
    let (mut held, mut made) = (VecDeque::new(), 0);
    while Instant::now() < until {
        let mut raw = RawSocket::connect(address).await;
        let request =
            "POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
        let _ = raw.tries_to_write(request).await;
        held.push_back(raw);
        if held.len() > CONNECTIONS_PER_TASK {
            held.pop_front();
        }
        made += 1;
    }
    made
}

/// What was measured during a flood.
#[derive(Debug, Default)]
struct FloodResult {
    connections: usize,
    median_probe: Duration,
    p99_probe: Duration,
    slowest_probe: Duration,
    users: usize,
    connected_users: usize,
}

/// Requests a path on a thread of its own, as another process would, because an async task would wait for the flooding tasks.
fn probe_status_line(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Floods a server while probes are sent and users connect.
async fn probe_during_a_flood(server: &Process) -> FloodResult {
    let until = Instant::now() + FLOOD_TIME;
    let mut flooding = JoinSet::new();
    for _ in 0..FLOOD_TASKS {
        flooding.spawn(flood_until(server.address(), until));
    }
    let (mut outcome, mut probes, url) =
        (FloodResult::default(), Vec::new(), format!("ws://{}/v1/ws", server.address()));
    while Instant::now() < until {
        for path in ["/livez", "/readyz", "/metrics"] {
            let (address, asked) = (server.address(), Instant::now());
            let answer =
                tokio::task::spawn_blocking(move || probe_status_line(address, path)).await.expect("it runs");
            let answer = answer.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            probes.push(asked.elapsed());
        }
        let token = Some(server.token("alice"));
        let hello = Hello { token, user: None, device: None, cursors: std::collections::BTreeMap::new() };
        outcome.users += 1;
        outcome.connected_users +=
            usize::from(in_time("an answer", Client::connect(&url, hello)).await.is_ok());
        // waits for: the next round of probes
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    probes.sort_unstable();
    outcome.median_probe = probes[probes.len() / 2];
    outcome.p99_probe = probes[probes.len() * 99 / 100];
    outcome.slowest_probe = probes[probes.len() - 1];
    outcome.connections = flooding.join_all().await.into_iter().sum();
    outcome
}

/// Creates a file for the log of a server.
fn open_log_file(path: &Path) -> Stdio {
    std::fs::File::create(path).expect("a file").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak"]
async fn probes_and_users_are_served_during_a_flood_of_unauthenticated_connections() {
    let _room = reserve_descriptors_for_a_crowd().await;
    let settings =
        [("SWITCHBOARD_LIMITS_CONNECTIONS", "2000"), ("SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS", "0")];
    for descriptors in [256, 4_096] {
        let data = TempDir::new().expect("a directory");
        let path = data.path().join("log");
        let server = Process::start_production_with_descriptors(
            descriptors,
            data.path(),
            &settings,
            open_log_file(&path),
        )
        .await;
        let outcome = probe_during_a_flood(&server).await;
        let log = std::fs::read_to_string(&path).expect("the log");
        let lines = log.matches("too many unauthenticated connections; closing the oldest").count();
        println!("{descriptors} descriptors: {outcome:?}, {lines} lines");
        assert!(outcome.p99_probe < MAX_PROBE_TIME, "{outcome:?}");
        // With 173 connections a flood may replace a user's connection during its handshake.
        assert!(descriptors == 256 || outcome.connected_users == outcome.users, "{outcome:?}");
        assert!((1..=2).contains(&lines), "{log}");
        assert!(!log.contains("cannot accept"), "{log}");
    }
}
