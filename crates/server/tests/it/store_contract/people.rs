//! Cursors, unread counts, acquaintances.

use serde_json::json;
use switchboard_protocol::reply::Unread;
use switchboard_protocol::{ErrorCode, Role, Seq, Timestamp};
use switchboard_store::{Change, Committed, CommittedCursor, CursorOf};

use super::{Open, Shelf};
use crate::support::{soon, user};

async fn moves(shelf: &mut Shelf, actor: &str, name: &str, upto: u64) -> CommittedCursor {
    match shelf.tries(actor, name, json!({"conversation": "#r", "upto": upto})).await {
        Ok(Committed::Cursor(cursor)) => cursor,
        other => panic!("{actor} says {name} {upto}: {other:?}"),
    }
}

pub(super) async fn cursors_go_forward_and_no_further_than_the_log(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    for _ in 0..9 {
        shelf.says("alice", "#r", "hi").await;
    }
    for (name, upto, wanted, moved) in [
        ("received", 5, 5, true),
        ("received", 4, 5, false),
        ("read", 3, 3, true),
        ("read", 3, 3, false),
        ("read", 1, 3, false),
        ("read", 8, 8, true),
        ("received", 8, 8, false),
        ("received", 10, 10, true),
    ] {
        let cursor = moves(&mut shelf, "bob", name, upto).await;
        assert_eq!((cursor.upto, cursor.moved), (Seq(wanted), moved), "{name} {upto}");
        let of = if name == "read" { CursorOf::Read } else { CursorOf::Received };
        assert_eq!((cursor.of, cursor.user.as_str(), cursor.members), (of, "bob", 2));
    }
    for name in ["read", "received"] {
        let beyond = json!({"conversation": "#r", "upto": 11});
        assert_eq!(shelf.is_refused("bob", name, beyond).await, ErrorCode::BadCursor);
    }
    shelf.opens_again().await;
    let summary = shelf.summary("bob", "#r").await;
    assert_eq!((summary.read, summary.received, summary.head), (Seq(8), Seq(10), Seq(10)));
    let summary = shelf.summary("alice", "#r").await;
    assert_eq!((summary.read, summary.role, summary.members), (Seq(1), Role::Admin, 2), "each has their own");
}

pub(super) async fn unread_counts_messages_of_others(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    let unread = async |shelf: &Shelf| {
        (shelf.summary("alice", "#r").await.unread, shelf.summary("bob", "#r").await.unread)
    };
    assert_eq!(unread(&shelf).await, (0, 0));
    // 2 and 3 by alice, 4 by bob, 5 by alice; 6 to 8 are no messages.
    for author in ["alice", "alice", "bob", "alice"] {
        shelf.says(author, "#r", "hi").await;
    }
    assert_eq!(unread(&shelf).await, (1, 3));
    shelf.stores("alice", "react", json!({"conversation": "#r", "target": 4, "emoji": "x"})).await;
    shelf.stores("alice", "edit", json!({"conversation": "#r", "target": 5, "text": "ho"})).await;
    shelf.stores("alice", "rename", json!({"conversation": "#r", "title": "R"})).await;
    assert_eq!(unread(&shelf).await, (1, 3), "only messages count");
    moves(&mut shelf, "bob", "received", 8).await;
    assert_eq!(unread(&shelf).await, (1, 3), "to have is not to have read");
    for (upto, wanted) in [(2, 2), (4, 1), (5, 0), (8, 0)] {
        moves(&mut shelf, "bob", "read", upto).await;
        assert_eq!(unread(&shelf).await, (1, wanted), "bob has read {upto}");
    }
    shelf.says("bob", "#r", "mine").await;
    shelf.says("alice", "#r", "yours").await;
    assert_eq!(unread(&shelf).await, (2, 1));
    shelf.stores("alice", "delete", json!({"conversation": "#r", "target": 10})).await;
    assert_eq!(unread(&shelf).await, (2, 1), "a deleted one still counts");
    moves(&mut shelf, "alice", "read", 4).await;
    assert_eq!(unread(&shelf).await, (1, 1));
    shelf.opens_again().await;
    assert_eq!(unread(&shelf).await, (1, 1));
}

