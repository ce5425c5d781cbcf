//! Limits: what happens at each, and that they are told.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_protocol::reply::{Failure, OkBody, Reply};
use switchboard_protocol::{ErrorCode, Limits};
use tokio::time::Instant;

use crate::support::raw::{FIN, TEXT, frame};
use crate::support::{Person, Raw, Server, Stalled, command, soon, unless_stalled};

pub(crate) fn hi() -> Value {
    json!({"to": "@bob", "text": "hi"})
}

/// Sends by turns until the rate, so many a second, is reached: how many were stored, and what was said to the
/// next. Five seconds' worth may go at once, and what time allows meanwhile, however slow the machine.
pub(crate) async fn sends_until_refused(devices: &mut [&mut Person], rate: usize) -> (usize, Failure) {
    let started = Instant::now();
    let mut stored = 0;
    let failure = loop {
        let turn = stored % devices.len();
        match devices[turn].tries("send", hi()).await {
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
async fn the_limits_are_told_in_welcome() {
    let limits = Limits { text: 100, replay: 7, sends_per_user: 3, ..Limits::default() };
    let server = Server::start_with(|config| config.limits = limits.clone()).await;
    assert_eq!(server.connects("alice").await.welcome.limits, limits);
}

/// How long nothing of a connection is stored after a send was over the rate: `MIN_RATE_HOLD` of the server's `outbox/hold.rs`.
const HOLDS: Duration = Duration::from_secs(1);

/// Overruns the rate, asks too early, and comes again when it was told to.
async fn sends_too_fast_and_waits() -> Result<(), Stalled> {
    let server = Server::start_with(|config| config.limits.sends_per_connection = 2).await;
    let mut alice = server.connects("alice").await;
    let mut phone = server.connects("alice").await;
    let begun = Instant::now();
    let (stored, failure) = sends_until_refused(&mut [&mut alice], 2).await;
    assert_eq!((failure.code, failure.retryable), (ErrorCode::RateLimited, true));
    let wait = failure.retry_after.expect("how long");
    assert_eq!(
        wait, 1_000,
        "a token is there in 500 ms, but what was sent behind the refused one must not pass it"
    );
    alice.does("read", json!({"conversation": "@bob", "upto": 10})).await;
    assert_eq!(alice.log("@bob").await.len(), stored, "nothing more was stored, and reading goes on");
    phone.does("send", hi()).await;
    // waits for: tokens in the bucket
    tokio::time::sleep(Duration::from_millis(wait / 2 + 50)).await;
    let asked = Instant::now();
    let Err(behind) = alice.tries("send", hi()).await else {
        return Err(Stalled::or_wrong("it passes the refused one", begun.elapsed(), HOLDS));
    };
    let took = asked.elapsed();
    let wait = behind.retry_after.expect("how long");
    assert!(wait < 500, "it is not put off by asking: {wait}");
    let wait = Duration::from_millis(wait);
    // waits for: the time that the server told
    tokio::time::sleep(wait).await;
    if alice.tries("send", hi()).await.is_err() {
        // A refusal that leaves when the hold is over is the beginning of another.
        return Err(Stalled::or_wrong("it is refused again", took, wait));
    }
    let reaction = || json!({"conversation": "@bob", "target": 1, "emoji": "x"});
    let refused = loop {
        if let Err(failure) = alice.tries("react", reaction()).await {
            break failure;
        }
    };
    assert_eq!(refused.code, ErrorCode::RateLimited, "whatever stores an event counts");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_sends_too_fast_is_told_how_long_to_wait() {
    unless_stalled(sends_too_fast_and_waits).await;
}

#[tokio::test]
async fn over_http_cursors_have_a_rate_of_their_own() {
    let settings = |config: &mut Config| {
        config.limits = Limits { cursors_per_user: 1, ..Limits::default().without_rates() };
    };
    let server = Server::serves_with(settings).await;
    let token = server.token("alice", Duration::from_secs(60));
    server.posts_as(&token, "send", hi()).await.ok();
    for command in ["read", "received"] {
        let cursor = || json!({"conversation": "@bob", "upto": 1});
        let refused = soon("it is refused", async {
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
    server.posts_as(&token, "send", hi()).await.ok();
    server.posts_as(&token, "sync", json!({"conversation": "@bob"})).await.ok();
}

#[tokio::test]
async fn typing_has_a_rate_of_its_user_on_every_door() {
    let server = Server::serves_with(|config| {
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
    let failure = soon("it is refused", async {
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
    let answer = soon("it is refused", refused()).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"));
    alice.says("@bob", "sends are counted apart").await;
}

/// Overruns the rate of frames with a send, sends again when frames fit but it is too early, and when it was told to.
async fn overruns_the_rate_of_frames() -> Result<(), Stalled> {
    let server = Server::start_with(|config| config.limits.frames_per_connection = 10).await;
    let mut hand = server.by_hand_as("alice").await;
    let send = |text: &str| format!(r#"{{"type":"send","id":"{text}","to":"@bob","text":"{text}"}}"#);
    let mut stored = 0;
    let (begun, wait) = loop {
        let asked = Instant::now();
        let told = hand.asks(&send("m1")).await;
        if told["type"] == "error" {
            break (asked, told["retry_after"].as_u64().expect("how long"));
        }
        stored += 1;
    };
    assert!(stored >= 50, "only {stored}");
    assert_eq!(
        wait, 1_000,
        "a frame fits the rate again in 100 ms, but a send must not pass the refused one"
    );
    // waits for: room in the rate of frames
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(hand.asks(r#"{"type":"ping"}"#).await["type"], "pong", "frames fit the rate again");
    let asked = Instant::now();
    let behind = hand.asks(&send("m2")).await;
    let took = asked.elapsed();
    if behind["type"] == "ok" {
        return Err(Stalled::or_wrong("it passes the refused one", begun.elapsed(), HOLDS));
    }
    assert_eq!(behind["code"], "rate_limited", "{behind}");
    let wait = behind["retry_after"].as_u64().expect("how long");
    assert!(wait < 800, "it is not put off by asking: {wait}");
    let wait = Duration::from_millis(wait);
    // waits for: the time that the server told
    tokio::time::sleep(wait).await;
    let again = hand.asks(&send("m3")).await;
    if again["code"] == "rate_limited" {
        // A refusal that leaves when the hold is over is the beginning of another.
        return Err(Stalled::or_wrong("it is refused again", took, wait));
    }
    assert_eq!(again["seq"], stored + 1);
    Ok(())
}

#[tokio::test]
async fn a_send_refused_by_the_rate_of_frames_holds_what_was_sent_behind_it() {
    unless_stalled(overruns_the_rate_of_frames).await;
}

#[tokio::test]
async fn a_refused_send_holds_what_was_sent_behind_it_though_the_client_reads_slowly() {
    /// Five seconds' worth, and what ten more would allow.
    const SENDS: u32 = 300;
    let server = Server::start_with(|config| config.limits.sends_per_connection = 20).await;
    let mut carol = server.connects("carol").await;
    for _ in 0..40 {
        carol.says("@alice", &"x".repeat(16 * 1024)).await;
    }
    let mut raw = Raw::connect_with_buffer(server.address(), 64 * 1024).await;
    raw.enters_as("alice").await;
    let sends =
        (0..SENDS).map(|n| format!(r#"{{"type":"send","id":{n},"to":"@bob","key":"k{n}","text":"{n}"}}"#));
    // More than the system's buffers take: the session has to wait until they are read.
    let page = r#"{"type":"history","id":"page","conversation":"@carol","limit":40}"#.to_owned();
    let late = r#"{"type":"send","id":"late","to":"@bob","text":"late"}"#.to_owned();
    let all = sends.chain(std::iter::repeat_n(page, 16)).chain([late]);
    // In one go, so that the server waits for nothing of it.
    let frames: Vec<_> = all.flat_map(|text| frame(FIN | TEXT, text.as_bytes())).collect();
    raw.writes(frames).await;
    // waits for: more time than a refused send holds others
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut refused = 0;
    let late = loop {
        let told = raw.next().await.json();
        if told["id"] == "late" {
            break told;
        }
        refused += usize::from(told["code"] == "rate_limited");
    };
    assert!(refused > 0, "the rate was to be overrun");
    assert_eq!(late["code"], "rate_limited", "{late}");
    let wait = late["retry_after"].as_u64().expect("how long");
    assert!((1..=1_000).contains(&wait), "{wait}");
    // waits for: the time that the server told
    tokio::time::sleep(Duration::from_millis(wait)).await;
    raw.says(r#"{"type":"send","id":"again","to":"@bob","text":"again"}"#).await;
    let again = raw.next().await.json();
    assert_eq!((&again["id"], &again["type"]), (&json!("again"), &json!("ok")), "{again}");
}

#[tokio::test]
async fn what_is_just_within_the_limits_goes_through() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    // The limit is in bytes, whatever the letters.
    for text in ["x".repeat(16 * 1024), "é".repeat(8 * 1024)] {
        alice.says("@bob", &text).await;
        bob.hears(&text).await;
    }
    let data = json!({"to": "@bob", "data": {"a": "x".repeat(16 * 1024 - r#"{"a":""}"#.len())}});
    alice.does("send", data).await;
    let mut hand = server.by_hand_as("carol").await;
    let ping = r#"{"type":"ping"}"#;
    let longest = format!("{ping}{}", " ".repeat(64 * 1024 - ping.len()));
    assert_eq!(hand.asks(&longest).await["type"], "pong");
    hand.says(&format!("{longest} ")).await;
    assert_eq!(hand.last_words().await, (None, 1009));
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
    for (limit, wanted) in [(json!(1_000), 10), (json!(3), 3), (json!(0), 1), (Value::Null, 5)] {
        let page = alice.does("sync", json!({"conversation": "@bob", "limit": limit})).await;
        let OkBody::Log { events, more, .. } = page else { panic!("{page:?}") };
        assert_eq!((events.len(), more), (wanted, true), "limit {limit}");
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
    assert_eq!(alice.log("@carol").await.len(), 15, "page by page everything comes");
}

#[tokio::test]
async fn more_commands_at_once_than_may_wait_are_all_answered() {
    let server = Server::start_with(|config| config.limits.in_flight = 2).await;
    let mut alice = server.connects("alice").await;
    let ids = alice.client.submit_all((0..100).map(|_| command("send", &hi()))).await.expect("sent");
    for _ in ids {
        assert!(matches!(alice.is_told().await, Reply::Ok(_)));
    }
}

#[tokio::test]
async fn a_user_makes_and_joins_so_many_rooms_and_others_fill_up_nobodys() {
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
    // Leaving makes room, unless somebody else had brought one in.
    alice.does("leave", json!({"conversation": "#b1"})).await;
    assert_eq!(alice.is_refused("create", json!({"room": "a2"})).await, ErrorCode::TooLarge);
    alice.does("leave", json!({"conversation": "#c1"})).await;
    alice.does("join", json!({"conversation": "#d1"})).await;
    assert_eq!(alice.is_refused("join", json!({"conversation": "#b1"})).await, ErrorCode::TooLarge);
    server.connects("dan").await.does("remove", json!({"conversation": "#d1", "user": "alice"})).await;
    alice.does("join", json!({"conversation": "#b1"})).await;
}
