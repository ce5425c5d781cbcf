//! Identity and access: what a client may see, and which fields it cannot forge.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_protocol::reply::{Failure, OkBody, Reply};
use switchboard_protocol::{ErrorCode, Hello, Limits, Seq, Signal, Timestamp};
use switchboard_store::clock::Clock;
use tokio::time::Instant;

use crate::support::{Person, RawSocket, Server, StoredEvent, text_of};

fn hello_with_token(token: String) -> Hello {
    Hello { token: Some(token), user: None, device: None, cursors: Default::default() }
}

#[tokio::test]
async fn hostile_15_a_client_cannot_set_the_fields_that_the_server_assigns() {
    let server = Server::start().await;
    let mut alice = server.open_socket_as("alice").await;
    alice.asks(r#"{"type":"send","to":"@bob","key":"k","text":"hi"}"#).await;
    let commands = [
        ("send", json!({"to": "@bob", "text": "forged"})),
        ("edit", json!({"conversation": "@bob", "target": 1, "text": "forged"})),
        ("delete", json!({"conversation": "@bob", "target": 1})),
        ("react", json!({"conversation": "@bob", "target": 1, "emoji": "x"})),
        ("read", json!({"conversation": "@bob", "upto": 1})),
        ("typing", json!({"conversation": "@bob"})),
        ("create", json!({"room": "forged"})),
    ];
    let claims = [
        ("from", json!("bob")),
        ("seq", json!(7)),
        ("at", json!("2000-01-01T00:00:00.000Z")),
        ("edited", json!({"seq": 1})),
    ];
    for (command, fields) in &commands {
        for (name, value) in &claims {
            let mut frame = fields.clone();
            frame[name] = value.clone();
            frame["as"] = json!("alice");
            let answer = server.posts(command, frame.clone()).await;
            assert_eq!((answer.status, answer.problem()["field"].as_str()), (400, Some(*name)), "{command}");
            frame.as_object_mut().expect("an object").remove("as");
            frame["type"] = json!(command);
            let error = alice.asks(&frame.to_string()).await;
            assert_eq!((error["code"].as_str(), error["field"].as_str()), (Some("bad_field"), Some(*name)));
        }
    }
    alice.receives_nothing().await;
    let mut bob = server.connects("bob").await;
    let log = bob.log("@alice").await;
    assert_eq!((log.len(), log[0].seq, log[0].from.as_str()), (1, Seq(1), "alice"));
    assert!(log[0].at.as_millis() > Clock::system().now().as_millis() - 60_000, "{:?}", log[0].at);
}

/// Every command about a conversation, with its fields.
fn all_commands_about(name: &str) -> Vec<(&'static str, Value)> {
    let here = json!({"conversation": name});
    vec![
        ("send", json!({"to": name, "text": "psst"})),
        ("edit", json!({"conversation": name, "target": 1, "text": "x"})),
        ("delete", json!({"conversation": name, "target": 1})),
        ("react", json!({"conversation": name, "target": 1, "emoji": "x"})),
        ("sync", here.clone()),
        ("sync", json!({"conversation": name, "after": 9_999})),
        ("history", here.clone()),
        ("members", here.clone()),
        ("read", json!({"conversation": name, "upto": 1})),
        ("received", json!({"conversation": name, "upto": 1})),
        ("typing", here.clone()),
        ("join", here.clone()),
        ("leave", here),
        ("invite", json!({"conversation": name, "user": "eve"})),
        ("remove", json!({"conversation": name, "user": "alice"})),
        ("role", json!({"conversation": name, "user": "eve", "role": "admin"})),
        ("rename", json!({"conversation": name, "title": "mine"})),
    ]
}

#[tokio::test]
async fn hostile_17_a_non_member_receives_the_same_error_for_existing_and_missing_conversations() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut eve = server.connects("eve").await;
    alice.makes_room("secret", &["bob"]).await;
    alice.says("@bob", "psst").await;
    for (there, nowhere) in [("#secret", "#nowhere"), ("@alice:bob", "@carol:dave")] {
        for ((command, of_there), (_, of_nowhere)) in
            all_commands_about(there).into_iter().zip(all_commands_about(nowhere))
        {
            let refusal = eve.tries(command, of_there.clone()).await.expect_err(command);
            let expected = eve.tries(command, of_nowhere.clone()).await.expect_err(command);
            assert_eq!(refusal.code, ErrorCode::NotFound, "{command} {there}");
            let words = |failure: &Failure| (failure.code, failure.message.clone(), failure.retry_after);
            assert_eq!(words(&refusal), words(&expected), "{command} {there}");
            let answers = [of_there, of_nowhere].map(async |mut fields| {
                fields["as"] = json!("eve");
                let answer = server.posts(command, fields).await;
                (answer.status, answer.text)
            });
            let [refusal, expected] = answers;
            assert_eq!(refusal.await, expected.await, "{command} {there}");
        }
    }
    assert!(eve.conversations().await.is_empty());
    assert_eq!((alice.log("#secret").await.len(), alice.log("@bob").await.len()), (1, 1));
    alice.receives_nothing().await;
}

