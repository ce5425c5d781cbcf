//! What connections cost the server that only wait.

use serde_json::json;
use tempfile::TempDir;

use crate::support::{CROWD, Process, Raw, crowd, room_for_a_crowd};

const CONNECTIONS: usize = CROWD;

/// Connections before what is measured: whatever is made once, at first use, is no cost of a connection.
const FIRST: usize = 50;

/// Conversations of each user.
const CONVERSATIONS: usize = 10;

/// Members of a room; as many as one `create` may name, with its creator.
const MEMBERS: usize = 1_000;

/// The bound of the contract, in bytes a connection.
const MOST: u64 = 8 * 1024;

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
    crowd(users, server.address(), |address, number| async move {
        let mut raw = Raw::connect(address).await;
        raw.enters_as(&name(number)).await;
        raw
    })
    .await
}

#[tokio::test]
async fn ten_thousand_idle_connections_cost_at_most_8_kb_each() {
    let _room = room_for_a_crowd().await;
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    make_rooms(&server).await;
    drop(connect(&server, 0..FIRST).await);
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
