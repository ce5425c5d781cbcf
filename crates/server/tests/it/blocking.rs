//! Blocking: what a user who blocks another one receives of them, by every door, and what the blocked one receives.

mod chance;
mod nodes;
mod places;
mod unread;

use serde_json::{Value, json};
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{ErrorCode, Event, EventBody, Seq, Signal, UserId};

use crate::support::{Person, Server, SharedEngines, user};

/// A `dev` server on PostgreSQL.
pub(crate) async fn start_on_postgresql() -> Server {
    let shared = SharedEngines::new().await;
    Server::start_with(|config| shared.configure(config)).await
}

/// Blocks a user, or ends the block.
pub(crate) async fn blocks(person: &mut Person, other: &str, on: bool) {
    let answer = person.does("block", json!({"user": other, "on": on})).await;
    assert_eq!(answer, OkBody::Done {});
}

/// The users whom a person blocks.
async fn blocked_by(person: &mut Person) -> Vec<String> {
    let page = person.does("blocks", json!({})).await;
    let OkBody::Blocks { blocks, more: false } = page else { panic!("{page:?}") };
    blocks.into_iter().map(|block| block.user.to_string()).collect()
}

/// A page of history: the numbers of its messages, and of those that are withheld.
async fn history_of(person: &mut Person, fields: Value) -> (Vec<u64>, Vec<u64>) {
    let page = person.does("history", fields).await;
    let OkBody::History { messages, withheld, .. } = page else { panic!("{page:?}") };
    let withheld_by: Vec<_> = withheld.iter().map(|message| message.from.as_str()).collect();
    assert!(withheld_by.iter().all(|from| *from == "mallory"), "{withheld_by:?}");
    let messages = messages.iter().map(|message| message.seq.0).collect();
    (messages, withheld.iter().map(|message| message.seq.0).collect())
}

/// Asserts that an event is withheld, and of which type it is.
fn is_withheld(event: &Event, seq: u64, kind: &str) {
    assert_eq!((event.seq, event.from.as_str(), event.key.as_ref()), (Seq(seq), "mallory", None));
    match &event.body {
        EventBody::Withheld { of, withheld } => {
            assert_eq!((of.as_str(), withheld.as_str()), (kind, "blocked"));
        }
        other => panic!("{other:?} is not withheld"),
    }
}

async fn the_frames_are_as_documented(server: &Server) {
    let _mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    assert!(bob.welcome.features.contains(&"block".to_owned()));
    blocks(&mut bob, "mallory", true).await;
    let signal = Signal::Block { user: user("mallory"), on: true };
    assert_eq!(phone.receives_signal().await, signal);
    assert_eq!(
        serde_json::to_value(&signal).expect("JSON"),
        json!({"type": "block", "user": "mallory", "on": true})
    );
    blocks(&mut bob, "mallory", true).await;
    bob.receives_nothing().await;
    phone.receives_nothing().await;
    assert_eq!(blocked_by(&mut phone).await, ["mallory"]);
    blocks(&mut phone, "mallory", false).await;
    assert_eq!(bob.receives_signal().await, Signal::Block { user: user("mallory"), on: false });
    blocks(&mut phone, "mallory", false).await;
    bob.receives_nothing().await;
    assert!(blocked_by(&mut bob).await.is_empty());

    let refused = bob.tries("block", json!({"user": "bob"})).await.expect_err("refused");
    assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::BadField, Some("user")));
    assert_eq!(bob.is_refused("block", json!({"user": "nobody-knows-them"})).await, ErrorCode::NotFound);
    assert_eq!(bob.is_refused("blocks", json!({"after": "nobody-knows-them"})).await, ErrorCode::BadField);
}