pub(super) async fn a_connection_learns_what_is_unread_in_its_latest_conversations(open: Open) {
    let mut shelf = Shelf::new(open).await;
    let unread = async |shelf: &Shelf, actor: &str| {
        let Unread { messages, conversations, more } = shelf.summaries(actor).await.unread;
        (messages, conversations, more)
    };
    for n in 0..60 {
        shelf.says(&format!("c{n:03}"), "@shop", "hi").await;
        shelf.says(&format!("c{n:03}"), "@shop", "anybody there?").await;
    }
    assert_eq!(unread(&shelf, "shop").await, (120, 60, false), "more than a page of 50 has");
    assert_eq!(unread(&shelf, "c000").await, (0, 0, false), "one's own messages are read");
    let read = json!({"conversation": "@c000", "upto": 1});
    assert!(matches!(shelf.tries("shop", "read", read).await, Ok(Committed::Cursor(_))));
    let read = json!({"conversation": "@c001", "upto": 2});
    assert!(matches!(shelf.tries("shop", "read", read).await, Ok(Committed::Cursor(_))));
    assert_eq!(unread(&shelf, "shop").await, (117, 59, false), "counted as in a summary");
    for n in 60..250 {
        shelf.says(&format!("c{n:03}"), "@shop", "hi").await;
    }
    // The latest 200: all of the 190 new ones, and 10 with two messages.
    assert_eq!(unread(&shelf, "shop").await, (210, 200, true));
    shelf.says("shop", "@c000", "at last").await;
    assert_eq!(unread(&shelf, "shop").await, (190 + 9 * 2 + 1, 200, true), "the latest activity counts");
    shelf.opens_again().await;
    assert_eq!(unread(&shelf, "shop").await, (190 + 9 * 2 + 1, 200, true));
}

pub(super) async fn whoever_comes_back_has_read_what_was_before(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.stores("alice", "create", json!({"room": "r", "public": true})).await;
    shelf.says("alice", "#r", "before").await;
    shelf.stores("bob", "join", json!({"conversation": "#r"})).await;
    let summary = shelf.summary("bob", "#r").await;
    assert_eq!((summary.unread, summary.read), (0, Seq(3)));
    shelf.says("bob", "#r", "mine").await;
    shelf.says("alice", "#r", "unread").await;
    assert_eq!(shelf.summary("bob", "#r").await.unread, 1);
    shelf.stores("bob", "leave", json!({"conversation": "#r"})).await;
    shelf.says("alice", "#r", "while away").await;
    shelf.stores("alice", "invite", json!({"conversation": "#r", "user": "bob", "role": "reader"})).await;
    let summary = shelf.summary("bob", "#r").await;
    assert_eq!((summary.unread, summary.read, summary.role), (0, Seq(8), Role::Reader));
    shelf.says("alice", "#r", "new").await;
    assert_eq!(shelf.summary("bob", "#r").await.unread, 1);
    assert_eq!(shelf.log("bob", "#r").await.len(), 9, "a member sees the whole log");
}

