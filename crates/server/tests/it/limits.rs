//! The limits in `welcome`, and what happens when a client exceeds each of them.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_protocol::reply::{Failure, OkBody, Reply};
use switchboard_protocol::{ErrorCode, Limits};
use tokio::time::Instant;

use crate::support::{MachineStalled, Person, Server, command, in_time, retry_if_stalled};

pub(crate) fn message_to_bob() -> Value {
    json!({"to": "@bob", "text": "hi"})
}

/// Sends from these devices in turn until `rate`, in messages a second, is exceeded. Returns how many messages were stored and
/// the error that answered the next. Asserts that the burst was five seconds' worth, and no more was stored than the rate allows.
pub(crate) async fn sends_until_refused(devices: &mut [&mut Person], rate: usize) -> (usize, Failure) {
    let started = Instant::now();
    let mut stored = 0;
    let failure = loop {
        let turn = stored % devices.len();
        match devices[turn].tries("send", message_to_bob()).await {
            Ok(_) => stored += 1,
            Err(failure) => break failure,
        }
    };
    let meanwhile = started.elapsed().as_secs_f64() * rate as f64;
    assert!(stored >= 5 * rate, "only {stored}");
    assert!(stored as f64 <= 5.0 * rate as f64 + meanwhile, "{stored} in {:?}", started.elapsed());
    (stored, failure)
}

#[tokio::test]
async fn welcome_has_the_limits() {
    let limits = Limits { text: 100, replay: 7, sends_per_user: 3, ..Limits::default() };
    let server = Server::start_with(|config| config.limits = limits.clone()).await;
    assert_eq!(server.connects("alice").await.welcome.limits, limits);
}

/// How long the server refuses a connection's unnumbered writes after one exceeded the rate: `HOLD_DURATION` in `outbox.rs`.
const HOLD_DURATION: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_connection_that_sends_too_fast_receives_a_retry_after() {
    let server = Server::start_with(|config| config.limits.sends_per_connection = 2).await;
    let mut alice = server.connects("alice").await;
    let mut phone = server.connects("alice").await;
    let (stored, failure) = sends_until_refused(&mut [&mut alice], 2).await;
    assert_eq!((failure.code, failure.retryable), (ErrorCode::RateLimited, true));
    let wait = failure.retry_after.expect("how long");
    assert!((1..=500).contains(&wait), "the rate allows a send in 500 ms: {wait}");
    alice.does("read", json!({"conversation": "@bob", "upto": 10})).await;
    assert_eq!(alice.log("@bob").await.len(), stored, "nothing more was stored, and reads work");
    phone.does("send", message_to_bob()).await;
    // waits for: the server's `retry_after`
    tokio::time::sleep(Duration::from_millis(wait)).await;
    alice.does("send", message_to_bob()).await;
    let reaction = || json!({"conversation": "@bob", "target": 1, "emoji": "x"});
    let refused = loop {
        if let Err(failure) = alice.tries("react", reaction()).await {
            break failure;
        }
    };
    assert_eq!(refused.code, ErrorCode::RateLimited, "every command that stores an event counts");
}

#[tokio::test]
async fn over_http_cursors_have_their_own_rate() {
    let settings = |config: &mut Config| {
        config.limits = Limits { cursors_per_user: 1, ..Limits::default().without_rates() };
    };
    let server = Server::start_with_auth_and(settings).await;
    let token = server.token("alice", Duration::from_secs(60));
    server.posts_as(&token, "send", message_to_bob()).await.ok();
    for command in ["read", "received"] {
        let cursor = || json!({"conversation": "@bob", "upto": 1});
        let refused = in_time("it is refused", async {
            loop {
                let answer = server.posts_as(&token, command, cursor()).await;
                if answer.status != 200 {
                    return answer;
                }
            }
        })
        .await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"), "{command}");
    }
    server.posts_as(&token, "send", message_to_bob()).await.ok();
    server.posts_as(&token, "sync", json!({"conversation": "@bob"})).await.ok();
}

