//! Who may see and do what: the same check for every door, in the same words.

use serde_json::{Value, json};
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ErrorCode, Role, Seq};
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Committed};

use super::{Open, Shelf, change, seqs};
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
    assert!(seen.is_none() && known.memberships.joined.len() == 1, "{known:?}");
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
        assert_eq!(
            (seen.head, seen.member, snapshot.memberships.joined.len()),
            (Seq(end), false, 0),
            "{actor}"
        );
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

pub(super) async fn a_reader_who_comes_back_is_a_reader(open: Open) {
    let mut shelf = Shelf::new(open).await;
    let here = json!({"conversation": "#r"});
    let about = |name: &str| json!({"conversation": "#r", "user": name});
    let public = json!({"room": "r", "public": true, "members": ["bob", "carol", "dan"]});
    shelf.stores("alice", "create", public).await;
    for name in ["bob", "carol"] {
        let reader = json!({"conversation": "#r", "user": name, "role": "reader"});
        shelf.stores("alice", "role", reader).await;
    }
    shelf.stores("bob", "leave", here.clone()).await;
    shelf.stores("alice", "remove", about("carol")).await;
    let refused = json!({"to": "#r", "text": "unmuted"});
    for name in ["bob", "carol"] {
        let joined = shelf.stores(name, "join", here.clone()).await;
        let event = joined.event.expect("an event").to_json();
        assert!(event.contains(r#""role":"reader""#), "{event}");
        assert_eq!(shelf.is_refused(name, "send", refused.clone()).await, ErrorCode::Forbidden);
    }
    // A member who is no admin does not undo what an admin decided.
    shelf.stores("bob", "leave", here.clone()).await;
    shelf.stores("dan", "invite", about("bob")).await;
    assert_eq!(shelf.summary("bob", "#r").await.role, Role::Reader);
    assert_eq!(shelf.is_refused("bob", "send", refused.clone()).await, ErrorCode::Forbidden);
    // An admin does.
    shelf.stores("bob", "leave", here.clone()).await;
    shelf.stores("alice", "invite", about("bob")).await;
    shelf.says("bob", "#r", "a member").await;
    // What was no reader comes back as a member, an admin too.
    shelf.stores("alice", "role", json!({"conversation": "#r", "user": "dan", "role": "admin"})).await;
    shelf.stores("dan", "leave", here.clone()).await;
    let joined = shelf.stores("dan", "join", here.clone()).await;
    assert!(!joined.event.expect("an event").to_json().contains("role"));
    assert_eq!(shelf.summary("dan", "#r").await.role, Role::Member);
    // The first in an empty room is its admin all the same: nobody is there to decide otherwise.
    for name in ["bob", "dan", "carol", "alice"] {
        shelf.stores(name, "leave", here.clone()).await;
    }
    let joined = shelf.stores("carol", "join", here).await;
    assert!(joined.event.expect("an event").to_json().contains(r#""role":"admin""#));
    assert_eq!(shelf.summary("carol", "#r").await.role, Role::Admin);
}

pub(super) async fn a_room_that_everybody_left_is_entered_again_with_a_key(open: Open) {
    let mut shelf = Shelf::new(open).await;
    let here = json!({"conversation": "#r"});
    let invite = |name: &str| json!({"conversation": "#r", "user": name});
    let with_key = |name: &str| match change("invite", &invite(name)) {
        Change::Invite(invite) => Change::InviteWithKey(invite),
        other => panic!("{other:?}"),
    };
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    shelf.says("alice", "#r", "before").await;
    // A key opens nothing that has members.
    shelf.submits("shop", with_key("carol"));
    assert_eq!(shelf.outcome().await.expect_err("it has members"), Refusal::not_found());
    shelf.stores("bob", "leave", here.clone()).await;
    shelf.submits("shop", with_key("carol"));
    assert_eq!(shelf.outcome().await.expect_err("it has one"), Refusal::not_found());
    shelf.stores("alice", "leave", here.clone()).await;
    for name in ["alice", "bob", "carol", "shop"] {
        assert_eq!(shelf.is_refused(name, "join", here.clone()).await, ErrorCode::NotFound);
        assert_eq!(shelf.is_refused(name, "invite", invite("bob")).await, ErrorCode::NotFound);
    }
    shelf.submits("shop", with_key("bob"));
    let Ok(Committed::Event(first)) = shelf.outcome().await else { panic!("not invited") };
    assert_eq!((first.seq, first.event.is_some()), (Seq(5), true));
    // Said again, it is the same.
    shelf.submits("shop", with_key("bob"));
    let Ok(Committed::Event(again)) = shelf.outcome().await else { panic!("not repeated") };
    assert_eq!((again.seq, again.event.is_some()), (Seq(5), false));
    shelf.submits("shop", with_key("carol"));
    assert_eq!(shelf.outcome().await.expect_err("it has a member again"), Refusal::not_found());
    let summary = shelf.summary("bob", "#r").await;
    assert_eq!((summary.role, summary.members, summary.head), (Role::Admin, 1, Seq(5)));
    assert_eq!(seqs(&shelf.log("bob", "#r").await), (1..=5).map(Seq).collect::<Vec<_>>());
    shelf.stores("bob", "invite", invite("alice")).await;
    shelf.says("alice", "#r", "back").await;
    assert!(shelf.seen("shop", "#r").await.1.is_none(), "who invited is no member");
    // Not what does not exist, and no direct conversation.
    let nowhere = change("invite", &json!({"conversation": "#none", "user": "bob"}));
    for target in [nowhere, change("invite", &json!({"conversation": "@alice", "user": "bob"}))] {
        let Change::Invite(invite) = target else { panic!("{target:?}") };
        shelf.submits("shop", Change::InviteWithKey(invite));
        assert_eq!(shelf.outcome().await.expect_err("nothing"), Refusal::not_found());
    }
}
