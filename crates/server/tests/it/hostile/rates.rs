//! Limits of rates and of connections: per connection, per user and per address.

use std::time::Duration;

use serde_json::json;
use switchboard_client::{Client, ClientError};
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{ErrorCode, Limits, Seq, Signal};

use crate::limits::{message_to_bob, sends_until_refused};
use crate::support::{Server, eventually};

#[tokio::test]
async fn hostile_24_the_send_rate_of_a_user_spans_connections_and_http() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { sends_per_user: 2, ..Limits::default().without_rates() };
    })
    .await;
    let mut alice = server.connects("alice").await;
    let mut phone = server.connects("alice").await;
    let (_, failure) = sends_until_refused(&mut [&mut alice, &mut phone], 2).await;
    assert_eq!(failure.code, ErrorCode::RateLimited);
    let token = server.token("alice", Duration::from_secs(60));
    let answer = loop {
        let answer = server.posts_as(&token, "send", message_to_bob()).await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"));
    assert_eq!((answer.header("retry-after"), &answer.json()["retryable"]), ("1", &json!(true)));
    assert!(answer.json()["retry_after"].as_u64().is_some_and(|ms| (1..=500).contains(&ms)), "{answer:?}");
    let mut carol = server.connects("carol").await;
    carol.does("send", message_to_bob()).await;
}

