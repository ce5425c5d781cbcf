//! Several nodes that write at the same time.

use fastrand::Rng;
use serde_json::json;
use switchboard_protocol::Limits;

use super::{Node, assert_sound, count_by_text, new_database, query_texts, settings};
use crate::Committed;

const PEOPLE: [&str; 4] = ["alice", "bob", "carol", "dan"];

/// A random change in one of a few busy rooms.
fn random_change(random: &mut Rng, n: usize) -> (&'static str, &'static str, serde_json::Value) {
    let actor = PEOPLE[random.usize(..PEOPLE.len())];
    let other = PEOPLE[random.usize(..PEOPLE.len())];
    let room = ["#a", "#b", "#c"][random.usize(..3)];
    let target = random.u64(1..30);
    match random.u32(..20) {
        0 => (actor, "edit", json!({"conversation": room, "target": target, "text": "edited"})),
        1 => (actor, "delete", json!({"conversation": room, "target": target})),
        2 => (
            actor,
            "react",
            json!({"conversation": room, "target": target, "emoji": "👍", "on": random.bool()}),
        ),
        3 => (actor, "read", json!({"conversation": room, "upto": target})),
        4 => (actor, "received", json!({"conversation": room, "upto": target})),
        5 => (actor, "leave", json!({"conversation": room})),
        6 => (actor, "join", json!({"conversation": room})),
        7 => (actor, "invite", json!({"conversation": room, "user": other})),
        8 => (actor, "role", json!({"conversation": room, "user": other, "role": "admin"})),
        9 => (actor, "rename", json!({"conversation": room, "title": format!("title {n}")})),
        10 => (actor, "create", json!({"room": format!("room{}", random.u32(..9)), "members": [other]})),
        // The recipient has no messages yet, or only messages from the other node.
        11 => (actor, "send", json!({"to": format!("@new{}", random.u32(..40)), "text": format!("{n}")})),
        12..16 => (actor, "send", json!({"to": format!("@{other}"), "text": format!("{n}")})),
        _ => (actor, "send", json!({"to": room, "text": format!("{n}")})),
    }
}

#[tokio::test]
async fn concurrent_writes_of_several_nodes_leave_a_consistent_log() {
    let url = new_database().await;
    let (mut one, mut two) = (Node::new(&url).await, Node::new(&url).await);
    for room in ["a", "b", "c"] {
        one.stores(
            "alice",
            "create",
            json!({"room": room, "public": true, "members": ["bob", "carol", "dan"]}),
        )
        .await;
    }
    let mut random = Rng::with_seed(7);
    let rounds = 1_500;
    for n in 0..rounds {
        for node in [&one, &two] {
            let (actor, name, fields) = random_change(&mut random, n);
            node.submits(actor, name, &fields);
        }
    }
    let mut stored = 0;
    for _ in 0..rounds {
        for node in [&mut one, &mut two] {
            match node.outcome().await {
                Ok(_) => stored += 1,
                Err(refusal) => assert!(!refusal.code.retryable(), "{refusal:?}"),
            }
        }
    }
    assert!(stored > rounds, "{stored}");
    assert_sound(&url).await;
    one.stop().await;
    two.stop().await;
    assert!(query_texts(&url, "SELECT id FROM writers").await.is_empty(), "who ends leaves nothing behind");
}

#[tokio::test]
async fn a_key_sent_to_several_nodes_is_stored_once() {
    let url = new_database().await;
    let (mut one, mut two) = (Node::new(&url).await, Node::new(&url).await);
    one.stores("alice", "create", json!({"room": "a", "members": ["bob"]})).await;
    let count = 300;
    for n in 0..count {
        for node in [&one, &two] {
            let to = ["#a", "@bob", "@carol"][n % 3];
            let key = format!("key {n}");
            node.submits("alice", "send", &json!({"to": to, "text": key, "key": key}));
        }
    }
    for n in 0..count {
        let mut seqs = Vec::new();
        let mut new = 0;
        for node in [&mut one, &mut two] {
            let Ok(Committed::Event(event)) = node.outcome().await else { panic!("message {n}") };
            new += u32::from(event.event.is_some());
            seqs.push((event.conversation, event.seq, event.at));
        }
        assert_eq!(new, 1, "message {n} is new to one of them");
        assert_eq!(seqs[0], seqs[1], "message {n} is the same for both");
    }
    assert!(count_by_text(&url).await.values().all(|times| *times == 1));
    assert_sound(&url).await;
}

#[tokio::test]
async fn a_limit_holds_across_two_nodes() {
    let url = new_database().await;
    let limited = || {
        let settings = settings(&url);
        super::Settings { limits: Limits { rooms: 5, ..settings.limits.clone() }, ..settings }
    };
    let mut one = Node::start_with(limited()).await.expect("a store");
    let mut two = Node::start_with(limited()).await.expect("a store");
    one.tries("alice", "create", json!({"room": "first"})).await.expect("made");
    for n in 0..40 {
        one.submits("alice", "create", &json!({"room": format!("one{n}")}));
        two.submits("alice", "create", &json!({"room": format!("two{n}")}));
        one.submits("alice", "leave", &json!({"conversation": "#first"}));
        two.submits("alice", "join", &json!({"conversation": "#first"}));
    }
    for _ in 0..80 {
        for node in [&mut one, &mut two] {
            let _ = node.outcome().await;
        }
    }
    let rooms = query_texts(&url, "SELECT count(*) FROM members WHERE until IS NULL").await;
    assert_eq!(rooms, [[Some("5".to_owned())]]);
    assert_sound(&url).await;
}
