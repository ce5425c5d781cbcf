//! Edits, reactions, deletions and the history.

use std::path::Path;

use serde_json::json;
use switchboard_protocol::{ErrorCode, EventBody, Seq};

use crate::support::{Person, Server, eventually, user};

/// Starts a server with a room of alice (its admin), bob and carol, and a message from bob with seq 2.
async fn room_of_three() -> (Server, Person, Person, Person) {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut carol = server.connects("carol").await;
    alice.makes_room("ops", &["bob", "carol"]).await;
    bob.receives_event().await;
    carol.receives_event().await;
    assert_eq!(bob.says_with_key("#ops", "k", "hello").await.seq, 2);
    alice.receives_message("hello").await;
    carol.receives_message("hello").await;
    (server, alice, bob, carol)
}

fn target_fields(target: u64) -> serde_json::Value {
    json!({"conversation": "#ops", "target": target})
}

fn edit_fields(target: u64, text: &str) -> serde_json::Value {
    json!({"conversation": "#ops", "target": target, "text": text})
}

fn react_fields(emoji: &str, on: bool) -> serde_json::Value {
    json!({"conversation": "#ops", "target": 2, "emoji": emoji, "on": on})
}

#[tokio::test]
async fn an_edit_is_delivered_and_applied_in_the_history() {
    let (_server, mut alice, mut bob, _) = room_of_three().await;
    assert_eq!(bob.stores("edit", edit_fields(2, "hullo")).await.seq, 3);
    let EventBody::Edit { target: Seq(2), text, .. } = alice.receives_event().await.body else {
        panic!("no edit")
    };
    assert_eq!(text.expect("a text").as_str(), "hullo");
    let data = json!({"conversation": "#ops", "target": 2, "data": {"x": 1}});
    bob.does("edit", data).await;
    let message = alice.message_in_history("#ops", 2).await;
    assert!(message.text.is_none(), "an absent field is removed");
    assert_eq!(message.data.expect("data").as_map()["x"], 1);
    let edited = message.edited.expect("edited");
    assert_eq!(edited.seq, Seq(4));
    assert!(edited.at >= message.at);
    let summary = alice.summary("#ops").await;
    assert_eq!((summary.head, summary.last.expect("the last message").seq), (Seq(4), Seq(2)));
    let log = alice.log_after("#ops", 1).await;
    let EventBody::Message { text, .. } = &log[0].body else { panic!("{log:?}") };
    assert_eq!(text.as_ref().expect("a text").as_str(), "hello", "the log has the original text");
}

#[tokio::test]
async fn only_its_author_edits_a_message() {
    let (_server, mut alice, mut bob, mut carol) = room_of_three().await;
    for other in [&mut alice, &mut carol] {
        assert_eq!(other.is_refused("edit", edit_fields(2, "hullo")).await, ErrorCode::Forbidden);
    }
    assert_eq!(
        bob.is_refused("edit", edit_fields(1, "x")).await,
        ErrorCode::NotFound,
        "the event is no message"
    );
    assert_eq!(
        bob.is_refused("edit", edit_fields(3, "x")).await,
        ErrorCode::NotFound,
        "there is no such event"
    );
    assert_eq!(bob.is_refused("edit", edit_fields(2, "")).await, ErrorCode::BadField, "an empty text");
    assert_eq!(alice.log("#ops").await.len(), 2);
}

