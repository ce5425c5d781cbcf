//! Contracts of the feed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use switchboard_protocol::{ConversationId, ErrorCode, Timestamp, UserId};
use switchboard_store::feed::{FeedCursor, FeedPage, FeedPart, FeedQuery};
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, PresenceChange};

use super::{OpenStore, TestStore};
use crate::support::{eventually, in_time};

fn all() -> FeedQuery {
    FeedQuery {
        after: FeedCursor::Beginning,
        limit: 500,
        types: Vec::new(),
        acts_as: None,
        no_text: false,
        is_admin: true,
        part: None,
        skips_imported: false,
    }
}

impl TestStore {
    async fn feed_page(&self, query: FeedQuery) -> Result<FeedPage, Refusal> {
        in_time("a page of the feed", self.store.feed(query)).await
    }

    /// All entries, read in pages.
    async fn feed(&self, mut query: FeedQuery) -> Vec<Value> {
        let mut entries = Vec::new();
        loop {
            let page = self.feed_page(query.clone()).await.expect("a page of the feed");
            entries.extend(
                page.entries
                    .iter()
                    .map(|entry| -> Value { serde_json::from_str(entry.get()).expect("JSON") }),
            );
            if !page.more {
                return entries;
            }
            query.after = FeedCursor::After { epoch: page.epoch, number: page.next };
        }
    }

    /// All entries, once there are as many events as the logs have.
    async fn whole_feed(&self, query: FeedQuery, events: usize) -> Vec<Value> {
        eventually("the feed has all events", || async {
            let entries = self.feed(query.clone()).await;
            (entries.iter().filter(|entry| entry["event"].is_object()).count() >= events).then_some(entries)
        })
        .await
    }
}

/// The seqs of each conversation, in the order of the feed.
fn seqs(entries: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut seqs = BTreeMap::<_, Vec<_>>::new();
    for event in entries.iter().map(|entry| &entry["event"]).filter(|event| event.is_object()) {
        let name = event["conversation"].as_str().expect("a conversation").to_owned();
        seqs.entry(name).or_default().push(event["seq"].as_u64().expect("a seq"));
    }
    seqs
}

fn kinds(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["type"].as_str().expect("a type")).collect()
}

fn texts(entries: &[Value]) -> Vec<&str> {
    entries.iter().filter_map(|entry| entry["event"]["text"].as_str()).collect()
}

pub(super) async fn every_event_is_in_the_feed_once_and_in_the_order_of_its_log(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    for n in 0..400 {
        let to = ["#r", "@bob", "#r", "@carol"][n % 4];
        db.says("alice", to, &n.to_string()).await;
    }
    let expected = BTreeMap::from([
        ("#r".to_owned(), (1..=201).collect()),
        ("@alice:bob".to_owned(), (1..=100).collect()),
        ("@alice:carol".to_owned(), (1..=100).collect()),
    ]);
    let entries = db.whole_feed(all(), 401).await;
    assert_eq!(seqs(&entries), expected);
    let few = db.feed(FeedQuery { limit: 7, ..all() }).await;
    assert_eq!(few, entries, "smaller pages have the same entries");
    for name in expected.keys() {
        let conversation = ConversationId::parse(name).expect("an id");
        let part = db.feed(FeedQuery { part: Some(FeedPart::Conversation(conversation)), ..all() }).await;
        let of: Vec<_> = entries.iter().filter(|entry| entry["event"]["conversation"] == **name).collect();
        assert_eq!(part.iter().collect::<Vec<_>>(), of, "{name}");
    }
    let user = UserId::parse("carol").expect("an id");
    let part = db.feed(FeedQuery { part: Some(FeedPart::User(user)), ..all() }).await;
    assert_eq!((kinds(&part), &part[0]["user"]), (vec!["user.new"], &json!("carol")));
    assert_eq!(db.feed(FeedQuery { part: Some(FeedPart::Rest), ..all() }).await, [Value::Null; 0]);
    db.reopen().await;
    assert_eq!(db.feed(all()).await, entries, "the ids stay as they are");
    db.says("bob", "#r", "later").await;
    let later = db.whole_feed(all(), 402).await;
    assert_eq!(later[..entries.len()], entries[..]);
    assert_eq!(texts(&later[entries.len()..]), ["later"]);
}

pub(super) async fn an_entry_has_its_event_as_the_log_has_it_now(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.says("alice", "@bob", "secret").await;
    db.says("alice", "@bob", "stays").await;
    db.stores("alice", "delete", json!({"conversation": "@bob", "target": 1})).await;
    let entries = db.whole_feed(all(), 3).await;
    assert_eq!(texts(&entries), ["stays"]);
    let deleted = entries.iter().find(|entry| entry["event"]["seq"] == 1).expect("its place");
    assert_eq!(deleted["event"]["deleted"], true);
    let bare = db.feed(FeedQuery { no_text: true, ..all() }).await;
    assert_eq!(texts(&bare), [""; 0]);
    assert_eq!(kinds(&bare), kinds(&entries));
}

