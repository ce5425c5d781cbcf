//! Messages as they stand now.

use serde_json::json;
use switchboard_protocol::reply::Message;
use switchboard_protocol::{ErrorCode, EventBody, Seq};

use super::{Open, Shelf, seqs};

fn text(message: &Message) -> Option<&str> {
    message.text.as_ref().map(switchboard_protocol::Text::as_str)
}

pub(super) async fn history_shows_messages_as_they_stand_now(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    shelf.stores("alice", "send", json!({"to": "#r", "key": "k2", "text": "first", "data": {"a": 1}})).await;
    shelf.stores("bob", "send", json!({"to": "#r", "text": "second", "reply_to": 2})).await;
    shelf.stores("alice", "edit", json!({"conversation": "#r", "target": 2, "text": "better"})).await;
    let last =
        shelf.stores("alice", "edit", json!({"conversation": "#r", "target": 2, "data": {"a": 2}})).await;
    shelf.stores("bob", "react", json!({"conversation": "#r", "target": 2, "emoji": "👍"})).await;

    let history = shelf.history("bob", "#r").await;
    let [first, second] = &history[..] else { panic!("two messages: {history:?}") };
    assert_eq!((first.seq, first.from.as_str()), (Seq(2), "alice"));
    assert_eq!(first.key.as_ref().map(switchboard_protocol::Key::as_str), Some("k2"));
    assert_eq!((text(first), serde_json::to_value(&first.data).expect("JSON")), (None, json!({"a": 2})));
    let edited = first.edited.expect("edited");
    assert_eq!((edited.seq, edited.at), (last.seq, last.at));
    assert_eq!(serde_json::to_value(&first.reactions).expect("JSON"), json!({"👍": ["bob"]}));
    assert_eq!((text(second), second.reply_to, second.edited), (Some("second"), Some(Seq(2)), None));
    assert_eq!(shelf.summary("bob", "#r").await.last.as_ref(), Some(second));
    // The log keeps what was said at the time.
    let log = shelf.log("bob", "#r").await;
    assert_eq!(seqs(&log), (1..=6).map(Seq).collect::<Vec<_>>());
    assert!(matches!(&log[1].body, EventBody::Message { text: Some(text), .. } if text.as_str() == "first"));
}

pub(super) async fn deleting_leaves_no_content(open: Open) {
    const SECRET: &str = "the-content-that-must-go";
    let mut shelf = Shelf::new(open).await;
    let sent = json!({"to": "@bob", "text": SECRET, "data": {"s": SECRET}});
    shelf.stores("alice", "send", sent).await;
    shelf.stores("alice", "edit", json!({"conversation": "@bob", "target": 1, "text": SECRET})).await;
    shelf.stores("bob", "react", json!({"conversation": "@alice", "target": 1, "emoji": "x"})).await;
    let deleted = shelf.stores("alice", "delete", json!({"conversation": "@bob", "target": 1})).await;
    let again = shelf.stores("alice", "delete", json!({"conversation": "@bob", "target": 1})).await;
    assert_eq!((again.seq, again.event.is_some()), (deleted.seq, false));
    for _ in 0..2 {
        let history = shelf.history("bob", "@alice").await;
        assert!(history[0].deleted && history[0].reactions.is_empty(), "{history:?}");
        assert_eq!((text(&history[0]), &history[0].data, history[0].edited), (None, &None, None));
        let log = shelf.log("bob", "@alice").await;
        assert_eq!(seqs(&log), (1..=4).map(Seq).collect::<Vec<_>>(), "the places are kept");
        assert!(!format!("{log:?}").contains(SECRET), "{log:?}");
        shelf.opens_again().await;
    }
}

pub(super) async fn reactions_are_set_and_taken_back(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.says("alice", "@bob", "hi").await;
    let react =
        |emoji: &str, on: bool| json!({"conversation": "@alice:bob", "target": 1, "emoji": emoji, "on": on});
    assert_eq!(shelf.is_refused("bob", "react", react("x", false)).await, ErrorCode::NotFound);
    let set = shelf.stores("bob", "react", react("x", true)).await;
    let again = shelf.stores("bob", "react", react("x", true)).await;
    assert_eq!((again.seq, again.event.is_some()), (set.seq, false));
    shelf.stores("alice", "react", react("x", true)).await;
    shelf.stores("alice", "react", react("y", true)).await;
    let reactions = serde_json::to_value(&shelf.history("bob", "@alice").await[0].reactions).expect("JSON");
    assert_eq!(reactions, json!({"x": ["bob", "alice"], "y": ["alice"]}));
    let off = shelf.stores("bob", "react", react("x", false)).await;
    assert!(off.event.is_some());
    assert_eq!(shelf.stores("bob", "react", react("x", false)).await.seq, off.seq);
    let reactions = serde_json::to_value(&shelf.history("bob", "@alice").await[0].reactions).expect("JSON");
    assert_eq!(reactions, json!({"x": ["alice"], "y": ["alice"]}));
}