#[tokio::test]
async fn hostile_18_a_connection_id_gives_no_rights() {
    let server = Server::start().await;
    let bob = server.connects("bob").await;
    let mut disconnected = server.connects("bob").await;
    let (live, old) = (bob.welcome.connection.clone(), disconnected.welcome.connection.clone());
    disconnected.client.close().await;
    for name in [live.as_str(), &old, "00000000-0000-0000-0000-000000000000"] {
        let mut socket = server.open_socket().await;
        socket.says(&json!({"type": "hello", "user": "eve", "connection": name}).to_string()).await;
        let (error, code) = socket.error_and_close_code().await;
        let error = error.expect("an error");
        assert_eq!(
            (error["code"].as_str(), error["field"].as_str()),
            (Some("bad_field"), Some("connection"))
        );
        assert_eq!(code, 1008);
        let mut eve = server.open_socket_as("eve").await;
        let error = eve.asks(&json!({"type": "sync", "conversation": name}).to_string()).await;
        assert_eq!(error["code"], "bad_field", "{error}");
    }
}

#[tokio::test]
async fn hostile_18_an_impossible_cursor_is_refused_and_the_others_are_replayed() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut carol = server.connects("carol").await;
    carol.makes_room("secret", &[]).await;
    alice.makes_room("a", &["bob"]).await;
    alice.makes_room("b", &["bob"]).await;
    alice.says("#b", "hi").await;
    let cursors = [("#a", 2), ("#b", 1), ("#nowhere", 0), ("#secret", 0), ("@alice:carol", 0)];
    let mut bob = server.resumes("bob", &cursors).await;
    let mut refusals = Vec::new();
    for _ in 0..4 {
        let Reply::Error(failure) = bob.receives_reply().await else { panic!("no error") };
        refusals.push((failure.conversation.expect("which").to_string(), failure.code, failure.message));
    }
    let codes: Vec<_> = refusals.iter().map(|(name, code, _)| (name.as_str(), *code)).collect();
    assert_eq!(
        codes,
        [
            ("#a", ErrorCode::BadCursor),
            ("#nowhere", ErrorCode::NotFound),
            ("#secret", ErrorCode::NotFound),
            ("@alice:carol", ErrorCode::NotFound),
        ]
    );
    assert_eq!(
        refusals[1].2, refusals[2].2,
        "a missing conversation and a forbidden one give the same error"
    );
    bob.receives_message("hi").await;
    alice.says("#a", "live all the same").await;
    bob.receives_message("live all the same").await;
    carol.says("#secret", "psst").await;
    bob.receives_nothing().await;
}

#[tokio::test]
async fn hostile_19_two_connections_of_one_device_both_work() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "one").await;
    let hello = || {
        let mut hello = server.hello("bob", &[("@alice:bob", 0)]);
        hello.device = Some("laptop".parse().expect("a device"));
        hello
    };
    let mut first = server.tries_to_connect(hello()).await.expect("welcome");
    let mut second = server.tries_to_connect(hello()).await.expect("welcome");
    assert_ne!(first.welcome.connection, second.welcome.connection);
    alice.says("@bob", "two").await;
    for connection in [&mut first, &mut second] {
        connection.receives_message("one").await;
        connection.receives_message("two").await;
        connection.receives_nothing().await;
    }
}

