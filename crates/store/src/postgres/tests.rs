//! Several nodes on one database, while the network and the database fail.

mod alike;
mod alone;
mod faults;
mod opening;
mod outages;
mod plans;
mod proxy;
mod together;
mod upgrade;

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard_protocol::{Limits, UserId, decode_named};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connect::BlockingConnection;
use super::target::Target;
use super::{Capabilities, PostgresStore, Settings};
use crate::CommitMetrics;
use crate::clock::Clock;
use crate::origin::Origin;
use crate::record::ConversationKey;
use crate::refusal::Refusal;
use crate::{Batch, Change, Committed, CommittedEvent, Request, Store as _, Submission};

/// How long a test waits for an event before it fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(40);

fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        ca: None,
        name: None,
        readers: 1,
        limits: Limits::default(),
        strangers: true,
        tells_reads: false,
        clock: Clock::system(),
        metrics: CommitMetrics::default(),
        capabilities: Capabilities::default(),
    }
}

/// Creates an empty database in a PostgreSQL that all tests of this process share. Returns its URL.
async fn new_database() -> String {
    engines::shared_postgres().await.expect("a PostgreSQL").new_database().await.expect("a database")
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

fn change(name: &str, fields: &Value) -> Change {
    match Request::from(decode_named(name, &fields.to_string()).expect("a command").command) {
        Request::Change(change) => change,
        other => panic!("{other:?} is no change"),
    }
}

/// The store of one node, and what the store has reported.
struct Node {
    store: PostgresStore,
    batches: mpsc::Receiver<Batch>,
    outcomes: VecDeque<Result<Committed, Refusal>>,
    /// Conversations whose members the store asked the router to check again.
    check: Vec<ConversationKey>,
}

impl Node {
    async fn new(url: &str) -> Self {
        Self::start_with(settings(url)).await.expect("a store")
    }

    /// Opens the store on a blocking thread, because opening blocks while a proxy in this process must keep running.
    async fn start_with(settings: Settings) -> anyhow::Result<Self> {
        let opened = tokio::task::spawn_blocking(|| PostgresStore::open(settings)).await.expect("no panic");
        let (store, batches) = opened?;
        Ok(Self { store, batches, outcomes: VecDeque::new(), check: Vec::new() })
    }

    /// Submits a change without waiting for its outcome.
    fn submits(&self, actor: &str, name: &str, fields: &Value) {
        let submission =
            Submission { actor: user(actor), change: change(name, fields), origin: Origin::Internal };
        self.store.submit(submission).expect("there is room");
    }

    async fn wait_for_batch(&mut self) {
        let batch =
            timeout(TEST_TIMEOUT, self.batches.recv()).await.expect("in time").expect("the store lives");
        self.check.extend(batch.stored_after_all);
        self.outcomes.extend(batch.outcomes.into_iter().map(|outcome| outcome.result));
    }

    async fn outcome(&mut self) -> Result<Committed, Refusal> {
        while self.outcomes.is_empty() {
            self.wait_for_batch().await;
        }
        self.outcomes.pop_front().expect("there is one")
    }

    async fn tries(&mut self, actor: &str, name: &str, fields: Value) -> Result<Committed, Refusal> {
        self.submits(actor, name, &fields);
        self.outcome().await
    }

    async fn stores(&mut self, actor: &str, name: &str, fields: Value) -> CommittedEvent {
        match self.tries(actor, name, fields).await {
            Ok(Committed::Event(event)) => *event,
            other => panic!("{actor} says {name}: {other:?}"),
        }
    }

    async fn says(&mut self, actor: &str, to: &str, text: &str) -> CommittedEvent {
        self.stores(actor, "send", json!({"to": to, "text": text})).await
    }

    /// Drops the store and waits until it has written everything.
    async fn stop(self) {
        let Self { store, mut batches, .. } = self;
        drop(store);
        timeout(TEST_TIMEOUT, async { while batches.recv().await.is_some() {} }).await.expect("in time");
    }
}

/// Queries a database on a blocking thread.
async fn query_texts(url: &str, sql: &'static str) -> Vec<Vec<Option<String>>> {
    let url = url.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let link =
            BlockingConnection::open(&Target::new(&url, None).expect("a target")).expect("a connection");
        let rows = link.run(link.client().simple_query(sql)).expect("an answer");
        let rows = rows.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect())
            }
            _ => None,
        });
        rows.collect()
    });
    asked.await.expect("no panic")
}

/// A query for violations of the database's invariants. It returns a row for each.
const SELECT_DAMAGE: &str = r#"
    SELECT 'seqs have a gap, or the head is wrong', c.name FROM conversations c
    LEFT JOIN LATERAL (SELECT count(*) AS n, min(seq) AS low, max(seq) AS high,
        count(*) FILTER (WHERE kind = 1) AS messages FROM events e WHERE e.conversation = c.id) e ON true
    WHERE e.n <> c.head OR e.low <> 1 OR e.high <> c.head OR e.messages <> c.messages
    UNION ALL
    SELECT 'time went back', c.name FROM conversations c WHERE EXISTS (
        SELECT FROM events a JOIN events b ON b.conversation = a.conversation AND b.seq = a.seq + 1
        WHERE a.conversation = c.id AND b.at < a.at)
    UNION ALL
    SELECT 'messages are counted wrong', c.name FROM conversations c WHERE EXISTS (
        SELECT FROM (SELECT e.messages, count(*) FILTER (WHERE e.kind = 1) OVER (ORDER BY e.seq) AS counted
            FROM events e WHERE e.conversation = c.id) x WHERE x.messages <> x.counted)
    UNION ALL
    SELECT 'members are counted wrong', c.name FROM conversations c
    LEFT JOIN LATERAL (SELECT count(*) AS n, count(*) FILTER (WHERE m.role = 2) AS admins FROM members m
        WHERE m.conversation = c.id AND m.until IS NULL) m ON true
    WHERE c.name LIKE '#%' AND (m.n <> c.members OR m.admins <> c.admins)
    UNION ALL
    SELECT 'own messages are counted wrong', c.name || ' ' || u.name FROM members m
    JOIN conversations c ON c.id = m.conversation JOIN users u ON u.id = m."user"
    WHERE m.sent <> (SELECT count(*) FROM events e WHERE e.conversation = c.id AND e.sender = u.id AND e.kind = 1)
    UNION ALL
    SELECT 'what is read is counted wrong', c.name || ' ' || u.name FROM members m
    JOIN conversations c ON c.id = m.conversation JOIN users u ON u.id = m."user"
    WHERE m.read_messages <> (SELECT count(*) FROM events e WHERE e.conversation = c.id AND e.seq <= m.read AND e.kind = 1)
    OR m.read_sent <> (SELECT count(*) FROM events e
        WHERE e.conversation = c.id AND e.seq <= m.read AND e.sender = u.id AND e.kind = 1)
    UNION ALL
    SELECT 'an event has no user', e.seq::text FROM events e
    WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = e.sender)"#;

async fn assert_sound(url: &str) {
    assert_eq!(query_texts(url, SELECT_DAMAGE).await, Vec::<Vec<Option<String>>>::new());
}

/// How many messages with each text the database has.
async fn count_by_text(url: &str) -> std::collections::BTreeMap<String, u64> {
    let said =
        query_texts(url, "SELECT body::json ->> 'text', count(*) FROM events WHERE kind = 1 GROUP BY 1")
            .await;
    let said = said.into_iter().map(|row| {
        let mut row = row.into_iter().flatten();
        let (text, count) = (row.next().unwrap_or_default(), row.next().unwrap_or_default());
        (text, count.parse().expect("a number"))
    });
    said.collect()
}
