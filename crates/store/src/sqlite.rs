//! The log in an embedded SQLite database: one writer thread with group commit, some reader threads, a write-ahead log, and
//! `synchronous=FULL`.

pub(crate) mod absences;
pub(super) mod checksum;
mod ended_room;
mod feed;
pub(crate) mod keys;
#[cfg(feature = "simulation")]
pub mod memory;
pub(crate) mod opening;
pub(crate) mod query;
mod readers;
pub(crate) mod rename;
mod rewrite;
pub(super) mod rows;
#[cfg(feature = "simulation")]
mod shared;
mod table;
pub(crate) mod webhooks;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rusqlite_migration::M;
use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Limits, Seq, UserId, UserUnread};
use tokio::sync::{mpsc, watch};

use self::feed::Tail;
use self::opening::{
    Access, Opened, free_page_cache, is_disk_full, log_contents, open_reader, open_to_serve,
    warn_of_unclean_stop,
};
pub(super) use self::opening::{
    WAL_FILE, check_application_id, check_header, check_not_moved, check_version, empty_database, is_locked,
    latest_database, lock, mark_moved, open_database, open_shared, open_to_read,
};
use self::readers::{Readers, SqliteReader};
use self::rows::SqliteRows;
use super::batch::{MAX_QUEUED_BATCHES, MAX_QUEUED_WRITES, WriterState};
use super::change::{self, Actor, OperationError, Rules};
use super::counting::Counter;
use super::write_fault::WriteFault;
use super::{
    Batch, Change, Memberships, PresencePeer, Query, Snapshot, Store, Submission, Summaries, WriteAccess,
};
use crate::CommitMetrics;
use crate::absence::{MissedPage, MissedQuery};
use crate::ban::Standing;
use crate::clock::Clock;
use crate::fair_queue::LaneOwner;
use crate::feed::{FeedPage, FeedQuery};
use crate::grant::KeyGrant;
use crate::listing::{BanListing, ListBans, ListRooms, ListUsers, ReportListing, RoomListing, UserListing};
use crate::profile::{Directory, LastToken, People, PeopleQuery};
use crate::record::{Answer, ConversationKey, ReadEvent, UserKey};
use crate::refusal::Refusal;
use crate::report::{ListReports, UndecidedReports};

