//! What somebody has read and received, what is unread, and who is typing.

use serde_json::json;
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{ErrorCode, Seq, Signal};
use tokio::time::Instant;

use crate::support::{Person, Server, conversation, text_of, user};

fn read(name: &str, upto: u64) -> Signal {
    Signal::Read { conversation: conversation("#general"), user: user(name), upto: Seq(upto) }
}

fn received(name: &str, upto: u64) -> Signal {
    Signal::Received { conversation: conversation("#general"), user: user(name), upto: Seq(upto) }
}

fn typing(name: &str) -> Signal {
    Signal::Typing { conversation: conversation("#general"), user: user(name) }
}

/// Moves a cursor; where it stands then.
async fn moves(person: &mut Person, which: &str, upto: u64) -> u64 {
    match person.does(which, json!({"conversation": "#general", "upto": upto})).await {
        OkBody::Cursor { upto, .. } => upto.0,
        other => panic!("{other:?}"),
    }
}

async fn unread(server: &Server, name: &str) -> u64 {
    server.connects(name).await.welcome.conversations[0].unread
}

#[tokio::test]
async fn cursors_go_forward_up_to_the_head_and_everybody_is_told() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &["bob"]).await;
    for n in 2..=5 {
        alice.says("#general", &n.to_string()).await;
    }
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    assert_eq!(moves(&mut bob, "received", 4).await, 4);
    for device in [&mut alice, &mut phone] {
        assert_eq!(device.notices().await, received("bob", 4));
    }
    assert_eq!(moves(&mut bob, "read", 3).await, 3);
    for device in [&mut alice, &mut phone] {
        assert_eq!(device.notices().await, read("bob", 3));
    }
    for (which, upto, stands) in [("read", 2, 3), ("read", 3, 3), ("read", 0, 3), ("received", 1, 4)] {
        assert_eq!(moves(&mut bob, which, upto).await, stands, "{which} does not go back to {upto}");
    }
    for which in ["read", "received"] {
        let ahead = json!({"conversation": "#general", "upto": 6});
        assert_eq!(bob.is_refused(which, ahead).await, ErrorCode::BadCursor);
    }
    for device in [&mut alice, &mut phone, &mut bob] {
        device.hears_nothing().await;
    }
    assert_eq!(moves(&mut phone, "read", 5).await, 5, "from another device");
    let members = alice.members("#general").await;
    let bobs = members.iter().find(|member| member.user == user("bob")).expect("bob");
    assert_eq!((bobs.read, bobs.received), (Seq(5), Seq(5)), "what is read was received");
}

#[tokio::test]
async fn unread_counts_the_messages_of_others_only() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_public_room("general", &["bob"]).await;
    for n in 2..=5 {
        alice.says("#general", &n.to_string()).await;
    }
    bob.says("#general", "six").await;
    for (command, fields) in [
        ("react", json!({"conversation": "#general", "target": 2, "emoji": "👍"})),
        ("edit", json!({"conversation": "#general", "target": 3, "text": "3!"})),
        ("rename", json!({"conversation": "#general", "title": "General"})),
        ("invite", json!({"conversation": "#general", "user": "carol"})),
    ] {
        alice.does(command, fields).await;
    }
    assert_eq!(unread(&server, "bob").await, 4, "neither one's own nor what is no message");
    assert_eq!(unread(&server, "alice").await, 1);
    moves(&mut bob, "read", 3).await;
    assert_eq!(unread(&server, "bob").await, 2);
    alice.does("delete", json!({"conversation": "#general", "target": 5})).await;
    assert_eq!(unread(&server, "bob").await, 2, "a deleted one still counts");
    alice.says("#general", "twelve").await;
    drop((alice, bob));
    server.restart().await;
    assert_eq!(unread(&server, "bob").await, 3, "also after a restart");
    let mut bob = server.connects("bob").await;
    moves(&mut bob, "read", 12).await;
    assert_eq!(unread(&server, "bob").await, 0);
    bob.says("#general", "thirteen").await;
    assert_eq!(unread(&server, "bob").await, 0);
}

