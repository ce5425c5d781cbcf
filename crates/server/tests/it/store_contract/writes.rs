//! Writes, and the outcomes that the store reports for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;
use switchboard_protocol::{ErrorCode, EventBody, Seq, Timestamp};
use switchboard_store::clock::Clock;
use switchboard_store::record::{Effect, JoinOrLeave};
use switchboard_store::{Approved, Change, Committed};

use super::{OpenStore, StoreRules, TestStore, change, seqs};
use crate::support::{text_of, user};

pub(super) async fn outcomes_arrive_in_commit_order_and_seqs_have_no_gap(open: OpenStore) {
    const WRITES: usize = 3_000;
    let mut db = TestStore::new(open).await;
    let people = ["bob", "carol", "dan"];
    for number in 0..WRITES {
        let to = format!("@{}", people[number % people.len()]);
        let key = number.to_string();
        db.submits("alice", change("send", &json!({"to": to, "key": key, "text": "hi"})));
    }
    let mut heads = HashMap::new();
    for number in 0..WRITES {
        let Ok(Committed::Event(committed)) = db.next_outcome().await else { panic!("{number} is stored") };
        let event = committed.event.expect("it is new");
        assert_eq!(event.key.as_deref(), Some(number.to_string().as_str()), "in the order of the calls");
        let head = heads.entry(committed.name).or_insert(Seq(0));
        assert_eq!((committed.seq, event.seq), (head.next(), head.next()));
        *head = committed.seq;
    }
    assert_eq!(heads.len(), people.len());
    assert!(db.number < WRITES as u64, "many writes share a transaction");
}

pub(super) async fn a_reported_outcome_is_visible_to_readers_and_after_reopening(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    for number in 1..=20 {
        let seq = db.says("alice", "@bob", "hi").await;
        assert_eq!(
            db.summary("bob", "@alice:bob").await.head,
            Seq(seq),
            "a reader sees every reported outcome"
        );
        assert_eq!(seq, number);
    }
    db.reopen().await;
    assert_eq!(seqs(&db.log("bob", "@alice:bob").await), (1..=20).map(Seq).collect::<Vec<_>>());
    assert_eq!(db.says("bob", "@alice", "hi").await, 21, "the numbers continue");
}

pub(super) async fn time_never_goes_back_within_a_conversation(open: OpenStore) {
    const HOUR_MS: i64 = 3_600_000;
    let now = Arc::new(AtomicI64::new(10 * HOUR_MS));
    let time = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(time.load(Ordering::SeqCst)));
    let mut db = TestStore::open_with(open, StoreRules { clock, ..StoreRules::default() }).await;
    let mut hours = Vec::new();
    for hour in [10, 9, 0, 11, 10] {
        now.store(hour * HOUR_MS, Ordering::SeqCst);
        let stored = db.stores("alice", "send", json!({"to": "@bob", "text": "hi"})).await;
        hours.push(stored.at.as_millis() / HOUR_MS);
        if hour == 9 {
            db.reopen().await;
        }
    }
    assert_eq!(hours, [10, 10, 10, 11, 11]);
    let log = db.log("bob", "@alice:bob").await;
    assert_eq!(log.iter().map(|event| event.at.as_millis() / HOUR_MS).collect::<Vec<_>>(), hours);
    let elsewhere = db.stores("alice", "send", json!({"to": "@carol", "text": "hi"})).await;
    assert_eq!(elsewhere.at.as_millis() / HOUR_MS, 10, "another conversation has its own latest time");
}

pub(super) async fn a_key_is_stored_once_per_sender(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let message = json!({"to": "@bob", "key": "k", "text": "hi", "data": {"b": 1, "a": 2}});
    let first = db.stores("alice", "send", message.clone()).await;
    assert!(first.event.is_some());
    db.says("alice", "@bob", "in between").await;
    for again in
        [message.clone(), json!({"to": "@alice:bob", "key": "k", "data": {"a": 2, "b": 1}, "text": "hi"})]
    {
        let second = db.stores("alice", "send", again).await;
        assert_eq!((second.seq, second.at, second.name), (first.seq, first.at, first.name.clone()));
        assert!(second.event.is_none() && second.effects.is_empty(), "no event to deliver");
    }
    db.reopen().await;
    assert_eq!(db.stores("alice", "send", message).await.seq, first.seq);
    for other in [
        json!({"to": "@bob", "key": "k", "text": "ho", "data": {"b": 1, "a": 2}}),
        json!({"to": "@bob", "key": "k", "text": "hi"}),
        json!({"to": "@bob", "key": "k", "text": "hi", "data": {"b": 1, "a": 2}, "reply_to": 1}),
        json!({"to": "@carol", "key": "k", "text": "hi", "data": {"b": 1, "a": 2}}),
    ] {
        assert_eq!(db.is_refused("alice", "send", other).await, ErrorCode::KeyConflict);
    }
    let of_another = db.stores("bob", "send", json!({"to": "@alice", "key": "k", "text": "ho"})).await;
    assert_eq!(of_another.seq, Seq(3), "each sender has their own keys");
    assert_eq!(db.log("bob", "@alice:bob").await.len(), 3);
    // The store recognizes the second send as a duplicate, even if both sends are in one transaction.
    for _ in 0..2 {
        db.submits("alice", change("send", &json!({"to": "@bob", "key": "twice", "text": "hi"})));
    }
    for expected in [true, false] {
        let Ok(Committed::Event(stored)) = db.next_outcome().await else { panic!("stored") };
        assert_eq!((stored.seq, stored.event.is_some()), (Seq(4), expected));
    }
}

