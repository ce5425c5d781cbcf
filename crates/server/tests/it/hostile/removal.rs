//! A removed member receives nothing more, is refused on the WebSocket and over HTTP, and reads up to the removal.

use serde_json::{Value, json};
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{ErrorCode, EventBody, Seq};

use crate::support::{Person, Server, conversation, text_of, user};

/// Every command about a room. A user who is no member of the room may use none of them.
fn all_room_commands() -> Vec<(&'static str, Value)> {
    let here = json!({"conversation": "#ops"});
    vec![
        ("send", json!({"to": "#ops", "text": "still here"})),
        ("send", json!({"to": "#ops", "text": "an answer", "reply_to": 2})),
        ("edit", json!({"conversation": "#ops", "target": 3, "text": "changed"})),
        ("delete", json!({"conversation": "#ops", "target": 3})),
        ("react", json!({"conversation": "#ops", "target": 2, "emoji": "👍"})),
        ("read", json!({"conversation": "#ops", "upto": 4})),
        ("received", json!({"conversation": "#ops", "upto": 4})),
        ("typing", here.clone()),
        ("members", here.clone()),
        ("join", here),
        ("invite", json!({"conversation": "#ops", "user": "bob"})),
        ("invite", json!({"conversation": "#ops", "user": "mallory"})),
        ("remove", json!({"conversation": "#ops", "user": "alice"})),
        ("role", json!({"conversation": "#ops", "user": "bob", "role": "admin"})),
        ("rename", json!({"conversation": "#ops", "title": "Mine"})),
    ]
}

/// A server and its users after these events: bob wrote in alice's room (seq 3), was removed (seq 4), and then alice wrote again.
struct RemovedMember {
    server: Server,
    alice: Person,
    bob: Person,
}

impl RemovedMember {
    async fn new() -> Self {
        let server = Server::start().await;
        let mut alice = server.connects("alice").await;
        let mut bob = server.connects("bob").await;
        let mut phone = server.connects("bob").await;
        alice.makes_room("ops", &["bob", "carol"]).await;
        alice.says("#ops", "two").await;
        bob.says("#ops", "three").await;
        let removed = alice.stores("remove", json!({"conversation": "#ops", "user": "bob"})).await;
        assert_eq!(removed.seq, 4);
        alice.says("#ops", "five").await;
        for device in [&mut bob, &mut phone] {
            device.receives_event().await;
            device.receives_message("two").await;
        }
        phone.receives_message("three").await;
        for device in [&mut bob, &mut phone] {
            assert_eq!(device.receives_event().await.body, removal_of_bob());
            device.receives_nothing().await;
        }
        alice.receives_message("three").await;
        Self { server, alice, bob }
    }
}

/// The event by which bob was removed, and not banned.
fn removal_of_bob() -> EventBody {
    EventBody::Remove { user: user("bob"), ban: false, until: None, absent: false }
}

#[tokio::test]
async fn hostile_16_on_the_websocket_a_removed_member_is_refused_and_receives_nothing() {
    let RemovedMember { server, mut alice, mut bob } = RemovedMember::new().await;
    let missing = bob.tries("sync", json!({"conversation": "#nowhere"})).await.expect_err("nowhere");
    for (command, fields) in all_room_commands() {
        let failure = bob.tries(command, fields).await.expect_err(command);
        assert_eq!((failure.code, &failure.message), (ErrorCode::NotFound, &missing.message), "{command}");
    }
    assert_eq!(alice.log("#ops").await.len(), 5, "nothing was stored");
    let mut carol = server.connects("carol").await;
    carol.does("typing", json!({"conversation": "#ops"})).await;
    carol.does("read", json!({"conversation": "#ops", "upto": 5})).await;
    carol.says("#ops", "six").await;
    for _ in 0..3 {
        alice.next().await;
    }
    bob.receives_nothing().await;
    assert!(bob.conversations().await.is_empty());
}

#[tokio::test]
async fn hostile_16_over_http_a_removed_member_is_refused() {
    let RemovedMember { server, mut alice, .. } = RemovedMember::new().await;
    for (command, mut fields) in all_room_commands() {
        fields["as"] = json!("bob");
        let answer = server.posts(command, fields).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{command}");
    }
    assert_eq!(alice.log("#ops").await.len(), 5, "nothing was stored");
    let page = server.posts("sync", json!({"as": "bob", "conversation": "#ops"})).await.ok();
    assert_eq!((&page["head"], page["events"].as_array().map(Vec::len)), (&json!(4), Some(4)));
    let page = server.posts("history", json!({"as": "bob", "conversation": "#ops"})).await.ok();
    assert_eq!((&page["head"], page["messages"].as_array().map(Vec::len)), (&json!(4), Some(2)));
}

#[tokio::test]
async fn hostile_17_the_log_and_the_history_end_with_the_removal() {
    let RemovedMember { server, mut alice, mut bob } = RemovedMember::new().await;
    alice.does("edit", json!({"conversation": "#ops", "target": 2, "text": "two, changed"})).await;
    alice.does("react", json!({"conversation": "#ops", "target": 2, "emoji": "👍"})).await;
    let page = bob.does("sync", json!({"conversation": "#ops", "after": 2})).await;
    let OkBody::Log { events, head, more, .. } = page else { panic!("{page:?}") };
    assert_eq!((events.len(), head, more), (2, Seq(4), false));
    let ahead = json!({"conversation": "#ops", "after": 5});
    assert_eq!(bob.is_refused("sync", ahead).await, ErrorCode::BadCursor);
    let messages = bob.history("#ops").await;
    let texts: Vec<_> = messages.iter().map(|m| m.text.as_ref().expect("text").as_str()).collect();
    assert_eq!(texts, ["two", "three"], "a former member does not see a later edit");
    assert!(messages[0].reactions.is_empty() && messages[0].edited.is_none());

    let mut again = server.resumes("bob", &[("#ops", 2)]).await;
    assert!(again.welcome.conversations.is_empty());
    again.receives_message("three").await;
    assert_eq!(again.receives_event().await.seq, Seq(4));
    again.receives_nothing().await;
}

