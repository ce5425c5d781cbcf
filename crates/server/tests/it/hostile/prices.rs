//! The price of a command is the number of sends as which it counts against the send rate: one for each member that it names and
//! each row that it inserts or erases.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::UnknownUsers;
use switchboard_protocol::{ErrorCode, Limits};
use tokio::time::Instant;

use crate::http::create_api_key;
use crate::limits::message_to_bob;
use crate::support::Server;

/// How long the server refuses a connection's unnumbered writes after it rejected one of them: `HOLD_DURATION` in `outbox.rs`.
const HOLD_DURATION: Duration = Duration::from_secs(1);

const HOUR: Duration = Duration::from_secs(3_600);

/// The limits with only the rates per user, at their defaults; all other rates are off.
pub(crate) fn user_rates_only() -> Limits {
    Limits { sends_per_user: 50, ..Limits::default().without_rates() }
}

/// The fields of a `create` with this number of members.
pub(crate) fn create_room_command(members: usize) -> Value {
    json!({"members": (0..members).map(|n| format!("member{n}")).collect::<Vec<_>>()})
}

#[tokio::test]
async fn hostile_26_creating_a_room_costs_a_send_for_each_member() {
    let server = Server::start_with_auth_and(|config| config.limits = user_rates_only()).await;
    let token = server.token("mallory", HOUR);
    let begun = Instant::now();
    let first = server.posts_as(&token, "create", create_room_command(1_000)).await;
    first.ok();
    let mut made = 1;
    let refused = loop {
        let answer = server.posts_as(&token, "create", create_room_command(1_000)).await;
        if answer.status != 200 {
            break answer;
        }
        made += 1;
    };
    let full_buckets = begun.elapsed().as_secs() / 20;
    assert!(made <= 1 + full_buckets, "{made} rooms in {:?}", begun.elapsed());
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    let wait = refused.json()["retry_after"].as_u64().expect("how long");
    assert!((5_000..=20_020).contains(&wait), "the delay covers the debt and a full bucket: {wait} ms");
    let mut phone = server.connects("mallory").await;
    let send = phone.tries("send", message_to_bob()).await.expect_err("the debt holds at every door");
    assert_eq!((send.code, send.retryable), (ErrorCode::RateLimited, true));
    assert!(send.retry_after.is_some_and(|ms| ms < wait), "one send needs no full bucket: {send:?}");
    server.connects("carol").await.says("@bob", "others go on").await;
}

#[tokio::test]
async fn hostile_26_an_invitation_costs_two_sends() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { sends_per_user: 4, ..Limits::default().without_rates() };
    })
    .await;
    let mut eve = server.connects("eve").await;
    let begun = Instant::now();
    eve.makes_room("spam", &["bob"]).await;
    let mut invited = 0;
    let failure = loop {
        match eve.tries("invite", json!({"conversation": "#spam", "user": format!("user{invited}")})).await {
            Ok(_) => invited += 1,
            Err(failure) => break failure,
        }
    };
    let meanwhile = begun.elapsed().as_secs_f64() * 4.0;
    assert!(invited >= 9, "20 sends pay for a room with a member and nine invitations: {invited}");
    assert!(f64::from(invited) <= 9.0 + meanwhile / 2.0, "{invited} in {:?}", begun.elapsed());
    assert_eq!(failure.code, ErrorCode::RateLimited);
}

#[tokio::test]
async fn an_api_key_has_its_own_rate() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { sends_per_key: 2, sends_per_user: 1, ..Limits::default().without_rates() };
    })
    .await;
    let (shop, billing) = (create_api_key(&server, "shop"), create_api_key(&server, "billing"));
    let begun = Instant::now();
    let mut stored = 0;
    let refused = loop {
        // Each message is from another user, because this test is about the rate of the API key.
        let body = json!({"as": format!("bot{stored}"), "to": "@bob", "text": "hi"});
        let answer = server.posts_as(&shop, "send", body).await;
        if answer.status != 200 {
            break answer;
        }
        stored += 1;
    };
    assert!(stored >= 10, "five seconds' worth at once: {stored}");
    assert!(f64::from(stored) <= 10.0 + 2.0 * begun.elapsed().as_secs_f64(), "{stored}");
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    server.posts_as(&billing, "send", json!({"as": "bot0", "to": "@bob", "text": "hi"})).await.ok();
}

#[tokio::test]
async fn hostile_26_new_direct_conversations_have_a_rate() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { directs_per_minute: 1, ..Limits::default().without_rates() };
        config.unknown_users = UnknownUsers::Refuse;
    })
    .await;
    for n in 0..40 {
        server.connects(&format!("peer{n}")).await;
    }
    let (mut mallory, token) = (server.connects("mallory").await, server.token("mallory", HOUR));
    let begun = Instant::now();
    let mut stored = 0;
    let send = |n: usize| json!({"to": format!("@peer{n}"), "key": format!("k{n}"), "text": "hi"});
    let refused = loop {
        match mallory.tries("send", send(stored)).await {
            Ok(_) => stored += 1,
            Err(failure) => break failure,
        }
    };
    let meanwhile = usize::try_from(begun.elapsed().as_secs() / 60).expect("a few");
    assert!((5..=5 + meanwhile).contains(&stored), "five minutes' worth at once: {stored}");
    assert_eq!((refused.code, refused.retryable), (ErrorCode::RateLimited, true));
    assert!(refused.retry_after.is_some_and(|ms| ms <= 60_000), "{refused:?}");
    // The refusal is the same for known and unknown users, on the WebSocket and over HTTP.
    for peer in ["peer39", "nobody"] {
        let answer = server.posts_as(&token, "send", json!({"to": format!("@{peer}"), "text": "hi"})).await;
        assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"), "{peer}");
    }
    // Messages in existing conversations are not limited, and neither is the retry of a first message.
    server.posts_as(&token, "send", json!({"to": "@peer0", "text": "again"})).await.ok();
    assert_eq!(server.posts_as(&token, "send", send(0)).await.ok()["duplicate"], true);
    let key = create_api_key(&server, "shop");
    for n in 0..20 {
        let body = json!({"as": "mallory", "to": format!("@peer{}", 20 + n), "text": "hi"});
        server.posts_as(&key, "send", body).await.ok();
    }
}

