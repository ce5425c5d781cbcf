//! Pages, replays and snapshots are consistent and bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ErrorCode, Limits, Seq, Timestamp};
use switchboard_store::clock::Clock;
use switchboard_store::{Batch, Committed};

use super::{OpenStore, StoreRules, TestStore, change, seqs};
use crate::support::{in_time, user};

/// Limits with which a page has at most four items, or about two messages of 1,000 bytes.
fn rules_with_small_pages() -> StoreRules {
    StoreRules { limits: Limits { page: 4, page_bytes: 2_000, ..Limits::default() }, ..StoreRules::default() }
}

fn seq_range(seqs: std::ops::RangeInclusive<u64>) -> Vec<Seq> {
    seqs.map(Seq).collect()
}

pub(super) async fn a_page_of_the_log_is_bounded_in_events_and_bytes(open: OpenStore) {
    let mut db = TestStore::open_with(open, rules_with_small_pages()).await;
    for _ in 0..6 {
        db.says("alice", "@bob", "hi").await;
    }
    for _ in 0..3 {
        db.says("alice", "@bob", &"x".repeat(1_000)).await;
    }
    db.says("alice", "@bob", &"x".repeat(10_000)).await;
    for (after, limit, expected, expected_more) in [
        (0, Some(2), seq_range(1..=2), true),
        (0, Some(100), seq_range(1..=4), true),
        (0, None, seq_range(1..=2), true),
        (2, Some(4), seq_range(3..=6), true),
        (6, Some(4), seq_range(7..=8), true),
        (8, Some(4), seq_range(9..=10), false),
        (9, Some(4), seq_range(10..=10), false),
        (10, Some(4), vec![], false),
    ] {
        let page = db
            .query_page("bob", "sync", json!({"conversation": "@alice", "after": after, "limit": limit}))
            .await;
        let Ok(OkBody::Log { events, head, more, .. }) = page else { panic!("{page:?}") };
        assert_eq!(
            (seqs(&events), more, head),
            (expected, expected_more, Seq(10)),
            "after {after}, {limit:?}"
        );
    }
    let beyond = db.query_page("bob", "sync", json!({"conversation": "@alice", "after": 11})).await;
    assert_eq!(beyond.expect_err("past the log").code, ErrorCode::BadCursor);
}

pub(super) async fn a_page_of_history_is_bounded_in_messages_and_bytes(open: OpenStore) {
    let mut db = TestStore::open_with(open, rules_with_small_pages()).await;
    db.says("alice", "@bob", &"x".repeat(10_000)).await;
    for _ in 0..3 {
        db.says("alice", "@bob", &"x".repeat(1_000)).await;
    }
    for _ in 0..6 {
        db.says("alice", "@bob", "hi").await;
        db.stores("bob", "react", json!({"conversation": "@alice", "target": 1, "emoji": "x"})).await;
    }
    // The reaction is an event, too, so the seqs of the short messages are 5 and 7 to 11.
    for (before, limit, expected, expected_more) in [
        (None, Some(3), vec![9, 10, 11], true),
        (None, Some(100), vec![8, 9, 10, 11], true),
        (Some(8), Some(2), vec![5, 7], true),
        (Some(5), Some(4), vec![3, 4], true),
        (Some(3), Some(1), vec![2], true),
        (Some(2), Some(4), vec![1], false),
        (Some(1), Some(4), vec![], false),
        (Some(99), Some(1), vec![11], true),
    ] {
        let fields = json!({"conversation": "@alice", "before": before, "limit": limit});
        let Ok(OkBody::History { messages, more, head, .. }) = db.query_page("bob", "history", fields).await
        else {
            panic!("a page")
        };
        assert_eq!(head, Seq(11), "every page includes the reactions up to the head");
        let found: Vec<_> = messages.iter().map(|message| message.seq.0).collect();
        assert_eq!((found, more), (expected, expected_more), "before {before:?}, {limit:?}");
    }
}

/// Requests a page of history around an event. Returns its seqs, and whether there are more messages before and after.
async fn history_around(db: &TestStore, actor: &str, seq: u64, limit: u32) -> (Vec<u64>, bool, bool) {
    let fields = json!({"conversation": "@alice:bob", "around": seq, "limit": limit});
    match db.query_page(actor, "history", fields).await {
        Ok(OkBody::History { messages, more, more_after: Some(more_after), .. }) => {
            (messages.iter().map(|message| message.seq.0).collect(), more, more_after)
        }
        other => panic!("no page around {seq} but {other:?}"),
    }
}