/// A clock that is ahead of the system's clock, and the milliseconds by which it is ahead, for the test to set.
fn adjustable_clock() -> (Clock, Arc<AtomicI64>) {
    let ahead = Arc::new(AtomicI64::new(0));
    let added = ahead.clone();
    let now = move || Clock::system().now().as_millis() + added.load(Ordering::Relaxed);
    (Clock::from_fn(move || Timestamp::from_millis(now())), ahead)
}

#[tokio::test]
async fn hostile_20_a_message_that_is_sent_again_with_its_key_is_stored_once() {
    let (clock, ahead) = adjustable_clock();
    let mut server = Server::start_with_clock(clock, |_| {}).await;
    let stored = |duplicate| StoredEvent { conversation: "@alice:bob".to_owned(), seq: 2, duplicate };
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "another").await;
    assert_eq!(alice.says_with_key("@bob", "k1", "hi").await, stored(false));
    assert_eq!(alice.says_with_key("@bob", "k1", "hi").await, stored(true), "on the same connection");
    for (seconds, later) in [(1, "a second"), (180, "three minutes"), (30 * 24 * 3_600, "thirty days")] {
        ahead.store(seconds * 1_000, Ordering::Relaxed);
        assert_eq!(alice.says_with_key("@bob", "k1", "hi").await, stored(true), "{later} later");
    }

    let mut phone = server.connects("alice").await;
    assert_eq!(phone.says_with_key("@alice:bob", "k1", "hi").await, stored(true), "from another device");
    drop((alice, phone));
    let retry = json!({"as": "alice", "to": "@bob", "key": "k1", "text": "hi"});
    assert_eq!(server.posts("send", retry).await.ok()["duplicate"], true, "over HTTP");
    server.restart().await;
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.says_with_key("@bob", "k1", "hi").await, stored(true), "after a restart");

    for other in [
        json!({"to": "@bob", "key": "k1", "text": "ho"}),
        json!({"to": "@carol", "key": "k1", "text": "hi"}),
        json!({"to": "@bob", "key": "k1", "text": "hi", "reply_to": 1}),
        json!({"to": "@bob", "key": "k1", "text": "hi", "data": {}}),
        json!({"to": "#nowhere", "key": "k1", "text": "hi"}),
    ] {
        assert_eq!(alice.is_refused("send", other).await, ErrorCode::KeyConflict);
    }
    let mut bob = server.connects("bob").await;
    let first_of_bob = StoredEvent { conversation: "@alice:bob".to_owned(), seq: 3, duplicate: false };
    assert_eq!(bob.says_with_key("@alice", "k1", "hi").await, first_of_bob, "each sender has its own keys");
    let texts: Vec<_> =
        alice.log("@bob").await.iter().filter_map(|e| text_of(e).map(str::to_owned)).collect();
    assert_eq!(texts, ["another", "hi", "hi"]);
}

#[tokio::test]
async fn hostile_21_a_forged_cursor_is_refused_or_moves_nothing() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut eve = server.connects("eve").await;
    for text in ["one", "two", "three"] {
        alice.says("@bob", text).await;
        bob.receives_message(text).await;
    }
    bob.says("@alice", "four").await;
    alice.receives_message("four").await;
    let receipt = |upto: u64| json!({"conversation": "@alice:bob", "upto": upto});
    bob.does("read", receipt(2)).await;
    let signal = alice.receives_signal().await;
    assert!(matches!(signal, Signal::Read { upto: Seq(2), .. }), "{signal:?}");
    for command in ["read", "received"] {
        assert_eq!(eve.is_refused(command, receipt(1)).await, ErrorCode::NotFound, "of another conversation");
        assert_eq!(bob.is_refused(command, receipt(5)).await, ErrorCode::BadCursor, "of the future");
        let back = bob.does(command, receipt(1)).await;
        assert!(matches!(back, OkBody::Cursor { upto: Seq(2), .. }), "backwards: {back:?}");
        let answer =
            server.posts(command, json!({"as": "eve", "conversation": "@alice:bob", "upto": 1})).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    }
    assert_eq!(eve.is_refused("typing", json!({"conversation": "@alice:bob"})).await, ErrorCode::NotFound);
    alice.receives_nothing().await;
    let members = alice.members("@bob").await;
    assert_eq!(members.iter().map(|m| (m.read, m.received)).collect::<Vec<_>>()[1], (Seq(2), Seq(2)));
}

