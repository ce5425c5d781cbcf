//! Who may see and do what: the same check for every door, in the same words.

use serde_json::{Value, json};
use switchboard::refusal::Refusal;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ErrorCode, Seq};

use super::{Open, Shelf, seqs};
use crate::support::{conversation, soon, user};

/// Every page of a conversation.
const PAGES: [&str; 3] = ["sync", "history", "members"];

/// Every change of a conversation.
fn changes(name: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("send", json!({"to": name, "text": "hi"})),
        ("edit", json!({"conversation": name, "target": 2, "text": "x"})),
        ("delete", json!({"conversation": name, "target": 2})),
        ("react", json!({"conversation": name, "target": 2, "emoji": "x"})),
        ("read", json!({"conversation": name, "upto": 1})),
        ("received", json!({"conversation": name, "upto": 1})),
        ("join", json!({"conversation": name})),
        ("invite", json!({"conversation": name, "user": "dan"})),
        ("remove", json!({"conversation": name, "user": "alice"})),
        ("role", json!({"conversation": name, "user": "alice", "role": "reader"})),
        ("rename", json!({"conversation": name, "title": "t"})),
    ]
}

/// Asks a store everything as somebody; what it answers where it refuses.
async fn refusals(shelf: &mut Shelf, actor: &str, name: &str) -> Vec<(&'static str, Refusal)> {
    let mut refusals = Vec::new();
    for page in PAGES {
        let refused = shelf.asks(actor, page, json!({"conversation": name})).await.err();
        refusals.extend(refused.map(|refusal| (page, refusal)));
    }
    let before = shelf.asks(actor, "conversations", json!({"before": name})).await.err();
    refusals.extend(before.map(|refusal| ("conversations", refusal)));
    let standing = soon("standing", shelf.store.standing(&user(actor), conversation(name))).await.err();
    refusals.extend(standing.map(|refusal| ("typing", refusal)));
    for (command, fields) in changes(name) {
        let refused = shelf.tries(actor, command, fields).await.err();
        refusals.extend(refused.map(|refusal| (command, refusal)));
    }
    refusals
}

pub(super) async fn every_door_is_closed_to_strangers_in_the_same_words(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    shelf.says("alice", "#r", "secret").await;
    shelf.says("alice", "@bob", "secret").await;
    shelf.says("known", "@somebody", "hi").await;
    for actor in ["known", "unknown"] {
        for name in ["#r", "#none", "@alice:bob", "@alice:zoe"] {
            let refused = refusals(&mut shelf, actor, name).await;
            for (door, refusal) in &refused {
                assert_eq!(*refusal, Refusal::not_found(), "{actor} asks {door} of {name}");
            }
            // A page of conversations is empty for somebody never seen: there is nothing to hide.
            let open = if actor == "unknown" { 1 } else { 0 };
            let doors = PAGES.len() + 2 + changes(name).len();
            assert_eq!(refused.len() + open, doors, "{actor} in {name}: {refused:?}");
        }
    }
    let (known, seen) = shelf.seen("known", "#r").await;
    assert!(seen.is_none() && known.joined.len() == 1, "{known:?}");
    let room = shelf.seen("alice", "#r").await.1.expect("a member");
    let replay = soon("a replay", shelf.store.replay(known.user, room.conversation, Seq(0), Seq(2))).await;
    assert_eq!(replay.expect_err("not theirs"), Refusal::not_found());
    assert_eq!(shelf.log("alice", "#r").await.len(), 2, "nothing was stored");
    assert!(shelf.snapshot("unknown", &[]).await.is_none(), "nobody became known");
}

