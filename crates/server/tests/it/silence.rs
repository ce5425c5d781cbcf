//! Rooms: a member who is silenced reads until a time, and then is what they were.

use serde_json::json;
use switchboard_protocol::reply::{Failure, Member};
use switchboard_protocol::{ErrorCode, EventBody, Role};

use crate::bans::{Time, nodes_at, server_at};
use crate::check::assert_check_finds_no_problem_after_a_stop;
use crate::support::{Person, Server, SharedEngines};

/// An hour in milliseconds.
const HOUR_MS: i64 = 3_600_000;

async fn refusal(person: &mut Person, command: &str, fields: serde_json::Value) -> Failure {
    person.tries(command, fields.clone()).await.expect_err(&format!("{command} {fields}"))
}

async fn member(person: &mut Person, name: &str) -> Member {
    let mut members = person.members("#r").await;
    members.retain(|member| member.user.as_str() == name);
    members.pop().expect("a member")
}

async fn a_silence_holds_until_it_ends(first: &Server, last: &Server, time: &Time) {
    let mut alice = first.connects("alice").await;
    let mut bob = last.connects("bob").await;
    alice.makes_public_room("r", &["bob", "carol"]).await;
    bob.receives_event().await;
    let until = time.after(HOUR_MS);
    let silence = json!({"conversation": "#r", "user": "bob", "role": "reader", "until": until});
    alice.does("role", silence.clone()).await;
    let event = bob.receives_event().await;
    let wanted =
        EventBody::Role { user: "bob".parse().expect("an id"), role: Role::Reader, until: Some(until) };
    assert_eq!(event.body, wanted);

    // He reads, and that is all.
    let message = alice.says("#r", "a rule").await;
    bob.receives_message("a rule").await;
    for (command, fields) in [
        ("send", json!({"to": "#r", "text": "x"})),
        ("react", json!({"conversation": "#r", "target": message, "emoji": "x"})),
        ("invite", json!({"conversation": "#r", "user": "dora"})),
        ("typing", json!({"conversation": "#r"})),
    ] {
        let failure = refusal(&mut bob, command, fields).await;
        assert_eq!((failure.code, failure.retry_after), (ErrorCode::Forbidden, Some(3_600_000)), "{command}");
    }
    let shown = member(&mut alice, "bob").await;
    assert_eq!((shown.role, shown.until), (Role::Reader, Some(until)));
    let summary = bob.summary("#r").await;
    assert_eq!((summary.role, summary.until), (Role::Reader, Some(until)));

    // Neither leaving nor a member's invitation ends it.
    bob.does("leave", json!({"conversation": "#r"})).await;
    bob.does("join", json!({"conversation": "#r"})).await;
    assert_eq!(refusal(&mut bob, "send", json!({"to": "#r", "text": "x"})).await.code, ErrorCode::Forbidden);
    bob.does("leave", json!({"conversation": "#r"})).await;
    let mut carol = first.connects("carol").await;
    carol.does("invite", json!({"conversation": "#r", "user": "bob"})).await;
    let shown = member(&mut alice, "bob").await;
    assert_eq!((shown.role, shown.until), (Role::Reader, Some(until)));
    let log = alice.log("#r").await;
    let comings: Vec<_> = log
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::Join { until, .. } | EventBody::Invite { until, .. } => Some(*until),
            _ => None,
        })
        .collect();
    assert_eq!(comings, [Some(until), Some(until)], "the events of coming in carry it");

    // It ends by itself.
    time.moves(HOUR_MS - 1);
    assert_eq!(
        refusal(&mut bob, "send", json!({"to": "#r", "text": "x"})).await.retry_after,
        Some(1),
        "a millisecond is left"
    );
    time.moves(1);
    bob.says("#r", "thank you").await;
    let shown = member(&mut alice, "bob").await;
    assert_eq!((shown.role, shown.until), (Role::Member, None));

    // An admin ends it earlier, by a role or an invitation.
    for ends in [("role", "member"), ("invite", "member")] {
        let again =
            json!({"conversation": "#r", "user": "bob", "role": "reader", "until": time.after(HOUR_MS)});
        alice.does("role", again).await;
        assert_eq!(bob.is_refused("send", json!({"to": "#r", "text": "x"})).await, ErrorCode::Forbidden);
        if ends.0 == "invite" {
            bob.does("leave", json!({"conversation": "#r"})).await;
        }
        alice.does(ends.0, json!({"conversation": "#r", "user": "bob", "role": ends.1})).await;
        bob.says("#r", "once more").await;
    }
}

