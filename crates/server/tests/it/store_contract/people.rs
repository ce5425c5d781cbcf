//! Cursors, unread counts, users who share a conversation, and revocations.

use serde_json::json;
use switchboard_protocol::reply::Unread;
use switchboard_protocol::{ErrorCode, Role, Seq, Timestamp};
use switchboard_store::{Change, Committed, CommittedCursor, CursorKind, PresenceChange};

use super::{OpenStore, TestStore};
use crate::support::{in_time, user};

async fn move_read_cursor(db: &mut TestStore, actor: &str, name: &str, upto: u64) -> CommittedCursor {
    match db.tries(actor, name, json!({"conversation": "#r", "upto": upto})).await {
        Ok(Committed::Cursor(cursor)) => cursor,
        other => panic!("{actor} sends {name} {upto}: {other:?}"),
    }
}

pub(super) async fn cursors_move_forward_up_to_the_head(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    for _ in 0..9 {
        db.says("alice", "#r", "hi").await;
    }
    for (name, upto, expected, moved) in [
        ("received", 5, 5, true),
        ("received", 4, 5, false),
        ("read", 3, 3, true),
        ("read", 3, 3, false),
        ("read", 1, 3, false),
        ("read", 8, 8, true),
        ("received", 8, 8, false),
        ("received", 10, 10, true),
    ] {
        let cursor = move_read_cursor(&mut db, "bob", name, upto).await;
        assert_eq!((cursor.upto, cursor.has_moved), (Seq(expected), moved), "{name} {upto}");
        let of = if name == "read" { CursorKind::Read } else { CursorKind::Received };
        assert_eq!((cursor.kind, cursor.user.as_str(), cursor.members), (of, "bob", 2));
    }
    for name in ["read", "received"] {
        let beyond = json!({"conversation": "#r", "upto": 11});
        assert_eq!(db.is_refused("bob", name, beyond).await, ErrorCode::BadCursor);
    }
    db.reopen().await;
    let summary = db.summary("bob", "#r").await;
    assert_eq!((summary.read, summary.received, summary.head), (Seq(8), Seq(10), Seq(10)));
    let summary = db.summary("alice", "#r").await;
    assert_eq!(
        (summary.read, summary.role, summary.members),
        (Seq(1), Role::Admin, 2),
        "each user has their own cursors"
    );
}

pub(super) async fn unread_counts_messages_of_others(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    let unread =
        async |db: &TestStore| (db.summary("alice", "#r").await.unread, db.summary("bob", "#r").await.unread);
    assert_eq!(unread(&db).await, (0, 0));
    // Messages: 2, 3 and 5 from alice, 4 from bob. The events 6 to 8 are no messages.
    for author in ["alice", "alice", "bob", "alice"] {
        db.says(author, "#r", "hi").await;
    }
    assert_eq!(unread(&db).await, (1, 3));
    db.stores("alice", "react", json!({"conversation": "#r", "target": 4, "emoji": "x"})).await;
    db.stores("alice", "edit", json!({"conversation": "#r", "target": 5, "text": "ho"})).await;
    db.stores("alice", "rename", json!({"conversation": "#r", "title": "R"})).await;
    assert_eq!(unread(&db).await, (1, 3), "only messages count");
    move_read_cursor(&mut db, "bob", "received", 8).await;
    assert_eq!(unread(&db).await, (1, 3), "`received` does not change the unread count");
    for (upto, expected) in [(2, 2), (4, 1), (5, 0), (8, 0)] {
        move_read_cursor(&mut db, "bob", "read", upto).await;
        assert_eq!(unread(&db).await, (1, expected), "bob has read {upto}");
    }
    db.says("bob", "#r", "mine").await;
    db.says("alice", "#r", "yours").await;
    assert_eq!(unread(&db).await, (2, 1));
    db.stores("alice", "delete", json!({"conversation": "#r", "target": 10})).await;
    assert_eq!(unread(&db).await, (2, 1), "a deleted one still counts");
    move_read_cursor(&mut db, "alice", "read", 4).await;
    assert_eq!(unread(&db).await, (1, 1));
    db.reopen().await;
    assert_eq!(unread(&db).await, (1, 1));
}