pub(super) async fn a_page_of_history_around_an_event_has_half_on_each_side(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    for n in 1..=10 {
        db.says("alice", "@bob", &n.to_string()).await;
    }
    db.stores("alice", "delete", json!({"conversation": "@bob", "target": 5})).await;
    db.says("bob", "@alice", "12").await;
    for (seq, limit, expected) in [
        (5, 4, (vec![3, 4, 5, 6], true, true)),
        (5, 5, (vec![3, 4, 5, 6, 7], true, true)),
        (5, 1, (vec![5], true, true)),
        (1, 4, (vec![1, 2], false, true)),
        (3, 4, (vec![1, 2, 3, 4], false, true)),
        (10, 4, (vec![8, 9, 10, 12], true, false)),
        (11, 4, (vec![9, 10, 12], true, false)),
        (12, 2, (vec![10, 12], true, false)),
        (12, 4, (vec![9, 10, 12], true, false)),
        (6, 200, (vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12], false, false)),
    ] {
        assert_eq!(history_around(&db, "bob", seq, limit).await, expected, "around {seq}, {limit} at most");
    }
    let page =
        db.query_page("bob", "history", json!({"conversation": "@alice", "around": 5, "limit": 3})).await;
    let Ok(OkBody::History { messages, head, .. }) = page else { panic!("{page:?}") };
    assert_eq!(head, Seq(12));
    assert!(
        messages[1].deleted && messages[1].text.is_none(),
        "a deleted message keeps its place: {messages:?}"
    );
    // A page without `around` has no `more_after`.
    let page = db.query_page("bob", "history", json!({"conversation": "@alice", "before": 5})).await;
    assert!(matches!(page, Ok(OkBody::History { more_after: None, .. })), "{page:?}");
}

pub(super) async fn a_page_around_an_event_is_found_across_other_events_and_bounded_in_bytes(
    open: OpenStore,
) {
    let limits = Limits { page_bytes: 4_000, ..Limits::default() };
    let mut db = TestStore::open_with(open, StoreRules { limits, ..StoreRules::default() }).await;
    let react =
        |target: u64, n: u32| json!({"conversation": "@alice:bob", "target": target, "emoji": n.to_string()});
    db.says("alice", "@bob", "1").await;
    for n in 0..100 {
        db.stores("bob", "react", react(1, n)).await;
    }
    db.says("alice", "@bob", "102").await;
    for n in 0..100 {
        db.stores("bob", "react", react(102, n)).await;
    }
    db.says("alice", "@bob", "203").await;
    // The first two messages take some 1,900 bytes each, with their reactions.
    assert_eq!(history_around(&db, "bob", 50, 2).await, (vec![1, 102], false, true));
    assert_eq!(history_around(&db, "bob", 103, 2).await, (vec![102, 203], true, false));
    assert_eq!(history_around(&db, "bob", 203, 2).await, (vec![102, 203], true, false));
    assert_eq!(history_around(&db, "bob", 102, 100).await, (vec![1, 102, 203], false, false));
    let long = "x".repeat(3_000);
    for _ in 0..4 {
        db.says("alice", "@bob", &long).await;
    }
    // The messages 204 to 207 are long. The page is filled from the requested message on; only its last item may exceed the limit.
    assert_eq!(history_around(&db, "bob", 205, 100).await, (vec![204, 205], true, true));
    assert_eq!(history_around(&db, "bob", 207, 100).await, (vec![206, 207], true, false));
    db.reopen().await;
    assert_eq!(history_around(&db, "bob", 204, 100).await, (vec![203, 204, 205], true, true));
}

pub(super) async fn a_page_around_a_missing_event_is_refused_with_the_field(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    for text in ["2", "3", "4"] {
        db.says("alice", "#r", text).await;
    }
    db.stores("bob", "leave", json!({"conversation": "#r"})).await;
    db.says("alice", "#r", "6").await;
    for (actor, around, before, code) in [
        ("alice", 0, None, ErrorCode::BadField),
        ("alice", 7, None, ErrorCode::BadCursor),
        ("alice", 3, Some(4), ErrorCode::BadField),
        ("bob", 6, None, ErrorCode::BadCursor),
    ] {
        let fields = json!({"conversation": "#r", "around": around, "before": before});
        let refusal = db.query_page(actor, "history", fields).await.expect_err("no such place");
        assert_eq!((refusal.code, refusal.field.as_deref()), (code, Some("around")), "{actor} {around}");
    }
    let fields = json!({"conversation": "#r", "around": 5});
    let page = db.query_page("bob", "history", fields.clone()).await;
    let Ok(OkBody::History { messages, more_after: Some(false), .. }) = page else { panic!("{page:?}") };
    assert_eq!(messages.len(), 3, "a former member sees messages up to the leave event");
    let refusal = db.query_page("mallory", "history", fields).await.expect_err("a stranger");
    assert_eq!(refusal.code, ErrorCode::NotFound);
}

