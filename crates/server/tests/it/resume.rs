//! Resuming: a client receives exactly the events it missed and then live events.

use std::collections::BTreeSet;

use serde_json::json;
use switchboard_protocol::reply::{Ok as OkFrame, OkBody, Reply, ServerFrame};
use switchboard_protocol::{ErrorCode, Seq};
use tokio::task::JoinSet;

use crate::support::{Person, Server, command, conversation};

/// Sends messages without waiting for each answer, and then waits for all answers.
async fn send_messages(person: &mut Person, to: &str, texts: impl Iterator<Item = String>) {
    let sends = texts.map(|text| command("send", &json!({"to": to, "text": text})));
    let ids = person.client.submit_all(sends).await.expect("sent");
    for _ in ids {
        let reply = person.receives_reply().await;
        assert!(matches!(reply, Reply::Ok(_)), "{reply:?}");
    }
}

#[tokio::test]
async fn a_client_that_missed_a_thousand_messages_receives_each_once_and_in_order() {
    const MISSED_MESSAGES: u64 = 1_000;
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("general", &["bob"]).await;
    alice.says("#general", "before").await;
    assert_eq!(bob.receives_event().await.seq, Seq(1));
    let cursor = bob.receives_message("before").await.seq.0;
    drop(bob);
    send_messages(&mut alice, "#general", (1..=MISSED_MESSAGES).map(|n| n.to_string())).await;

    let mut bob = server.resumes("bob", &[("#general", cursor)]).await;
    assert_eq!(bob.welcome.conversations[0].head, Seq(cursor + MISSED_MESSAGES));
    alice.says("#general", "after").await;
    for n in 1..=MISSED_MESSAGES {
        assert_eq!(bob.receives_message(&n.to_string()).await.seq, Seq(cursor + n));
    }
    bob.receives_message("after").await;
    bob.receives_nothing().await;
}

#[tokio::test]
async fn every_conversation_is_resumed_from_its_own_cursor() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    for room in ["#a", "#b", "#c"] {
        alice.makes_room(room, &["bob"]).await;
        send_messages(&mut alice, room, (2..=6).map(|n| n.to_string())).await;
    }
    // `#c` has no cursor in `hello`, so the server replays none of its events.
    let mut bob = server.resumes("bob", &[("#a", 0), ("#b", 4)]).await;
    let mut received: Vec<(String, u64)> = Vec::new();
    for _ in 0..8 {
        let event = bob.receives_event().await;
        received.push((event.conversation.to_string(), event.seq.0));
    }
    received.sort();
    let a = (1..=6).map(|seq| ("#a".to_owned(), seq));
    let b = (5..=6).map(|seq| ("#b".to_owned(), seq));
    assert_eq!(received, a.chain(b).collect::<Vec<_>>());
    bob.receives_nothing().await;
    for room in ["#a", "#b", "#c"] {
        alice.says(room, "live").await;
        assert_eq!(bob.receives_message("live").await.seq, Seq(7), "{room}");
    }
}

#[tokio::test]
async fn stored_messages_survive_a_restart() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &["bob"]).await;
    send_messages(&mut alice, "#general", (2..=50).map(|n| n.to_string())).await;
    let before = alice.log("#general").await;
    drop(alice);
    server.restart().await;
    let mut bob = server.resumes("bob", &[("#general", 0)]).await;
    for event in &before {
        assert_eq!(&bob.receives_event().await, event);
    }
    assert_eq!(bob.says("#general", "on").await, 51, "the numbers go on");
}