#[tokio::test]
async fn typing_has_one_rate_per_user_on_the_websocket_and_over_http() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { sends_per_user: 2, ..Limits::default().without_rates() };
    })
    .await;
    let token = server.token("alice", Duration::from_secs(60));
    let mut alice = server.connects("alice").await;
    let mut phone = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    let typing = || json!({"conversation": "@bob"});
    let mut obeyed = 0;
    let started = Instant::now();
    let failure = in_time("it is refused", async {
        loop {
            let device = if obeyed % 2 == 0 { &mut alice } else { &mut phone };
            match device.tries("typing", typing()).await {
                Ok(_) => obeyed += 1,
                Err(failure) => return failure,
            }
        }
    })
    .await;
    assert!((10..=10 + 2 * (started.elapsed().as_secs() + 1)).contains(&obeyed), "{obeyed}");
    assert_eq!(failure.code, ErrorCode::RateLimited);
    assert!(failure.retry_after.is_some_and(|ms| (1..=500).contains(&ms)), "{failure:?}");
    let refused = async || loop {
        let answer = server.posts_as(&token, "typing", typing()).await;
        if answer.status != 200 {
            return answer;
        }
    };
    let answer = in_time("it is refused", refused()).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"));
    alice.says("@bob", "sends are counted apart").await;
}