pub(super) async fn an_idempotency_key_outlives_its_message_and_membership(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("carol", "create", json!({"room": "r", "members": ["alice"]})).await;
    let message = json!({"to": "#r", "key": "k", "text": "hi"});
    let first = db.stores("alice", "send", message.clone()).await;
    db.stores("carol", "delete", json!({"conversation": "#r", "target": first.seq})).await;
    db.stores("alice", "leave", json!({"conversation": "#r"})).await;
    let again = db.stores("alice", "send", message).await;
    assert_eq!(
        (again.seq, again.event.is_some()),
        (first.seq, false),
        "a late retry does not restore the message"
    );
    assert!(db.history("carol", "#r").await[0].deleted);
}

pub(super) async fn refusals_arrive_in_order_and_store_nothing(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("carol", "create", json!({"room": "r"})).await;
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
        db.submits(actor, change);
    }
    let mut outcomes = Vec::new();
    for _ in 0..7 {
        outcomes.push(match db.next_outcome().await {
            Ok(Committed::Event(event)) => Ok(event.seq.0),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.code),
        });
    }
    let gone = Err(ErrorCode::NotFound);
    let faulty = Err(ErrorCode::BadField);
    assert_eq!(outcomes, [Ok(1), gone, gone, gone, faulty, faulty, Ok(2)]);
    assert_eq!(db.log("carol", "#r").await.len(), 1);
    assert_eq!(db.log("bob", "@alice:bob").await.len(), 2);
    for name in ["eve", "zoe", "dan"] {
        assert!(db.snapshot(name, &[]).await.is_none(), "{name} was never seen");
    }
}

pub(super) async fn a_repeated_change_returns_the_event_of_the_first(open: OpenStore) {
    let mut db = TestStore::new(open).await;
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
        let first = db.stores(actor, name, fields.clone()).await;
        assert_eq!(first.seq.0, n as u64 + 1);
        assert!(first.event.is_some() && !first.effects.is_empty(), "{name}");
        let again = db.stores(actor, name, fields).await;
        assert_eq!((again.seq, again.event.is_some(), again.effects), (first.seq, false, vec![]), "{name}");
    }
    assert_eq!(db.is_refused("bob", "create", create).await, ErrorCode::AlreadyExists);
    let other = json!({"room": "r", "title": "another"});
    assert_eq!(db.is_refused("alice", "create", other).await, ErrorCode::AlreadyExists);
}

pub(super) async fn a_direct_conversation_begins_with_its_first_message(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let first = db.stores("bob", "send", json!({"to": "@alice", "text": "hi"})).await;
    assert_eq!((first.name.as_str(), first.seq), ("@alice:bob", Seq(1)));
    let entered = |name| Effect { user: user(name), join_or_leave: JoinOrLeave::Join { seen: Seq(0) } };
    assert_eq!(first.effects, [entered("alice"), entered("bob")]);
    let log = db.log("alice", "@bob").await;
    assert!(matches!(log[0].body, EventBody::Message { .. }) && log.len() == 1, "{log:?}");
    let note = db.stores("bob", "send", json!({"to": "@bob", "text": "a note to self"})).await;
    assert_eq!((note.name.as_str(), note.effects), ("@bob:bob", vec![entered("bob")]));
    assert_eq!(text_of(&db.log("bob", "@bob:bob").await[0]), Some("a note to self"));
    for (name, fields) in [
        ("leave", json!({"conversation": "@alice"})),
        ("invite", json!({"conversation": "@alice", "user": "carol"})),
        ("remove", json!({"conversation": "@alice", "user": "alice"})),
        ("rename", json!({"conversation": "@alice", "title": "t"})),
    ] {
        assert_eq!(db.is_refused("bob", name, fields).await, ErrorCode::Forbidden, "{name}");
    }
}

