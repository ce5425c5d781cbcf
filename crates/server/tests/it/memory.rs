//! What connections cost the server that only wait.

use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::{Process, Raw};

const CONNECTIONS: usize = 10_000;

/// Conversations of each user.
const CONVERSATIONS: usize = 10;

/// Members of a room; as many as one `create` may name, with its creator.
const MEMBERS: usize = 1_000;

/// The bound of the contract, in bytes a connection.
const MOST: u64 = 8 * 1024;

/// Connections that are made at once.
const AT_ONCE: usize = 50;

/// Files of the test itself, and of those that run beside it.
const OTHER_FILES: u64 = 1_000;

fn name(number: usize) -> String {
    format!("user{number}")
}

/// Puts every user into as many rooms as they have conversations, with their neighbours.
async fn make_rooms(server: &Process) {
    for first in (0..CONNECTIONS).step_by(MEMBERS) {
        let members: Vec<_> = (first + 1..first + MEMBERS).map(name).collect();
        let mut creator = server.connects(&name(first)).await;
        for number in 0..CONVERSATIONS {
            let room = format!("room{first}-{number}");
            creator.does("create", json!({"room": room, "members": members})).await;
        }
        creator.client.close().await;
    }
}

/// Connects these users.
async fn connect(server: &Process, users: std::ops::Range<usize>) -> Vec<Raw> {
    let mut connections = Vec::with_capacity(users.len());
    for first in users.clone().step_by(AT_ONCE) {
        let mut connecting = JoinSet::new();
        let address = server.address();
        for number in first..users.end.min(first + AT_ONCE) {
            connecting.spawn(async move {
                let mut raw = Raw::connect(address).await;
                raw.enters_as(&name(number)).await;
                raw
            });
        }
        connections.extend(connecting.join_all().await);
    }
    connections
}

#[tokio::test]
async fn ten_thousand_idle_connections_cost_at_most_8_kb_each() {
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("a limit of files");
    assert!(
        files >= CONNECTIONS as u64 + OTHER_FILES,
        "{files} open files are too few for this test; raise the hard limit (ulimit -Hn)"
    );
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    make_rooms(&server).await;
    // Whatever is made once, at first use, is no cost of a connection.
    drop(connect(&server, 0..AT_ONCE).await);
    let before = server.resident();

    let connections = connect(&server, 0..CONNECTIONS).await;
    let each = server.resident().saturating_sub(before) / connections.len() as u64;
    println!(
        "{} idle connections in {CONVERSATIONS} conversations each: {each} bytes each",
        connections.len()
    );
    assert!(each <= MOST, "{each} bytes a connection");
    // They are not merely forgotten.
    for mut connection in connections.into_iter().step_by(CONNECTIONS / 10) {
        connection.goes_on().await;
    }
}