/// Exceeds the frame rate with a send. Sends again before `HOLD_DURATION` has passed, when the frame rate would allow it, and once more
/// after `retry_after` has passed.
async fn exceed_the_frame_rate() -> Result<(), MachineStalled> {
    let server = Server::start_with(|config| config.limits.frames_per_connection = 10).await;
    let mut socket = server.open_socket_as("alice").await;
    let send = |text: &str| format!(r#"{{"type":"send","id":"{text}","to":"@bob","text":"{text}"}}"#);
    let mut stored = 0;
    let (begun, wait) = loop {
        let asked = Instant::now();
        let answer = socket.asks(&send("m1")).await;
        if answer["type"] == "error" {
            break (asked, answer["retry_after"].as_u64().expect("how long"));
        }
        stored += 1;
    };
    assert!(stored >= 50, "only {stored}");
    assert_eq!(
        wait, 1_000,
        "the rate allows a frame in 100 ms, but a send must not overtake the refused one"
    );
    // waits for: the time after which the frame rate allows another frame
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(socket.asks(r#"{"type":"ping"}"#).await["type"], "pong", "frames fit the rate again");
    let asked = Instant::now();
    let behind = socket.asks(&send("m2")).await;
    let took = asked.elapsed();
    if behind["type"] == "ok" {
        return Err(MachineStalled::assert_late_by_stall(
            "it passes the refused one",
            begun.elapsed(),
            HOLD_DURATION,
        ));
    }
    assert_eq!(behind["code"], "rate_limited", "{behind}");
    let wait = behind["retry_after"].as_u64().expect("how long");
    assert!(wait < 800, "an early retry does not extend the hold: {wait}");
    let wait = Duration::from_millis(wait);
    // waits for: the server's `retry_after`
    tokio::time::sleep(wait).await;
    let again = socket.asks(&send("m3")).await;
    if again["code"] == "rate_limited" {
        // If this answer arrived later than `HOLD_DURATION`, the refusal of the send before it began another pause of that length.
        return Err(MachineStalled::assert_late_by_stall("it is refused again", took, wait));
    }
    assert_eq!(again["seq"], stored + 1);
    Ok(())
}

#[tokio::test]
async fn a_send_without_a_number_refused_by_the_frame_rate_holds_off_later_sends() {
    retry_if_stalled(exceed_the_frame_rate).await;
}

#[tokio::test]
async fn commands_exactly_at_the_limits_are_accepted() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    // The limit counts bytes, not characters.
    for text in ["x".repeat(16 * 1024), "é".repeat(8 * 1024)] {
        alice.says("@bob", &text).await;
        bob.receives_message(&text).await;
    }
    let data = json!({"to": "@bob", "data": {"a": "x".repeat(16 * 1024 - r#"{"a":""}"#.len())}});
    alice.does("send", data).await;
    let mut socket = server.open_socket_as("carol").await;
    let ping = r#"{"type":"ping"}"#;
    let longest = format!("{ping}{}", " ".repeat(64 * 1024 - ping.len()));
    assert_eq!(socket.asks(&longest).await["type"], "pong");
    socket.says(&format!("{longest} ")).await;
    assert_eq!(socket.error_and_close_code().await, (None, 1009));
}

#[tokio::test]
async fn a_page_ends_at_its_limits_and_says_that_there_is_more() {
    let server = Server::start_with(|config| {
        config.limits.page = 10;
        config.limits.page_bytes = 8 * 1024;
    })
    .await;
    let mut alice = server.connects("alice").await;
    for n in 0..15 {
        alice.says("@bob", &n.to_string()).await;
    }
    for (limit, expected) in [(json!(1_000), 10), (json!(3), 3), (json!(0), 1), (Value::Null, 5)] {
        let page = alice.does("sync", json!({"conversation": "@bob", "limit": limit})).await;
        let OkBody::Log { events, more, .. } = page else { panic!("{page:?}") };
        assert_eq!((events.len(), more), (expected, true), "limit {limit}");
    }
    for _ in 0..15 {
        alice.says("@carol", &"x".repeat(3_000)).await;
    }
    for command in ["sync", "history"] {
        let (items, more) = match alice.does(command, json!({"conversation": "@carol", "limit": 10})).await {
            OkBody::Log { events, more, .. } => (events.len(), more),
            OkBody::History { messages, more, .. } => (messages.len(), more),
            other => panic!("{other:?}"),
        };
        assert_eq!((items, more), (3, true), "{command}: of 3 KB each, until 8 KB are full");
    }
    assert_eq!(alice.log("@carol").await.len(), 15, "the pages have every message");
}

#[tokio::test]
async fn pipelined_commands_beyond_in_flight_are_all_answered() {
    let server = Server::start_with(|config| config.limits.in_flight = 2).await;
    let mut alice = server.connects("alice").await;
    let ids =
        alice.client.submit_all((0..100).map(|_| command("send", &message_to_bob()))).await.expect("sent");
    for _ in ids {
        assert!(matches!(alice.receives_reply().await, Reply::Ok(_)));
    }
}

#[tokio::test]
async fn rooms_that_a_user_creates_or_joins_are_limited_and_invitations_do_not_count() {
    let server = Server::start_with(|config| config.limits.rooms = 2).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    for room in ["b1", "b2"] {
        bob.makes_public_room(room, &["alice"]).await;
    }
    alice.makes_room("a1", &[]).await;
    server.connects("carol").await.makes_public_room("c1", &[]).await;
    alice.does("join", json!({"conversation": "#c1"})).await;
    assert_eq!(alice.conversations().await.len(), 4, "the rooms of others do not count");
    server.connects("dan").await.makes_public_room("d1", &[]).await;
    for (command, fields, field) in
        [("create", json!({"room": "a2"}), "room"), ("join", json!({"conversation": "#d1"}), "conversation")]
    {
        let refused = alice.tries(command, fields).await.expect_err("enough");
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (ErrorCode::TooLarge, Some(field)),
            "{refused:?}"
        );
        assert!(refused.message.contains('2'), "{refused:?}");
    }
    assert_eq!(alice.is_refused("sync", json!({"conversation": "#a2"})).await, ErrorCode::NotFound);
    alice.does("join", json!({"conversation": "#c1"})).await;
    alice.does("create", json!({"room": "a1"})).await;
    alice.says("@eve", "whom I write to does not count").await;
    // Leaving a room lowers the user's count of rooms, unless another user had added them to that room.
    alice.does("leave", json!({"conversation": "#b1"})).await;
    assert_eq!(alice.is_refused("create", json!({"room": "a2"})).await, ErrorCode::TooLarge);
    alice.does("leave", json!({"conversation": "#c1"})).await;
    alice.does("join", json!({"conversation": "#d1"})).await;
    assert_eq!(alice.is_refused("join", json!({"conversation": "#b1"})).await, ErrorCode::TooLarge);
    server.connects("dan").await.does("remove", json!({"conversation": "#d1", "user": "alice"})).await;
    alice.does("join", json!({"conversation": "#b1"})).await;
}