#[tokio::test]
async fn hostile_26_a_message_after_a_refused_one_is_not_stored_before_it() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { directs_per_minute: 1, ..Limits::default().without_rates() };
    })
    .await;
    let mut socket = server.open_socket_as("mallory").await;
    let send = |n: usize| format!(r#"{{"type":"send","id":{n},"to":"@peer{}","text":"hi"}}"#, n % 10);
    // Sends to ten users and once more to the first of them. The rate allows five new conversations at once.
    let begun = Instant::now();
    for n in 0..11 {
        socket.says(&send(n)).await;
    }
    let at_once = begun.elapsed() < HOLD_DURATION / 2;
    let mut codes = Vec::new();
    for _ in 0..11 {
        let answer: Value = serde_json::from_str(&socket.receives_text().await).expect("JSON");
        codes.push(answer["code"].as_str().unwrap_or("ok").to_owned());
    }
    let mut expected = vec!["ok"; 5];
    expected.push("rate_limited");
    expected.extend(["unavailable"; 5]);
    if at_once {
        assert_eq!(codes, expected);
    }
}

#[tokio::test]
async fn hostile_26_created_rooms_count_after_their_creator_left() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { rooms: 3, ..Limits::default().without_rates() };
    })
    .await;
    let token = server.token("mallory", HOUR);
    let ask = async |command: &str, body: Value| server.posts_as(&token, command, body).await;
    for n in 0..3 {
        let room = format!("#r{n}");
        ask("create", json!({"room": room, "members": ["victim", "accomplice"]})).await.ok();
        ask("role", json!({"conversation": room, "user": "accomplice", "role": "admin"})).await.ok();
        ask("leave", json!({"conversation": room})).await.ok();
    }
    let refused = ask("create", json!({"room": "r3"})).await;
    assert_eq!((refused.code().as_str(), &refused.json()["field"]), ("too_large", &json!("room")));
    let again = json!({"room": "r0", "members": ["victim", "accomplice"]});
    assert_eq!(ask("create", again).await.ok()["duplicate"], true, "a retry does not count");
    let key = create_api_key(&server, "shop");
    server.posts_as(&key, "create", json!({"as": "mallory", "room": "r3"})).await.ok();
}

#[tokio::test]
async fn hostile_26_a_deletion_costs_the_edits_that_it_erases() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { sends_per_user: 2, ..Limits::default().without_rates() };
    })
    .await;
    let (key, token) = (create_api_key(&server, "shop"), server.token("mallory", HOUR));
    for message in ["a", "b", "c"] {
        let body = json!({"as": "mallory", "to": "@bob", "text": message});
        let target = server.posts_as(&key, "send", body).await.ok()["seq"].clone();
        for edit in 0..if message == "c" { 0 } else { 20 } {
            let body =
                json!({"as": "mallory", "conversation": "@bob", "target": target, "text": format!("{edit}")});
            server.posts_as(&key, "edit", body).await.ok();
        }
    }
    let begun = Instant::now();
    let delete = async |target: u64| {
        server.posts_as(&token, "delete", json!({"conversation": "@bob", "target": target})).await
    };
    delete(1).await.ok();
    let refused = delete(22).await;
    if begun.elapsed() < Duration::from_secs(5) {
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
        assert!(refused.json()["retry_after"].as_u64().is_some_and(|ms| ms <= 5_000), "{refused:?}");
    }
    delete(43).await.ok();
    // A repeated deletion erases nothing.
    assert_eq!(delete(1).await.ok()["duplicate"], true);
    let admin = json!({"as": "mallory", "conversation": "@bob", "target": 22});
    server.posts_as(&key, "delete", admin).await.ok();
}

#[tokio::test]
async fn hostile_26_a_deletion_costs_the_reactions_that_it_erases() {
    const REACTIONS: usize = 501;
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { sends_per_user: 2, ..Limits::default().without_rates() };
    })
    .await;
    let (key, token) = (create_api_key(&server, "shop"), server.token("mallory", HOUR));
    let mut targets = Vec::new();
    for message in ["a", "b"] {
        let body = json!({"as": "mallory", "to": "@bob", "text": message});
        targets.push(server.posts_as(&key, "send", body).await.ok()["seq"].clone());
    }
    for target in &targets {
        for number in 0..REACTIONS {
            let emoji = format!("{number}");
            let body = json!({"as": "mallory", "conversation": "@bob", "target": target, "emoji": emoji, "on": true});
            server.posts_as(&key, "react", body).await.ok();
        }
    }
    let begun = Instant::now();
    let delete = async |target| {
        server.posts_as(&token, "delete", json!({"conversation": "@bob", "target": target})).await
    };
    delete(&targets[0]).await.ok();
    // Each deletion counts as eleven edits; the rate of edits allows a burst of twenty and then four a second.
    let refused = delete(&targets[1]).await;
    if begun.elapsed() < Duration::from_millis(400) {
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    }
}