pub(super) async fn welcome_counts_unread_over_the_latest_conversations(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let unread = async |db: &TestStore, actor: &str| {
        let Unread { messages, conversations, more } = db.summaries(actor).await.unread;
        (messages, conversations, more)
    };
    for n in 0..60 {
        db.says(&format!("c{n:03}"), "@shop", "hi").await;
        db.says(&format!("c{n:03}"), "@shop", "anybody there?").await;
    }
    assert_eq!(unread(&db, "shop").await, (120, 60, false), "more than a page of 50 has");
    assert_eq!(unread(&db, "c000").await, (0, 0, false), "the user's own messages are not unread");
    let read = json!({"conversation": "@c000", "upto": 1});
    assert!(matches!(db.tries("shop", "read", read).await, Ok(Committed::Cursor(_))));
    let read = json!({"conversation": "@c001", "upto": 2});
    assert!(matches!(db.tries("shop", "read", read).await, Ok(Committed::Cursor(_))));
    assert_eq!(unread(&db, "shop").await, (117, 59, false), "counted as in a summary");
    for n in 60..250 {
        db.says(&format!("c{n:03}"), "@shop", "hi").await;
    }
    // The latest 200 conversations are the 190 new ones and 10 with two messages.
    assert_eq!(unread(&db, "shop").await, (210, 200, true));
    db.says("shop", "@c000", "at last").await;
    assert_eq!(unread(&db, "shop").await, (190 + 9 * 2 + 1, 200, true), "the latest activity counts");
    db.reopen().await;
    assert_eq!(unread(&db, "shop").await, (190 + 9 * 2 + 1, 200, true));
}

pub(super) async fn a_user_who_rejoins_has_read_the_earlier_messages(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "public": true})).await;
    db.says("alice", "#r", "before").await;
    db.stores("bob", "join", json!({"conversation": "#r"})).await;
    let summary = db.summary("bob", "#r").await;
    assert_eq!((summary.unread, summary.read), (0, Seq(3)));
    db.says("bob", "#r", "mine").await;
    db.says("alice", "#r", "unread").await;
    assert_eq!(db.summary("bob", "#r").await.unread, 1);
    db.stores("bob", "leave", json!({"conversation": "#r"})).await;
    db.says("alice", "#r", "while away").await;
    db.stores("alice", "invite", json!({"conversation": "#r", "user": "bob", "role": "reader"})).await;
    let summary = db.summary("bob", "#r").await;
    assert_eq!((summary.unread, summary.read, summary.role), (0, Seq(8), Role::Reader));
    db.says("alice", "#r", "new").await;
    assert_eq!(db.summary("bob", "#r").await.unread, 1);
    assert_eq!(db.log("bob", "#r").await.len(), 9, "a member sees the whole log");
}

pub(super) async fn only_users_who_share_a_conversation_are_presence_peers(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.says("alice", "@bob", "hi").await;
    db.stores("alice", "create", json!({"room": "r", "members": ["carol", "dan"]})).await;
    db.says("bob", "@eve", "hi").await;
    let at = Timestamp::from_millis(1_000_000);
    db.submits("carol", Change::SetPresence(PresenceChange::LastSeen(at)));
    assert!(matches!(db.next_outcome().await, Ok(Committed::NotAnnounced)));
    db.stores("dan", "leave", json!({"conversation": "#r"})).await;
    let all = ["alice", "bob", "carol", "dan", "eve", "nobody"];
    let known = async |db: &TestStore, actor: &str| {
        let others = all.iter().map(|name| user(name)).collect();
        let found = in_time("presence_peers", db.store.presence_peers(&user(actor), others)).await;
        found.expect("an answer").into_iter().map(|a| (a.user.to_string(), a.last_seen)).collect::<Vec<_>>()
    };
    let named = |name: &str| (name.to_owned(), None);
    assert_eq!(
        known(&db, "alice").await,
        [named("alice"), ("carol".to_owned(), Some(at))],
        "bob did not write"
    );
    assert_eq!(known(&db, "bob").await, [named("bob")], "neither does a user who was written to watch");
    db.says("bob", "@alice", "hello").await;
    assert_eq!(known(&db, "alice").await, [named("alice"), named("bob"), ("carol".to_owned(), Some(at))]);
    assert_eq!(known(&db, "bob").await, [named("alice"), named("bob")]);
    assert_eq!(known(&db, "dan").await, [named("dan")], "a former member has no presence_peers in the room");
    assert_eq!(known(&db, "nobody").await, []);
}