pub(super) async fn somebody_who_left_sees_up_to_leaving(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob", "carol"]})).await;
    shelf.says("bob", "#r", "one").await;
    shelf.stores("alice", "remove", json!({"conversation": "#r", "user": "bob"})).await;
    shelf.stores("carol", "leave", json!({"conversation": "#r"})).await;
    shelf.says("alice", "#r", "after").await;
    for (actor, end) in [("bob", 3), ("carol", 4)] {
        assert_eq!(seqs(&shelf.log(actor, "#r").await), (1..=end).map(Seq).collect::<Vec<_>>(), "{actor}");
        let page = shelf.asks(actor, "history", json!({"conversation": "#r"})).await;
        let Ok(OkBody::History { messages, head, .. }) = page else { panic!("{page:?}") };
        assert_eq!(messages.iter().map(|message| message.seq.0).collect::<Vec<_>>(), [2], "{actor}");
        assert_eq!(head, Seq(end), "{actor}");
        let beyond = shelf.asks(actor, "sync", json!({"conversation": "#r", "after": end + 1})).await;
        assert_eq!(beyond.expect_err("beyond").code, ErrorCode::BadCursor);
        let (snapshot, seen) = shelf.seen(actor, "#r").await;
        let seen = seen.expect("a former member");
        assert_eq!((seen.head, seen.member, snapshot.joined.len()), (Seq(end), false, 0), "{actor}");
        let replay = shelf.store.replay(snapshot.user, seen.conversation, Seq(0), Seq(99));
        assert_eq!(
            soon("a replay", replay).await.expect("theirs").last().map(|event| event.seq),
            Some(Seq(end))
        );
        assert!(shelf.conversations(actor).await.is_empty(), "{actor}");
        let refused = refusals(&mut shelf, actor, "#r").await;
        for (door, refusal) in &refused {
            assert_eq!(*refusal, Refusal::not_found(), "{actor} asks {door}");
        }
        let doors: Vec<_> = refused.iter().map(|(door, _)| *door).collect();
        let closed: Vec<_> =
            ["members", "typing"].into_iter().chain(changes("#r").iter().map(|(c, _)| *c)).collect();
        assert_eq!(doors, closed, "{actor}");
    }
    assert_eq!(shelf.log("alice", "#r").await.len(), 5);
}

pub(super) async fn only_writers_write_and_only_admins_rule(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob", "carol"]})).await;
    shelf.says("alice", "#r", "hi").await;
    let reader = json!({"conversation": "#r", "user": "carol", "role": "reader"});
    shelf.stores("alice", "role", reader).await;
    for (command, fields) in changes("#r") {
        let allowed = |actor| match command {
            "read" | "received" | "join" => true,
            "send" | "react" => actor == "bob",
            _ => false,
        };
        for actor in ["bob", "carol"] {
            let refused = shelf.tries(actor, command, fields.clone()).await.err().map(|refusal| refusal.code);
            let wanted = (!allowed(actor)).then_some(ErrorCode::Forbidden);
            assert_eq!(refused, wanted, "{actor} says {command}");
        }
    }
    let standing = |name| shelf.store.standing(&user(name), conversation("#r"));
    assert_eq!(soon("standing", standing("bob")).await.expect("a writer").members, 3);
    assert_eq!(soon("standing", standing("carol")).await.expect_err("a reader").code, ErrorCode::Forbidden);
    assert_eq!(shelf.is_refused("alice", "leave", json!({"conversation": "#r"})).await, ErrorCode::Forbidden);
    let step_down = json!({"conversation": "#r", "user": "alice", "role": "member"});
    assert_eq!(
        shelf.is_refused("alice", "role", step_down.clone()).await,
        ErrorCode::Forbidden,
        "the only admin"
    );
    shelf.stores("alice", "role", json!({"conversation": "#r", "user": "bob", "role": "admin"})).await;
    shelf.stores("alice", "role", step_down).await;
    shelf.stores("bob", "remove", json!({"conversation": "#r", "user": "carol"})).await;
    shelf.stores("alice", "leave", json!({"conversation": "#r"})).await;
    shelf.stores("bob", "leave", json!({"conversation": "#r"})).await;
}
