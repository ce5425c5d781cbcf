//! The log in an embedded SQLite database: one writer thread with group commit, reader threads beside
//! it, write-ahead log, `synchronous=FULL`.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod in_memory;
pub mod memory;
mod query;
mod readers;
pub(super) mod rows;
mod shared;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rusqlite_migration::{M, Migrations, SchemaVersion};
use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Limits, Seq, Timestamp, UserId};
use tokio::sync::mpsc;

use self::readers::{Readers, Reads};
use self::rows::SqliteRows;
use super::batch::{BATCHES, State, WAITING};
use super::change::{self, Actor, Failed, Rules};
use super::counting::Counter;
use super::{
    Acquaintance, Batch, Change, Memberships, Query, Snapshot, Standing, Store, Submission, Summaries,
};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::record::{Answer, ConversationKey, LogEvent, UserKey};
use crate::refusal::Refusal;

/// Names the files of the schema once, for both forms of it.
macro_rules! schema {
    ($($file:literal),*) => {
        /// The tables as they are now, for whoever measures what SQLite can do with them.
        pub const SCHEMA: &str = concat!($(include_str!($file)),*);

        /// The schema, append-only: a file here never changes once released, new ones follow.
        const MIGRATIONS: &[M<'_>] = &[$(M::up(include_str!($file))),*];
    };
}

schema!(
    "../migrations/sqlite/0001_log.sql",
    "../migrations/sqlite/0002_bounded_reads.sql",
    "../migrations/sqlite/0003_revocations.sql"
);

/// How the writer's connection is set up (sqlite.org/pragma.html).
///
/// - `page_size`: 2 KiB, for a new database. A message changes a page of each of four trees, and each is written to the log
///   whole: docs/decisions/0023-small-pages.md.
/// - `journal_mode`: readers beside the writer.
/// - `synchronous`: FULL syncs the log at every commit, and `ok` rests on that.
/// - `secure_delete`: a deleted message is overwritten, not only forgotten.
/// - `cache_size`: 32 MiB, in KiB and negative. A batch touches the last pages of as many conversations as have news; in
///   the default of 2 MiB those of 512 do not fit, and each is read again for the next batch.
/// - `wal_autocheckpoint`: at 32 MiB, in pages. At the default of 1,000 such a batch is copied into the database at
///   once, and the next one copies the same pages again. This one is for whoever measures; in the store the writer
///   itself does it, at the same [`CHECKPOINT`].
pub const SETTINGS: &str = "PRAGMA page_size = 2048; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                            PRAGMA secure_delete = ON; PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 16384;";

/// At how many pages the write-ahead log is moved into the database: [`SETTINGS`] says why. SQLite does it on its own, too,
/// and passes over how it went: docs/decisions/0026-the-writer-checkpoints.md.
const CHECKPOINT: u32 = 16_384;

/// The database's name in its directory.
pub(super) const DATABASE: &str = "switchboard.db";

/// Its write-ahead log's.
const WAL: &str = "switchboard.db-wal";

/// The name of what keeps a second server out.
pub(super) const LOCK: &str = "lock";

/// Prepared statements that a connection keeps: more than there are.
const STATEMENTS: usize = 64;

/// Threads that read. Pages come from the page cache, so more threads than cores only queue elsewhere;
/// the second keeps a long page from blocking the short ones.
const READERS: usize = 2;

/// How long to wait for another process's write: `switchboard key` beside a running server.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the directory's lock is waited for: a second in all.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of the write-ahead log that are written anew at a time.
const CHUNK: usize = 1024 * 1024;

/// How long a thread with nothing to do keeps its page cache: those of a writer and two readers come to 36 MB.
/// What it needs of them again is still in the system's.
const QUIET: Duration = Duration::from_secs(5);

/// What opening a store needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the database; made if it is not there.
    pub data: PathBuf,
    /// The limits that pages and changes are held to.
    pub limits: Limits,
    /// Whether ids never seen before may be written to.
    pub strangers: bool,
    /// The time of events.
    pub clock: Clock,
    /// Where commits are counted.
    pub metrics: Arc<Metrics>,
}

/// The store.
#[derive(Debug)]
pub struct SqliteStore {
    queue: crossbeam_channel::Sender<Submission>,
    readers: Readers,
    /// The writer uses it for as long as the store is open.
    _counter: Arc<Counter<Reads>>,
    state: Arc<State>,
}

