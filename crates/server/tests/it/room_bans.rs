//! Rooms: a banned user stays out until a time, and an admin's invitation ends the ban.

use serde_json::{Value, json};
use switchboard_protocol::reply::Failure;
use switchboard_protocol::{ErrorCode, Event, EventBody, Timestamp};
use switchboard_store::grant::Scope;

use crate::bans::{Time, nodes_at, server_at, wait_for_feature};
use crate::check::assert_check_finds_no_problem_after_a_stop;
use crate::cluster::next_event;
use crate::keys::key_with;
use crate::support::{Person, Server, SharedEngines, user};

/// An hour in milliseconds.
const HOUR_MS: i64 = 3_600_000;

async fn refusal(person: &mut Person, command: &str, fields: Value) -> Failure {
    person.tries(command, fields.clone()).await.expect_err(&format!("{command} {fields}"))
}

fn ban(name: &str, until: Option<Timestamp>) -> Value {
    let mut ban = json!({"conversation": "#r", "user": name, "ban": true});
    if let Some(until) = until {
        ban["until"] = json!(until);
    }
    ban
}

async fn cannot_join(person: &mut Person, until: Option<Timestamp>) {
    let failure = refusal(person, "join", json!({"conversation": "#r"})).await;
    assert_eq!((failure.code, failure.until), (ErrorCode::Banned, until), "{}", person.name());
}

fn banned(event: &Event) -> (bool, Option<Timestamp>, bool) {
    let EventBody::Remove { ban, until, absent, .. } = &event.body else { panic!("{event:?}") };
    (*ban, *until, *absent)
}

/// What a room's ban does, with users on the first and on the last of the nodes.
async fn a_ban_from_a_room_holds(nodes: &mut [Server], time: &Time) {
    let (first, last) = (0, nodes.len() - 1);
    let mut alice = nodes[first].connects("alice").await;
    let mut bob = nodes[last].connects("bob").await;
    let mut carol = nodes[last].connects("carol").await;
    alice.makes_public_room("r", &["bob", "carol"]).await;
    carol.does("leave", json!({"conversation": "#r"})).await;
    alice.says("#r", "after carol left").await;
    let left = alice.log("#r").await.len() as u64 - 1;

    // A member is removed, one who left and one who was never a member are not, and all stay out.
    let until = time.after(HOUR_MS);
    let removal = alice.stores("remove", ban("bob", Some(until))).await;
    let absent = alice.stores("remove", ban("carol", None)).await;
    alice.stores("remove", ban("dora", Some(until))).await;
    let log = alice.log_after("#r", removal.seq - 1).await;
    assert_eq!(banned(&log[0]), (true, Some(until), false));
    assert_eq!((banned(&log[1]), banned(&log[2])), ((true, None, true), (true, Some(until), true)));
    assert_eq!(alice.summary("#r").await.members, 1);
    alice.says("#r", "without them").await;
    loop {
        let event = next_event(&mut bob).await;
        if event.seq.0 == removal.seq {
            break;
        }
    }
    bob.receives_nothing().await;
    let mut dora = nodes[last].connects("dora").await;
    cannot_join(&mut bob, Some(until)).await;
    cannot_join(&mut dora, Some(until)).await;
    cannot_join(&mut carol, None).await;
    assert_eq!(bob.log("#r").await.len() as u64, removal.seq, "he sees what he saw");

    // A member's invitation does not end it, nor does a restart.
    let mut eve = nodes[last].connects("eve").await;
    eve.does("join", json!({"conversation": "#r"})).await;
    for name in ["bob", "carol", "dora"] {
        let failure = refusal(&mut eve, "invite", json!({"conversation": "#r", "user": name})).await;
        assert_eq!(failure.code, ErrorCode::Forbidden, "{name}");
    }
    for node in nodes.iter_mut() {
        node.restart().await;
    }
    let mut alice = nodes[first].connects("alice").await;
    let mut bob = nodes[last].connects("bob").await;
    let mut carol = nodes[last].resumes("carol", &[("#r", left)]).await;
    cannot_join(&mut bob, Some(until)).await;

    // An admin's invitation does. She gets what she has missed since she left, the ban included.
    alice.does("invite", json!({"conversation": "#r", "user": "carol"})).await;
    let first_missed = next_event(&mut carol).await;
    assert_eq!(first_missed.seq.0, left + 1, "she had read up to her leaving");
    let mut ban_of_carol = first_missed;
    while ban_of_carol.seq.0 < absent.seq {
        ban_of_carol = next_event(&mut carol).await;
    }
    assert_eq!(banned(&ban_of_carol), (true, None, true));
    carol.says("#r", "thank you").await;

    // It ends at its time.
    time.moves(HOUR_MS - 1);
    cannot_join(&mut bob, Some(until)).await;
    time.moves(1);
    bob.does("join", json!({"conversation": "#r"})).await;
    bob.says("#r", "back").await;
    // A ban that has ended does not hold a second time, and a removal alone is no ban.
    alice.does("remove", json!({"conversation": "#r", "user": "bob"})).await;
    bob.does("join", json!({"conversation": "#r"})).await;
}