/// Simulates a device that repeatedly connects with its cursor, sends, receives and disconnects.
async fn connect_repeatedly(server: &Server, name: &str, rounds: u64) {
    const MESSAGES: usize = 3;
    let mut cursor = 1;
    for round in 0..rounds {
        let mut person = server.resumes(name, &[("#race", cursor)]).await;
        let sends = (0..MESSAGES).map(|n| {
            command("send", &json!({"to": "#race", "key": format!("{name}-{round}-{n}"), "text": name}))
        });
        person.client.submit_all(sends).await.expect("sent");
        let (mut own, mut received) = (BTreeSet::new(), BTreeSet::new());
        let covered = |own: &BTreeSet<u64>, received: &BTreeSet<u64>| {
            let last = own.last().copied().unwrap_or(u64::MAX);
            (cursor + 1..=last).all(|seq| own.contains(&seq) || received.contains(&seq))
        };
        while own.len() < MESSAGES || !covered(&own, &received) {
            match person.next().await {
                ServerFrame::Reply(Reply::Ok(OkFrame {
                    body: OkBody::Stored { seq, duplicate, .. },
                    ..
                })) => {
                    assert!(!duplicate);
                    assert!(seq.0 > cursor && own.insert(seq.0), "{name}: {seq} is answered twice");
                }
                ServerFrame::Event(event) => {
                    let seq = event.seq.0;
                    let last = received.last().copied().unwrap_or(cursor);
                    assert!(seq > last, "{name} receives {seq} after {last}");
                    received.insert(seq);
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        assert!(own.is_disjoint(&received), "{name} receives its own: {own:?} {received:?}");
        cursor = own.last().copied().expect("three");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_event_is_lost_or_duplicated_between_replay_and_live_events() {
    const USERS: u64 = 12;
    const ROUNDS: u64 = 20;
    let server = std::sync::Arc::new(Server::start().await);
    let names: Vec<String> = (0..USERS).map(|n| format!("racer{n}")).collect();
    let mut host = server.connects("host").await;
    let members: Vec<&str> = names.iter().map(String::as_str).collect();
    host.makes_room("race", &members).await;
    let mut racers = JoinSet::new();
    for name in names.clone() {
        let server = server.clone();
        racers.spawn(async move { connect_repeatedly(&server, &name, ROUNDS).await });
    }
    while let Some(raced) = racers.join_next().await {
        raced.expect("the device received everything");
    }
    for seq in 2..=USERS * ROUNDS * 3 + 1 {
        assert_eq!(host.receives_event().await.seq, Seq(seq));
    }
    host.receives_nothing().await;
}

#[tokio::test]
async fn after_a_gap_the_client_pages_the_log_and_receives_live_events() {
    let server = Server::start_with(|config| config.limits.replay = 10).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &["bob"]).await;
    send_messages(&mut alice, "#general", (2..=30).map(|n| n.to_string())).await;

    let mut bob = server.resumes("bob", &[("#general", 20)]).await;
    for n in 21..=30 {
        bob.receives_message(&n.to_string()).await;
    }
    let mut phone = server.resumes("bob", &[("#general", 19)]).await;
    let gap = phone.receives_reply().await;
    let (after, head) = (Seq(19), Seq(30));
    assert_eq!(gap, Reply::Gap { conversation: conversation("#general"), after, head });
    alice.says("#general", "31").await;
    phone.receives_message("31").await;
    let (mut cursor, mut pages) = (after, 0);
    while cursor < head {
        let page = phone.does("sync", json!({"conversation": "#general", "after": cursor, "limit": 4})).await;
        let OkBody::Log { events, more, head, .. } = page else { panic!("{page:?}") };
        assert_eq!((head, more), (Seq(31), cursor.0 + 4 < 31));
        for event in events {
            assert_eq!(event.seq, cursor.next());
            cursor = event.seq;
        }
        pages += 1;
    }
    assert_eq!(pages, 3, "twelve events, four on a page");
}

#[tokio::test]
async fn a_user_who_joins_while_connecting_receives_every_later_event() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    for round in 0..40 {
        let (room, name) = (format!("#room{round}"), format!("carol{round}"));
        alice.makes_room(&room, &[]).await;
        alice.submits("invite", json!({"conversation": room, "user": name})).await;
        alice.submits("send", json!({"to": room, "text": "hi"})).await;
        let mut carol = server.connects(&name).await;
        for _ in 0..2 {
            assert!(matches!(alice.receives_reply().await, Reply::Ok(_)));
        }
        // The client requests the events up to the head in `welcome` as pages; the server sends the later ones by itself.
        let known = carol.welcome.conversations.first().map_or(1, |summary| summary.head.0);
        for seq in known + 1..=3 {
            assert_eq!(carol.receives_event().await.seq, Seq(seq), "`welcome` knew {known}");
        }
        carol.receives_nothing().await;
        alice.says(&room, "ho").await;
        carol.receives_message("ho").await;
    }
}

#[tokio::test]
async fn a_user_who_is_removed_while_connecting_receives_the_events_up_to_the_removal() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    for round in 0..40 {
        let (room, name) = (format!("#room{round}"), format!("carol{round}"));
        alice.makes_room(&room, &[&name]).await;
        alice.submits("send", json!({"to": room, "text": "hi"})).await;
        alice.submits("remove", json!({"conversation": room, "user": name})).await;
        alice.submits("send", json!({"to": room, "text": "without you"})).await;
        let mut carol = server.resumes(&name, &[(room.as_str(), 0)]).await;
        for _ in 0..3 {
            assert!(matches!(alice.receives_reply().await, Reply::Ok(_)));
        }
        for seq in 1..=3 {
            assert_eq!(carol.receives_event().await.seq, Seq(seq));
        }
        carol.receives_nothing().await;
    }
}

#[tokio::test]
async fn a_former_member_resumes_up_to_their_leave_event() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_public_room("general", &["bob"]).await;
    alice.says("#general", "two").await;
    bob.does("leave", json!({"conversation": "#general"})).await;
    alice.says("#general", "four").await;
    let mut bob = server.resumes("bob", &[("#general", 1)]).await;
    assert!(bob.welcome.conversations.is_empty());
    bob.receives_message("two").await;
    assert_eq!(bob.receives_event().await.seq, Seq(3), "the leave event");
    bob.receives_nothing().await;
    let mut ahead = server.resumes("bob", &[("#general", 4)]).await;
    let refusal = ahead.receives_reply().await;
    assert!(matches!(&refusal, Reply::Error(failure) if failure.code == ErrorCode::BadCursor), "{refusal:?}");
}
