//! The numbers that the writer gives to what it commits, and the pages of the feed.
//!
//! A number is a column of the event's own row, so an event costs no row of its own. Every [`PAGE_ITEMS`] numbers the
//! writer adds a page in the transaction of a batch; the numbers since then are in memory, in the [`Tail`]. A server that was
//! killed left them in no page: the next one finds them by the column `feed` of the conversations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, Result, params};
use switchboard_protocol::{Seq, Timestamp};
use tokio::sync::watch;

use crate::change::rows::{MAX_TRIMMED_ENTRIES, MAX_TRIMMED_PAGES};
use crate::feed::{Entry, Item, runs};
use crate::key::{ConversationKey, UserKey, Via};
use crate::read::feed::Unpaged;

/// How many numbers may be in no page: with five bytes or so for each, a page of the feed then fills a page of the database.
const PAGE_ITEMS: usize = 256;

/// Removes the oldest pages up to the first that is kept, and never the last. It reads that one and those that it removes.
const TRIM_PAGES: &str = "DELETE FROM feed_pages WHERE first < coalesce(
    (SELECT first FROM (SELECT first, at FROM feed_pages ORDER BY first LIMIT ?2) WHERE at >= ?1 LIMIT 1),
    (SELECT first FROM feed_pages ORDER BY first LIMIT 1 OFFSET ?2),
    (SELECT max(first) FROM feed_pages))";

const TRIM_ENTRIES: &str = "DELETE FROM feed_entries WHERE number IN (SELECT number FROM feed_entries
    WHERE number < (SELECT min(first) FROM feed_pages) ORDER BY number LIMIT ?1)";

/// The end of the feed, which is in no page yet. The writer and the readers share it.
#[derive(Debug)]
pub(super) struct Tail {
    state: Mutex<Unpaged>,
    /// The last number that is committed.
    last: watch::Sender<u64>,
}

impl Tail {
    fn new() -> Self {
        Self { state: Mutex::default(), last: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Unpaged> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the tail. A read transaction that begins later has all of its events.
    pub(super) fn read(&self) -> Unpaged {
        self.lock().clone()
    }

    /// The last number that is committed, whenever it changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn set(&self, change: impl FnOnce(&mut Unpaged)) {
        let mut state = self.lock();
        change(&mut state);
        let last = state.paged + state.items.len() as u64;
        drop(state);
        self.last.send_if_modified(|before| std::mem::replace(before, last) != last);
    }
}

/// Gives numbers to the events and entries of the writer's transactions.
#[derive(Debug)]
pub(super) struct FeedWriter {
    tail: Arc<Tail>,
    /// Whether the tail was read from the database.
    is_loaded: bool,
    /// Whether the database says that a server may be writing. Then it does not say how far the feed goes.
    is_open: bool,
    /// The last number that is committed.
    last: u64,
    /// The items of this transaction.
    new: Vec<Item>,
    /// The time of the latest event or transaction.
    at: i64,
    /// Whether this transaction adds a page.
    adds_page: bool,
    /// Whether this transaction has written that a server may be writing.
    opens: bool,
    /// SQLite's number of the last commit of another process after which all entries of other processes have numbers.
    version: Option<i64>,
    /// The same, once this transaction is committed.
    read_version: Option<i64>,
}

impl FeedWriter {
    pub(super) fn new() -> Self {
        Self {
            tail: Arc::new(Tail::new()),
            is_loaded: false,
            is_open: false,
            last: 0,
            new: Vec::new(),
            at: 0,
            adds_page: false,
            opens: false,
            version: None,
            read_version: None,
        }
    }

    pub(super) fn tail(&self) -> Arc<Tail> {
        self.tail.clone()
    }

