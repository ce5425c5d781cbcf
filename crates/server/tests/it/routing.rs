//! A message reaches every device of every member once, in the same order.

use std::collections::BTreeMap;

use serde_json::json;
use switchboard_protocol::reply::{Ok as OkFrame, OkBody, Reply, ServerFrame};
use switchboard_protocol::{CommandId, Seq, Signal};

use crate::support::{Person, Server, command, text_of};

#[tokio::test]
async fn every_device_of_both_users_except_the_sender_receives_a_direct_message() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut alices_phone = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut bobs_phone = server.connects("bob").await;

    assert_eq!(alice.says("@bob", "hi").await, 1);
    for device in [&mut alices_phone, &mut bob, &mut bobs_phone] {
        let event = device.receives_message("hi").await;
        assert_eq!(event.conversation.as_str(), "@alice:bob");
        assert_eq!((event.seq, event.from.as_str()), (Seq(1), "alice"));
    }
    assert_eq!(bobs_phone.says("@alice:bob", "ho").await, 2);
    for device in [&mut alice, &mut alices_phone, &mut bob] {
        assert_eq!(device.receives_message("ho").await.from.as_str(), "bob");
    }
    for device in [&mut alice, &mut alices_phone, &mut bob, &mut bobs_phone] {
        device.receives_nothing().await;
    }
}

#[tokio::test]
async fn all_members_of_a_room_receive_events_in_the_same_order() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut carol = server.connects("carol").await;
    let mut dave = server.connects("dave").await;
    alice.makes_room("three", &["bob", "carol"]).await;
    for member in [&mut bob, &mut carol] {
        assert_eq!(member.receives_event().await.seq, Seq(1));
    }
    for round in 0..3 {
        for sender in [&mut alice, &mut bob, &mut carol] {
            let text = format!("{} {round}", sender.name());
            sender.submits("send", json!({"to": "#three", "text": text})).await;
        }
    }
    let heads = [
        receive_answers_and_messages(&mut alice).await,
        receive_answers_and_messages(&mut bob).await,
        receive_answers_and_messages(&mut carol).await,
    ];
    let log: BTreeMap<u64, String> =
        alice.log_after("#three", 1).await.iter().map(|e| (e.seq.0, message_text(e))).collect();
    assert_eq!(log.len(), 9);
    for received in heads {
        assert_eq!(received.len(), 6, "all messages except the member's own three");
        assert!(received.is_sorted(), "ordered by seq: {received:?}");
        for (seq, text) in received {
            assert_eq!(log.get(&seq), Some(&text));
        }
    }
    dave.receives_nothing().await;
}

/// Receives frames until the member's three messages are answered and six messages of others have arrived. Returns the six.
async fn receive_answers_and_messages(person: &mut Person) -> Vec<(u64, String)> {
    let (mut answers, mut received) = (0, Vec::new());
    while answers < 3 || received.len() < 6 {
        match person.next().await {
            ServerFrame::Reply(Reply::Ok(_)) => answers += 1,
            ServerFrame::Event(event) => received.push((event.seq.0, message_text(&event))),
            other => panic!("{other:?}"),
        }
    }
    person.receives_nothing().await;
    received
}

fn message_text(event: &switchboard_protocol::Event) -> String {
    text_of(event).expect("a message").to_owned()
}

#[tokio::test]
async fn pipelined_messages_of_one_connection_keep_their_order() {
    const MESSAGES: usize = 1_000;
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let sends = (0..MESSAGES).map(|n| command("send", &json!({"to": "@bob", "text": n.to_string()})));
    let ids = alice.client.submit_all(sends).await.expect("sent");
    for (n, id) in ids.enumerate() {
        let reply = alice.receives_reply().await;
        let Reply::Ok(OkFrame { id: answered, body: OkBody::Stored { seq, duplicate, .. } }) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(answered, Some(CommandId::Number(id)));
        assert_eq!((seq.0, duplicate), (n as u64 + 1, false));
    }
    for n in 0..MESSAGES {
        let event = bob.receives_message(&n.to_string()).await;
        assert_eq!(event.seq.0, n as u64 + 1);
    }
}

#[tokio::test]
async fn each_answer_has_the_id_of_its_command() {
    let server = Server::start().await;
    let mut alice = server.open_socket_as("alice").await;
    let frames = [
        r#"{"type":"send","id":1,"to":"@bob","text":"hi"}"#,
        r#"{"type":"history","id":"two","conversation":"@bob"}"#,
        r#"{"type":"nonsense","id":-3}"#,
        r#"{"type":"read","id":"","conversation":"@bob","upto":1}"#,
        r#"{"type":"ping","id":9007199254740991}"#,
    ];
    // Each command is sent after the answer to the previous one, so that `history` and `read` find the message.
    let mut ids = Vec::new();
    for frame in frames {
        ids.push(alice.asks(frame).await["id"].clone());
    }
    assert_eq!(ids, [json!(1), json!("two"), json!(-3), json!(""), json!(9_007_199_254_740_991_u64)]);
}

#[tokio::test]
async fn a_note_to_self_reaches_the_users_other_devices() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut phone = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@alice", "milk").await;
    let event = phone.receives_message("milk").await;
    assert_eq!(event.conversation.as_str(), "@alice:alice");
    alice.receives_nothing().await;
    bob.receives_nothing().await;
    assert_eq!(alice.summary("@alice:alice").await.members, 1);
}

#[tokio::test]
async fn messages_reach_the_members_of_their_conversation_only() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut carol = server.connects("carol").await;
    alice.says("@bob", "for bob").await;
    alice.says("@carol", "for carol").await;
    bob.receives_message("for bob").await;
    carol.receives_message("for carol").await;
    bob.receives_nothing().await;
    carol.receives_nothing().await;
    carol.is_refused("send", json!({"to": "@alice:bob", "text": "me, too"})).await;
    carol.is_refused("sync", json!({"conversation": "@alice:bob"})).await;
}

#[tokio::test]
async fn a_message_over_http_reaches_every_device_of_its_sender_too() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    server.posts("send", json!({"as": "alice", "to": "@bob", "text": "from a script"})).await.ok();
    alice.receives_message("from a script").await;
    bob.receives_message("from a script").await;
    server.posts("typing", json!({"as": "alice", "conversation": "@bob"})).await.ok();
    assert!(matches!(bob.receives_signal().await, Signal::Typing { user, .. } if user.as_str() == "alice"));
}