#[tokio::test]
async fn hostile_24_a_flood_of_frames_is_refused_and_then_closed() {
    let server = Server::start_with(|config| config.limits.frames_per_connection = 5).await;
    let mut bob = server.connects("bob").await;
    let mut socket = server.open_socket_as("alice").await;
    let mut pongs = 0;
    let refusal = loop {
        let refusal = socket.asks(r#"{"type":"ping","id":9}"#).await;
        if refusal["type"] != "pong" {
            break refusal;
        }
        pongs += 1;
    };
    assert!(pongs >= 25, "only {pongs}: the burst is five seconds' worth");
    assert_eq!((&refusal["code"], &refusal["id"]), (&json!("rate_limited"), &json!(9)));
    assert!(refusal["retry_after"].is_u64(), "{refusal}");
    let (error, code) = socket.floods(r#"{"type":"ping"}"#).await;
    assert_eq!((&error["code"], &error["retryable"], code), (&json!("rate_limited"), &json!(true), 4429));
    assert_eq!(error["id"], json!(null), "it is about the connection, not about a command: {error}");
    // `retry_after` is at least five seconds, the time in which the rate allows as much as the burst of a new connection.
    assert!(error["retry_after"].as_u64().is_some_and(|wait| (5_000..=60_000).contains(&wait)), "{error}");
    bob.receives_nothing().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "back").await;
    bob.receives_message("back").await;
}

#[tokio::test]
async fn hostile_24_connections_of_a_user_are_limited() {
    let server = Server::start_with(|config| config.limits.connections_per_user = 2).await;
    let first = server.connects("alice").await;
    let mut second = server.connects("alice").await;
    let mut third = server.open_socket().await;
    third.says(r#"{"type":"hello","user":"alice"}"#).await;
    let (error, code) = third.error_and_close_code().await;
    let error = error.expect("an error");
    assert_eq!((&error["code"], &error["retryable"], code), (&json!("rate_limited"), &json!(true), 1013));
    assert!(error["retry_after"].is_u64(), "{error}");
    server.connects("bob").await;
    second.receives_nothing().await;
    drop(first);
    eventually("there is a place again", || {
        Box::pin(async { server.tries_to_connect(server.hello("alice", &[])).await.ok() })
    })
    .await;
}

/// Tries to connect. Returns the HTTP status if the server refuses the handshake.
async fn handshake_refusal_status(server: &Server) -> Option<u16> {
    match Client::open(&server.url()).await {
        Err(ClientError::Handshake { status, .. }) => Some(status),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

#[tokio::test]
async fn hostile_03_connections_of_an_address_are_limited() {
    let server = Server::start_with(|config| config.limits.connections_per_address = 2).await;
    let alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    assert_eq!(handshake_refusal_status(&server).await, Some(429));
    let answer = server.gets("/").await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"));
    assert_eq!(server.gets("/livez").await.status, 200, "a probe is answered in spite of the limit");
    bob.receives_nothing().await;
    drop(alice);
    eventually("there is a place again", || async {
        handshake_refusal_status(&server).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn hostile_03_connections_of_the_server_are_limited() {
    let server = Server::start_with(|config| config.limits.connections = 1).await;
    let alice = server.connects("alice").await;
    assert_eq!(handshake_refusal_status(&server).await, Some(503));
    drop(alice);
    eventually("there is a place again", || async {
        handshake_refusal_status(&server).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn hostile_24_a_flood_of_cursors_is_coalesced_to_the_latest_at_their_rate() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { cursors_per_user: 2, ..Limits::default().without_rates() };
    })
    .await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("general", &["bob"]).await;
    for n in 2..=400 {
        alice.says("#general", &n.to_string()).await;
    }
    for upto in 2..=400 {
        bob.submits("received", json!({"conversation": "#general", "upto": upto})).await;
    }
    let (mut answered, mut last) = (0, Seq(0));
    while answered < 399 {
        match bob.next().await {
            ServerFrame::Reply(Reply::Ok(ok)) => {
                let OkBody::Cursor { upto, .. } = ok.body else { panic!("{ok:?}") };
                (answered, last) = (answered + 1, last.max(upto));
            }
            ServerFrame::Reply(other) => panic!("no command may be refused: {other:?}"),
            _ => {}
        }
    }
    assert_eq!(last, Seq(400));
    let (mut signals, mut latest) = (0, Seq(0));
    while latest < Seq(400) {
        if let ServerFrame::Signal(Signal::Received { upto, .. }) = alice.next().await {
            (signals, latest) = (signals + 1, upto);
        }
    }
    // The rate allows a burst of ten signals, and then two a second until the test has received all.
    assert!(signals < 200, "{signals} signals of 399 cursors");
    // Over HTTP the server answers a cursor beyond the rate with an error.
    let token = server.token("bob", Duration::from_secs(60));
    let read = json!({"conversation": "#general", "upto": 1});
    let refused = loop {
        let answer = server.posts_as(&token, "read", read.clone()).await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
}

#[tokio::test]
async fn cursors_delayed_by_their_rate_are_stored_before_the_server_stops() {
    let mut server = Server::start_with_auth_and(|config| {
        config.limits = Limits { cursors_per_user: 1, ..Limits::default().without_rates() };
    })
    .await;
    let mut alice = server.connects("alice").await;
    let rooms = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    for room in rooms {
        alice.makes_room(room, &[]).await;
        alice.says(&format!("#{room}"), "hi").await;
    }
    // The rate allows a burst of five moves; at that rate the others would take 15 s.
    for room in rooms {
        for upto in [1, 2] {
            for kind in ["received", "read"] {
                alice.submits(kind, json!({"conversation": format!("#{room}"), "upto": upto})).await;
            }
        }
    }
    // The server reads commands in order, so after this answer it has read all earlier ones.
    alice.submits("ping", json!({})).await;
    let mut answered = 0;
    loop {
        match alice.next().await {
            ServerFrame::Reply(Reply::Ok(_)) => answered += 1,
            ServerFrame::Reply(Reply::Pong { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(answered < 40, "some cursors still wait");
    server.begin_shutdown();
    while answered < 40 {
        if let ServerFrame::Reply(Reply::Ok(_)) = alice.next().await {
            answered += 1;
        }
    }
}

#[tokio::test]
async fn hostile_24_watch_lists_are_applied_at_their_rate_and_the_latest_remains() {
    const WATCH_COMMANDS: usize = 100;
    let server = Server::start_with(|config| {
        config.limits = Limits { watched_per_user: 2, ..Limits::default().without_rates() };
    })
    .await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut carol = server.connects("carol").await;
    for friend in [&mut bob, &mut carol] {
        friend.says("@alice", "hi").await;
        alice.receives_message("hi").await;
        alice.says(&format!("@{}", friend.name()), "hello").await;
    }
    for _ in 0..WATCH_COMMANDS {
        alice.submits("watch", json!({"users": ["bob", "dora"]})).await;
    }
    alice.submits("watch", json!({"users": ["carol"]})).await;
    let (mut answered, mut looked_up, mut carols) = (0, 0, false);
    while answered <= WATCH_COMMANDS || !carols {
        match alice.next().await {
            ServerFrame::Reply(Reply::Ok(_)) => answered += 1,
            ServerFrame::Signal(Signal::Presence { user, .. }) if user.as_str() == "carol" => carols = true,
            ServerFrame::Signal(Signal::Presence { .. }) => looked_up += 1,
            other => panic!("no command may be refused: {other:?}"),
        }
    }
    // The rate allows a burst of five lists, and then one a second until the test has received all answers.
    assert!((1..WATCH_COMMANDS / 2).contains(&looked_up), "{looked_up} of {WATCH_COMMANDS} lists");
    drop((bob, carol));
    match alice.receives_signal().await {
        Signal::Presence { user, online: false, .. } => assert_eq!(user.as_str(), "carol"),
        other => panic!("{other:?}"),
    }
}