impl SqliteStore {
    /// Opens the database in `settings.data`, takes its lock, brings its schema up to date. The outcomes
    /// of submissions come out of the receiver; the writer ends when the store and the receiver are dropped.
    ///
    /// # Errors
    /// The directory cannot be used, another server uses it, or a newer version made the database.
    pub fn open(settings: Settings) -> anyhow::Result<(Self, mpsc::Receiver<Batch>)> {
        let lock = lock(&settings.data)?;
        let rows = SqliteRows::new(open_database(&settings.data)?);
        settle(&rows).with_context(|| format!("cannot use the database in {}", settings.data.display()))?;
        let state = Arc::new(State::default());
        let limits = Arc::new(settings.limits.clone());
        let open = |_| {
            let db = open_reader(&settings.data)?;
            Ok(Reads { db, limits: limits.clone(), state: state.clone() })
        };
        let (readers, closed) = Readers::start("reader", (0..READERS).map(open))?;
        let (batches, outcomes) = mpsc::channel(BATCHES);
        let (queue, submissions) = crossbeam_channel::bounded(WAITING);
        let counter = readers.counter(queue.clone());
        writer::start(writer::Parts {
            rows,
            settings,
            batches,
            state: state.clone(),
            queue: submissions,
            counter: Arc::downgrade(&counter),
            readers: closed,
            lock,
        })?;
        Ok((Self { queue, readers, _counter: counter, state }, outcomes))
    }
}

/// Moves what the write-ahead log has into the database. A backup may read for long, and what it needs of the log may as well
/// stay.
fn settle(rows: &SqliteRows) -> anyhow::Result<()> {
    if !rows.truncate_wal().context("cannot move the write-ahead log into the database")? {
        tracing::warn!("another program reads the database, so its write-ahead log stays for now");
    }
    Ok(())
}

/// Puts every byte of the write-ahead log on the disk, before anybody is told of it, writes behind it, or moves it.
///
/// After a failed fsync the log may have, in the system's cache, a commit that is not on the disk, and no later fsync puts it there
/// (Rebello et al., USENIX ATC 2020). A process that starts reads it all the same. After a power cut the log would end before
/// that commit, whatever was synced behind it, and a database into which half of it was moved would be damaged. What
/// is written again is on the disk after the next fsync.
fn write_log_anew(db: &Connection, path: &Path) -> anyhow::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    // Nobody appends to it or begins it anew meanwhile. Readers find the bytes that they would have found.
    let _alone = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let mut chunk = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let length = file.read_at(&mut chunk, offset)?;
        if length == 0 {
            break;
        }
        file.write_all_at(&chunk[..length], offset)?;
        offset += length as u64;
    }
    Ok(file.sync_all()?)
}

/// Applies changes to a database that no server uses, in one transaction; all or none of them.
/// Nothing happens, and `false` is returned, if anybody has ever been seen there.
pub fn fill_if_new(settings: &Settings, changes: Vec<(UserId, Change)>) -> anyhow::Result<bool> {
    let _lock = lock(&settings.data)?;
    let db = open_database(&settings.data)?;
    let used: bool = db.query_row("SELECT EXISTS (SELECT 1 FROM users)", [], |row| row.get(0))?;
    if used {
        return Ok(false);
    }
    let mut rules = Rules::new(settings.limits.clone(), true);
    rules.near = u64::MAX;
    let mut rows = SqliteRows::new(db);
    rows.begin()?;
    for (actor, change) in changes {
        let actor = Actor::without_allowances(&actor);
        change::apply(&mut rows, &rules, actor, change, settings.clock.now()).map_err(
            |failed| match failed {
                Failed::Refused(refusal) => anyhow::Error::new(refusal),
                Failed::Store(error) => error.into(),
                Failed::Uncounted => anyhow::Error::new(Refusal::unavailable()),
            },
        )?;
    }
    rows.commit()?;
    Ok(true)
}

/// Opens the database in a directory for reading and writing, its schema up to date. Whoever calls it holds the directory's
/// lock: a server that runs knows the tables that it found.
pub(super) fn open_database(data: &Path) -> anyhow::Result<Connection> {
    let mut db = connect(data)?;
    write_log_anew(&db, &data.join(WAL))
        .context("cannot make sure that the disk has the write-ahead log")
        .and_then(|()| migrate(&mut db))
        .with_context(|| cannot_open(data))?;
    Ok(db)
}

/// Opens the database in a directory beside whoever uses it, with the tables that it has. Only where there are none yet
/// are they made, under the directory's lock.
pub(super) fn open_beside(data: &Path) -> anyhow::Result<Connection> {
    let mut db = connect(data)?;
    if is_new(&db, data)? {
        match lock(data) {
            Ok(_lock) => migrate(&mut db).with_context(|| cannot_open(data))?,
            // A server that has just started has made them meanwhile.
            Err(error) if is_new(&db, data)? => return Err(error),
            Err(_) => {}
        }
    }
    Ok(db)
}

