//! Messages in their current state.

use serde_json::json;
use switchboard_protocol::reply::Message;
use switchboard_protocol::{ErrorCode, EventBody, Seq};
use switchboard_store::block::View;
use switchboard_store::{Approved, Change, Committed};

use super::{OpenStore, TestStore, change, seqs};

fn text_of(message: &Message) -> Option<&str> {
    message.text.as_ref().map(switchboard_protocol::Text::as_str)
}

pub(super) async fn history_shows_messages_in_their_current_state(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    db.stores("alice", "send", json!({"to": "#r", "key": "k2", "text": "first", "data": {"a": 1}})).await;
    db.stores("bob", "send", json!({"to": "#r", "text": "second", "reply_to": 2})).await;
    db.stores("alice", "edit", json!({"conversation": "#r", "target": 2, "text": "better"})).await;
    let last = db.stores("alice", "edit", json!({"conversation": "#r", "target": 2, "data": {"a": 2}})).await;
    db.stores("bob", "react", json!({"conversation": "#r", "target": 2, "emoji": "👍"})).await;

    let history = db.history("bob", "#r").await;
    let [first, second] = &history[..] else { panic!("two messages: {history:?}") };
    assert_eq!((first.seq, first.from.as_str()), (Seq(2), "alice"));
    assert_eq!(first.key.as_ref().map(switchboard_protocol::Key::as_str), Some("k2"));
    assert_eq!((text_of(first), serde_json::to_value(&first.data).expect("JSON")), (None, json!({"a": 2})));
    let edited = first.edited.expect("edited");
    assert_eq!((edited.seq, edited.at), (last.seq, last.at));
    assert_eq!(serde_json::to_value(&first.reactions).expect("JSON"), json!({"👍": ["bob"]}));
    assert_eq!((text_of(second), second.reply_to, second.edited), (Some("second"), Some(Seq(2)), None));
    assert_eq!(db.summary("bob", "#r").await.last.as_ref(), Some(second));
    // The log keeps the original texts, also of edited messages.
    let log = db.log("bob", "#r").await;
    assert_eq!(seqs(&log), (1..=6).map(Seq).collect::<Vec<_>>());
    assert!(matches!(&log[1].body, EventBody::Message { text: Some(text), .. } if text.as_str() == "first"));
}

pub(super) async fn a_deletion_leaves_no_content(open: OpenStore) {
    const DELETED_TEXT: &str = "the-content-that-must-go";
    let mut db = TestStore::new(open).await;
    let sent = json!({"to": "@bob", "text": DELETED_TEXT, "data": {"s": DELETED_TEXT}});
    db.stores("alice", "send", sent).await;
    db.stores("alice", "edit", json!({"conversation": "@bob", "target": 1, "text": DELETED_TEXT})).await;
    db.stores("bob", "react", json!({"conversation": "@alice", "target": 1, "emoji": "x"})).await;
    let deleted = db.stores("alice", "delete", json!({"conversation": "@bob", "target": 1})).await;
    let again = db.stores("alice", "delete", json!({"conversation": "@bob", "target": 1})).await;
    assert_eq!((again.seq, again.event.is_some()), (deleted.seq, false));
    for _ in 0..2 {
        let history = db.history("bob", "@alice").await;
        assert!(history[0].deleted && history[0].reactions.is_empty(), "{history:?}");
        assert_eq!((text_of(&history[0]), &history[0].data, history[0].edited), (None, &None, None));
        let log = db.log("bob", "@alice").await;
        assert_eq!(seqs(&log), (1..=4).map(Seq).collect::<Vec<_>>(), "the seqs are kept");
        assert!(!format!("{log:?}").contains(DELETED_TEXT), "{log:?}");
        db.reopen().await;
    }
}

pub(super) async fn a_replaced_message_is_compared_with_its_request(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let request = |text: &str, to: &str| change("send", &json!({"to": to, "key": "k", "text": text}));
    let approved = |stored: &str, requested: Change| {
        Change::Approved(Box::new(Approved { change: request(stored, "@bob"), requested: Some(requested) }))
    };
    db.submits("alice", approved("call ***", request("call 555", "@bob")));
    let Ok(Committed::Event(first)) = db.next_outcome().await else { panic!("stored") };
    let shown = first.replaced.expect("the sender learns what is stored").to_json_for(View::Whole);
    assert_eq!(first.event.map(|event| event.to_json_for(View::Whole)).as_ref(), Some(&shown));
    for reopened in [false, true] {
        if reopened {
            db.reopen().await;
        }
        // Said again, whether it is asked about again or not.
        for again in [request("call 555", "@bob"), approved("call +++", request("call 555", "@bob"))] {
            db.submits("alice", again);
            let Ok(Committed::Event(again)) = db.next_outcome().await else { panic!("a duplicate") };
            assert_eq!((again.seq, again.event.is_none()), (first.seq, true));
            let stored = again.replaced.expect("what is stored");
            assert_eq!(stored.to_json_for(View::Whole), shown);
        }
        for other in [request("call ***", "@bob"), request("call 555", "@carol")] {
            db.submits("alice", other);
            let refusal = db.next_outcome().await.expect_err("another request");
            assert_eq!(refusal.code, ErrorCode::KeyConflict);
        }
    }
    db.stores("alice", "delete", json!({"conversation": "@bob", "target": 1})).await;
    for text in ["call 555", "call ***"] {
        db.submits("alice", request(text, "@bob"));
        let Ok(Committed::Event(again)) = db.next_outcome().await else { panic!("a duplicate") };
        assert_eq!((again.seq, again.replaced.is_none()), (Seq(1), true));
    }
}