pub(super) async fn what_amends_is_about_a_living_message(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    shelf.says("alice", "#r", "hi").await;
    shelf.says("alice", "#r", "gone").await;
    shelf.stores("alice", "delete", json!({"conversation": "#r", "target": 3})).await;
    for target in [0, 1, 3, 4, 99] {
        let edit = json!({"conversation": "#r", "target": target, "text": "x"});
        let react = json!({"conversation": "#r", "target": target, "emoji": "x"});
        assert_eq!(shelf.is_refused("alice", "edit", edit).await, ErrorCode::NotFound, "{target}");
        assert_eq!(shelf.is_refused("alice", "react", react).await, ErrorCode::NotFound, "{target}");
    }
    for target in [0, 1, 4, 99] {
        let delete = json!({"conversation": "#r", "target": target});
        assert_eq!(shelf.is_refused("alice", "delete", delete).await, ErrorCode::NotFound, "{target}");
    }
    let edit = json!({"conversation": "#r", "target": 2, "text": "x"});
    assert_eq!(shelf.is_refused("bob", "edit", edit).await, ErrorCode::Forbidden);
    let delete = json!({"conversation": "#r", "target": 2});
    assert_eq!(shelf.is_refused("bob", "delete", delete).await, ErrorCode::Forbidden);
    assert_eq!(shelf.log("bob", "#r").await.len(), 4);
}

pub(super) async fn somebody_who_left_sees_messages_as_they_stood_then(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    shelf.says("alice", "#r", "before").await;
    shelf.says("alice", "#r", "to be deleted").await;
    let react = |emoji: &str, on: bool| json!({"conversation": "#r", "target": 2, "emoji": emoji, "on": on});
    shelf.stores("alice", "react", react("early", true)).await;
    shelf.stores("bob", "leave", json!({"conversation": "#r"})).await;
    shelf.stores("alice", "edit", json!({"conversation": "#r", "target": 2, "text": "after"})).await;
    shelf.stores("alice", "react", react("late", true)).await;
    shelf.stores("alice", "react", react("early", false)).await;
    shelf.stores("alice", "delete", json!({"conversation": "#r", "target": 3})).await;
    let [first, second] = &shelf.history("bob", "#r").await[..] else { panic!("two messages") };
    assert_eq!((text(first), first.edited), (Some("before"), None));
    assert_eq!(first.reactions.keys().collect::<Vec<_>>(), ["early"]);
    assert!(second.deleted, "what is erased is erased for everybody");
    let now = &shelf.history("alice", "#r").await[0];
    assert_eq!(text(now), Some("after"));
    assert_eq!(now.reactions.keys().collect::<Vec<_>>(), ["late"]);
}

pub(super) async fn a_reaction_with_u_fe0f_and_without_is_one(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.says("alice", "@bob", "hi").await;
    let react =
        |emoji: &str, on: bool| json!({"conversation": "@alice:bob", "target": 1, "emoji": emoji, "on": on});
    let set = shelf.stores("alice", "react", react("\u{1f44d}\u{fe0f}", true)).await;
    let again = shelf.stores("alice", "react", react("\u{1f44d}", true)).await;
    assert_eq!((again.seq, again.event.is_some()), (set.seq, false), "said again");
    shelf.stores("bob", "react", react("\u{1f44d}", true)).await;
    let reactions = shelf.history("bob", "@alice:bob").await.remove(0).reactions;
    let names: Vec<_> = reactions.iter().map(|(emoji, users)| (emoji.as_str(), users.len())).collect();
    assert_eq!(names, [("\u{1f44d}", 2)]);
    shelf.stores("bob", "react", react("\u{1f44d}\u{fe0f}", false)).await;
    shelf.stores("alice", "react", react("\u{1f44d}", false)).await;
    assert!(shelf.history("bob", "@alice:bob").await.remove(0).reactions.is_empty());
    let log = serde_json::to_string(&shelf.log("bob", "@alice:bob").await).expect("json");
    assert!(!log.contains('\u{fe0f}'), "{log}");
}
