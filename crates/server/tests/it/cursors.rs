//! Read and received cursors, unread counts, and typing signals.

use serde_json::json;
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{ErrorCode, Seq, Signal};
use tokio::time::Instant;

use crate::support::{Person, Server, conversation, text_of, user};

fn read_signal(name: &str, upto: u64) -> Signal {
    Signal::Read { conversation: conversation("#general"), user: user(name), upto: Seq(upto) }
}

fn received_signal(name: &str, upto: u64) -> Signal {
    Signal::Received { conversation: conversation("#general"), user: user(name), upto: Seq(upto) }
}

fn typing_signal(name: &str) -> Signal {
    Signal::Typing { conversation: conversation("#general"), user: user(name) }
}

/// Moves a cursor with the command `which` and returns the new position.
async fn move_cursor(person: &mut Person, which: &str, upto: u64) -> u64 {
    match person.does(which, json!({"conversation": "#general", "upto": upto})).await {
        OkBody::Cursor { upto, .. } => upto.0,
        other => panic!("{other:?}"),
    }
}

async fn unread_count(server: &Server, name: &str) -> u64 {
    server.connects(name).await.welcome.conversations[0].unread
}

#[tokio::test]
async fn cursors_move_forward_up_to_the_head_and_members_receive_a_signal() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &["bob"]).await;
    for n in 2..=5 {
        alice.says("#general", &n.to_string()).await;
    }
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    assert_eq!(move_cursor(&mut bob, "received", 4).await, 4);
    for device in [&mut alice, &mut phone] {
        assert_eq!(device.receives_signal().await, received_signal("bob", 4));
    }
    assert_eq!(move_cursor(&mut bob, "read", 3).await, 3);
    for device in [&mut alice, &mut phone] {
        assert_eq!(device.receives_signal().await, read_signal("bob", 3));
    }
    for (which, upto, stands) in [("read", 2, 3), ("read", 3, 3), ("read", 0, 3), ("received", 1, 4)] {
        assert_eq!(move_cursor(&mut bob, which, upto).await, stands, "{which} does not go back to {upto}");
    }
    for which in ["read", "received"] {
        let ahead = json!({"conversation": "#general", "upto": 6});
        assert_eq!(bob.is_refused(which, ahead).await, ErrorCode::BadCursor);
    }
    for device in [&mut alice, &mut phone, &mut bob] {
        device.receives_nothing().await;
    }
    assert_eq!(move_cursor(&mut phone, "read", 5).await, 5, "from another device");
    let members = alice.members("#general").await;
    let bobs = members.iter().find(|member| member.user == user("bob")).expect("bob");
    assert_eq!((bobs.read, bobs.received), (Seq(5), Seq(5)), "reading moves the received cursor, too");
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
    assert_eq!(
        unread_count(&server, "bob").await,
        4,
        "the user's own messages and other events do not count"
    );
    assert_eq!(unread_count(&server, "alice").await, 1);
    move_cursor(&mut bob, "read", 3).await;
    assert_eq!(unread_count(&server, "bob").await, 2);
    alice.does("delete", json!({"conversation": "#general", "target": 5})).await;
    assert_eq!(unread_count(&server, "bob").await, 2, "a deleted one still counts");
    alice.says("#general", "twelve").await;
    drop((alice, bob));
    server.restart().await;
    assert_eq!(unread_count(&server, "bob").await, 3, "also after a restart");
    let mut bob = server.connects("bob").await;
    move_cursor(&mut bob, "read", 12).await;
    assert_eq!(unread_count(&server, "bob").await, 0);
    bob.says("#general", "thirteen").await;
    assert_eq!(unread_count(&server, "bob").await, 0);
}

/// The log is so long that a read connection of the store counts the unread messages, and not the writer.
#[tokio::test]
async fn the_unread_count_is_exact_for_a_cursor_in_the_middle_of_a_long_log() {
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
        assert_eq!(move_cursor(&mut bob, "read", upto).await, upto);
        assert_eq!(unread_count(&server, "bob").await, unread_after(upto), "up to {upto}");
    }
}

#[tokio::test]
async fn pipelined_cursors_are_all_answered_and_the_highest_remains() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    alice.makes_room("general", &["bob"]).await;
    for n in 0..200 {
        alice.says("#general", &n.to_string()).await;
    }
    let mut phone = server.connects("bob").await;
    // Moves the read cursor to positions from the end backward, and then from the beginning forward.
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
    let mut last = Seq(0);
    while last < Seq(200) {
        let Signal::Read { upto, .. } = phone.receives_signal().await else { panic!("a signal of reading") };
        assert!(upto > last, "it goes forward only");
        last = upto;
    }
    assert_eq!(unread_count(&server, "bob").await, 1);
}

#[tokio::test]
async fn typing_is_sent_to_the_other_members_and_not_stored() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    alice.makes_room("general", &["bob"]).await;
    for device in [&mut bob, &mut phone] {
        device.receives_event().await;
    }
    bob.does("typing", json!({"conversation": "#general"})).await;
    assert_eq!(alice.receives_signal().await, typing_signal("bob"));
    assert_eq!(phone.receives_signal().await, typing_signal("bob"));
    bob.receives_nothing().await;
    assert_eq!(alice.log("#general").await.len(), 1);
}

#[tokio::test]
async fn repeated_typing_is_sent_once_a_second() {
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
    let (mut signals, mut elsewhere) = (0, false);
    while !elsewhere {
        match alice.receives_signal().await {
            Signal::Typing { conversation, .. } if conversation.is_room() => signals += 1,
            other => elsewhere = matches!(other, Signal::Typing { .. }),
        }
    }
    assert!((1..=seconds + 1).contains(&signals), "{signals} signals in {seconds} s");
    alice.receives_nothing().await;
}

#[tokio::test]
async fn in_a_large_room_signals_reach_the_users_own_devices_only() {
    let server = Server::start_with(|config| config.limits.signal_room = 2).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &["bob", "carol"]).await;
    let mut bob = server.connects("bob").await;
    let mut phone = server.connects("bob").await;
    bob.does("typing", json!({"conversation": "#general"})).await;
    move_cursor(&mut bob, "received", 1).await;
    bob.does("read", json!({"conversation": "#general", "upto": 1})).await;
    assert_eq!(phone.receives_signal().await, typing_signal("bob"));
    phone.receives_nothing().await;
    alice.receives_nothing().await;
    alice.says("#general", "two").await;
    bob.receives_message("two").await;
    move_cursor(&mut bob, "read", 2).await;
    phone.receives_message("two").await;
    assert_eq!(phone.receives_signal().await, read_signal("bob", 2));
    alice.receives_nothing().await;
    let members = alice.members("#general").await;
    assert_eq!(members[1].read, Seq(2), "`members` has the cursor that no signal carried");
    alice.does("remove", json!({"conversation": "#general", "user": "carol"})).await;
    bob.receives_event().await;
    move_cursor(&mut bob, "read", 3).await;
    assert_eq!(alice.receives_signal().await, read_signal("bob", 3), "the room is small again");
}