pub(super) async fn unknown_user_ids_can_be_refused(open: OpenStore) {
    let mut db =
        TestStore::open_with(open, StoreRules { allow_unknown_users: false, ..StoreRules::default() }).await;
    let to_bob = json!({"to": "@bob", "text": "hi"});
    let with_bob = json!({"room": "r", "members": ["bob"]});
    assert_eq!(db.is_refused("alice", "send", to_bob.clone()).await, ErrorCode::NotFound);
    assert_eq!(db.is_refused("alice", "create", with_bob.clone()).await, ErrorCode::NotFound);
    assert!(db.snapshot("alice", &[]).await.is_none(), "a refusal creates no user");
    db.stores("alice", "create", json!({"room": "r2"})).await;
    let invite = json!({"conversation": "#r2", "user": "bob"});
    assert_eq!(db.is_refused("alice", "invite", invite.clone()).await, ErrorCode::NotFound);
    db.submits("bob", Change::RegisterUser);
    assert!(matches!(db.next_outcome().await, Ok(Committed::NotAnnounced)));
    db.stores("alice", "send", to_bob).await;
    db.stores("alice", "create", with_bob).await;
    db.stores("alice", "invite", invite).await;
}

pub(super) async fn a_check_stores_nothing_and_finds_what_would_be_refused_or_repeated(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r"})).await;
    db.stores("alice", "send", json!({"to": "#r", "key": "k", "text": "a"})).await;
    db.stores("alice", "react", json!({"conversation": "#r", "target": 2, "emoji": "x"})).await;
    for (actor, name, fields, found) in [
        ("alice", "send", json!({"to": "#r", "key": "k2", "text": "b"}), "stored"),
        ("alice", "send", json!({"to": "@bob", "text": "b"}), "stored"),
        ("alice", "send", json!({"to": "#r", "key": "k", "text": "a"}), "repeated"),
        ("alice", "send", json!({"to": "#r", "key": "k", "text": "b"}), "refused"),
        ("bob", "send", json!({"to": "#r", "text": "b"}), "refused"),
        ("alice", "edit", json!({"conversation": "#r", "target": 2, "text": "b"}), "stored"),
        ("alice", "edit", json!({"conversation": "#r", "target": 9, "text": "b"}), "refused"),
        ("alice", "react", json!({"conversation": "#r", "target": 2, "emoji": "y"}), "stored"),
        ("alice", "react", json!({"conversation": "#r", "target": 2, "emoji": "x", "on": false}), "stored"),
        ("alice", "react", json!({"conversation": "#r", "target": 2, "emoji": "x"}), "repeated"),
        ("alice", "rename", json!({"conversation": "#r", "title": "T"}), "stored"),
        ("bob", "rename", json!({"conversation": "#r", "title": "T"}), "refused"),
        ("alice", "create", json!({"room": "s", "members": ["bob"]}), "stored"),
        ("alice", "create", json!({"room": "r"}), "repeated"),
        ("bob", "create", json!({"room": "r"}), "refused"),
        ("alice", "invite", json!({"conversation": "#r", "user": "carol"}), "stored"),
        ("alice", "invite", json!({"conversation": "#r", "user": "alice"}), "repeated"),
        ("bob", "invite", json!({"conversation": "#r", "user": "bob"}), "refused"),
    ] {
        db.submits(actor, Change::Check(Box::new(change(name, &fields))));
        let is = match db.next_outcome().await {
            Ok(Committed::NotAnnounced) => "stored",
            Ok(Committed::Event(event)) if event.event.is_none() => "repeated",
            Err(_) => "refused",
            other => panic!("{name} {fields}: {other:?}"),
        };
        assert_eq!(is, found, "{actor} says {name} {fields}");
    }
    assert_eq!(db.log("alice", "#r").await.len(), 3);
    assert!(db.query_page("alice", "sync", json!({"conversation": "@bob", "after": 0})).await.is_err());
    assert!(db.query_page("alice", "sync", json!({"conversation": "#s", "after": 0})).await.is_err());
}

pub(super) async fn a_change_that_repeats_nothing_is_not_stored_as_a_repeat(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let send = || change("send", &json!({"to": "@bob", "key": "k", "text": "a"}));
    db.submits("alice", Change::Repeated(Box::new(send())));
    let refusal = db.next_outcome().await.expect_err("nothing was asked about it");
    assert!(refusal.code.retryable(), "{refusal:?}");
    db.submits("alice", Change::Approved(Box::new(Approved { change: send(), requested: None })));
    db.next_outcome().await.expect("stored");
    db.submits("alice", Change::Repeated(Box::new(send())));
    let Ok(Committed::Event(again)) = db.next_outcome().await else { panic!("a duplicate") };
    assert_eq!((again.seq, again.event.is_none()), (Seq(1), true));
    assert_eq!(db.log("bob", "@alice").await.len(), 1);
}