#[tokio::test]
async fn a_silenced_member_reads_until_the_time_on_one_node() {
    let time = Time::new();
    let mut server = server_at(&time, |_| {}).await;
    a_silence_holds_until_it_ends(&server, &server, &time).await;
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn a_silenced_member_reads_until_the_time_on_three_nodes() {
    let (time, shared) = (Time::new(), SharedEngines::new().await);
    let nodes = nodes_at(&time, &shared, 3, |_| {}).await;
    crate::bans::wait_for_feature(&nodes[0], "bans").await;
    a_silence_holds_until_it_ends(&nodes[0], &nodes[2], &time).await;
}

#[tokio::test]
async fn a_silence_names_a_good_time_and_an_admin_is_what_they_were_afterwards() {
    let time = Time::new();
    let server = server_at(&time, |_| {}).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_public_room("r", &["bob"]).await;
    let role = |user: &str, role: &str, until| json!({"conversation": "#r", "user": user, "role": role, "until": until});
    for (user, name, until) in [
        ("bob", "reader", time.after(0)),
        ("bob", "reader", time.after(-HOUR_MS)),
        ("bob", "reader", time.after(11 * 366 * 24 * HOUR_MS)),
        ("bob", "member", time.after(HOUR_MS)),
        ("bob", "admin", time.after(HOUR_MS)),
    ] {
        let failure = refusal(&mut alice, "role", role(user, name, until)).await;
        assert_eq!(
            (failure.code, failure.field.as_deref()),
            (ErrorCode::BadField, Some("until")),
            "{name} {until}"
        );
    }
    let wrong = json!({"conversation": "#r", "user": "bob", "role": "reader", "until": 5});
    let token = server.token("alice", std::time::Duration::from_secs(60));
    let answer = server.posts_as(&token, "role", wrong).await;
    assert_eq!((answer.status, &answer.json()["field"]), (400, &json!("until")));
    let own = role("alice", "reader", time.after(HOUR_MS));
    assert_eq!(refusal(&mut alice, "role", own).await.code, ErrorCode::Forbidden, "the only admin");
    assert_eq!(
        refusal(&mut bob, "role", role("alice", "reader", time.after(HOUR_MS))).await.code,
        ErrorCode::Forbidden
    );

    alice.does("role", json!({"conversation": "#r", "user": "bob", "role": "admin"})).await;
    alice.does("role", role("bob", "reader", time.after(HOUR_MS))).await;
    let failure = refusal(&mut bob, "rename", json!({"conversation": "#r", "title": "mine"})).await;
    assert_eq!(failure.code, ErrorCode::Forbidden);
    time.moves(HOUR_MS);
    bob.does("rename", json!({"conversation": "#r", "title": "ours"})).await;
    assert_eq!(bob.summary("#r").await.role, Role::Admin);

    // A reader without an end stays one after a silence.
    alice.does("role", json!({"conversation": "#r", "user": "bob", "role": "reader"})).await;
    alice.does("role", role("bob", "reader", time.after(HOUR_MS))).await;
    time.moves(HOUR_MS);
    assert_eq!(bob.is_refused("send", json!({"to": "#r", "text": "x"})).await, ErrorCode::Forbidden);
    bob.does("leave", json!({"conversation": "#r"})).await;
    bob.does("join", json!({"conversation": "#r"})).await;
    assert_eq!(bob.summary("#r").await.role, Role::Reader);
}