pub(super) async fn a_page_of_history_matches_its_head_during_writes(open: OpenStore) {
    const EDITS: u64 = 1_000;
    const EDITS_PER_BATCH: u64 = 5;
    let mut db = TestStore::new(open).await;
    db.says("alice", "@bob", "1").await;
    // The text of each edit is its number, so it shows which was the latest edit when the page was read.
    let mut pages = Vec::new();
    for edit in 2..=EDITS {
        let text = edit.to_string();
        db.submits("alice", change("edit", &json!({"conversation": "@bob", "target": 1, "text": text})));
        if edit % EDITS_PER_BATCH == 0 {
            pages.push(db.query_page("bob", "history", json!({"conversation": "@alice"})).await);
            while db.batches.try_recv().is_ok() {}
        }
    }
    for page in pages {
        let Ok(OkBody::History { messages, head, .. }) = page else { panic!("{page:?}") };
        let [message] = &messages[..] else { panic!("one message: {messages:?}") };
        assert_eq!(message.text.as_ref().map(|text| text.as_str()), Some(&*head.0.to_string()));
        assert_eq!(message.edited.map_or(Seq(1), |edited| edited.seq), head);
    }
}

pub(super) async fn conversations_are_paged_by_their_latest_activity(open: OpenStore) {
    // Two conversations with the same time have no defined order, so the clock advances with each read.
    let now = AtomicI64::new(0);
    let clock = Clock::from_fn(move || Timestamp::from_millis(now.fetch_add(1, Ordering::Relaxed)));
    let limits = Limits { page: 3, ..Limits::default() };
    let rules = StoreRules { limits, clock, ..StoreRules::default() };
    let mut db = TestStore::open_with(open, rules).await;
    for name in ["a", "b", "c", "d", "e"] {
        db.says("zoe", &format!("@{name}"), "hi").await;
    }
    db.says("b", "@zoe", "the latest").await;
    let mut found = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let page = db.query_page("zoe", "conversations", json!({"before": before, "limit": 2})).await;
        let Ok(OkBody::Conversations { conversations, more }) = page else { panic!("{page:?}") };
        assert!(conversations.len() == 2 || !more, "{conversations:?}");
        assert!(conversations.is_sorted_by(|one, next| one.at > next.at), "{conversations:?}");
        found.extend(conversations.iter().map(|one| one.conversation.to_string()));
        before = found.last().cloned();
        if !more {
            break;
        }
    }
    assert_eq!(found, ["@b:zoe", "@e:zoe", "@d:zoe", "@c:zoe", "@a:zoe"]);
    let Some(snapshot) = db.snapshot("zoe", &[]).await else { panic!("zoe was seen") };
    // The pages of memberships contain each conversation once, and mark the latest ones.
    let (zoe, mut page) = (user("zoe"), snapshot.memberships);
    let (mut joined, mut latest) = (page.joined.to_vec(), page.latest);
    while let Some(after) = page.next {
        page =
            in_time("memberships", db.store.memberships(&zoe, snapshot.user, after)).await.expect("a page");
        assert_eq!(page.after, after);
        joined.extend(page.joined.iter());
        latest.append(&mut page.latest);
    }
    assert_eq!(joined.len(), 5);
    assert!(joined.is_sorted_by_key(|joined| joined.conversation));
    latest.sort_unstable_by(|a, b| b.cmp(a));
    latest.truncate(2);
    let latest: Vec<_> = latest.into_iter().map(|latest| latest.conversation).collect();
    let page = match snapshot.summaries {
        Some(page) => page,
        None => {
            in_time("summaries", db.store.summaries(&zoe, snapshot.user, latest.clone())).await.expect("they")
        }
    };
    assert_eq!((page.summaries.len(), page.has_more), (1, true));
    assert_eq!(page.joined[0].conversation, latest[0]);
    // The position of a conversation that the user left does not change with later messages.
    db.stores("zoe", "create", json!({"room": "r", "members": ["ex"]})).await;
    db.says("ex", "@zoe", "before").await;
    db.stores("zoe", "remove", json!({"conversation": "#r", "user": "ex"})).await;
    db.says("ex", "@a", "after").await;
    db.says("zoe", "#r", "not for ex").await;
    let page = db.query_page("ex", "conversations", json!({"before": "#r"})).await;
    let Ok(OkBody::Conversations { conversations, .. }) = page else { panic!("{page:?}") };
    assert_eq!(conversations.iter().map(|one| one.conversation.as_str()).collect::<Vec<_>>(), ["@ex:zoe"]);
    let foreign = db.query_page("a", "conversations", json!({"before": "@b:zoe"})).await;
    assert_eq!(foreign.expect_err("not theirs").code, ErrorCode::NotFound);
}

