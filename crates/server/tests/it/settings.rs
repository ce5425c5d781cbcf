//! Settings of a room: slow mode, and whether a user who was removed may join again.

use serde_json::{Value, json};
use switchboard_protocol::reply::Failure;
use switchboard_protocol::{ErrorCode, EventBody};
use switchboard_store::grant::Scope;

use crate::bans::{Time, nodes_at, server_at, wait_for_feature};
use crate::check::assert_check_finds_no_problem_after_a_stop;
use crate::cluster::next_event;
use crate::keys::key_with;
use crate::support::{Person, Server, SharedEngines};

async fn refusal(person: &mut Person, command: &str, fields: Value) -> Failure {
    person.tries(command, fields.clone()).await.expect_err(&format!("{command} {fields}"))
}

async fn is_too_soon(person: &mut Person, wait: u64) {
    let failure = refusal(person, "send", json!({"to": "#r", "text": "too soon"})).await;
    assert_eq!(
        (failure.code, failure.retry_after, failure.retryable),
        (ErrorCode::Forbidden, Some(wait), false)
    );
}

async fn slow_mode_holds(first: &Server, last: &Server, time: &Time) {
    let key = key_with(first, "backend", |key| key.with_scopes([Scope::Act, Scope::People]));
    let mut alice = first.connects("alice").await;
    let mut bob = first.connects("bob").await;
    let mut phone = last.connects("bob").await;
    alice.makes_public_room("r", &["bob", "carol"]).await;
    bob.says("#r", "before it is slow").await;
    alice.does("settings", json!({"conversation": "#r", "slow": 10_000})).await;
    let changed = loop {
        let event = next_event(&mut phone).await;
        if let EventBody::Settings { slow, rejoin } = event.body {
            break (slow, rejoin);
        }
    };
    assert_eq!(changed, (Some(10_000), None));
    assert_eq!(phone.summary("#r").await.slow, Some(10_000));
    let rooms = first.posts_as(&key, "list_rooms", json!({})).await.ok();
    assert_eq!((&rooms["rooms"][0]["slow"], rooms["rooms"][0].get("rejoin")), (&json!(10_000), None));

    // One message, whichever device and node it comes from. Nothing else waits, and no other connection.
    bob.says_with_key("#r", "k1", "one").await;
    assert!(bob.says_with_key("#r", "k1", "one").await.duplicate, "a retry is no other message");
    is_too_soon(&mut bob, 10_000).await;
    time.moves(4_000);
    is_too_soon(&mut phone, 6_000).await;
    bob.says("@carol", "elsewhere").await;
    bob.does("react", json!({"conversation": "#r", "target": 2, "emoji": "👍"})).await;
    bob.does("edit", json!({"conversation": "#r", "target": 2, "text": "edited"})).await;
    let mut carol = last.connects("carol").await;
    carol.says("#r", "she has her own time").await;
    for n in 0..3 {
        alice.says("#r", &format!("an admin {n}")).await;
        let send = json!({"as": "bob", "to": "#r", "text": format!("a back end {n}")});
        first.posts_as(&key, "send", send).await.ok();
    }
    // What the back end wrote in his name counts as his message.
    is_too_soon(&mut bob, 10_000).await;
    time.moves(9_999);
    is_too_soon(&mut phone, 1).await;
    time.moves(1);
    phone.says("#r", "two").await;
    // A clock that goes back makes nobody wait longer.
    time.moves(-3_600_000);
    is_too_soon(&mut bob, 10_000).await;
    time.moves(3_600_000);
    alice.does("settings", json!({"conversation": "#r", "slow": 0})).await;
    bob.says("#r", "three").await;
    bob.says("#r", "four").await;
    assert_eq!(bob.summary("#r").await.slow, None);
}

#[tokio::test]
async fn a_room_in_slow_mode_takes_one_message_of_a_member_at_a_time_on_one_node() {
    let time = Time::new();
    let mut server = server_at(&time, |_| {}).await;
    slow_mode_holds(&server, &server, &time).await;
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn a_room_in_slow_mode_takes_one_message_of_a_member_at_a_time_on_three_nodes() {
    let (time, shared) = (Time::new(), SharedEngines::new().await);
    let nodes = nodes_at(&time, &shared, 3, |_| {}).await;
    wait_for_feature(&nodes[0], "slow").await;
    slow_mode_holds(&nodes[0], &nodes[2], &time).await;
}

#[tokio::test]
async fn a_removed_user_may_not_join_where_the_room_says_so() {
    let time = Time::new();
    let server = server_at(&time, |_| {}).await;
    let key = key_with(&server, "backend", |key| key.with_scopes([Scope::Act, Scope::People]));
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_public_room("r", &["bob", "carol"]).await;
    let settings = |fields: Value| {
        let mut settings = fields;
        settings["conversation"] = json!("#r");
        settings
    };
    for (fields, field) in [(settings(json!({})), "slow"), (settings(json!({"slow": 21_600_001})), "slow")] {
        let failure = refusal(&mut alice, "settings", fields.clone()).await;
        assert_eq!((failure.code, failure.field.as_deref()), (ErrorCode::BadField, Some(field)), "{fields}");
    }
    for wrong in [json!({"slow": -1}), json!({"slow": 1.5}), json!({"rejoin": "no"}), json!({"quiet": true})]
    {
        let mut body = settings(wrong.clone());
        body["as"] = json!("alice");
        let answer = server.posts_as(&key, "settings", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_field"), "{wrong}");
    }
    assert_eq!(refusal(&mut bob, "settings", settings(json!({"slow": 1}))).await.code, ErrorCode::Forbidden);
    let direct = json!({"conversation": "@bob", "slow": 1});
    alice.says("@bob", "hi").await;
    assert_eq!(refusal(&mut alice, "settings", direct).await.code, ErrorCode::Forbidden);

    let mut by_key = settings(json!({"rejoin": false}));
    by_key["as"] = json!("alice");
    server.posts_as(&key, "settings", by_key).await.ok();
    assert_eq!(alice.summary("#r").await.rejoin, Some(false));
    alice.does("remove", json!({"conversation": "#r", "user": "bob"})).await;
    assert_eq!(refusal(&mut bob, "join", json!({"conversation": "#r"})).await.code, ErrorCode::Forbidden);
    // Who left may come back, and an invitation brings a removed user back.
    let mut carol = server.connects("carol").await;
    carol.does("leave", json!({"conversation": "#r"})).await;
    carol.does("join", json!({"conversation": "#r"})).await;
    carol.does("invite", json!({"conversation": "#r", "user": "bob"})).await;
    bob.does("leave", json!({"conversation": "#r"})).await;
    bob.does("join", json!({"conversation": "#r"})).await;
    alice.does("remove", json!({"conversation": "#r", "user": "bob"})).await;
    alice.does("settings", settings(json!({"rejoin": true}))).await;
    bob.does("join", json!({"conversation": "#r"})).await;
    assert_eq!(alice.summary("#r").await.rejoin, None);
}
