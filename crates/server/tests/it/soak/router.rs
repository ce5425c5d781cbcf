//! Slow consumers in very many conversations, at full size.

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::reply::{Reply, ServerFrame};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{Person, Process, RawSocket, command};

/// Sessions of one user that stop reading; conversations that get new events; after this many conversations the cost is measured.
const STALLED_SESSIONS: usize = 20;
const CONVERSATIONS: usize = 24_000;
const CONVERSATIONS_PER_STEP: usize = 6_000;

/// The number of messages that are sent before an answer is read; less than `limits.in_flight`.
const ROOMS_PER_BURST: usize = 500;

/// Creates these rooms; bob receives an event for each.
async fn create_rooms(writer: &mut Person, numbers: std::ops::Range<usize>) {
    for first in numbers.step_by(ROOMS_PER_BURST) {
        let rooms = (first..first + ROOMS_PER_BURST).map(|number| {
            let title = "x".repeat(200);
            command("create", &json!({"room": format!("room{number}"), "members": ["bob"], "title": title}))
        });
        writer.client.submit_all(rooms).await.expect("sent");
        for _ in 0..ROOMS_PER_BURST {
            let answer = writer.receives_reply().await;
            assert!(matches!(answer, Reply::Ok(_)), "{answer:?}");
        }
    }
}

#[tokio::test]
#[ignore = "soak"]
async fn the_cost_of_an_event_does_not_grow_with_the_lags_of_stalled_sessions() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED_SESSIONS {
        let mut raw = RawSocket::connect_with_buffer(server.address(), 4_096).await;
        raw.says_hello_as("bob").await;
        stalled.push(raw);
    }
    let mut writer = server.connects("alice").await;
    let mut costs = Vec::new();
    for first in (0..CONVERSATIONS).step_by(CONVERSATIONS_PER_STEP) {
        let before = server.processor_time();
        create_rooms(&mut writer, first..first + CONVERSATIONS_PER_STEP).await;
        let each = (server.processor_time() - before) / u32::try_from(CONVERSATIONS_PER_STEP).expect("few");
        let page = server.gets("/metrics").await.text;
        let number = |name: &str| {
            page.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
        };
        let closed = number("switchboard_dropped_total{reason=\"too_far_behind\"}");
        let behind = number("switchboard_catching_up");
        println!(
            "{:>6} conversations: {each:?} an event, {behind:?} lags, {closed:?} closed",
            first + CONVERSATIONS_PER_STEP
        );
        costs.push((each, closed.as_deref() == Some(&STALLED_SESSIONS.to_string())));
    }
    let (first, _) = costs[0];
    for (cost, closed) in &costs[1..] {
        assert!(*closed || *cost <= first.mul_f64(1.2), "{costs:?}");
    }
}

/// Rooms of the bot, and how long the bot stops reading.
const BOT_ROOMS: usize = 2_000;
const BOT_STALL_TIME: Duration = Duration::from_secs(5);

/// Sends a message to each of these rooms, and then reads the answers.
async fn send_to_rooms(writer: &mut Person, rooms: impl Iterator<Item = String>) -> usize {
    let sends: Vec<_> =
        rooms.map(|room| command("send", &json!({"to": room, "text": "x".repeat(300)}))).collect();
    let many = sends.len();
    writer.client.submit_all(sends).await.expect("sent");
    for _ in 0..many {
        let answer = writer.receives_reply().await;
        assert!(matches!(answer, Reply::Ok(_)), "{answer:?}");
    }
    many
}

#[tokio::test]
#[ignore = "soak"]
async fn a_bot_that_pauses_in_2_000_busy_rooms_is_not_closed() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut writer = server.connects("alice").await;
    for number in 0..BOT_ROOMS {
        writer.makes_room(&format!("r{number}"), &["bot"]).await;
    }
    let mut bot = server.connects("bot").await;
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < BOT_STALL_TIME {
        let rooms = (sent..sent + ROOMS_PER_BURST).map(|number| format!("#r{}", number % BOT_ROOMS));
        sent += send_to_rooms(&mut writer, rooms).await;
    }
    let mut next = vec![2; BOT_ROOMS];
    for _ in 0..sent {
        let ServerFrame::Event(event) = bot.next().await else { panic!("no event") };
        let room: usize = event.conversation.as_str()[2..].parse().expect("a room");
        assert_eq!(event.seq.0, next[room], "in order and without a gap, after `create`");
        next[room] += 1;
    }
    bot.receives_nothing().await;
    println!(
        "{sent} messages in {BOT_ROOMS} rooms during a pause of {BOT_STALL_TIME:?}: all received, no connection closed"
    );
}
