//! Readers that stop in very many conversations, at full size.

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::reply::{Reply, ServerFrame};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{Person, Process, Raw, command};

/// Sessions of one user that stop reading, and conversations in which something is said to them.
const STALLED: usize = 20;
const CONVERSATIONS: usize = 24_000;
const STEP: usize = 6_000;

/// Messages sent in one go; fewer than `limits.in_flight`.
const BURST: usize = 500;

/// Makes these rooms, each by an event that bob is to get.
async fn makes_rooms(writer: &mut Person, numbers: std::ops::Range<usize>) {
    for first in numbers.step_by(BURST) {
        let rooms = (first..first + BURST).map(|number| {
            let title = "x".repeat(200);
            command("create", &json!({"room": format!("room{number}"), "members": ["bob"], "title": title}))
        });
        writer.client.submit_all(rooms).await.expect("sent");
        for _ in 0..BURST {
            let told = writer.is_told().await;
            assert!(matches!(told, Reply::Ok(_)), "{told:?}");
        }
    }
}

#[tokio::test]
#[ignore = "soak"]
async fn an_event_costs_the_same_however_many_conversations_stalled_sessions_miss() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut raw = Raw::connect_with_buffer(server.address(), 4_096).await;
        raw.enters_as("bob").await;
        stalled.push(raw);
    }
    let mut writer = server.connects("alice").await;
    let mut costs = Vec::new();
    for first in (0..CONVERSATIONS).step_by(STEP) {
        let before = server.processor_time();
        makes_rooms(&mut writer, first..first + STEP).await;
        let each = (server.processor_time() - before) / u32::try_from(STEP).expect("few");
        let page = server.gets("/metrics").await.text;
        let number = |name: &str| {
            page.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
        };
        let closed = number("switchboard_dropped_total{reason=\"too_far_behind\"}");
        let behind = number("switchboard_catching_up");
        println!("{:>6} conversations: {each:?} an event, {behind:?} lags, {closed:?} closed", first + STEP);
        costs.push((each, closed.as_deref() == Some(&STALLED.to_string())));
    }
    let (first, _) = costs[0];
    for (cost, closed) in &costs[1..] {
        assert!(*closed || *cost <= first.mul_f64(1.2), "{costs:?}");
    }
}

/// Rooms of the bot, and how long it pauses.
const ROOMS: usize = 2_000;
const PAUSE: Duration = Duration::from_secs(5);

/// Sends a burst and reads its answers.
async fn sends(writer: &mut Person, rooms: impl Iterator<Item = String>) -> usize {
    let sends: Vec<_> =
        rooms.map(|room| command("send", &json!({"to": room, "text": "x".repeat(300)}))).collect();
    let many = sends.len();
    writer.client.submit_all(sends).await.expect("sent");
    for _ in 0..many {
        let told = writer.is_told().await;
        assert!(matches!(told, Reply::Ok(_)), "{told:?}");
    }
    many
}

#[tokio::test]
#[ignore = "soak"]
async fn a_bot_in_2_000_busy_rooms_that_pauses_is_not_cut() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut writer = server.connects("alice").await;
    for number in 0..ROOMS {
        writer.makes_room(&format!("r{number}"), &["bot"]).await;
    }
    let mut bot = server.connects("bot").await;
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < PAUSE {
        let rooms = (sent..sent + BURST).map(|number| format!("#r{}", number % ROOMS));
        sent += sends(&mut writer, rooms).await;
    }
    let mut next = vec![2; ROOMS];
    for _ in 0..sent {
        let ServerFrame::Event(event) = bot.next().await else { panic!("no event") };
        let room: usize = event.conversation.as_str()[2..].parse().expect("a room");
        assert_eq!(event.seq.0, next[room], "in order and without a hole, after `create`");
        next[room] += 1;
    }
    bot.hears_nothing().await;
    println!("{sent} messages in {ROOMS} rooms during a pause of {PAUSE:?}: all came, nothing was cut");
}
