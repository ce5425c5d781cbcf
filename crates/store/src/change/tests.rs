//! Compares the store's rooms and cursors with a small model of each.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde_json::{Value, json};
use switchboard_protocol::reply::{OkBody, Summary};
use switchboard_protocol::{
    Conversations, ErrorCode, EventBody, Limits, Role, Seq, Timestamp, UserId, decode_named,
};

use super::event_fields;

use crate::in_memory::InMemory;
use crate::refusal::Refusal;
use crate::{Change, Committed, Query, Request};

mod cursors;
mod roles;

const PEOPLE: [&str; 4] = ["alice", "bob", "carol", "dan"];

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

/// Converts a command with this name and these fields to the change that it requests.
fn change(name: &str, fields: &Value) -> Change {
    let command = decode_named(name, &fields.to_string()).expect("a command").command;
    let Request::Change(change) = Request::from(command) else { panic!("{name} writes nothing") };
    change
}

/// Applies a user's command to the store at a fixed time.
fn says(store: &mut InMemory, actor: &str, name: &str, fields: &Value) -> Result<Committed, Refusal> {
    store.commit_change(&user(actor), change(name, fields), Timestamp::from_millis(1_000))
}

/// The room's summary that a user gets; `None` if the user is not a member.
fn summary(store: &InMemory, actor: &str) -> Option<Summary> {
    let all = Query::Conversations(Conversations { before: None, limit: None });
    let json = serde_json::to_string(&store.query(&user(actor), &all).expect("a page")).expect("JSON");
    match serde_json::from_str::<OkBody>(&json).expect("what a client understands") {
        OkBody::Conversations { mut conversations, more: false } => conversations.pop(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_of_an_unknown_type_is_not_encoded() {
    let known = EventBody::Delete { target: Seq(7) };
    assert_eq!(event_fields::<rusqlite::Error>(&known).expect("JSON"), r#"{"target":7}"#);
    let empty = EventBody::Leave {};
    assert_eq!(event_fields::<rusqlite::Error>(&empty).expect("JSON"), "{}");
    let pin = json!({"type": "pin", "target": 7}).as_object().cloned().expect("an object");
    assert!(event_fields::<rusqlite::Error>(&EventBody::Unknown(pin)).is_err());
}

#[test]
fn a_retry_is_the_same_in_any_order_of_the_stored_fields() {
    let mut store = InMemory::new(Limits::default());
    let room = json!({"room": "r", "title": "A title", "members": ["bob"]});
    let message = json!({"to": "#r", "key": "k", "text": "hi", "data": {"a": 1, "b": 2}});
    for (name, fields) in [("create", &room), ("send", &message)] {
        says(&mut store, "alice", name, fields).expect("stored");
    }
    store.execute_sql(
        r#"UPDATE events SET body = '{"members":["bob"],"public":false,"title":"A title"}' WHERE seq = 1;
           UPDATE events SET body = '{"data":{"b":2,"a":1},"text":"hi"}' WHERE seq = 2"#,
    );
    for (name, fields, earlier) in [("create", &room, 1), ("send", &message, 2)] {
        let Ok(Committed::Event(event)) = says(&mut store, "alice", name, fields) else { panic!("{name}") };
        assert!(event.event.is_none() && event.seq == Seq(earlier), "{event:?}");
    }
    let other = json!({"to": "#r", "key": "k", "text": "ho", "data": {"a": 1, "b": 2}});
    let refusal = says(&mut store, "alice", "send", &other).expect_err("another message");
    assert_eq!(refusal.code, ErrorCode::KeyConflict);
}
