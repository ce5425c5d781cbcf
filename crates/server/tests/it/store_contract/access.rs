//! Access checks: the same for every query and change, with the same refusal.

use serde_json::{Value, json};
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ErrorCode, Role, Seq};
use switchboard_store::block::View;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Committed};

use super::{OpenStore, TestStore, change, seqs};
use crate::support::{conversation, in_time, user};

/// Every query that returns a page of one conversation.
const PAGED_QUERIES: [&str; 3] = ["sync", "history", "members"];

/// Every kind of change to the conversation `name`, with its fields.
fn change_commands(name: &str) -> Vec<(&'static str, Value)> {
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

/// Sends all queries and changes as a user, and returns the refusals.
async fn refusals_of_all_requests(
    db: &mut TestStore,
    actor: &str,
    name: &str,
) -> Vec<(&'static str, Refusal)> {
    let mut refusals = Vec::new();
    for page in PAGED_QUERIES {
        let refused = db.query_page(actor, page, json!({"conversation": name})).await.err();
        refusals.extend(refused.map(|refusal| (page, refusal)));
    }
    let before = db.query_page(actor, "conversations", json!({"before": name})).await.err();
    refusals.extend(before.map(|refusal| ("conversations", refusal)));
    let standing =
        in_time("standing", db.store.check_write_access(&user(actor), conversation(name))).await.err();
    refusals.extend(standing.map(|refusal| ("typing", refusal)));
    for (command, fields) in change_commands(name) {
        let refused = db.tries(actor, command, fields).await.err();
        refusals.extend(refused.map(|refusal| (command, refusal)));
    }
    refusals
}

pub(super) async fn non_members_receive_the_same_refusal_for_every_command(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    db.says("alice", "#r", "secret").await;
    db.says("alice", "@bob", "secret").await;
    db.says("known", "@other", "hi").await;
    for actor in ["known", "unknown"] {
        for name in ["#r", "#none", "@alice:bob", "@alice:zoe"] {
            let refused = refusals_of_all_requests(&mut db, actor, name).await;
            for (door, refusal) in &refused {
                assert_eq!(*refusal, Refusal::not_found(), "{actor} sends {door} for {name}");
            }
            // An unknown user gets an empty page of conversations, and not a refusal.
            let open = if actor == "unknown" { 1 } else { 0 };
            let doors = PAGED_QUERIES.len() + 2 + change_commands(name).len();
            assert_eq!(refused.len() + open, doors, "{actor} in {name}: {refused:?}");
        }
    }
    let (known, seen) = db.snapshot_and_conversation("known", "#r").await;
    assert!(seen.is_none() && known.memberships.joined.len() == 1, "{known:?}");
    let room = db.snapshot_and_conversation("alice", "#r").await.1.expect("a member");
    let replay = in_time("a replay", db.store.replay(known.user, room.conversation, Seq(0), Seq(2))).await;
    assert_eq!(replay.expect_err("a conversation of others"), Refusal::not_found());
    assert_eq!(db.log("alice", "#r").await.len(), 2, "nothing was stored");
    assert!(db.snapshot("unknown", &[]).await.is_none(), "the refused user is still unknown");
}

pub(super) async fn a_former_member_sees_the_log_up_to_their_leave_event(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob", "carol"]})).await;
    db.says("bob", "#r", "one").await;
    db.stores("alice", "remove", json!({"conversation": "#r", "user": "bob"})).await;
    db.stores("carol", "leave", json!({"conversation": "#r"})).await;
    db.says("alice", "#r", "after").await;
    for (actor, end) in [("bob", 3), ("carol", 4)] {
        assert_eq!(seqs(&db.log(actor, "#r").await), (1..=end).map(Seq).collect::<Vec<_>>(), "{actor}");
        let page = db.query_page(actor, "history", json!({"conversation": "#r"})).await;
        let Ok(OkBody::History { messages, head, .. }) = page else { panic!("{page:?}") };
        assert_eq!(messages.iter().map(|message| message.seq.0).collect::<Vec<_>>(), [2], "{actor}");
        assert_eq!(head, Seq(end), "{actor}");
        let beyond = db.query_page(actor, "sync", json!({"conversation": "#r", "after": end + 1})).await;
        assert_eq!(beyond.expect_err("beyond").code, ErrorCode::BadCursor);
        let (snapshot, seen) = db.snapshot_and_conversation(actor, "#r").await;
        let seen = seen.expect("a former member");
        assert_eq!(
            (seen.head, seen.is_member, snapshot.memberships.joined.len()),
            (Seq(end), false, 0),
            "{actor}"
        );
        let replay = db.store.replay(snapshot.user, seen.conversation, Seq(0), Seq(99));
        assert_eq!(
            in_time("a replay", replay).await.expect("theirs").last().map(|read| read.event.seq),
            Some(Seq(end))
        );
        assert!(db.conversations(actor).await.is_empty(), "{actor}");
        let refused = refusals_of_all_requests(&mut db, actor, "#r").await;
        for (door, refusal) in &refused {
            assert_eq!(*refusal, Refusal::not_found(), "{actor} sends {door}");
        }
        let doors: Vec<_> = refused.iter().map(|(door, _)| *door).collect();
        let closed: Vec<_> =
            ["members", "typing"].into_iter().chain(change_commands("#r").iter().map(|(c, _)| *c)).collect();
        assert_eq!(doors, closed, "{actor}");
    }
    assert_eq!(db.log("alice", "#r").await.len(), 5);
}

pub(super) async fn readers_cannot_write_and_only_admins_change_the_room(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob", "carol"]})).await;
    db.says("alice", "#r", "hi").await;
    let reader = json!({"conversation": "#r", "user": "carol", "role": "reader"});
    db.stores("alice", "role", reader).await;
    for (command, fields) in change_commands("#r") {
        let allowed = |actor| match command {
            "read" | "received" | "join" => true,
            "send" | "react" => actor == "bob",
            _ => false,
        };
        for actor in ["bob", "carol"] {
            let refused = db.tries(actor, command, fields.clone()).await.err().map(|refusal| refusal.code);
            let expected = (!allowed(actor)).then_some(ErrorCode::Forbidden);
            assert_eq!(refused, expected, "{actor} says {command}");
        }
    }
    let standing = |name| db.store.check_write_access(&user(name), conversation("#r"));
    assert_eq!(in_time("standing", standing("bob")).await.expect("a writer").members, 3);
    assert_eq!(
        in_time("standing", standing("carol")).await.expect_err("a reader").code,
        ErrorCode::Forbidden
    );
    assert_eq!(db.is_refused("alice", "leave", json!({"conversation": "#r"})).await, ErrorCode::Forbidden);
    let step_down = json!({"conversation": "#r", "user": "alice", "role": "member"});
    assert_eq!(
        db.is_refused("alice", "role", step_down.clone()).await,
        ErrorCode::Forbidden,
        "the only admin"
    );
    db.stores("alice", "role", json!({"conversation": "#r", "user": "bob", "role": "admin"})).await;
    db.stores("alice", "role", step_down).await;
    db.stores("bob", "remove", json!({"conversation": "#r", "user": "carol"})).await;
    db.stores("alice", "leave", json!({"conversation": "#r"})).await;
    db.stores("bob", "leave", json!({"conversation": "#r"})).await;
}

pub(super) async fn a_reader_who_leaves_and_rejoins_is_still_a_reader(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let here = json!({"conversation": "#r"});
    let about = |name: &str| json!({"conversation": "#r", "user": name});
    let public = json!({"room": "r", "public": true, "members": ["bob", "carol", "dan"]});
    db.stores("alice", "create", public).await;
    for name in ["bob", "carol"] {
        let reader = json!({"conversation": "#r", "user": name, "role": "reader"});
        db.stores("alice", "role", reader).await;
    }
    db.stores("bob", "leave", here.clone()).await;
    db.stores("alice", "remove", about("carol")).await;
    let refused = json!({"to": "#r", "text": "unmuted"});
    for name in ["bob", "carol"] {
        let joined = db.stores(name, "join", here.clone()).await;
        let event = joined.event.expect("an event").to_json_for(View::Whole);
        assert!(event.contains(r#""role":"reader""#), "{event}");
        assert_eq!(db.is_refused(name, "send", refused.clone()).await, ErrorCode::Forbidden);
    }
    // An invitation by a member does not change the role that an admin set.
    db.stores("bob", "leave", here.clone()).await;
    db.stores("dan", "invite", about("bob")).await;
    assert_eq!(db.summary("bob", "#r").await.role, Role::Reader);
    assert_eq!(db.is_refused("bob", "send", refused.clone()).await, ErrorCode::Forbidden);
    // An invitation by an admin changes the role.
    db.stores("bob", "leave", here.clone()).await;
    db.stores("alice", "invite", about("bob")).await;
    db.says("bob", "#r", "a member").await;
    // After another invitation, a user who was not a reader is a member, even if that user was an admin before.
    db.stores("alice", "role", json!({"conversation": "#r", "user": "dan", "role": "admin"})).await;
    db.stores("dan", "leave", here.clone()).await;
    let joined = db.stores("dan", "join", here.clone()).await;
    assert!(!joined.event.expect("an event").to_json_for(View::Whole).contains("role"));
    assert_eq!(db.summary("dan", "#r").await.role, Role::Member);
    // The first user who joins an empty room becomes its admin, even if that user was a reader before.
    for name in ["bob", "dan", "carol", "alice"] {
        db.stores(name, "leave", here.clone()).await;
    }
    let joined = db.stores("carol", "join", here).await;
    assert!(joined.event.expect("an event").to_json_for(View::Whole).contains(r#""role":"admin""#));
    assert_eq!(db.summary("carol", "#r").await.role, Role::Admin);
}

pub(super) async fn an_api_key_can_add_a_user_to_an_empty_room(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let here = json!({"conversation": "#r"});
    let invite = |name: &str| json!({"conversation": "#r", "user": name});
    let with_key = |name: &str| match change("invite", &invite(name)) {
        Change::Invite(invite) => Change::InviteWithKey(invite),
        other => panic!("{other:?}"),
    };
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    db.says("alice", "#r", "before").await;
    // By an invitation with an API key, a back end cannot add a user to a room that already has members.
    db.submits("shop", with_key("carol"));
    assert_eq!(db.next_outcome().await.expect_err("it has members"), Refusal::not_found());
    db.stores("bob", "leave", here.clone()).await;
    db.submits("shop", with_key("carol"));
    assert_eq!(db.next_outcome().await.expect_err("it has one"), Refusal::not_found());
    db.stores("alice", "leave", here.clone()).await;
    for name in ["alice", "bob", "carol", "shop"] {
        assert_eq!(db.is_refused(name, "join", here.clone()).await, ErrorCode::NotFound);
        assert_eq!(db.is_refused(name, "invite", invite("bob")).await, ErrorCode::NotFound);
    }
    db.submits("shop", with_key("bob"));
    let Ok(Committed::Event(first)) = db.next_outcome().await else { panic!("not invited") };
    assert_eq!((first.seq, first.event.is_some()), (Seq(5), true));
    // The same invitation again returns the event of the first.
    db.submits("shop", with_key("bob"));
    let Ok(Committed::Event(again)) = db.next_outcome().await else { panic!("not repeated") };
    assert_eq!((again.seq, again.event.is_some()), (Seq(5), false));
    db.submits("shop", with_key("carol"));
    assert_eq!(db.next_outcome().await.expect_err("it has a member again"), Refusal::not_found());
    let summary = db.summary("bob", "#r").await;
    assert_eq!((summary.role, summary.members, summary.head), (Role::Admin, 1, Seq(5)));
    assert_eq!(seqs(&db.log("bob", "#r").await), (1..=5).map(Seq).collect::<Vec<_>>());
    db.stores("bob", "invite", invite("alice")).await;
    db.says("alice", "#r", "back").await;
    assert!(
        db.snapshot_and_conversation("shop", "#r").await.1.is_none(),
        "the inviting back end is no member"
    );
    // A back end can add no user to a room that does not exist, or to a direct conversation.
    let nowhere = change("invite", &json!({"conversation": "#none", "user": "bob"}));
    for target in [nowhere, change("invite", &json!({"conversation": "@alice", "user": "bob"}))] {
        let Change::Invite(invite) = target else { panic!("{target:?}") };
        db.submits("shop", Change::InviteWithKey(invite));
        assert_eq!(db.next_outcome().await.expect_err("nothing"), Refusal::not_found());
    }
}