/// So long that the writer leaves the count to readers.
#[tokio::test]
async fn a_cursor_in_the_middle_of_a_long_log_is_counted_exactly() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    alice.makes_public_room("general", &["bob"]).await;
    for n in 0..220 {
        let who = if n % 3 == 0 { &mut bob } else { &mut alice };
        who.says("#general", &n.to_string()).await;
    }
    let log = alice.log("#general").await;
    let unread_after = |upto: u64| {
        let later = log.iter().filter(|event| event.seq.0 > upto && event.from != user("bob"));
        later.filter(|event| text_of(event).is_some()).count() as u64
    };
    for upto in [90, 91, 110, 140, 141, 160, 220, 221] {
        assert_eq!(moves(&mut bob, "read", upto).await, upto);
        assert_eq!(unread(&server, "bob").await, unread_after(upto), "up to {upto}");
    }
}

#[tokio::test]
async fn cursors_sent_together_are_all_answered_with_the_highest_in_the_end() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    alice.makes_room("general", &["bob"]).await;
    for n in 0..200 {
        alice.says("#general", &n.to_string()).await;
    }
    let mut phone = server.connects("bob").await;
    // Far and near, up and down.
    for upto in (2..=200).rev().chain(1..=199) {
        bob.submits("read", json!({"conversation": "#general", "upto": upto})).await;
    }
    let mut answers = 0;
    let mut highest = Seq(0);
    while answers < 398 {
        match bob.next().await {
            ServerFrame::Reply(Reply::Ok(ok)) => {
                let OkBody::Cursor { upto, .. } = ok.body else { panic!("{ok:?}") };
                highest = highest.max(upto);
                answers += 1;
            }
            ServerFrame::Reply(other) => panic!("{other:?}"),
            _ => {}
        }
    }
    assert_eq!(highest, Seq(200));
    let mut told = Seq(0);
    while told < Seq(200) {
        let Signal::Read { upto, .. } = phone.notices().await else { panic!("a signal of reading") };
        assert!(upto > told, "it goes forward only");
        told = upto;
    }
    assert_eq!(unread(&server, "bob").await, 1);
}

#[tokio::test]
async fn typing_is_told_to_the_others_and_not_kept() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    alice.makes_room("general", &["bob"]).await;
    for device in [&mut bob, &mut phone] {
        device.sees().await;
    }
    bob.does("typing", json!({"conversation": "#general"})).await;
    assert_eq!(alice.notices().await, typing("bob"));
    assert_eq!(phone.notices().await, typing("bob"));
    bob.hears_nothing().await;
    assert_eq!(alice.log("#general").await.len(), 1);
}

#[tokio::test]
async fn whoever_types_on_and_on_is_told_of_once_a_second() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &["bob"]).await;
    alice.says("@bob", "hi").await;
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    let started = Instant::now();
    for _ in 0..25 {
        for device in [&mut bob, &mut phone] {
            device.does("typing", json!({"conversation": "#general"})).await;
        }
        server.posts("typing", json!({"as": "bob", "conversation": "#general"})).await.ok();
    }
    let seconds = started.elapsed().as_secs();
    bob.does("typing", json!({"conversation": "@alice"})).await;
    let (mut told, mut elsewhere) = (0, false);
    while !elsewhere {
        match alice.notices().await {
            Signal::Typing { conversation, .. } if conversation.is_room() => told += 1,
            other => elsewhere = matches!(other, Signal::Typing { .. }),
        }
    }
    assert!((1..=seconds + 1).contains(&told), "told {told} times in {seconds} s");
    alice.hears_nothing().await;
}

#[tokio::test]
async fn in_a_large_room_signals_go_to_ones_own_devices_only() {
    let server = Server::start_with(|config| config.limits.signal_room = 2).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &["bob", "carol"]).await;
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    bob.does("typing", json!({"conversation": "#general"})).await;
    moves(&mut bob, "received", 1).await;
    bob.does("read", json!({"conversation": "#general", "upto": 1})).await;
    assert_eq!(phone.notices().await, typing("bob"));
    phone.hears_nothing().await;
    alice.hears_nothing().await;
    alice.says("#general", "two").await;
    bob.hears("two").await;
    moves(&mut bob, "read", 2).await;
    phone.hears("two").await;
    assert_eq!(phone.notices().await, read("bob", 2));
    alice.hears_nothing().await;
    let members = alice.members("#general").await;
    assert_eq!(members[1].read, Seq(2), "members tells what the signals do not");
    alice.does("remove", json!({"conversation": "#general", "user": "carol"})).await;
    bob.sees().await;
    moves(&mut bob, "read", 3).await;
    assert_eq!(alice.notices().await, read("bob", 3), "the room is small again");
}