    /// Reads where the feed ends, unless it was read before.
    pub(super) fn load(&mut self, db: &Connection) -> Result<()> {
        if self.is_loaded {
            return Ok(());
        }
        let (epoch, closed): (String, Option<u64>) =
            db.query_row("SELECT epoch, last FROM feed_state", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let epoch = if epoch.is_empty() { new_epoch(db)? } else { epoch };
        let (paged, at) = db
            .query_row("SELECT last, at FROM feed_pages ORDER BY first DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?
            .unwrap_or_default();
        let (paged, items) = match closed {
            Some(last) => (last, Vec::new()),
            None => (paged, recover(db, paged)?),
        };
        (self.at, self.is_loaded) = (self.at.max(at), true);
        self.last = paged + items.len() as u64;
        self.tail.set(|tail| *tail = Unpaged { epoch, paged, items });
        Ok(())
    }

    /// The number of an event that the transaction inserts next.
    pub(super) fn next(&self) -> u64 {
        self.last + self.new.len() as u64 + 1
    }

    /// Counts an event that the transaction has inserted with the number [`Self::next`].
    pub(super) fn add(&mut self, conversation: ConversationKey, seq: Seq, at: Timestamp) {
        self.new.push(Some((conversation, seq)));
        self.at = self.at.max(at.as_millis());
    }

    /// Inserts an entry that is no event.
    pub(super) fn insert(&mut self, db: &Connection, entry: &Entry) -> Result<()> {
        let mut insert = db.prepare_cached(
            "INSERT INTO feed_entries (number, type, at, user, via, address, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let Entry { kind, at, user, via, address, body } = entry;
        insert.execute(params![
            self.next(),
            kind,
            at.as_millis(),
            user.map(|user| user.0),
            via.0,
            address,
            body
        ])?;
        self.new.push(None);
        self.at = self.at.max(at.as_millis());
        Ok(())
    }

    /// Gives numbers to the entries of other processes. Called at the beginning of a transaction.
    pub(super) fn take_pending(&mut self, db: &Connection) -> Result<bool> {
        let version: i64 = db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        // Only commits of other processes change it, so that there is nothing new while it stays the same.
        if self.version == Some(version) {
            return Ok(false);
        }
        let mut select =
            db.prepare_cached("SELECT type, at, user, via, address, body FROM feed_pending ORDER BY id")?;
        let entries = select.query_map([], |row| {
            Ok(Entry {
                kind: row.get::<_, String>(0)?.into(),
                at: Timestamp::from_millis(row.get(1)?),
                user: row.get::<_, Option<i64>>(2)?.map(UserKey),
                via: Via(row.get(3)?),
                address: row.get(4)?,
                body: row.get(5)?,
            })
        })?;
        let entries: Vec<_> = entries.collect::<Result<_>>()?;
        for entry in &entries {
            self.insert(db, entry)?;
        }
        if !entries.is_empty() {
            db.execute("DELETE FROM feed_pending", [])?;
        }
        self.read_version = Some(version);
        Ok(true)
    }

    /// Writes what the transaction needs besides its events, before the commit.
    pub(super) fn write(&mut self, db: &Connection) -> Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        if !self.is_open {
            let epoch = self.tail.lock().epoch.clone();
            db.execute("UPDATE feed_state SET epoch = ?1, last = NULL", [epoch])?;
            self.opens = true;
        }
        let mut tail = self.tail.lock();
        if tail.items.len() + self.new.len() >= PAGE_ITEMS {
            insert_page(db, tail.paged, tail.items.iter().chain(&self.new), self.at)?;
            self.adds_page = true;
        }
        // Room for the new items, so that nothing can fail after the commit.
        tail.items.reserve(self.new.len());
        Ok(())
    }

    /// Notes the time of a transaction. An imported event has an earlier one, and is kept in the feed as long as others.
    pub(super) fn note_time(&mut self, now: Timestamp) {
        self.at = self.at.max(now.as_millis());
    }

    /// Called after the commit.
    pub(super) fn committed(&mut self) {
        self.is_open |= std::mem::take(&mut self.opens);
        self.version = self.read_version.take().or(self.version);
        if self.new.is_empty() {
            return;
        }
        self.last += self.new.len() as u64;
        let (last, adds_page) = (self.last, std::mem::take(&mut self.adds_page));
        let new = self.new.drain(..);
        self.tail.set(|tail| {
            if adds_page {
                tail.items.clear();
                tail.paged = last;
            } else {
                tail.items.extend(new);
            }
        });
        self.new.clear();
    }

    /// Called when the transaction was rolled back.
    pub(super) fn roll_back(&mut self) {
        self.new.clear();
        (self.adds_page, self.opens, self.read_version) = (false, false, None);
    }

    /// Puts the rest into a page and writes how far the feed goes, before the database is closed.
    pub(super) fn close(&mut self, db: &Connection) -> Result<()> {
        if !self.is_open {
            return Ok(());
        }
        let mut tail = self.tail.lock();
        let transaction = db.unchecked_transaction()?;
        if !tail.items.is_empty() {
            insert_page(db, tail.paged, &tail.items, self.at)?;
        }
        db.execute("UPDATE feed_state SET last = ?1", [self.last])?;
        transaction.commit()?;
        (tail.paged, self.is_open) = (self.last, false);
        tail.items.clear();
        Ok(())
    }
}

/// Begins a new epoch: eight hexadecimal digits.
fn new_epoch(db: &Connection) -> Result<String> {
    db.query_row("SELECT lower(hex(randomblob(4)))", [], |row| row.get(0))
}

fn insert_page<'a>(
    db: &Connection,
    paged: u64,
    items: impl IntoIterator<Item = &'a Item>,
    at: i64,
) -> Result<()> {
    let mut count = 0;
    let items = items.into_iter().copied().inspect(|_| count += 1);
    let runs = runs::encode(items);
    let mut insert =
        db.prepare_cached("INSERT INTO feed_pages (first, last, at, runs) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![paged + 1, paged + count, at, runs]).map(drop)
}

/// Removes pages that were written before a time, and the entries in them.
pub(super) fn trim(db: &Connection, before: Timestamp) -> Result<()> {
    db.prepare_cached(TRIM_PAGES)?.execute(params![before.as_millis(), MAX_TRIMMED_PAGES])?;
    db.prepare_cached(TRIM_ENTRIES)?.execute([MAX_TRIMMED_ENTRIES]).map(drop)
}

/// The items after the last page of a database that no server has closed.
fn recover(db: &Connection, paged: u64) -> Result<Vec<Item>> {
    let mut found = BTreeMap::new();
    let mut numbers = db.prepare("SELECT number FROM feed_entries WHERE number > ?1")?;
    for number in numbers.query_map([paged], |row| row.get::<_, u64>(0))? {
        found.insert(number?, None);
    }
    let mut conversations = db.prepare("SELECT id FROM conversations WHERE feed > ?1")?;
    let mut events = db.prepare("SELECT feed, seq FROM events WHERE conversation = ?1 ORDER BY seq DESC")?;
    for conversation in conversations.query_map([paged], |row| row.get::<_, i64>(0))? {
        let key = ConversationKey(conversation?);
        let mut rows = events.query([key.0])?;
        while let Some(row) = rows.next()? {
            match row.get::<_, Option<u64>>(0)? {
                Some(number) if number > paged => found.insert(number, Some((key, Seq(row.get(1)?)))),
                _ => break,
            };
        }
    }
    let last = found.last_key_value().map_or(paged, |(last, _)| *last);
    // Every number has a row. A damaged database may have lost some: they are passed over.
    Ok((paged + 1..=last).map(|number| found.get(&number).copied().flatten()).collect())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::sqlite::open_database;

    /// A database with this many pages of one entry each, written at the times 1, 2, 3, …
    fn with_pages(data: &std::path::Path, pages: u64) -> Connection {
        let db = open_database(data).expect("a database");
        db.execute_batch("PRAGMA synchronous = off").expect("set");
        let insert = "INSERT INTO feed_entries VALUES (?1, 'user.new', ?1, NULL, 0, NULL, '{}')";
        for number in 1..=pages {
            insert_page(&db, number - 1, [&None], number.cast_signed()).expect("a page");
            db.execute(insert, [number]).expect("an entry");
        }
        db
    }

    fn numbers(db: &Connection, table: &str) -> (u64, u64) {
        let column = if table == "feed_pages" { "first" } else { "number" };
        db.query_row(&format!("SELECT min({column}), count(*) FROM {table}"), [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("numbers")
    }

    #[test]
    fn trimming_reads_only_what_it_removes() {
        let data = tempfile::tempdir().expect("a directory");
        let db = with_pages(data.path(), 10_000);
        let trims = |before: i64, most: i32| {
            let mut pages = db.prepare(TRIM_PAGES).expect("a statement");
            pages.execute(params![before, MAX_TRIMMED_PAGES]).expect("trimmed");
            let mut entries = db.prepare(TRIM_ENTRIES).expect("a statement");
            entries.execute([MAX_TRIMMED_ENTRIES]).expect("trimmed");
            let steps =
                pages.get_status(StatementStatus::VmStep) + entries.get_status(StatementStatus::VmStep);
            assert!(steps < most, "{steps} steps");
            (numbers(&db, "feed_pages"), numbers(&db, "feed_entries"))
        };
        assert_eq!(trims(1, 200), ((1, 10_000), (1, 10_000)));
        assert_eq!(trims(11, 1_000), ((11, 9_990), (11, 9_990)));
        assert_eq!(trims(i64::MAX, 200_000), ((4_011, 5_990), (4_011, 5_990)), "as many at a time");
        for _ in 0..3 {
            trims(i64::MAX, 200_000);
        }
        assert_eq!(trims(i64::MAX, 200), ((10_000, 1), (10_000, 1)), "the last page stays");
    }

    #[test]
    fn trimming_leaves_no_hole_if_a_clock_was_set_back() {
        let data = tempfile::tempdir().expect("a directory");
        let db = with_pages(data.path(), 6);
        db.execute("UPDATE feed_pages SET at = 100 WHERE first = 3", []).expect("changed");
        trim(&db, Timestamp::from_millis(6)).expect("trimmed");
        assert_eq!(numbers(&db, "feed_pages"), (3, 4));
    }
}