pub(super) async fn a_query_leaves_out_what_its_types_and_its_pattern_do_not_name(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("shop-1", "create", json!({"room": "r", "members": ["alice"]})).await;
    db.says("alice", "@bob", "between others").await;
    db.says("alice", "#r", "in the shop's room").await;
    db.says("shop-2", "@bob", "of the shop").await;
    db.submits("shop-2", Change::SetPresence(PresenceChange::Offline(Timestamp::from_millis(1_000))));
    db.next_outcome().await.expect("stored");
    let until = Timestamp::from_millis(1_800_000_000_000);
    db.submits("alice", Change::Revoke { until, replace: false });
    db.next_outcome().await.expect("stored");
    let everything = eventually("the feed has all entries", || async {
        let entries = db.feed(all()).await;
        kinds(&entries).contains(&"audit.revoke").then_some(entries)
    })
    .await;
    let mut sorted = kinds(&everything);
    sorted.sort_unstable();
    let new = ["user.new"; 4];
    let expected = [
        ["audit.revoke", "create", "message", "message", "message", "user.new"].as_slice(),
        &new[1..],
        &["user.offline"],
    ];
    assert_eq!(sorted, expected.concat());
    let types = vec!["message".to_owned(), "user.offline".to_owned()];
    let some = db.feed(FeedQuery { types: types.clone(), ..all() }).await;
    assert_eq!(kinds(&some).len(), 4);
    let no_admin = db.feed(FeedQuery { is_admin: false, ..all() }).await;
    assert!(!kinds(&no_admin).contains(&"audit.revoke"));
    let acts_as = Some("shop-*".parse().expect("a pattern"));
    let shop = db.feed(FeedQuery { acts_as, types, ..all() }).await;
    assert_eq!(texts(&shop), ["in the shop's room", "of the shop"]);
    let offline: Vec<_> = shop.iter().filter(|entry| entry["type"] == "user.offline").collect();
    assert_eq!(offline.iter().map(|entry| &entry["user"]).collect::<Vec<_>>(), [&json!("shop-2")]);
    assert_eq!(shop.len(), 3);
}

pub(super) async fn a_cursor_that_the_feed_does_not_have_is_refused_with_those_it_has(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.says("alice", "@bob", "hi").await;
    db.whole_feed(all(), 1).await;
    let page = db.feed_page(all()).await.expect("a page");
    let after = |epoch: &str, number| {
        let after = FeedCursor::After { epoch: epoch.to_owned(), number };
        FeedQuery { after, ..all() }
    };
    let end = db.feed_page(FeedQuery { after: FeedCursor::End, ..all() }).await.expect("the end");
    assert_eq!((end.next, end.entries.len()), (page.next, 0));
    assert_eq!(db.feed_page(after(&page.epoch, page.next)).await.expect("the end").entries.len(), 0);
    for wrong in [after(&page.epoch, page.next + 1), after("0000000", page.next)] {
        let refusal = db.feed_page(wrong).await.expect_err("no such cursor");
        assert_eq!(refusal.code, ErrorCode::BadCursor);
        let (oldest, newest) = refusal.cursors().cloned().expect("both ends");
        assert_eq!(oldest, FeedPage::cursor(&page.epoch, 0));
        assert_eq!(newest, FeedPage::cursor(&page.epoch, page.next));
    }
}

pub(super) async fn feed_news_announce_every_commit(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let mut news = db.store.feed_news();
    for n in 0..3 {
        news.mark_unchanged();
        db.says("alice", "@bob", &n.to_string()).await;
        in_time("news", async {
            while db.feed(all()).await.iter().filter(|entry| entry["type"] == "message").count() <= n {
                news.changed().await.expect("the store runs");
            }
        })
        .await;
    }
}

pub(super) async fn a_pattern_reads_a_conversation_up_to_the_last_leave_of_its_users(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["shop-1", "shop-2"]})).await;
    db.says("alice", "#r", "one").await;
    db.stores("shop-1", "leave", json!({"conversation": "#r"})).await;
    db.says("alice", "#r", "two").await;
    db.stores("shop-2", "leave", json!({"conversation": "#r"})).await;
    db.says("alice", "#r", "not for the shop").await;
    db.whole_feed(all(), 6).await;
    let of = |pattern: &str| FeedQuery { acts_as: Some(pattern.parse().expect("a pattern")), ..all() };
    let shop = db.feed(of("shop-*")).await;
    assert_eq!(seqs(&shop), BTreeMap::from([("#r".to_owned(), (1..=5).collect())]));
    assert_eq!(seqs(&db.feed(of("shop-1")).await)["#r"], [1, 2, 3], "the leave is the last");
    assert_eq!(texts(&db.feed(of("al*")).await), ["one", "two", "not for the shop"]);
    assert_eq!(seqs(&db.feed(of("stranger-*")).await), BTreeMap::new());
    db.stores("alice", "invite", json!({"conversation": "#r", "user": "shop-1"})).await;
    db.whole_feed(all(), 7).await;
    let back = db.feed(of("shop-1")).await;
    assert_eq!(seqs(&back)["#r"], (1..=7).collect::<Vec<_>>(), "a member sees the whole log");
}
