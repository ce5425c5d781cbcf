//! No page exceeds `limits.page_bytes` by more than one item, for any contents.

use serde::Serialize;
use switchboard_protocol::reply::OkBody;

use super::*;
use crate::read::Reader;

/// A random text. Some of its characters need more bytes in JSON than in the text.
fn random_text(rng: &mut Rng, most: usize) -> String {
    let one = ["\"", "\\", "x", "é", "👍"][rng.usize(..5)];
    one.repeat(1 + rng.usize(..most / one.len()))
}

/// A random user, whose name is long or short.
fn any_user(rng: &mut Rng) -> String {
    let n = rng.usize(..6);
    format!("user{n}{}", "x".repeat(n * 10))
}

/// A history of rooms and direct conversations with long names, keys, titles and reactions.
fn log_of_large_messages(seed: u64) -> RandomLog {
    let mut past = RandomLog::new();
    let mut rng = Rng::with_seed(seed);
    let rooms = ["#a".to_owned(), format!("#{}", "b".repeat(60))];
    let owner = "user0";
    for room in &rooms {
        let members: Vec<_> = (0..6).map(|n| format!("user{n}{}", "x".repeat(n * 10))).collect();
        let fields = json!({"room": &room[1..], "title": random_text(&mut rng, 200), "members": members});
        past.apply(1, owner, change("create", &fields));
    }
    for n in 2..700 {
        let actor = any_user(&mut rng);
        let to = match rng.u8(..4) {
            0 => format!("@{}", any_user(&mut rng)),
            _ => rooms[rng.usize(..2)].clone(),
        };
        let target = 2 + rng.u64(..100);
        let emoji = random_text(&mut rng, 64);
        let (name, fields) = match rng.u8(..6) {
            0 | 1 => {
                let key = format!("{n}{}", "\"".repeat(rng.usize(..120)));
                let most = [20, 100, 1_500][rng.usize(..3)];
                ("send", json!({"to": to, "key": key, "text": random_text(&mut rng, most)}))
            }
            2 => {
                ("edit", json!({"conversation": to, "target": target, "text": random_text(&mut rng, 1_000)}))
            }
            3 => ("rename", json!({"conversation": to, "title": random_text(&mut rng, 200)})),
            _ => ("react", json!({"conversation": to, "target": target, "emoji": emoji})),
        };
        past.apply(n, &actor, change(name, &fields));
    }
    past
}

/// The length of each item of a page as JSON, in bytes.
fn json_lengths<T: Serialize>(items: &[T]) -> Vec<usize> {
    items.iter().map(|item| serde_json::to_string(item).expect("json").len()).collect()
}

/// How many pages were read, and how many of them ended early because of the limit on their bytes.
#[derive(Default)]
struct PageChecks {
    pages: usize,
    full_pages: usize,
}

impl PageChecks {
    fn check(&mut self, what: &str, most: u32, items: &[usize]) {
        let before_the_last: usize = items.iter().rev().skip(1).sum();
        assert!(before_the_last <= most as usize, "{what}: {items:?}, of {most} at most");
        self.pages += 1;
        self.full_pages += usize::from(before_the_last + items.last().unwrap_or(&0) > most as usize);
    }

    fn check_answer<L: Lookups>(&mut self, reader: &Reader<'_, L>, actor: &UserId, query: &Query) {
        let most = reader.limits.page_bytes;
        let Ok(page) = reader.answer(actor, query) else { return };
        let items = match &page {
            OkBody::Log { events, .. } => json_lengths(events),
            // A page of history is filled from its latest message backward, so the first item in the page was added last.
            OkBody::History { messages, .. } => json_lengths(messages).into_iter().rev().collect(),
            OkBody::Conversations { conversations, .. } => json_lengths(conversations),
            OkBody::Members { members, .. } => json_lengths(members),
            other => panic!("{other:?} is no page"),
        };
        self.check(&format!("{actor} asks {query:?}"), most, &items);
    }
}

/// Reads pages of every kind and checks their sizes. Returns how many were read, and how many the byte limit ended.
fn check_all_pages<L: Lookups>(reader: &Reader<'_, L>) -> (usize, usize) {
    let mut held = PageChecks::default();
    for n in 0..6 {
        let actor = user(&format!("user{n}{}", "x".repeat(n * 10)));
        for name in ["#a".to_owned(), format!("#{}", "b".repeat(60)), "@user0".to_owned()] {
            let to = || match name.strip_prefix('@') {
                Some(peer) => To::Conversation(ConversationId::direct(&actor, &user(peer))),
                None => To::Conversation(conversation(&name)),
            };
            for at in (0..100).step_by(7) {
                let (after, before) = (Seq(at), Some(Seq(at)));
                held.check_answer(
                    reader,
                    &actor,
                    &Query::Sync(Sync { conversation: to(), after, limit: Some(12) }),
                );
                let query = History { conversation: to(), before, around: None, limit: Some(12) };
                held.check_answer(reader, &actor, &Query::History(query));
            }
            let query = Members { conversation: to(), after: None, limit: Some(12) };
            held.check_answer(reader, &actor, &Query::Members(query));
        }
        held.check_answer(
            reader,
            &actor,
            &Query::Conversations(Conversations { before: None, limit: Some(12) }),
        );
        let Ok(Some(snapshot)) = reader.attach(&actor, &[]) else { panic!("{actor} is known") };
        let page = snapshot.summaries.expect("all memberships are on one page");
        held.check("welcome", reader.limits.page_bytes, &json_lengths(&page.summaries));
        for joined in snapshot.memberships.joined.iter() {
            let replay = reader.replay(snapshot.user, joined.conversation, Seq(n as u64 * 9), joined.head);
            let Ok(events) = replay else { panic!("{actor} is a member") };
            let events: Vec<_> = events.iter().map(|event| event.seen_json().len()).collect();
            held.check("a replay", reader.limits.queue / Limits::QUEUE_TO_REPLAY_PAGE_RATIO, &events);
        }
    }
    (held.pages, held.full_pages)
}

#[tokio::test]
async fn no_page_has_more_bytes_than_the_limit_and_one_item() {
    for seed in 1..=3 {
        let past = log_of_large_messages(seed);
        let (pages, full) = check_all_pages(&past.store.reader());
        assert!(pages > 400 && full > 100, "{pages} pages, {full} of them full");
        assert_eq!(in_postgres(past.rows(), check_all_pages).await, (pages, full), "both stores alike");
    }
}