pub(super) async fn reactions_are_added_and_removed(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.says("alice", "@bob", "hi").await;
    let react =
        |emoji: &str, on: bool| json!({"conversation": "@alice:bob", "target": 1, "emoji": emoji, "on": on});
    assert_eq!(db.is_refused("bob", "react", react("x", false)).await, ErrorCode::NotFound);
    let set = db.stores("bob", "react", react("x", true)).await;
    let again = db.stores("bob", "react", react("x", true)).await;
    assert_eq!((again.seq, again.event.is_some()), (set.seq, false));
    db.stores("alice", "react", react("x", true)).await;
    db.stores("alice", "react", react("y", true)).await;
    let reactions = serde_json::to_value(&db.history("bob", "@alice").await[0].reactions).expect("JSON");
    assert_eq!(reactions, json!({"x": ["bob", "alice"], "y": ["alice"]}));
    let off = db.stores("bob", "react", react("x", false)).await;
    assert!(off.event.is_some());
    assert_eq!(db.stores("bob", "react", react("x", false)).await.seq, off.seq);
    let reactions = serde_json::to_value(&db.history("bob", "@alice").await[0].reactions).expect("JSON");
    assert_eq!(reactions, json!({"x": ["alice"], "y": ["alice"]}));
}

pub(super) async fn edits_reactions_and_deletions_need_an_existing_message(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    db.says("alice", "#r", "hi").await;
    db.says("alice", "#r", "gone").await;
    db.stores("alice", "delete", json!({"conversation": "#r", "target": 3})).await;
    for target in [0, 1, 3, 4, 99] {
        let edit = json!({"conversation": "#r", "target": target, "text": "x"});
        let react = json!({"conversation": "#r", "target": target, "emoji": "x"});
        assert_eq!(db.is_refused("alice", "edit", edit).await, ErrorCode::NotFound, "{target}");
        assert_eq!(db.is_refused("alice", "react", react).await, ErrorCode::NotFound, "{target}");
    }
    for target in [0, 1, 4, 99] {
        let delete = json!({"conversation": "#r", "target": target});
        assert_eq!(db.is_refused("alice", "delete", delete).await, ErrorCode::NotFound, "{target}");
    }
    let edit = json!({"conversation": "#r", "target": 2, "text": "x"});
    assert_eq!(db.is_refused("bob", "edit", edit).await, ErrorCode::Forbidden);
    let delete = json!({"conversation": "#r", "target": 2});
    assert_eq!(db.is_refused("bob", "delete", delete).await, ErrorCode::Forbidden);
    assert_eq!(db.log("bob", "#r").await.len(), 4);
}

pub(super) async fn a_former_member_sees_messages_in_their_state_at_the_leave_event(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    db.says("alice", "#r", "before").await;
    db.says("alice", "#r", "to be deleted").await;
    let react = |emoji: &str, on: bool| json!({"conversation": "#r", "target": 2, "emoji": emoji, "on": on});
    db.stores("alice", "react", react("early", true)).await;
    db.stores("bob", "leave", json!({"conversation": "#r"})).await;
    db.stores("alice", "edit", json!({"conversation": "#r", "target": 2, "text": "after"})).await;
    db.stores("alice", "react", react("late", true)).await;
    db.stores("alice", "react", react("early", false)).await;
    db.stores("alice", "delete", json!({"conversation": "#r", "target": 3})).await;
    let [first, second] = &db.history("bob", "#r").await[..] else { panic!("two messages") };
    assert_eq!((text_of(first), first.edited), (Some("before"), None));
    assert_eq!(first.reactions.keys().collect::<Vec<_>>(), ["early"]);
    assert!(second.deleted, "an erased message is erased for former members, too");
    let now = &db.history("alice", "#r").await[0];
    assert_eq!(text_of(now), Some("after"));
    assert_eq!(now.reactions.keys().collect::<Vec<_>>(), ["late"]);
}

pub(super) async fn a_reaction_with_and_without_u_fe0f_is_the_same(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.says("alice", "@bob", "hi").await;
    let react =
        |emoji: &str, on: bool| json!({"conversation": "@alice:bob", "target": 1, "emoji": emoji, "on": on});
    let set = db.stores("alice", "react", react("\u{1f44d}\u{fe0f}", true)).await;
    let again = db.stores("alice", "react", react("\u{1f44d}", true)).await;
    assert_eq!((again.seq, again.event.is_some()), (set.seq, false), "the same reaction again");
    db.stores("bob", "react", react("\u{1f44d}", true)).await;
    let reactions = db.history("bob", "@alice:bob").await.remove(0).reactions;
    let names: Vec<_> = reactions.iter().map(|(emoji, users)| (emoji.as_str(), users.len())).collect();
    assert_eq!(names, [("\u{1f44d}", 2)]);
    db.stores("bob", "react", react("\u{1f44d}\u{fe0f}", false)).await;
    db.stores("alice", "react", react("\u{1f44d}", false)).await;
    assert!(db.history("bob", "@alice:bob").await.remove(0).reactions.is_empty());
    let log = serde_json::to_string(&db.log("bob", "@alice:bob").await).expect("json");
    assert!(!log.contains('\u{fe0f}'), "{log}");
}