#[tokio::test]
async fn reactions_are_added_once_and_removed() {
    let (_server, mut alice, mut bob, mut carol) = room_of_three().await;
    let first = carol.stores("react", react_fields("👍", true)).await;
    assert_eq!((first.seq, first.duplicate), (3, false));
    let again = carol.stores("react", react_fields("👍", true)).await;
    assert_eq!((again.seq, again.duplicate), (3, true));
    alice.does("react", react_fields("👍", true)).await;
    alice.does("react", react_fields("🎉", true)).await;
    let EventBody::React { emoji, on, .. } = bob.receives_event().await.body else { panic!("no reaction") };
    assert_eq!((emoji.as_str(), on), ("👍", true));
    let reactions = bob.message_in_history("#ops", 2).await.reactions;
    assert_eq!(reactions["👍"], [user("carol"), user("alice")], "in the order of the reactions");
    assert_eq!(reactions["🎉"], [user("alice")]);

    assert_eq!(carol.stores("react", react_fields("👍", false)).await.seq, 6);
    let again = carol.stores("react", react_fields("👍", false)).await;
    assert_eq!((again.seq, again.duplicate), (6, true));
    assert_eq!(carol.is_refused("react", react_fields("🎉", false)).await, ErrorCode::NotFound);
    assert_eq!(bob.message_in_history("#ops", 2).await.reactions["👍"], [user("alice")]);
    carol.does("react", react_fields("👍", true)).await;
    assert_eq!(bob.message_in_history("#ops", 2).await.reactions["👍"], [user("alice"), user("carol")]);
}

#[tokio::test]
async fn reactions_to_a_message_are_limited() {
    let server = Server::start_with(|config| config.limits.reactions = 2).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("ops", &["bob"]).await;
    alice.says("#ops", "hello").await;
    alice.does("react", react_fields("1", true)).await;
    alice.does("react", react_fields("2", true)).await;
    assert_eq!(alice.is_refused("react", react_fields("3", true)).await, ErrorCode::TooLarge);
    alice.does("react", react_fields("2", false)).await;
    alice.does("react", react_fields("3", true)).await;
}

#[tokio::test]
async fn edits_of_a_message_are_limited() {
    let server = Server::start_with(|config| config.limits.edits = 2).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("ops", &["bob"]).await;
    alice.says("#ops", "one").await;
    alice.says("#ops", "two").await;
    for text in ["uno", "eins"] {
        alice.does("edit", edit_fields(2, text)).await;
    }
    let failure = alice.tries("edit", edit_fields(2, "un")).await.expect_err("it has two");
    assert_eq!((failure.code, failure.field.as_deref()), (ErrorCode::TooLarge, Some("target")));
    assert_eq!(alice.message_in_history("#ops", 2).await.text.expect("a text").as_str(), "eins");
    alice.does("edit", edit_fields(3, "due")).await;
    alice.does("delete", target_fields(2)).await;
    assert_eq!(alice.is_refused("edit", edit_fields(2, "un")).await, ErrorCode::NotFound);
}

#[tokio::test]
async fn the_author_or_an_admin_deletes_a_message() {
    let (_server, mut alice, mut bob, mut carol) = room_of_three().await;
    assert_eq!(carol.is_refused("delete", target_fields(2)).await, ErrorCode::Forbidden);
    assert_eq!(
        bob.is_refused("delete", target_fields(1)).await,
        ErrorCode::NotFound,
        "the event is no message"
    );
    let deleted = alice.stores("delete", target_fields(2)).await;
    assert_eq!((deleted.seq, deleted.duplicate), (3, false));
    for member in [&mut bob, &mut carol] {
        assert_eq!(member.receives_event().await.body, EventBody::Delete { target: Seq(2) });
    }
    let again = bob.stores("delete", target_fields(2)).await;
    assert_eq!((again.seq, again.duplicate), (3, true));
    bob.says("#ops", "my own").await;
    bob.does("delete", target_fields(4)).await;
    assert_eq!(bob.is_refused("edit", edit_fields(4, "back again")).await, ErrorCode::NotFound);
    let reaction = json!({"conversation": "#ops", "target": 4, "emoji": "👍"});
    assert_eq!(alice.is_refused("react", reaction).await, ErrorCode::NotFound);
    carol.says("@bob", "between us").await;
    let theirs = json!({"conversation": "@carol", "target": 1});
    assert_eq!(
        bob.is_refused("delete", theirs).await,
        ErrorCode::Forbidden,
        "a direct conversation has no admin"
    );
}