pub(super) async fn a_snapshot_has_the_users_own_conversations(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    assert!(db.snapshot("alice", &[]).await.is_none(), "never seen");
    db.submits("alice", Change::RegisterUser);
    assert!(matches!(db.next_outcome().await, Ok(Committed::NotAnnounced)));
    let empty = db.snapshot("alice", &["#r"]).await.expect("seen now");
    let page = empty.summaries.expect("one page");
    assert!(empty.memberships.joined.is_empty() && page.summaries.is_empty() && !page.has_more);
    assert!(empty.named[0].is_err());
    db.stores("bob", "create", json!({"room": "r", "title": "R", "members": ["alice"]})).await;
    db.stores("bob", "create", json!({"room": "s"})).await;
    db.says("bob", "@alice", "hi").await;
    let snapshot = db.snapshot("alice", &["#s", "#r", "@alice:bob"]).await.expect("seen");
    assert_eq!(snapshot.user, empty.user);
    let page = snapshot.summaries.expect("one page");
    let names: Vec<_> = page.summaries.iter().map(|summary| summary.conversation.as_str()).collect();
    assert_eq!(names, ["@alice:bob", "#r"], "latest activity first");
    let named: Vec<_> = snapshot.named.iter().map(|seen| seen.as_ref().ok().map(|seen| seen.head)).collect();
    assert_eq!(named, [None, Some(Seq(1)), Some(Seq(1))], "in the order of the names");
    assert_eq!(snapshot.memberships.joined.len(), 2);
    assert!(db.store.is_writable());
    let key = in_time("a key", db.store.api_key([7; 32])).await;
    assert_eq!(key, Ok(None), "an unknown API key");
}

async fn not_before(db: &TestStore, name: &str) -> Option<Timestamp> {
    db.store.standing(&user(name)).await.expect("an answer").not_before
}

pub(super) async fn tokens_are_revoked_up_to_the_latest_time(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let (early, late) =
        (Timestamp::from_millis(1_800_000_000_000), Timestamp::from_millis(1_800_000_001_500));
    assert_eq!(not_before(&db, "alice").await, (None), "no revocation yet");
    db.says("alice", "@bob", "hi").await;
    assert_eq!(db.snapshot("alice", &[]).await.expect("seen").standing.not_before, None);
    for at in [late, early] {
        db.submits("alice", Change::Revoke { until: at, replace: false });
        assert!(matches!(db.next_outcome().await, Ok(Committed::NotAnnounced)));
        assert_eq!(not_before(&db, "alice").await, (Some(late)));
    }
    db.reopen().await;
    assert_eq!(db.snapshot("alice", &[]).await.expect("seen").standing.not_before, Some(late));
    db.submits("alice", Change::Revoke { until: early, replace: true });
    assert!(matches!(db.next_outcome().await, Ok(Committed::NotAnnounced)));
    assert_eq!(
        not_before(&db, "alice").await,
        (Some(early)),
        "a revocation may replace a later one if requested"
    );
    assert_eq!(not_before(&db, "bob").await, (None));
}