pub(super) async fn members_are_paged_in_the_order_in_which_users_were_created(open: OpenStore) {
    let mut db = TestStore::open_with(open, rules_with_small_pages()).await;
    db.stores("m", "create", json!({"room": "r", "members": ["z", "a", "Z", "k", "b"]})).await;
    db.stores("b", "leave", json!({"conversation": "#r"})).await;
    for (after, limit, expected, expected_more) in [
        (None, Some(1), vec!["m"], true),
        (None, Some(2), vec!["m", "Z"], true),
        (Some("Z"), Some(2), vec!["a", "k"], true),
        // A user who has left is also valid as `after`.
        (Some("b"), Some(99), vec!["k", "z"], false),
        (Some("k"), Some(2), vec!["z"], false),
        (Some("z"), None, vec![], false),
    ] {
        let fields = json!({"conversation": "#r", "after": after, "limit": limit});
        let page = db.query_page("a", "members", fields).await;
        let Ok(OkBody::Members { members, more, .. }) = page else { panic!("{page:?}") };
        let found: Vec<_> = members.iter().map(|member| member.user.as_str()).collect();
        assert_eq!((found, more), (expected, expected_more), "after {after:?}");
    }
    db.says("stranger", "@m", "hi").await;
    for nobody in ["stranger", "nobody"] {
        let page = db.query_page("a", "members", json!({"conversation": "#r", "after": nobody})).await;
        let refusal = page.expect_err("never a member");
        let refused =
            (refusal.code, refusal.field.as_deref().map(str::to_owned), refusal.message.into_owned());
        let same = "after: name the last member of a page".to_owned();
        assert_eq!(refused, (ErrorCode::BadField, Some("after".to_owned()), same), "{nobody}");
    }
}

pub(super) async fn a_replay_is_the_log_between_two_events(open: OpenStore) {
    let rules =
        StoreRules { limits: Limits { page: 4, queue: 4_000, ..Limits::default() }, ..StoreRules::default() };
    let mut db = TestStore::open_with(open, rules).await;
    for _ in 0..6 {
        db.says("alice", "@bob", "hi").await;
    }
    for _ in 0..4 {
        db.says("alice", "@bob", &"x".repeat(1_500)).await;
    }
    let (bob, seen) = db.snapshot_and_conversation("bob", "@alice:bob").await;
    let seen = seen.expect("a member");
    assert_eq!((seen.head, seen.is_member), (Seq(10), true));
    for (after, upto, expected) in [
        (0, 3, seq_range(1..=3)),
        (0, 10, seq_range(1..=4)),
        (4, 6, seq_range(5..=6)),
        (6, 10, seq_range(7..=8)),
        (9, 99, seq_range(10..=10)),
        (10, 10, vec![]),
    ] {
        let replay = db.store.replay(bob.user, seen.conversation, Seq(after), Seq(upto));
        let events = in_time("a replay", replay).await.expect("a member's");
        let found: Vec<_> = events.iter().map(|read| read.event.seq).collect();
        assert_eq!(found, expected, "after {after} up to {upto}");
        assert!(events.iter().all(|read| read.event.conversation.as_str() == "@alice:bob"));
    }
}

pub(super) async fn a_snapshots_mark_bounds_its_events(open: OpenStore) {
    const ROUNDS: u64 = 300;
    const WRITES_PER_ROUND: u64 = 5;
    let mut db = TestStore::new(open).await;
    db.says("alice", "@bob", "hi").await;
    // The head of the conversation (its last seq) after each batch.
    let mut heads = BTreeMap::from([(0, 0), (1, 1)]);
    let mut note = |batch: Batch| {
        let stored = batch.outcomes.into_iter().map(|outcome| match outcome.result {
            Ok(Committed::Event(event)) => event.seq.0,
            other => panic!("not stored: {other:?}"),
        });
        heads.insert(batch.number, stored.last().expect("a batch is not empty"));
    };
    let mut snapshots = Vec::new();
    let mut received = 1;
    for _ in 0..ROUNDS {
        for _ in 0..WRITES_PER_ROUND {
            db.submits("alice", change("send", &json!({"to": "@bob", "text": "hi"})));
        }
        while let Ok(batch) = db.batches.try_recv() {
            received = batch.number;
            note(batch);
        }
        let snapshot = db.snapshot("bob", &[]).await.expect("bob was seen");
        snapshots.push((received, snapshot));
    }
    let written = 1 + ROUNDS * WRITES_PER_ROUND;
    while db.snapshot("bob", &[]).await.expect("bob was seen").memberships.joined[0].head.0 < written {
        note(in_time("a batch", db.batches.recv()).await.expect("the store runs"));
    }
    while let Ok(batch) = db.batches.try_recv() {
        note(batch);
    }
    for (received, snapshot) in snapshots {
        let head = snapshot.memberships.joined[0].head.0;
        let most = heads.range(..=snapshot.mark).next_back().map_or(0, |(_, head)| *head);
        assert!(heads[&received] <= head, "the snapshot includes every outcome that was reported before");
        assert!(head <= most, "no newer than batch {}: {head} <= {most}", snapshot.mark);
    }
}