#[tokio::test]
async fn a_later_deletion_hides_the_message_from_former_members() {
    let RemovedMember { server: _server, mut alice, mut bob } = RemovedMember::new().await;
    alice.does("delete", json!({"conversation": "#ops", "target": 2})).await;
    let messages = bob.history("#ops").await;
    assert!(messages[0].deleted && messages[0].text.is_none(), "{messages:?}");
    assert!(bob.log("#ops").await.iter().all(|event| text_of(event) != Some("two")));
}

#[tokio::test]
async fn presence_is_not_sent_to_a_user_who_no_longer_shares_a_conversation() {
    let server = Server::start_with(|config| config.presence_grace = std::time::Duration::ZERO).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let carol = server.connects("carol").await;
    alice.makes_room("ops", &["bob", "carol"]).await;
    bob.receives_event().await;
    bob.does("watch", json!({"users": ["carol", "alice"]})).await;
    bob.receives_signal().await;
    bob.receives_signal().await;
    alice.does("watch", json!({"users": ["carol"]})).await;
    alice.receives_signal().await;
    alice.does("remove", json!({"conversation": "#ops", "user": "bob"})).await;
    bob.receives_event().await;
    drop(carol);
    alice.receives_signal().await;
    bob.receives_nothing().await;
    bob.does("watch", json!({"users": ["carol"]})).await;
    bob.receives_nothing().await;
}

#[tokio::test]
async fn a_user_who_is_added_again_receives_the_missed_events() {
    let RemovedMember { server: _server, mut alice, mut bob } = RemovedMember::new().await;
    let back = alice.stores("invite", json!({"conversation": "#ops", "user": "bob"})).await;
    assert_eq!(back.seq, 6);
    bob.receives_message("five").await;
    assert_eq!(bob.receives_event().await.seq, Seq(6));
    alice.says("#ops", "seven").await;
    bob.receives_message("seven").await;
    bob.receives_nothing().await;
    assert_eq!(bob.log("#ops").await.len(), 7, "a member reads the whole log");
    let summary = bob.summary("#ops").await;
    assert_eq!((summary.read, summary.unread), (Seq(6), 1), "earlier messages are not unread");
}

#[tokio::test]
async fn a_user_who_is_added_again_after_many_events_receives_gap() {
    let server = Server::start_with(|config| config.limits.replay = 2).await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    alice.makes_public_room("ops", &[]).await;
    let here = json!({"conversation": "#ops"});
    bob.does("join", here.clone()).await;
    phone.receives_event().await;
    bob.does("leave", here.clone()).await;
    phone.receives_event().await;
    for n in 4..=6 {
        alice.says("#ops", &n.to_string()).await;
    }
    assert_eq!(bob.stores("join", here).await.seq, 7);
    let (after, head) = (Seq(3), Seq(6));
    let gap = Reply::Gap { conversation: conversation("#ops"), after, head };
    assert_eq!(bob.receives_reply().await, gap);
    assert_eq!(phone.receives_reply().await, gap);
    assert_eq!(phone.receives_event().await.seq, Seq(7));
    alice.next().await;
    assert_eq!(alice.log("#ops").await.len(), 7);
}

#[tokio::test]
async fn hostile_16_a_message_that_races_with_the_removal_is_stored_before_it_or_not_at_all() {
    const MESSAGES: usize = 50;
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    for round in 0..10 {
        let room = format!("#room{round}");
        alice.makes_room(&room, &["bob"]).await;
        bob.receives_event().await;
        for _ in 0..MESSAGES / 2 {
            bob.submits("send", json!({"to": room, "text": "hi"})).await;
        }
        alice.submits("remove", json!({"conversation": room, "user": "bob"})).await;
        for _ in 0..MESSAGES / 2 {
            bob.submits("send", json!({"to": room, "text": "hi"})).await;
        }
        let (mut stored, mut refused, mut removed) = (0, 0, false);
        while stored + refused < MESSAGES || !removed {
            match bob.next().await {
                ServerFrame::Reply(Reply::Ok(_)) => stored += 1,
                ServerFrame::Reply(Reply::Error(failure)) => {
                    assert_eq!(failure.code, ErrorCode::NotFound);
                    refused += 1;
                }
                ServerFrame::Event(event) => {
                    assert_eq!(event.body, removal_of_bob());
                    removed = true;
                }
                other => panic!("{other:?}"),
            }
        }
        let mut received = 0;
        while received < stored + 1 {
            // Alice receives the messages and the answer to the removal.
            alice.next().await;
            received += 1;
        }
        let log = alice.log(&room).await;
        assert_eq!(log.len(), stored + 2, "the log has exactly the acknowledged messages");
        assert!(matches!(log.last().expect("the removal").body, EventBody::Remove { .. }));
    }
}