#[tokio::test]
async fn a_deleted_message_keeps_its_seq_and_loses_its_content() {
    let (server, mut alice, mut bob, _) = room_of_three().await;
    bob.does("edit", edit_fields(2, "hullo")).await;
    alice.does("react", react_fields("👍", true)).await;
    bob.does("delete", target_fields(2)).await;
    let message = alice.message_in_history("#ops", 2).await;
    assert!(message.deleted && message.text.is_none() && message.edited.is_none(), "{message:?}");
    assert!(message.reactions.is_empty(), "{message:?}");
    assert_eq!(alice.summary("#ops").await.last.expect("the last message"), message);
    let log = alice.log("#ops").await;
    assert_eq!(log.len(), 5);
    assert!(matches!(&log[1].body, EventBody::Message { text: None, deleted: true, .. }), "{log:?}");
    assert!(matches!(&log[2].body, EventBody::Edit { text: None, deleted: true, .. }), "{log:?}");
    let mut late = server.resumes("carol", &[("#ops", 1)]).await;
    assert!(matches!(late.receives_event().await.body, EventBody::Message { text: None, deleted: true, .. }));
    let again = bob.says_with_key("#ops", "k", "hello").await;
    assert_eq!((again.seq, again.duplicate), (2, true), "a late retry does not restore the message");
}

/// The names of the files in the data directory that contain a text.
fn files_containing(data: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data).expect("the directory") {
        let path = entry.expect("an entry").path();
        // A file that was removed meanwhile counts as one without the text.
        let bytes = std::fs::read(&path).unwrap_or_default();
        if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
            found.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
    }
    found
}

#[tokio::test]
async fn a_deleted_text_is_in_no_file_of_the_database() {
    const DELETED_TEXT: &str = "the-codeword-is-swordfish";
    const EDITED_TEXT: &str = "the-codeword-is-marlin";
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("ops", &["bob"]).await;
    let seq = alice.says("#ops", DELETED_TEXT).await;
    alice.does("edit", edit_fields(seq, EDITED_TEXT)).await;
    // Stores more messages, so that the database page of the message also contains others.
    for n in 0..50 {
        alice.says("#ops", &format!("message {n}")).await;
    }
    for text in [DELETED_TEXT, EDITED_TEXT] {
        assert!(!files_containing(server.data(), text).is_empty(), "the search finds a stored text");
    }
    alice.does("delete", target_fields(seq)).await;
    eventually("no file has the content", || async {
        let found =
            [files_containing(server.data(), DELETED_TEXT), files_containing(server.data(), EDITED_TEXT)]
                .concat();
        found.is_empty().then_some(())
    })
    .await;
    assert!(!files_containing(server.data(), "message 7").is_empty(), "the other messages remain");
}

#[tokio::test]
async fn history_is_paged_backwards() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("ops", &["bob"]).await;
    for n in 0..25 {
        let seq = alice.says("#ops", &n.to_string()).await;
        alice.does("react", json!({"conversation": "#ops", "target": seq, "emoji": "👍"})).await;
    }
    let (mut texts, mut before, mut more) = (Vec::new(), None::<Seq>, true);
    while more {
        let mut fields = json!({"conversation": "#ops", "limit": 10});
        if let Some(before) = before {
            fields["before"] = json!(before);
        }
        let page = alice.does("history", fields).await;
        let switchboard_protocol::reply::OkBody::History { messages, more: again, .. } = page else {
            panic!("{page:?}")
        };
        assert!(messages.is_sorted_by_key(|message| message.seq));
        assert!(messages.len() == 10 || !again);
        before = messages.first().map(|message| message.seq);
        let page: Vec<_> = messages.iter().map(|m| m.text.as_ref().expect("text").to_string()).collect();
        texts.splice(0..0, page);
        more = again;
    }
    assert_eq!(texts, (0..25).map(|n| n.to_string()).collect::<Vec<_>>());
}