async fn the_log_has_withheld_events_live_in_a_replay_and_in_sync(server: &Server) {
    let mut alice = server.connects("alice").await;
    let mut mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("room", &["mallory", "bob"]).await;
    mallory.says("#room", "before the block").await;
    bob.receives_event().await;
    bob.receives_message("before the block").await;
    blocks(&mut bob, "mallory", true).await;

    mallory.says("#room", "secret").await;
    mallory.does("edit", json!({"conversation": "#room", "target": 3, "text": "another secret"})).await;
    let own = alice.says("#room", "hello").await;
    mallory.does("react", json!({"conversation": "#room", "target": own, "emoji": "👎"})).await;
    mallory.does("delete", json!({"conversation": "#room", "target": 3})).await;
    mallory.does("leave", json!({"conversation": "#room"})).await;

    is_withheld(&bob.receives_event().await, 3, "message");
    is_withheld(&bob.receives_event().await, 4, "edit");
    bob.receives_message("hello").await;
    is_withheld(&bob.receives_event().await, 6, "react");
    assert!(matches!(bob.receives_event().await.body, EventBody::Delete { target: Seq(3) }));
    assert!(matches!(bob.receives_event().await.body, EventBody::Leave {}));

    // A replay shows the same, also of what was written before the block.
    let cursors = &[("#room", 1)];
    let mut again = server.resumes("bob", cursors).await;
    let log = again.log_after("#room", 1).await;
    let mut replayed = Vec::new();
    while replayed.len() < log.len() {
        replayed.push(again.receives_event().await);
    }
    for events in [replayed, log] {
        is_withheld(&events[0], 2, "message");
        is_withheld(&events[1], 3, "message");
        is_withheld(&events[2], 4, "edit");
        is_withheld(&events[4], 6, "react");
        assert_eq!(events.len(), 7);
        assert!((2..).zip(&events).all(|(seq, event)| event.seq == Seq(seq)), "no number is missing");
        assert!(!format!("{events:?}").contains("secret") && !format!("{events:?}").contains("👎"));
    }

    // Unblocking shows everything again.
    blocks(&mut bob, "mallory", false).await;
    let log = bob.log("#room").await;
    assert!(format!("{log:?}").contains("before the block") && format!("{log:?}").contains("👎"));
}

async fn history_and_summaries_leave_blocked_messages_and_reactions_out(server: &Server) {
    let mut alice = server.connects("alice").await;
    let mut mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("room", &["mallory", "bob"]).await;
    let own = alice.says("#room", "hello").await;
    alice.does("react", json!({"conversation": "#room", "target": own, "emoji": "👍"})).await;
    mallory.does("react", json!({"conversation": "#room", "target": own, "emoji": "👍"})).await;
    mallory.does("react", json!({"conversation": "#room", "target": own, "emoji": "👎"})).await;
    for text in ["one", "two", "three"] {
        mallory.says("#room", text).await;
    }
    blocks(&mut bob, "mallory", true).await;
    let page = json!({"conversation": "#room"});
    assert_eq!(history_of(&mut bob, page.clone()).await, (vec![2], vec![6, 7, 8]));
    assert_eq!(
        history_of(&mut bob, json!({"conversation": "#room", "limit": 2})).await,
        (vec![], vec![7, 8])
    );
    let around = json!({"conversation": "#room", "around": 7, "limit": 2});
    assert_eq!(history_of(&mut bob, around).await, (vec![], vec![6, 7]));
    let shown = bob.message_in_history("#room", own).await;
    assert_eq!(serde_json::to_value(&shown.reactions).expect("JSON"), json!({"👍": ["alice"]}));
    let summary = bob.summary("#room").await;
    assert_eq!(summary.last.map(|last| last.seq), Some(Seq(own)));
    assert_eq!(summary.unread, 1);
    let welcome = server.connects("bob").await.welcome;
    assert_eq!(welcome.conversations[0].last.as_ref().map(|last| last.seq), Some(Seq(own)));
    assert_eq!(welcome.unread.map(|unread| unread.messages), Some(1));

    for n in 0..49 {
        mallory.says("#room", &format!("more {n}")).await;
    }
    assert!(bob.summary("#room").await.last.is_none(), "none of the latest 50 is visible");
    blocks(&mut bob, "mallory", false).await;
    assert_eq!(bob.summary("#room").await.unread, 53);
    assert_eq!(history_of(&mut bob, page).await.1, [0; 0]);
}