/// Opens the database in a directory for reading and writing, whatever tables it has.
fn connect(data: &Path) -> anyhow::Result<Connection> {
    let path = data.join(DATABASE);
    let open = || -> anyhow::Result<Connection> {
        make_directory(data)?;
        // SQLite gives its other files the mode of this one.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let db = Connection::open(&path)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        check_version(&db)?;
        db.execute_batch(SETTINGS)?;
        // Whoever writes beside a running server leaves it to that, too.
        db.pragma_update(None, "wal_autocheckpoint", 0)?;
        keep_statements(&db)?;
        Ok(db)
    };
    open().with_context(|| cannot_open(data))
}

fn migrate(db: &mut Connection) -> anyhow::Result<()> {
    check_version(db)?;
    Ok(Migrations::from_slice(MIGRATIONS).to_latest(db)?)
}

fn is_new(db: &Connection, data: &Path) -> anyhow::Result<bool> {
    Ok(check_version(db).with_context(|| cannot_open(data))? == SchemaVersion::NoneSet)
}

fn cannot_open(data: &Path) -> String {
    format!("cannot open the database {}", data.join(DATABASE).display())
}

/// Makes the directory, for its owner only: it holds what people write to each other.
fn make_directory(data: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data)
}

/// A database that a newer version made is left as it is: what its tables mean is not known here.
pub(super) fn check_version(db: &Connection) -> anyhow::Result<SchemaVersion> {
    let version = Migrations::from_slice(MIGRATIONS).current_version(db)?;
    if let SchemaVersion::Outside(version) = version {
        bail!(
            "a newer version of switchboard made it (schema {version}, this one knows {}); use that version or a newer one",
            MIGRATIONS.len()
        );
    }
    Ok(version)
}

/// A database in memory that has nothing but the tables of a version.
pub(super) fn empty_database(version: usize) -> anyhow::Result<Connection> {
    let mut db = Connection::open_in_memory()?;
    Migrations::from_slice(MIGRATIONS).to_version(&mut db, version)?;
    Ok(db)
}

fn open_reader(data: &Path) -> anyhow::Result<Connection> {
    open_to_read(&data.join(DATABASE))
}

pub(super) fn open_to_read(path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    keep_statements(&db)?;
    Ok(db)
}

/// Keeps statements that were prepared, each with one plan for whatever is bound to it. SQLite otherwise plans a query with
/// a `LIMIT ?` anew for each other value (sqlite.org/c3ref/c_dbconfig_defensive.html, `SQLITE_DBCONFIG_ENABLE_QPSG`); decision
/// 47 has what that cost.
pub(super) fn keep_statements(db: &Connection) -> rusqlite::Result<()> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Gives back the memory of a connection's page cache (sqlite.org/pragma.html#pragma_shrink_memory).
fn shrink(db: &Connection) {
    if let Err(error) = db.execute_batch("PRAGMA shrink_memory") {
        tracing::warn!(%error, "the database's page cache cannot be emptied");
    }
}

/// Takes the directory for this process; the system gives it free when the file is closed, however the
/// process ends. Two writers would each believe their cached rows. A process that was just killed holds it
/// until the system has cleared it away, and one that is being started until it has closed what it
/// inherited (flock(2): a lock belongs to the open file); so this waits a moment.
pub(super) fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join(LOCK);
    let open = || {
        make_directory(data)?;
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)
    };
    let file = open().with_context(|| format!("cannot use the data directory {}", data.display()))?;
    let mut tries = LOCK_TRIES;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tries > 0 => {
                tries -= 1;
                wait(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another switchboard server uses {}; stop it, or choose another directory with --data",
                    data.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread that opens a store has nothing else to do")]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
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
    ) -> Answer<Vec<LogEvent>> {
        self.readers.replay(user, conversation, after, upto)
    }

    fn standing(&self, user: &UserId, conversation: ConversationId) -> Answer<Standing> {
        self.readers.standing(user, conversation)
    }

    fn acquaintances(&self, user: &UserId, others: Vec<UserId>) -> Answer<Vec<Acquaintance>> {
        self.readers.acquaintances(user, others)
    }

    fn not_before(&self, user: &UserId) -> Answer<Option<Timestamp>> {
        self.readers.not_before(user)
    }

    fn api_key(&self, hash: [u8; 32]) -> Answer<Option<String>> {
        self.readers.api_key(hash)
    }

    fn probe(&self) -> Answer<()> {
        self.readers.probe()
    }

    fn is_writable(&self) -> bool {
        !self.state.failed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_query_is_planned_once_for_all_values() {
        let data = tempfile::tempdir().expect("a directory");
        migrate(&mut connect(data.path()).expect("a database")).expect("its tables");
        for db in [connect(data.path()), open_reader(data.path())] {
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
    fn whoever_measures_checkpoints_where_the_store_does() {
        assert!(SETTINGS.contains(&format!("wal_autocheckpoint = {CHECKPOINT};")));
    }

    #[test]
    fn whoever_measures_has_the_tables_that_the_migrations_make() {
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
