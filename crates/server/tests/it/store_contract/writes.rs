//! What comes of writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;
use switchboard_protocol::{ErrorCode, EventBody, Seq, Timestamp};
use switchboard_store::clock::Clock;
use switchboard_store::record::{Effect, Passage};
use switchboard_store::{Change, Committed};

use super::{Open, Rules, Shelf, change, seqs};
use crate::support::{text_of, user};

pub(super) async fn outcomes_come_in_the_order_of_commits_and_seqs_have_no_gap(open: Open) {
    const WRITES: usize = 3_000;
    let mut shelf = Shelf::new(open).await;
    let people = ["bob", "carol", "dan"];
    for number in 0..WRITES {
        let to = format!("@{}", people[number % people.len()]);
        let key = number.to_string();
        shelf.submits("alice", change("send", &json!({"to": to, "key": key, "text": "hi"})));
    }
    let mut heads = HashMap::new();
    for number in 0..WRITES {
        let Ok(Committed::Event(committed)) = shelf.outcome().await else { panic!("{number} is stored") };
        let event = committed.event.expect("it is new");
        assert_eq!(event.key.as_deref(), Some(number.to_string().as_str()), "in the order of the calls");
        let head = heads.entry(committed.name).or_insert(Seq(0));
        assert_eq!((committed.seq, event.seq), (head.next(), head.next()));
        *head = committed.seq;
    }
    assert_eq!(heads.len(), people.len());
    assert!(shelf.number < WRITES as u64, "many writes share a transaction");
}

pub(super) async fn what_came_out_is_there_for_readers_and_after_opening_again(open: Open) {
    let mut shelf = Shelf::new(open).await;
    for number in 1..=20 {
        let seq = shelf.says("alice", "@bob", "hi").await;
        assert_eq!(
            shelf.summary("bob", "@alice:bob").await.head,
            Seq(seq),
            "a reader is as new as an outcome"
        );
        assert_eq!(seq, number);
    }
    shelf.opens_again().await;
    assert_eq!(seqs(&shelf.log("bob", "@alice:bob").await), (1..=20).map(Seq).collect::<Vec<_>>());
    assert_eq!(shelf.says("bob", "@alice", "hi").await, 21, "it goes on from there");
}

pub(super) async fn time_never_goes_back_within_a_conversation(open: Open) {
    const HOUR: i64 = 3_600_000;
    let now = Arc::new(AtomicI64::new(10 * HOUR));
    let time = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(time.load(Ordering::SeqCst)));
    let mut shelf = Shelf::with(open, Rules { clock, ..Rules::default() }).await;
    let mut told = Vec::new();
    for hour in [10, 9, 0, 11, 10] {
        now.store(hour * HOUR, Ordering::SeqCst);
        let stored = shelf.stores("alice", "send", json!({"to": "@bob", "text": "hi"})).await;
        told.push(stored.at.as_millis() / HOUR);
        if hour == 9 {
            shelf.opens_again().await;
        }
    }
    assert_eq!(told, [10, 10, 10, 11, 11]);
    let log = shelf.log("bob", "@alice:bob").await;
    assert_eq!(log.iter().map(|event| event.at.as_millis() / HOUR).collect::<Vec<_>>(), told);
    let elsewhere = shelf.stores("alice", "send", json!({"to": "@carol", "text": "hi"})).await;
    assert_eq!(elsewhere.at.as_millis() / HOUR, 10, "another conversation has a time of its own");
}