async fn signals_pass_in_neither_direction(server: &Server) {
    let mut alice = server.connects("alice").await;
    let mut mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("room", &["mallory", "bob"]).await;
    for person in [&mut mallory, &mut bob] {
        person.receives_event().await;
    }
    blocks(&mut bob, "mallory", true).await;
    let room = json!({"conversation": "#room"});
    for (one, other) in [(&mut mallory, "bob"), (&mut bob, "mallory")] {
        one.does("typing", room.clone()).await;
        one.does("received", json!({"conversation": "#room", "upto": 1})).await;
        one.does("watch", json!({"users": [other, "alice"]})).await;
        let presence = one.receives_signal().await;
        assert!(
            matches!(&presence, Signal::Presence { user, .. } if user.as_str() == "alice"),
            "{presence:?}"
        );
        let page = one.does("users", json!({"users": [other, "alice"]})).await;
        let OkBody::Users { users, .. } = page else { panic!("{page:?}") };
        assert_eq!(users.iter().map(|profile| profile.user.as_str()).collect::<Vec<_>>(), ["alice"]);
    }
    for _ in 0..2 {
        assert!(matches!(alice.receives_signal().await, Signal::Typing { .. }));
    }
    alice.receives_nothing().await;
    bob.receives_nothing().await;
    mallory.receives_nothing().await;

    let last = alice.says("#room", "hello").await;
    for person in [&mut mallory, &mut bob] {
        person.receives_message("hello").await;
        person.does("read", json!({"conversation": "#room", "upto": last})).await;
        assert!(matches!(alice.receives_signal().await, Signal::Read { .. }));
    }
    bob.receives_nothing().await;
    mallory.receives_nothing().await;
    for (person, other) in [(&mut bob, "mallory"), (&mut mallory, "bob")] {
        let members = person.members("#room").await;
        for member in members {
            let upto = if member.user.as_str() == other { Seq(1) } else { member.read };
            assert_eq!((member.read, member.received), (upto, upto), "{member:?}");
        }
    }
    // Presence that was watched before the block.
    blocks(&mut bob, "mallory", false).await;
    bob.does("watch", json!({"users": ["mallory"]})).await;
    assert!(matches!(bob.receives_signal().await, Signal::Presence { online: true, .. }));
    mallory.does("watch", json!({"users": ["bob"]})).await;
    assert!(matches!(mallory.receives_signal().await, Signal::Presence { online: true, .. }));
    mallory.does("users", json!({"users": ["bob"]})).await;
    bob.does("users", json!({"users": ["mallory"]})).await;
    blocks(&mut bob, "mallory", true).await;
    mallory.does("profile", json!({"name": "M"})).await;
    bob.does("profile", json!({"name": "B"})).await;
    bob.receives_nothing().await;
    mallory.receives_nothing().await;
}

async fn a_direct_conversation_with_a_blocked_user_is_in_no_list(server: &Server) {
    let mut mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    bob.says("@mallory", "hello").await;
    mallory.receives_message("hello").await;
    mallory.says("@bob", "before").await;
    bob.receives_message("before").await;
    blocks(&mut bob, "mallory", true).await;
    assert_eq!(mallory.says("@bob", "during").await, 3, "her message is stored as ever");
    mallory.does("typing", json!({"conversation": "@bob"})).await;
    mallory.does("read", json!({"conversation": "@bob", "upto": 3})).await;
    bob.receives_nothing().await;
    assert!(bob.conversations().await.is_empty());
    let mut again = server.resumes("bob", &[("@bob:mallory", 1)]).await;
    assert!(again.welcome.conversations.is_empty());
    assert_eq!(again.welcome.unread.map(|unread| (unread.messages, unread.conversations)), Some((0, 0)));
    again.receives_nothing().await;
    mallory.says("@bob", "to both").await;
    again.receives_nothing().await;
    bob.receives_nothing().await;
    // Named, it shows the blocker's own messages.
    let log = bob.log("@mallory").await;
    is_withheld(&log[1], 2, "message");
    assert_eq!(history_of(&mut bob, json!({"conversation": "@mallory"})).await, (vec![1], vec![2, 3, 4]));
    assert_eq!(mallory.conversations().await.len(), 1, "she sees no difference");

    blocks(&mut bob, "mallory", false).await;
    assert!(matches!(again.receives_signal().await, Signal::Block { on: false, .. }));
    assert_eq!(bob.summary("@bob:mallory").await.unread, 3);
    assert_eq!(bob.history("@mallory").await.len(), 4);
    mallory.says("@bob", "after").await;
    bob.receives_message("after").await;
}

async fn a_blocked_user_may_not_invite_the_blocker(server: &Server) {
    let mut mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    mallory.makes_room("before", &[]).await;
    blocks(&mut bob, "mallory", true).await;
    let invite = json!({"conversation": "#before", "user": "bob"});
    for (name, fields) in [
        ("invite", invite.clone()),
        ("create", json!({"room": "after", "members": ["bob"]})),
        ("create", json!({"members": ["carol", "bob"]})),
    ] {
        let refused = mallory.tries(name, fields).await.expect_err("refused");
        assert_eq!((refused.code, refused.permission.as_deref()), (ErrorCode::Forbidden, Some("contact")));
        assert_eq!(refused.message, "you may not write to this user first, nor invite them");
    }
    bob.receives_nothing().await;
    bob.makes_room("of-bob", &["mallory"]).await;
    blocks(&mut bob, "mallory", false).await;
    mallory.does("invite", invite).await;
}