#[tokio::test]
async fn a_ban_from_a_room_holds_on_three_nodes() {
    let (time, shared) = (Time::new(), SharedEngines::new().await);
    let mut nodes = nodes_at(&time, &shared, 3, |_| {}).await;
    wait_for_feature(&nodes[0], "bans").await;
    a_ban_from_a_room_holds(&mut nodes, &time).await;
}

#[tokio::test]
async fn a_ban_from_a_room_holds_on_one_node() {
    let time = Time::new();
    let mut nodes = vec![server_at(&time, |_| {}).await];
    a_ban_from_a_room_holds(&mut nodes, &time).await;
    let mut server = nodes.pop().expect("a server");
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn only_an_admin_or_a_back_end_in_their_name_bans_from_a_room() {
    let time = Time::new();
    let mut server = server_at(&time, |_| {}).await;
    let key = key_with(&server, "backend", |key| key.with_scopes([Scope::Act]));
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_public_room("r", &["bob"]).await;
    assert_eq!(refusal(&mut bob, "remove", ban("alice", None)).await.code, ErrorCode::Forbidden);
    assert_eq!(refusal(&mut bob, "remove", ban("carol", None)).await.code, ErrorCode::Forbidden);
    for (fields, field) in [
        (ban("bob", Some(time.after(0))), "until"),
        (ban("bob", Some(time.after(11 * 366 * 24 * HOUR_MS))), "until"),
        (json!({"conversation": "#r", "user": "bob", "until": time.after(1)}), "until"),
        (ban("alice", None), "user"),
    ] {
        let failure = refusal(&mut alice, "remove", fields.clone()).await;
        assert_eq!((failure.code, failure.field.as_deref()), (ErrorCode::BadField, Some(field)), "{fields}");
    }
    let mut by_key = ban("bob", Some(time.after(HOUR_MS)));
    by_key["as"] = json!("alice");
    server.posts_as(&key, "remove", by_key).await.ok();
    cannot_join(&mut bob, Some(time.after(HOUR_MS))).await;
    // Another ban replaces the first, and an id that nobody has had yet can be banned.
    alice.does("remove", ban("bob", None)).await;
    cannot_join(&mut bob, None).await;
    alice.does("remove", ban("zoe", None)).await;
    cannot_join(&mut server.connects("zoe").await, None).await;
    let invite = json!({"as": "alice", "conversation": "#r", "user": "zoe"});
    server.posts_as(&key, "invite", invite).await.ok();
    server.connects("zoe").await.says("#r", "an admin's invitation").await;
    assert_eq!(alice.members("#r").await.iter().filter(|member| member.user == user("zoe")).count(), 1);
    // A room that is deleted takes its bans along.
    let admin = key_with(&server, "admin", |key| key.with_scopes([Scope::Admin]));
    crate::bans::calls(&server, &admin, "delete_room", json!({"conversation": "#r"})).await;
    crate::support::eventually("the content is removed", || async {
        let page = server.posts_as(&admin, "feed", json!({"after": "0", "types": ["create"]})).await.ok();
        page["entries"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}
