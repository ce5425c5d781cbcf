//! A reader that stops delays nobody, costs its queue and no more, and loses nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use switchboard_protocol::Limits;
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{Person, Process, Raw, Server, command, eventually};

const MESSAGES: usize = 20_000;
const ROOM: &str = "#busy";

/// Bytes of a text: all messages together are far more than the kernel's buffers and the memory's noise.
const TEXT: usize = 1_000;

/// Messages sent in one go; fewer than `limits.in_flight`.
const BURST: usize = 500;

/// Bytes by which the server's memory may grow besides what waits for the reader: the allocator keeps
/// pages of its own for each thread, and takes them as work happens to move between threads; on a machine
/// with other work 5 MB were seen. All messages together are more than 20 MB, so a queue without a bound shows.
const NOISE: u64 = 8 * 1024 * 1024;

/// Writes messages with numbers as keys, as fast as they are answered.
async fn writes(person: &mut Person, numbers: std::ops::Range<usize>) {
    let text = "x".repeat(TEXT);
    for first in numbers.clone().step_by(BURST) {
        let burst = first..numbers.end.min(first + BURST);
        let mut open = burst.len();
        let sends = burst
            .map(|number| command("send", &json!({"to": ROOM, "key": number.to_string(), "text": text})));
        person.client.submit_all(sends).await.expect("sent");
        while open > 0 {
            match person.is_told().await {
                Reply::Ok(ok) if matches!(ok.body, OkBody::Stored { .. }) => open -= 1,
                other => panic!("not stored: {other:?}"),
            }
        }
    }
}

/// Reads messages with these keys, in their order.
async fn reads(person: &mut Person, numbers: std::ops::Range<usize>) {
    for number in numbers {
        match person.next().await {
            ServerFrame::Event(event) => {
                assert_eq!(event.key.expect("a message").as_str(), number.to_string());
            }
            other => panic!("no event but {other:?}"),
        }
    }
}

/// How long it takes until all these messages have been written and read by somebody who listens.
async fn flow(writer: &mut Person, listener: &mut Person, numbers: std::ops::Range<usize>) -> Duration {
    let started = Instant::now();
    tokio::join!(writes(writer, numbers.clone()), reads(listener, numbers));
    started.elapsed()
}

#[tokio::test]
async fn hostile_23_a_reader_that_stops_is_a_burden_to_nobody_and_gets_everything_in_the_end() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    let mut writer = server.connects("alice").await;
    writer.makes_room("busy", &["bob", "carol"]).await;
    let mut listener = server.connects("bob").await;

    // Once without: after that the caches are full, and the time is known.
    let usual = flow(&mut writer, &mut listener, 0..MESSAGES).await;
    let mut reader = Raw::connect_with_buffer(server.address(), 4_096).await;
    reader.enters_as("carol").await;
    let before = server.resident();

    // The listener has all of it while the reader has not read a byte.
    let with_stopped_reader = flow(&mut writer, &mut listener, MESSAGES..2 * MESSAGES).await;
    let growth = server.resident().saturating_sub(before);
    println!(
        "{MESSAGES} messages: {usual:?}, beside a stopped reader {with_stopped_reader:?}, growth {growth} bytes"
    );
    let bound = u64::from(Limits::default().queue) + NOISE;
    assert!(growth <= bound, "grew by {growth} bytes, more than {bound}");
    // Loosely: a machine has other things to do as well.
    assert!(with_stopped_reader < usual * 10 + Duration::from_secs(5), "{usual:?}, {with_stopped_reader:?}");

    for number in MESSAGES..2 * MESSAGES {
        let event = reader.next().await.json();
        assert_eq!(event["seq"], number + 2, "after `create` and all before");
        assert_eq!(event["key"], number.to_string());
    }
    writes(&mut writer, 2 * MESSAGES..2 * MESSAGES + 1).await;
    assert_eq!(reader.next().await.json()["key"], (2 * MESSAGES).to_string(), "live again");
    reader.goes_on().await;
}

/// Conversations in which somebody may lag, and in how many something happens.
const LAGS: u32 = 4;
const ROOMS: usize = 12;

#[tokio::test]
async fn hostile_23_a_reader_that_stops_in_too_many_conversations_is_closed_and_resumes() {
    let server = Server::serves_with(|config| {
        config.limits.lags = LAGS;
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
    let mut reader = Raw::connect_with_buffer(server.address(), 4_096).await;
    reader.shakes_hands().await;
    let hello = json!({"type": "hello", "token": server.token("bob", Duration::from_secs(3_600))});
    reader.says(&hello.to_string()).await;
    assert_eq!(reader.next().await.json()["type"], "welcome");

    // Until the buffers of both systems and the queue are full; then a lag in one more room after the other.
    let text = "x".repeat(10_000);
    let mut last = BTreeMap::new();
    for number in 0.. {
        let room = &rooms[number % ROOMS];
        last.insert(room.clone(), writer.says(room, &text).await);
        carol.hears(&text).await;
        let behind = server.metric("switchboard_catching_up").await;
        assert!(behind <= f64::from(LAGS), "{behind} lags");
        if server.gets("/metrics").await.text.contains("reason=\"too_far_behind\"} 1") {
            break;
        }
    }
    for room in &rooms {
        last.insert(room.clone(), writer.says(room, "behind what is missing").await);
    }

    // What came is the beginning of each conversation without a hole.
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
        let event = bob.sees().await;
        let cursor = cursors.get_mut(event.conversation.as_str()).expect("one of them");
        *cursor += 1;
        assert_eq!(event.seq.0, *cursor);
    }
    bob.hears_nothing().await;
    eventually("nobody reads the log any more", || async {
        (server.metric("switchboard_catching_up").await == 0.0).then_some(())
    })
    .await;
}