#[tokio::test]
async fn the_frames_of_blocking_are_as_documented() {
    the_frames_are_as_documented(&Server::start().await).await;
}

#[tokio::test]
async fn the_frames_of_blocking_are_as_documented_on_postgresql() {
    the_frames_are_as_documented(&start_on_postgresql().await).await;
}

#[tokio::test]
async fn content_of_a_blocked_user_is_withheld_live_in_a_replay_and_in_sync() {
    the_log_has_withheld_events_live_in_a_replay_and_in_sync(&Server::start().await).await;
}

#[tokio::test]
async fn content_of_a_blocked_user_is_withheld_live_in_a_replay_and_in_sync_on_postgresql() {
    the_log_has_withheld_events_live_in_a_replay_and_in_sync(&start_on_postgresql().await).await;
}

#[tokio::test]
async fn history_and_summaries_withhold() {
    history_and_summaries_leave_blocked_messages_and_reactions_out(&Server::start().await).await;
}

#[tokio::test]
async fn history_and_summaries_withhold_on_postgresql() {
    history_and_summaries_leave_blocked_messages_and_reactions_out(&start_on_postgresql().await).await;
}

#[tokio::test]
async fn typing_cursors_presence_and_profiles_pass_in_neither_direction() {
    signals_pass_in_neither_direction(&Server::start().await).await;
}

#[tokio::test]
async fn typing_cursors_presence_and_profiles_pass_in_neither_direction_on_postgresql() {
    signals_pass_in_neither_direction(&start_on_postgresql().await).await;
}

#[tokio::test]
async fn a_direct_conversation_is_hidden() {
    a_direct_conversation_with_a_blocked_user_is_in_no_list(&Server::start().await).await;
}

#[tokio::test]
async fn a_direct_conversation_is_hidden_on_postgresql() {
    a_direct_conversation_with_a_blocked_user_is_in_no_list(&start_on_postgresql().await).await;
}

#[tokio::test]
async fn invitations_are_refused() {
    a_blocked_user_may_not_invite_the_blocker(&Server::start().await).await;
}

#[tokio::test]
async fn invitations_are_refused_on_postgresql() {
    a_blocked_user_may_not_invite_the_blocker(&start_on_postgresql().await).await;
}

#[tokio::test]
async fn a_user_blocks_as_many_as_the_limit_and_the_list_has_pages() {
    let server = Server::start_with(|config| config.limits.blocks = 3).await;
    let mut bob = server.connects("bob").await;
    for name in ["one", "two", "three", "four"] {
        server.connects(name).await;
    }
    for name in ["one", "two", "three"] {
        blocks(&mut bob, name, true).await;
    }
    let refused = bob.tries("block", json!({"user": "four"})).await.expect_err("refused");
    assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::TooLarge, Some("user")));
    let mut found = Vec::<UserId>::new();
    loop {
        let after = found.last().map(UserId::to_string);
        let fields = match after {
            Some(after) => json!({"after": after, "limit": 2}),
            None => json!({"limit": 2}),
        };
        let page = bob.does("blocks", fields).await;
        let OkBody::Blocks { blocks, more } = page else { panic!("{page:?}") };
        found.extend(blocks.into_iter().map(|block| block.user));
        if !more {
            break;
        }
    }
    assert_eq!(found, ["one", "two", "three"].map(user));
    blocks(&mut bob, "one", false).await;
    blocks(&mut bob, "four", true).await;
}

#[tokio::test]
async fn a_block_holds_in_a_lag_that_is_read_after_it() {
    let server = Server::start_with(|config| config.limits.replay = 1_000).await;
    let mut alice = server.connects("alice").await;
    let mut mallory = server.connects("mallory").await;
    alice.makes_room("room", &["mallory", "bob"]).await;
    for n in 0..300 {
        mallory.says("#room", &format!("secret {n}")).await;
    }
    let mut bob = server.resumes("bob", &[("#room", 1)]).await;
    let id = bob.submits("block", json!({"user": "mallory"})).await;
    let mut is_answered = false;
    let mut last = 1;
    while last < 301 {
        match bob.next().await {
            ServerFrame::Event(event) => {
                assert_eq!(event.seq.0, last + 1);
                last += 1;
                if is_answered {
                    is_withheld(&event, last, "message");
                }
            }
            ServerFrame::Reply(Reply::Ok(ok)) => {
                assert_eq!(ok.id, Some(switchboard_protocol::CommandId::Number(id)));
                is_answered = true;
            }
            other => panic!("{other:?}"),
        }
    }
}