#[tokio::test]
async fn hostile_22_an_expired_token_closes_its_connection_and_stored_messages_stay() {
    // The server's clock does not advance; its time is a few seconds before the token expires.
    let clock = Clock::from_fn(|| Timestamp::from_millis(1_800_000_000_500));
    let server = Server::start_with_auth_and_clock(clock, |_| {}).await;
    let short = server.token("alice", Duration::from_secs(4));
    let mut alice = server.tries_to_connect(hello_with_token(short)).await.expect("welcome");
    let mut lasting = server.connects("alice").await;
    assert_eq!(alice.says_with_key("@bob", "k", "in time").await.seq, 1);
    lasting.receives_message("in time").await;
    assert_eq!(alice.is_closed().await, Some(4401));
    lasting.receives_nothing().await;
    let again = lasting.says_with_key("@bob", "k", "in time").await;
    assert_eq!((again.seq, again.duplicate), (1, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_22_a_client_that_sends_without_a_pause_is_closed_when_its_token_expires() {
    let clock = Clock::from_fn(|| Timestamp::from_millis(1_800_000_000_500));
    let settings = |config: &mut Config| config.limits = Limits::default().without_rates();
    let server = Server::start_with_auth_and_clock(clock, settings).await;
    let short = server.token("alice", Duration::from_secs(2));
    let mut alice = RawSocket::connect(server.address()).await;
    alice.upgrades().await;
    alice.says(&json!({"type": "hello", "token": short}).to_string()).await;
    assert_eq!(alice.next().await.json()["type"], "welcome");
    assert_eq!(alice.floods(r#"{"type":"ping"}"#).await, 4401);
}

/// Sends two commands alternately and returns the median time until the answer to each.
async fn median_answer_times(person: &mut Person, questions: [(&str, Value); 2]) -> [Duration; 2] {
    const ROUNDS: usize = 400;
    let mut took = [Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS)];
    for _ in 0..ROUNDS {
        for ((name, fields), took) in questions.iter().zip(&mut took) {
            let asked = Instant::now();
            person.is_refused(name, fields.clone()).await;
            took.push(asked.elapsed());
        }
    }
    took.map(|mut took| {
        took.sort_unstable();
        took[ROUNDS / 2]
    })
}

#[tokio::test]
async fn hostile_26_refusals_take_the_same_time_for_existing_and_missing_conversations() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut eve = server.connects("eve").await;
    alice.makes_room("secret", &["bob"]).await;
    for number in 0..200 {
        alice.says("#secret", &number.to_string()).await;
    }
    for command in ["history", "send"] {
        let question = |name: &str| match command {
            "send" => json!({"to": name, "text": "hi"}),
            _ => json!({"conversation": name}),
        };
        let asked = [(command, question("#secret")), (command, question("#nowhere"))];
        let [there, nowhere] = median_answer_times(&mut eve, asked).await;
        println!("{command}: {there:?} for what is there, {nowhere:?} for what is not");
        let (less, more) = (there.min(nowhere), there.max(nowhere));
        assert!(more < less * 3 / 2 + Duration::from_micros(100), "{command}: {there:?}, {nowhere:?}");
    }
}

#[tokio::test]
async fn hostile_26_invitations_are_rate_limited() {
    let server = Server::start_with(|config| config.limits.sends_per_connection = 2).await;
    let mut eve = server.connects("eve").await;
    eve.makes_room("spam", &[]).await;
    let mut invited = 0;
    let failure = loop {
        match eve.tries("invite", json!({"conversation": "#spam", "user": format!("user{invited}")})).await {
            Ok(_) => invited += 1,
            Err(failure) => break failure,
        }
        assert!(invited < 100, "the rate must refuse an invitation");
    };
    assert_eq!(failure.code, ErrorCode::RateLimited);
    assert!(failure.retry_after.is_some_and(|ms| (1..=500).contains(&ms)), "{failure:?}");
}