pub(super) async fn acquaintances_share_a_conversation(open: Open) {
    let mut shelf = Shelf::new(open).await;
    shelf.says("alice", "@bob", "hi").await;
    shelf.stores("alice", "create", json!({"room": "r", "members": ["carol", "dan"]})).await;
    shelf.says("bob", "@eve", "hi").await;
    let at = Timestamp::from_millis(1_000_000);
    shelf.submits("carol", Change::Seen(at));
    assert!(matches!(shelf.outcome().await, Ok(Committed::Quiet)));
    shelf.stores("dan", "leave", json!({"conversation": "#r"})).await;
    let all = ["alice", "bob", "carol", "dan", "eve", "nobody"];
    let known = async |shelf: &Shelf, actor: &str| {
        let others = all.iter().map(|name| user(name)).collect();
        let found = soon("acquaintances", shelf.store.acquaintances(&user(actor), others)).await;
        found.expect("an answer").into_iter().map(|a| (a.user.to_string(), a.last_seen)).collect::<Vec<_>>()
    };
    let named = |name: &str| (name.to_owned(), None);
    assert_eq!(known(&shelf, "alice").await, [named("alice"), named("bob"), ("carol".to_owned(), Some(at))]);
    assert_eq!(known(&shelf, "bob").await, [named("alice"), named("bob"), named("eve")]);
    assert_eq!(known(&shelf, "dan").await, [named("dan")], "who left shares nothing any more");
    assert_eq!(known(&shelf, "nobody").await, []);
}

pub(super) async fn a_snapshot_is_of_ones_own_conversations(open: Open) {
    let mut shelf = Shelf::new(open).await;
    assert!(shelf.snapshot("alice", &[]).await.is_none(), "never seen");
    shelf.submits("alice", Change::Appear);
    assert!(matches!(shelf.outcome().await, Ok(Committed::Quiet)));
    let empty = shelf.snapshot("alice", &["#r"]).await.expect("seen now");
    let page = empty.summaries.expect("one page");
    assert!(empty.memberships.joined.is_empty() && page.summaries.is_empty() && !page.more);
    assert!(empty.named[0].is_err());
    shelf.stores("bob", "create", json!({"room": "r", "title": "R", "members": ["alice"]})).await;
    shelf.stores("bob", "create", json!({"room": "s"})).await;
    shelf.says("bob", "@alice", "hi").await;
    let snapshot = shelf.snapshot("alice", &["#s", "#r", "@alice:bob"]).await.expect("seen");
    assert_eq!(snapshot.user, empty.user);
    let page = snapshot.summaries.expect("one page");
    let names: Vec<_> = page.summaries.iter().map(|summary| summary.conversation.as_str()).collect();
    assert_eq!(names, ["@alice:bob", "#r"], "latest activity first");
    let named: Vec<_> = snapshot.named.iter().map(|seen| seen.as_ref().ok().map(|seen| seen.head)).collect();
    assert_eq!(named, [None, Some(Seq(1)), Some(Seq(1))], "in the order of the names");
    assert_eq!(snapshot.memberships.joined.len(), 2);
    assert!(shelf.store.is_writable());
    let key = soon("a key", shelf.store.api_key([7; 32])).await;
    assert_eq!(key, Ok(None), "a key that nobody made");
}

pub(super) async fn tokens_are_revoked_up_to_the_latest_time(open: Open) {
    let mut shelf = Shelf::new(open).await;
    let (early, late) =
        (Timestamp::from_millis(1_800_000_000_000), Timestamp::from_millis(1_800_000_001_500));
    assert_eq!(shelf.store.not_before(&user("alice")).await, Ok(None), "nobody yet");
    shelf.says("alice", "@bob", "hi").await;
    assert_eq!(shelf.snapshot("alice", &[]).await.expect("seen").not_before, None);
    for at in [late, early] {
        shelf.submits("alice", Change::Revoke { until: at, replace: false });
        assert!(matches!(shelf.outcome().await, Ok(Committed::Quiet)));
        assert_eq!(shelf.store.not_before(&user("alice")).await, Ok(Some(late)));
    }
    shelf.opens_again().await;
    assert_eq!(shelf.snapshot("alice", &[]).await.expect("seen").not_before, Some(late));
    shelf.submits("alice", Change::Revoke { until: early, replace: true });
    assert!(matches!(shelf.outcome().await, Ok(Committed::Quiet)));
    assert_eq!(shelf.store.not_before(&user("alice")).await, Ok(Some(early)), "told to replace it");
    assert_eq!(shelf.store.not_before(&user("bob")).await, Ok(None));
}