/// Defines the schema in two forms from one list of files.
macro_rules! schema {
    ($($file:literal),*) => {
        /// The current tables, for the benchmarks of SQLite alone.
        pub const SCHEMA: &str = concat!($(include_str!($file)),*);

        /// The schema as migrations. It is append-only: a released file never changes, and a change of the schema is a new
        /// file.
        pub(crate) const MIGRATIONS: &[M<'_>] = &[$(M::up(include_str!($file))),*];
    };
}

schema!(
    "migrations/sqlite/0001_log.sql",
    "migrations/sqlite/0002_bounded_reads.sql",
    "migrations/sqlite/0003_revocations.sql",
    "migrations/sqlite/0004_probe.sql",
    "migrations/sqlite/0005_checksums.sql",
    "migrations/sqlite/0006_user_numbers.sql",
    "migrations/sqlite/0007_keys_and_feed.sql",
    "migrations/sqlite/0008_profiles.sql",
    "migrations/sqlite/0009_replaced_requests.sql",
    "migrations/sqlite/0010_retired_ids.sql",
    "migrations/sqlite/0011_import.sql",
    "migrations/sqlite/0012_absences.sql",
    "migrations/sqlite/0013_ended_rooms.sql",
    "migrations/sqlite/0014_bans.sql",
    "migrations/sqlite/0015_blocks.sql",
    "migrations/sqlite/0016_reports.sql",
    "migrations/sqlite/0017_held.sql"
);

/// How the writer's connection is set up (sqlite.org/pragma.html).
///
/// - `page_size`: 2 KiB, for a new database. A message changes one page in each of four B-trees, and a changed page is
///   written to the log as a whole: docs/decisions/0023-small-pages.md.
/// - `journal_mode`: a write-ahead log, so that readers and the writer do not block each other.
/// - `synchronous`: FULL syncs the log at every commit; `ok` promises that.
/// - `secure_delete`: the bytes of a deleted message are overwritten.
/// - `cache_size`: 32 MiB (negative values are in KiB). A batch touches the last pages of each conversation that it writes
///   to. In the default of 2 MiB the pages of 512 conversations do not fit, and each is read again for the next batch.
/// - `wal_autocheckpoint`: at 32 MiB, in pages. At the default of 1,000 such a batch is copied into the database at
///   once, and the next one copies the same pages again. This one is for the benchmarks; in the store the writer
///   itself does it, at the same [`CHECKPOINT_PAGES`].
pub const SETTINGS: &str = "PRAGMA page_size = 2048; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                            PRAGMA secure_delete = ON; PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 16384;";

/// Pages in the write-ahead log at which the writer runs a checkpoint: [`SETTINGS`] has the reason. SQLite could run it itself,
/// but ignores errors of it: docs/decisions/0026-the-writer-checkpoints.md.
const CHECKPOINT_PAGES: u32 = 16_384;

/// The database's name in its directory.
pub(crate) const DATABASE_FILE: &str = "switchboard.db";

/// The lock file that keeps a second server out of the directory.
pub(super) const LOCK_FILE: &str = "lock";

/// How many prepared statements a connection caches: more than the store has.
const STATEMENT_CACHE_CAPACITY: usize = 64;

/// How many threads read. Pages come from the page cache, so more threads than cores would not read faster; with two, short
/// reads need not wait for a long one.
const READER_THREADS: usize = 2;

/// How long a write waits for another process that writes, such as `switchboard key` beside a running server.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle thread keeps its page cache. The caches of a writer and two readers take 36 MB. After they are freed,
/// the pages are still in the system's cache.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings for opening a store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the database; it is created if it does not exist.
    pub data: PathBuf,
    /// The limits on pages and on changes.
    pub limits: Limits,
    /// Whether users may write to ids that the server has not seen before.
    pub strangers: bool,
    /// Whether the feed has an entry `user.read` for each `read` that moves a cursor.
    pub tells_reads: bool,
    /// The clock for the times of events.
    pub clock: Clock,
    /// The metrics of commits.
    pub metrics: CommitMetrics,
}

/// The store in SQLite.
#[derive(Debug)]
pub struct SqliteStore {
    queue: crossbeam_channel::Sender<Submission>,
    readers: Readers,
    /// Keeps the writer's handle to it valid, because the writer holds only a weak reference.
    _counter: Arc<Counter<SqliteReader>>,
    state: Arc<WriterState>,
    feed: Arc<Tail>,
}

impl SqliteStore {
    /// Opens the database in `settings.data`: takes its lock and migrates its schema. The receiver gets the outcomes of
    /// submissions. The writer ends when the store and the receiver are dropped.
    ///
    /// # Errors
    /// The directory cannot be used, another server uses it, its installation was moved to PostgreSQL, the database belongs
    /// to another program, or a newer version made it. A full disk is no error: the store serves reads, and writes once
    /// there is room.
    pub fn open(settings: Settings) -> anyhow::Result<(Self, mpsc::Receiver<Batch>)> {
        let lock = lock(&settings.data)?;
        check_not_moved(&settings.data)?;
        warn_of_unclean_stop(&settings.data);
        let Opened { db, access, unsynced_log } = open_to_serve(&settings.data)?;
        log_contents(&db).context("cannot read the database")?;
        let mut rows = SqliteRows::new(db);
        let feed = rows.load_feed().context("cannot find out where the feed ends")?;
        let state = Arc::new(WriterState::new(settings.clock.clone()));
        if access == Access::Exclusive || !room_exists(&rows, &settings)? {
            state.set_fault(WriteFault::DiskFull);
            tracing::error!("the disk is full: reads are served, and writes are refused until there is room");
        }
        let limits = Arc::new(settings.limits.clone());
        let open = |_| {
            let db = open_reader(&settings.data, access)?;
            Ok(SqliteReader { db, limits: limits.clone(), state: state.clone() })
        };
        let (readers, closed) = Readers::start("reader", (0..READER_THREADS).map(open))?;
        let (batches, outcomes) = mpsc::channel(MAX_QUEUED_BATCHES);
        let (queue, submissions) = crossbeam_channel::bounded(MAX_QUEUED_WRITES);
        let counter = Counter::new(readers.read_queue(), queue.clone());
        writer::start(writer::WriterParts {
            rows,
            settings,
            batches,
            state: state.clone(),
            queue: submissions,
            counter: Arc::downgrade(&counter),
            readers: closed,
            lock,
            unsynced_log,
        })?;
        Ok((Self { queue, readers, _counter: counter, state, feed }, outcomes))
    }
}

