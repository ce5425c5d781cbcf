//! A slow consumer delays no other client, takes no more memory than its queue, and loses no event.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use switchboard_protocol::Limits;
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{Person, Process, RawSocket, Server, command, eventually};

const MESSAGES: usize = 20_000;
const ROOM: &str = "#busy";

/// The length of a text in bytes. All messages together are far longer than the kernel's buffers and [`MEMORY_NOISE_BYTES`].
const TEXT_BYTES: usize = 1_000;

/// The number of messages that are sent before an answer is read; less than `limits.in_flight`.
const MESSAGES_PER_BURST: usize = 500;

/// By how much the server's memory may grow besides the queue, because the allocator keeps pages for each thread. On a busy machine
/// 5 MB were measured. All messages together are more than 20 MB, so the test would notice an unbounded queue.
const MEMORY_NOISE_BYTES: u64 = 8 * 1024 * 1024;

/// Sends messages whose keys are these numbers, as fast as they are answered.
async fn send_messages(person: &mut Person, numbers: std::ops::Range<usize>) {
    let text = "x".repeat(TEXT_BYTES);
    for first in numbers.clone().step_by(MESSAGES_PER_BURST) {
        let burst = first..numbers.end.min(first + MESSAGES_PER_BURST);
        let mut open = burst.len();
        let sends = burst
            .map(|number| command("send", &json!({"to": ROOM, "key": number.to_string(), "text": text})));
        person.client.submit_all(sends).await.expect("sent");
        while open > 0 {
            match person.receives_reply().await {
                Reply::Ok(ok) if matches!(ok.body, OkBody::Stored { .. }) => open -= 1,
                other => panic!("not stored: {other:?}"),
            }
        }
    }
}

/// Receives the messages whose keys are these numbers, in order.
async fn receive_messages(person: &mut Person, numbers: std::ops::Range<usize>) {
    for number in numbers {
        match person.next().await {
            ServerFrame::Event(event) => {
                assert_eq!(event.key.expect("a message").as_str(), number.to_string());
            }
            other => panic!("no event but {other:?}"),
        }
    }
}

/// Sends messages with these numbers. Returns the time until the listener has received all of them.
async fn delivery_time(
    writer: &mut Person,
    listener: &mut Person,
    numbers: std::ops::Range<usize>,
) -> Duration {
    let started = Instant::now();
    tokio::join!(send_messages(writer, numbers.clone()), receive_messages(listener, numbers));
    started.elapsed()
}

#[tokio::test]
async fn hostile_23_a_stopped_reader_delays_no_other_and_later_receives_every_event() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut writer = server.connects("alice").await;
    writer.makes_room("busy", &["bob", "carol"]).await;
    let mut listener = server.connects("bob").await;

    // The first run has no stopped reader: it fills the caches and measures the usual time.
    let usual = delivery_time(&mut writer, &mut listener, 0..MESSAGES).await;
    let mut reader = RawSocket::connect_with_buffer(server.address(), 4_096).await;
    reader.says_hello_as("carol").await;
    let before = server.resident_bytes();

    // The listener has received everything while the reader has not read a byte.
    let with_stopped_reader = delivery_time(&mut writer, &mut listener, MESSAGES..2 * MESSAGES).await;
    let growth = server.resident_bytes().saturating_sub(before);
    println!(
        "{MESSAGES} messages: {usual:?}, beside a stopped reader {with_stopped_reader:?}, growth {growth} bytes"
    );
    let bound = u64::from(Limits::default().queue) + MEMORY_NOISE_BYTES;
    assert!(growth <= bound, "grew by {growth} bytes, more than {bound}");
    // The bound is loose, because the machine runs other tests at the same time.
    assert!(with_stopped_reader < usual * 10 + Duration::from_secs(5), "{usual:?}, {with_stopped_reader:?}");

    for number in MESSAGES..2 * MESSAGES {
        let event = reader.next().await.json();
        assert_eq!(event["seq"], number + 2, "in order, after `create`");
        assert_eq!(event["key"], number.to_string());
    }
    send_messages(&mut writer, 2 * MESSAGES..2 * MESSAGES + 1).await;
    assert_eq!(reader.next().await.json()["key"], (2 * MESSAGES).to_string(), "live again");
    reader.is_still_open().await;
}

/// The limit of lagging conversations of a connection, and a larger number of conversations that get new events.
const MAX_LAGGING_CONVERSATIONS: u32 = 4;
const ROOMS: usize = 12;

#[tokio::test]
async fn hostile_23_a_stopped_reader_in_too_many_conversations_is_closed_and_resumes() {
    let server = Server::start_with_auth_and(|config| {
        config.limits.lags = MAX_LAGGING_CONVERSATIONS;
        config.limits.queue = 20_000;
        (config.limits.sends_per_connection, config.limits.sends_per_user) = (0, 0);
    })
    .await;
    let mut writer = server.connects("alice").await;
    let rooms: Vec<_> = (0..ROOMS).map(|number| format!("#room{number}")).collect();
    for room in &rooms {
        writer.makes_room(&room[1..], &["bob", "carol"]).await;
    }
    let mut carol = server.connects("carol").await;
    let mut reader = RawSocket::connect_with_buffer(server.address(), 4_096).await;
    reader.upgrades().await;
    let hello = json!({"type": "hello", "token": server.token("bob", Duration::from_secs(3_600))});
    reader.says(&hello.to_string()).await;
    assert_eq!(reader.next().await.json()["type"], "welcome");

    // Fills the buffers of both ends and the queue; each further room with new events is then a lagging conversation.
    let text = "x".repeat(10_000);
    let mut last = BTreeMap::new();
    for number in 0.. {
        let room = &rooms[number % ROOMS];
        last.insert(room.clone(), writer.says(room, &text).await);
        carol.receives_message(&text).await;
        let behind = server.metric("switchboard_catching_up").await;
        assert!(behind <= f64::from(MAX_LAGGING_CONVERSATIONS), "{behind} lags");
        if server.gets("/metrics").await.text.contains("reason=\"too_far_behind\"} 1") {
            break;
        }
    }
    for room in &rooms {
        last.insert(room.clone(), writer.says(room, "behind what is missing").await);
    }

    // The received events of each conversation must be its first ones, without a gap.
    let mut cursors: BTreeMap<_, _> = rooms.iter().map(|room| (room.clone(), 1)).collect();
    let code = loop {
        let frame = reader.next().await;
        if frame.opcode == 8 {
            break frame.close_code();
        }
        let event = frame.json();
        let cursor = cursors.get_mut(event["conversation"].as_str().expect("a room")).expect("one of them");
        *cursor += 1;
        assert_eq!(event["seq"], *cursor);
    };
    assert_eq!(code, 1013);
    let known: Vec<_> = cursors.iter().map(|(room, seq)| (room.as_str(), *seq)).collect();
    let mut bob = server.resumes("bob", &known).await;
    while cursors != last {
        let event = bob.receives_event().await;
        let cursor = cursors.get_mut(event.conversation.as_str()).expect("one of them");
        *cursor += 1;
        assert_eq!(event.seq.0, *cursor);
    }
    bob.receives_nothing().await;
    eventually("no session replays the log", || async {
        (server.metric("switchboard_catching_up").await == 0.0).then_some(())
    })
    .await;
}
