//! Gives numbers in the feed to what is committed.
//!
//! Each transaction adds a row to `feed_pending` with the events that it wrote. The thread of one node at a time takes all of
//! these rows, gives their events the next numbers, and writes a page of the feed, in one transaction.
//!
//! A number is thus never taken by a transaction that may still roll back, and within a conversation the numbers have the
//! order of the log: a transaction that writes to a conversation locks its row until it is committed, so a snapshot that has
//! the row of a later transaction has that of the earlier one as well. Numbers are not given by transaction ids, which have
//! another order than row locks, and wait for the oldest transaction of the whole server.
//!
//! The row of `feed_state` is locked first, so only one node gives numbers. If that node dies, its connection ends, and with
//! it the lock; if it stalls, the database ends its transaction.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use switchboard_protocol::Seq;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Row;

use super::connect::{BlockingConnection, Error};
use super::query::row::{count, get};
use super::table::to_signed;
use super::target::Target;
use crate::batch::WriterState;
use crate::clock::Clock;
use crate::feed::{Item, runs};
use crate::key::ConversationKey;

/// How often a node looks for what has no number while no call of it waits for the feed. Few and long pages take little space.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// How often a node looks while a call of it waits and it has committed nothing itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The shortest time between two pages while a call waits.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// The delay before the connection is opened again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The most items of a page. More are spread over several pages.
const MAX_PAGE_ITEMS: usize = 4_096;

/// The most events in a row of `feed_pending`: more than a transaction writes.
const MAX_ROW_ITEMS: u64 = 1 << 16;

/// Settings of the session. A long backlog takes longer than a statement of a client may; and a node that stalls within the
/// transaction must not hold up the feed for long.
const SETUP: &str = "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '2s'";

const LOOK: &str = "SELECT last, EXISTS (SELECT FROM feed_pending) FROM feed_state";

const LOCK: &str = "SELECT last FROM feed_state FOR UPDATE SKIP LOCKED";

/// Takes all rows that are committed. Taking only some of them could leave out an earlier event of a conversation.
const TAKE: &str = r#"DELETE FROM feed_pending RETURNING runs, type, at, "user", via, address, body"#;

const INSERT_ENTRIES: &str = r#"INSERT INTO feed_entries (number, type, at, "user", via, address, body)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::integer[], $6::text[], $7::text[])"#;

const INSERT_PAGES: &str = "INSERT INTO feed_pages (first, last, at, runs)
    SELECT w.first, w.last, $4::bigint, w.runs FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS w(first, last, runs)";

const UPDATE: &str = "UPDATE feed_state SET last = $1";

/// What a node's thread needs.
pub(super) struct Parts {
    pub(super) target: Target,
    pub(super) clock: Clock,
    pub(super) state: Arc<WriterState>,
    /// Has an item after each batch that this node has committed. The thread ends when it is disconnected.
    pub(super) commits: Receiver<()>,
    pub(super) last: watch::Sender<u64>,
}

/// Starts the thread. It connects when it is first needed.
pub(super) fn start(parts: Parts) -> std::io::Result<()> {
    let numberer = Numberer { parts, link: None, is_failing: false };
    std::thread::Builder::new().name("feed".to_owned()).spawn(move || numberer.run()).map(drop)
}

struct Numberer {
    parts: Parts,
    link: Option<BlockingConnection>,
    /// Whether the last attempt failed and was logged.
    is_failing: bool,
}

impl Numberer {
    fn run(mut self) {
        let mut looked = Instant::now();
        while self.wait(looked) {
            self.look();
            looked = Instant::now();
        }
        // What this node has committed last gets its numbers now, if no other node gives them.
        self.look();
    }

