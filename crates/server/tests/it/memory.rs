//! The server's memory for idle connections.

use serde_json::json;
use tempfile::TempDir;

use crate::support::{CROWD_SIZE, Process, RawSocket, connect_crowd, reserve_descriptors_for_a_crowd};

const CONNECTIONS: usize = CROWD_SIZE;

/// Connections before the measurement, because memory that the server allocates only at first use is no cost of a connection.
const WARM_UP_CONNECTIONS: usize = 50;

/// The number of conversations that each user is in.
const CONVERSATIONS_PER_USER: usize = 10;

/// Members of a room: as many as one `create` may name, and its creator.
const MEMBERS_PER_ROOM: usize = 1_000;

/// The most memory for an idle connection, as documented.
const MAX_BYTES_PER_CONNECTION: u64 = 8 * 1024;

fn user_name(number: usize) -> String {
    format!("user{number}")
}

/// Creates rooms of neighbouring users, so that each user is in [`CONVERSATIONS_PER_USER`] rooms.
async fn make_rooms(server: &Process) {
    for first in (0..CONNECTIONS).step_by(MEMBERS_PER_ROOM) {
        let members: Vec<_> = (first + 1..first + MEMBERS_PER_ROOM).map(user_name).collect();
        let mut creator = server.connects(&user_name(first)).await;
        for number in 0..CONVERSATIONS_PER_USER {
            let room = format!("room{first}-{number}");
            creator.does("create", json!({"room": room, "members": members})).await;
        }
        creator.client.close().await;
    }
}

/// Connects these users.
async fn connect_users(server: &Process, users: std::ops::Range<usize>) -> Vec<RawSocket> {
    connect_crowd(users, server.address(), |address, number| async move {
        let mut raw = RawSocket::connect(address).await;
        raw.says_hello_as(&user_name(number)).await;
        raw
    })
    .await
}

#[tokio::test]
async fn ten_thousand_idle_connections_cost_at_most_8_kb_each() {
    let _room = reserve_descriptors_for_a_crowd().await;
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    make_rooms(&server).await;
    drop(connect_users(&server, 0..WARM_UP_CONNECTIONS).await);
    let before = server.resident_bytes();

    let connections = connect_users(&server, 0..CONNECTIONS).await;
    let each = server.resident_bytes().saturating_sub(before) / connections.len() as u64;
    println!(
        "{} idle connections in {CONVERSATIONS_PER_USER} conversations each: {each} bytes each",
        connections.len()
    );
    assert!(each <= MAX_BYTES_PER_CONNECTION, "{each} bytes a connection");
    // The server still serves the idle connections.
    for mut connection in connections.into_iter().step_by(CONNECTIONS / 10) {
        connection.is_still_open().await;
    }
}