pub(super) async fn a_key_is_stored_once_per_sender(open: Open) {
    let mut shelf = Shelf::new(open).await;
    let said = json!({"to": "@bob", "key": "k", "text": "hi", "data": {"b": 1, "a": 2}});
    let first = shelf.stores("alice", "send", said.clone()).await;
    assert!(first.event.is_some());
    shelf.says("alice", "@bob", "in between").await;
    for again in
        [said.clone(), json!({"to": "@alice:bob", "key": "k", "data": {"a": 2, "b": 1}, "text": "hi"})]
    {
        let second = shelf.stores("alice", "send", again).await;
        assert_eq!((second.seq, second.at, second.name), (first.seq, first.at, first.name.clone()));
        assert!(second.event.is_none() && second.effects.is_empty(), "nothing new to deliver");
    }
    shelf.opens_again().await;
    assert_eq!(shelf.stores("alice", "send", said).await.seq, first.seq);
    for other in [
        json!({"to": "@bob", "key": "k", "text": "ho", "data": {"b": 1, "a": 2}}),
        json!({"to": "@bob", "key": "k", "text": "hi"}),
        json!({"to": "@bob", "key": "k", "text": "hi", "data": {"b": 1, "a": 2}, "reply_to": 1}),
        json!({"to": "@carol", "key": "k", "text": "hi", "data": {"b": 1, "a": 2}}),
    ] {
        assert_eq!(shelf.is_refused("alice", "send", other).await, ErrorCode::KeyConflict);
    }
    let of_another = shelf.stores("bob", "send", json!({"to": "@alice", "key": "k", "text": "ho"})).await;
    assert_eq!(of_another.seq, Seq(3), "each sender has keys of their own");
    assert_eq!(shelf.log("bob", "@alice:bob").await.len(), 3);
    // Twice in one transaction is once, too.
    for _ in 0..2 {
        shelf.submits("alice", change("send", &json!({"to": "@bob", "key": "twice", "text": "hi"})));
    }
    for wanted in [true, false] {
        let Ok(Committed::Event(stored)) = shelf.outcome().await else { panic!("stored") };
        assert_eq!((stored.seq, stored.event.is_some()), (Seq(4), wanted));
    }
}

pub(super) async fn a_key_outlives_its_message_and_its_membership(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("carol", "create", json!({"room": "r", "members": ["alice"]})).await;
    let said = json!({"to": "#r", "key": "k", "text": "hi"});
    let first = shelf.stores("alice", "send", said.clone()).await;
    shelf.stores("carol", "delete", json!({"conversation": "#r", "target": first.seq})).await;
    shelf.stores("alice", "leave", json!({"conversation": "#r"})).await;
    let again = shelf.stores("alice", "send", said).await;
    assert_eq!((again.seq, again.event.is_some()), (first.seq, false), "a late retry does not bring it back");
    assert!(shelf.history("carol", "#r").await[0].deleted);
}

pub(super) async fn refusals_come_in_their_place_and_leave_no_trace(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("carol", "create", json!({"room": "r"})).await;
    let send = |to: &str, reply_to: Option<u64>| {
        change("send", &json!({"to": to, "text": "hi", "reply_to": reply_to}))
    };
    for (actor, change) in [
        ("alice", send("@bob", None)),
        ("eve", send("#r", None)),
        ("eve", send("#none", None)),
        ("eve", send("@carol:dan", None)),
        ("eve", send("@zoe", Some(1))),
        ("alice", send("@bob", Some(9))),
        ("alice", send("@bob", Some(1))),
    ] {
        shelf.submits(actor, change);
    }
    let mut outcomes = Vec::new();
    for _ in 0..7 {
        outcomes.push(match shelf.outcome().await {
            Ok(Committed::Event(event)) => Ok(event.seq.0),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.code),
        });
    }
    let gone = Err(ErrorCode::NotFound);
    let faulty = Err(ErrorCode::BadField);
    assert_eq!(outcomes, [Ok(1), gone, gone, gone, faulty, faulty, Ok(2)]);
    assert_eq!(shelf.log("carol", "#r").await.len(), 1);
    assert_eq!(shelf.log("bob", "@alice:bob").await.len(), 2);
    for name in ["eve", "zoe", "dan"] {
        assert!(shelf.snapshot(name, &[]).await.is_none(), "{name} was never seen");
    }
}