    /// Waits until it is time to look again. Returns `false` when the store is closed.
    #[expect(clippy::disallowed_methods, reason = "the thread of the feed has nothing else to do")]
    fn wait(&self, looked: Instant) -> bool {
        let mut has_commit = false;
        loop {
            // The store itself has one receiver, and each call that waits has another.
            let is_awaited = self.parts.last.receiver_count() > 1;
            let (soonest, latest) = match (self.is_failing, is_awaited) {
                (true, _) => (RECONNECT_DELAY, RECONNECT_DELAY),
                (false, true) => (MIN_INTERVAL, LOOK_INTERVAL),
                (false, false) => (IDLE_INTERVAL, IDLE_INTERVAL),
            };
            let soon = soonest.saturating_sub(looked.elapsed());
            if has_commit && soon.is_zero() {
                return true;
            }
            if has_commit {
                // Commits that follow closely share a page. A call may begin to wait meanwhile.
                std::thread::sleep(soon.min(MIN_INTERVAL));
                continue;
            }
            match self.parts.commits.recv_timeout(latest.saturating_sub(looked.elapsed())) {
                Ok(()) => has_commit = true,
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Gives numbers if something has none.
    fn look(&mut self) {
        match self.try_to_look() {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("the feed goes on");
                }
            }
            Err(error) => {
                // While the database takes no writes, the writer says why.
                if !std::mem::replace(&mut self.is_failing, true) && self.parts.state.fault().is_none() {
                    tracing::error!("the feed stands still: {error:#}");
                }
                self.link = None;
            }
        }
    }

    fn try_to_look(&mut self) -> anyhow::Result<()> {
        if self.link.as_ref().is_none_or(BlockingConnection::is_closed) {
            let link = BlockingConnection::open(&self.parts.target)?;
            link.run(link.client().batch_execute(SETUP))?;
            self.link = Some(link);
        }
        let Some(link) = &self.link else { return Ok(()) };
        let rows = link.run(link.rows(LOOK, &[]))?;
        let Some(row) = rows.first() else { anyhow::bail!("the feed has no state") };
        let (mut last, has_more) = (count(row, 0)?, get::<bool>(row, 1)?);
        if has_more {
            let now = self.parts.clock.now().as_millis();
            let numbered = link.run(number(link, now));
            if numbered.is_err() {
                let _ = link.run(link.client().batch_execute("ROLLBACK"));
            }
            last = numbered?.unwrap_or(last);
        }
        self.parts.last.send_if_modified(|before| std::mem::replace(before, last) != last);
        Ok(())
    }
}

/// Gives numbers to all that has none, in one transaction. Returns the last number; `None` if another node is at it.
async fn number(link: &BlockingConnection, now: i64) -> Result<Option<u64>, Error> {
    link.client().batch_execute("BEGIN").await?;
    let locked = link.rows(LOCK, &[]).await?;
    let Some(row) = locked.first() else {
        link.client().batch_execute("ROLLBACK").await?;
        return Ok(None);
    };
    let mut last = count(row, 0)?;
    let taken = Taken::of(&link.rows(TAKE, &[]).await?)?;
    if taken.items.is_empty() {
        link.client().batch_execute("ROLLBACK").await?;
        return Ok(Some(last));
    }
    taken.insert_entries(link, last).await?;
    let (mut firsts, mut lasts, mut pages) = (Vec::new(), Vec::new(), Vec::new());
    for items in taken.items.chunks(MAX_PAGE_ITEMS) {
        firsts.push(to_signed(last + 1));
        last += items.len() as u64;
        lasts.push(to_signed(last));
        pages.push(runs::encode(items.iter().copied()));
    }
    link.rows(INSERT_PAGES, &[&firsts, &lasts, &pages, &now]).await?;
    link.rows(UPDATE, &[&to_signed(last)]).await?;
    link.client().batch_execute("COMMIT").await?;
    Ok(Some(last))
}

/// What has no number, in the order in which it gets one.
#[derive(Default)]
struct Taken {
    items: Vec<Item>,
    kind: Vec<String>,
    at: Vec<i64>,
    user: Vec<Option<i64>>,
    via: Vec<i32>,
    address: Vec<Option<String>>,
    body: Vec<String>,
}

impl Taken {
    fn of(rows: &[Row]) -> Result<Self, Error> {
        let mut taken = Self::default();
        let mut events: Vec<(ConversationKey, Seq)> = Vec::new();
        for row in rows {
            if let Some(bytes) = get::<Option<Vec<u8>>>(row, 0)? {
                let items = runs::decode(&bytes, MAX_ROW_ITEMS);
                let items =
                    items.ok_or_else(|| Error::Damaged("what has no number in the feed".to_owned()))?;
                events.extend(items.into_iter().flatten());
                continue;
            }
            taken.kind.push(get(row, 1)?);
            taken.at.push(get(row, 2)?);
            taken.user.push(get(row, 3)?);
            taken.via.push(get(row, 4)?);
            taken.address.push(get(row, 5)?);
            taken.body.push(get(row, 6)?);
            taken.items.push(None);
        }
        events.sort_unstable();
        taken.items.extend(events.into_iter().map(Some));
        Ok(taken)
    }

    /// Inserts the entries that are no events. They have the first numbers after `last`.
    async fn insert_entries(&self, link: &BlockingConnection, last: u64) -> Result<(), Error> {
        let Self { kind, at, user, via, address, body, .. } = self;
        if kind.is_empty() {
            return Ok(());
        }
        let numbers: Vec<_> = (last + 1..).take(kind.len()).map(to_signed).collect();
        link.rows(INSERT_ENTRIES, &[&numbers, kind, at, user, via, address, body]).await?;
        Ok(())
    }
}