/// Moves the contents of the write-ahead log into the database, and returns `false` if the disk has no room for that. If a
/// backup is reading, the log stays as it is.
fn room_exists(rows: &SqliteRows, settings: &Settings) -> anyhow::Result<bool> {
    match rows.truncate_wal().context("cannot move the write-ahead log into the database") {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!("another program reads the database, so its write-ahead log stays for now");
        }
        Err(error) if is_disk_full(&error) => return Ok(false),
        Err(error) => {
            let database = settings.data.display();
            return Err(error.context(format!("cannot use the database in {database}")));
        }
    }
    Ok(true)
}

/// Applies changes to a database that no server uses, in one transaction: all or none of them. Does nothing and returns
/// `false` if the database already has a user.
pub fn fill_if_new(settings: &Settings, changes: Vec<(UserId, Change)>) -> anyhow::Result<bool> {
    let _lock = lock(&settings.data)?;
    check_not_moved(&settings.data)?;
    let db = match open_database(&settings.data) {
        Ok(db) => db,
        // The disk is full, so a new database cannot be made; an existing one can still be read.
        Err(error) if is_disk_full(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let used: bool = db.query_row("SELECT EXISTS (SELECT 1 FROM users)", [], |row| row.get(0))?;
    if used {
        return Ok(false);
    }
    let mut rules = Rules::new(settings.limits.clone(), true, false);
    rules.max_events_counted_by_writer = u64::MAX;
    let mut rows = SqliteRows::new(db);
    rows.begin()?;
    for (actor, change) in changes {
        let actor = Actor::without_allowances(&actor);
        change::apply(&mut rows, &rules, actor, change, settings.clock.now()).map_err(
            |failed| match failed {
                OperationError::Refused(refusal) => anyhow::Error::new(refusal),
                OperationError::Store(error) => error.into(),
                OperationError::Uncounted | OperationError::Checked => {
                    anyhow::Error::new(Refusal::unavailable())
                }
            },
        )?;
    }
    rows.commit()?;
    Ok(true)
}

impl Store for SqliteStore {
    fn submit(&self, submission: Submission) -> Result<(), Box<Submission>> {
        self.queue.try_send(submission).map_err(|error| Box::new(error.into_inner()))
    }

    fn query(&self, user: &UserId, query: Query) -> Answer<OkBody<Box<RawValue>>> {
        self.readers.query(user, query)
    }

    fn attach(&self, user: &UserId, named: Vec<ConversationId>) -> Answer<Option<Snapshot>> {
        self.readers.attach(user, named)
    }

    fn memberships(&self, user: &UserId, key: UserKey, after: ConversationKey) -> Answer<Memberships> {
        self.readers.memberships(user, key, after)
    }

    fn summaries(&self, user: &UserId, key: UserKey, of: Vec<ConversationKey>) -> Answer<Summaries> {
        self.readers.summaries(user, key, of)
    }

    fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Answer<Vec<ReadEvent>> {
        self.readers.replay(user, conversation, after, upto)
    }

    fn check_write_access(&self, user: &UserId, conversation: ConversationId) -> Answer<WriteAccess> {
        self.readers.write_access(user, conversation)
    }

    fn presence_peers(&self, user: &UserId, others: Vec<UserId>) -> Answer<Vec<PresencePeer>> {
        self.readers.presence_peers(user, others)
    }

    fn people(&self, user: &UserId, query: PeopleQuery, directory: Directory) -> Answer<People> {
        self.readers.people(user, query, directory)
    }

    fn last_token(&self, user: &UserId) -> Answer<Option<LastToken>> {
        self.readers.last_token(user)
    }

    fn standing(&self, user: &UserId) -> Answer<Standing> {
        self.readers.standing(user)
    }

    fn list_bans(&self, query: ListBans) -> Answer<BanListing> {
        self.readers.list_bans(query)
    }

    fn list_reports(&self, query: ListReports) -> Answer<ReportListing> {
        self.readers.list_reports(query)
    }

    fn undecided_reports(&self) -> Answer<UndecidedReports> {
        self.readers.undecided_reports()
    }

    fn moderator_history(&self, conversation: ConversationId, around: Seq) -> Answer<OkBody<Box<RawValue>>> {
        self.readers.moderator_history(conversation, around)
    }

    fn api_key(&self, hash: [u8; 32]) -> Answer<Option<KeyGrant>> {
        self.readers.api_key(hash)
    }

    fn list_users(&self, query: ListUsers) -> Answer<UserListing> {
        self.readers.list_users(query)
    }

    fn list_rooms(&self, query: ListRooms) -> Answer<RoomListing> {
        self.readers.list_rooms(query)
    }

    fn unread(&self, users: Vec<UserId>) -> Answer<Vec<UserUnread>> {
        self.readers.unread(users)
    }

    fn feed(&self, query: FeedQuery) -> Answer<FeedPage> {
        let feed = self.feed.clone();
        // The end of the feed is read before the transaction's first statement, so that the transaction has all of it.
        self.readers.read(LaneOwner::Feed, move |reader| reader.feed(&query, &feed.read()))
    }

    fn feed_news(&self) -> watch::Receiver<u64> {
        self.feed.watch()
    }

    fn missed(&self, query: MissedQuery) -> Answer<MissedPage> {
        let feed = self.feed.clone();
        self.readers.read(LaneOwner::Feed, move |reader| reader.missed(&query, &feed.read()))
    }

    fn probe(&self) -> Answer<()> {
        self.readers.probe()
    }

    fn queued_writes(&self) -> usize {
        self.queue.len()
    }

    fn write_fault(&self) -> Option<WriteFault> {
        self.state.fault()
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, StatementStatus};

    use super::*;

    #[test]
    fn a_query_is_planned_once_for_all_values() {
        let data = tempfile::tempdir().expect("a directory");
        let made = open_database(data.path());
        for db in [made, open_reader(data.path(), Access::Shared)] {
            let db = db.expect("a connection");
            let mut select = db
                .prepare_cached("SELECT seq FROM events WHERE conversation = ?1 LIMIT ?2")
                .expect("a query");
            for (conversation, limit) in [(1, 1), (2, 2), (3, 3)] {
                assert!(!select.exists([conversation, limit]).expect("an answer"));
            }
            assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
        }
    }

    #[test]
    fn benchmarks_checkpoint_at_the_same_size_as_the_store() {
        assert!(SETTINGS.contains(&format!("wal_autocheckpoint = {CHECKPOINT_PAGES};")));
    }

    #[test]
    fn the_tables_of_the_benchmarks_are_those_of_the_migrations() {
        let tables = |db: &Connection| -> Vec<(String, Option<String>)> {
            let mut select =
                db.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").expect("a query");
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("tables");
            rows.collect::<Result<_, _>>().expect("read")
        };
        let by_hand = Connection::open_in_memory().expect("a database");
        by_hand.execute_batch(SCHEMA).expect("made");
        let migrated = empty_database(MIGRATIONS.len()).expect("made");
        assert_eq!(tables(&by_hand), tables(&migrated));
    }
}