pub(super) async fn a_change_said_again_is_told_its_first_event(open: Open) {
    let mut shelf = Shelf::new(open).await;
    let create = json!({"room": "r", "title": "R", "public": true, "members": ["bob"]});
    for (n, (actor, name, fields)) in [
        ("alice", "create", create.clone()),
        ("carol", "join", json!({"conversation": "#r"})),
        ("alice", "invite", json!({"conversation": "#r", "user": "dan"})),
        ("alice", "remove", json!({"conversation": "#r", "user": "dan"})),
        ("carol", "leave", json!({"conversation": "#r"})),
    ]
    .into_iter()
    .enumerate()
    {
        let first = shelf.stores(actor, name, fields.clone()).await;
        assert_eq!(first.seq.0, n as u64 + 1);
        assert!(first.event.is_some() && !first.effects.is_empty(), "{name}");
        let again = shelf.stores(actor, name, fields).await;
        assert_eq!((again.seq, again.event.is_some(), again.effects), (first.seq, false, vec![]), "{name}");
    }
    assert_eq!(shelf.is_refused("bob", "create", create).await, ErrorCode::AlreadyExists);
    let other = json!({"room": "r", "title": "another"});
    assert_eq!(shelf.is_refused("alice", "create", other).await, ErrorCode::AlreadyExists);
}

pub(super) async fn a_direct_conversation_begins_with_its_first_message(open: Open) {
    let mut shelf = Shelf::new(open).await;
    let first = shelf.stores("bob", "send", json!({"to": "@alice", "text": "hi"})).await;
    assert_eq!((first.name.as_str(), first.seq), ("@alice:bob", Seq(1)));
    let entered = |name| Effect { user: user(name), passage: Passage::In { seen: Seq(0) } };
    assert_eq!(first.effects, [entered("alice"), entered("bob")]);
    let log = shelf.log("alice", "@bob").await;
    assert!(matches!(log[0].body, EventBody::Message { .. }) && log.len() == 1, "{log:?}");
    let note = shelf.stores("bob", "send", json!({"to": "@bob", "text": "a note to self"})).await;
    assert_eq!((note.name.as_str(), note.effects), ("@bob:bob", vec![entered("bob")]));
    assert_eq!(text_of(&shelf.log("bob", "@bob:bob").await[0]), Some("a note to self"));
    for (name, fields) in [
        ("leave", json!({"conversation": "@alice"})),
        ("invite", json!({"conversation": "@alice", "user": "carol"})),
        ("remove", json!({"conversation": "@alice", "user": "alice"})),
        ("rename", json!({"conversation": "@alice", "title": "t"})),
    ] {
        assert_eq!(shelf.is_refused("bob", name, fields).await, ErrorCode::Forbidden, "{name}");
    }
}

pub(super) async fn ids_never_seen_may_be_refused(open: Open) {
    let mut shelf = Shelf::with(open, Rules { strangers: false, ..Rules::default() }).await;
    let to_bob = json!({"to": "@bob", "text": "hi"});
    let with_bob = json!({"room": "r", "members": ["bob"]});
    assert_eq!(shelf.is_refused("alice", "send", to_bob.clone()).await, ErrorCode::NotFound);
    assert_eq!(shelf.is_refused("alice", "create", with_bob.clone()).await, ErrorCode::NotFound);
    assert!(shelf.snapshot("alice", &[]).await.is_none(), "a refusal makes nobody known");
    shelf.stores("alice", "create", json!({"room": "r2"})).await;
    let invite = json!({"conversation": "#r2", "user": "bob"});
    assert_eq!(shelf.is_refused("alice", "invite", invite.clone()).await, ErrorCode::NotFound);
    shelf.submits("bob", Change::Appear);
    assert!(matches!(shelf.outcome().await, Ok(Committed::Quiet)));
    shelf.stores("alice", "send", to_bob).await;
    shelf.stores("alice", "create", with_bob).await;
    shelf.stores("alice", "invite", invite).await;
}
