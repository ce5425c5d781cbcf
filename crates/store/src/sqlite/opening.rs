//! Opens the database in a directory: its lock, the check that it is a database of this program, its write-ahead log, and
//! its schema.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, ffi, params};
use rusqlite_migration::{Migrations, SchemaVersion};
use switchboard_protocol::{EventKind, Timestamp};

use super::{BUSY_TIMEOUT, DATABASE_FILE, LOCK_FILE, MIGRATIONS, SETTINGS, STATEMENT_CACHE_CAPACITY};
use crate::record::NewerKind;
use crate::write_fault::WriteFault;

/// The first bytes of an SQLite database.
const SQLITE_HEADER: &[u8] = b"SQLite format 3\0";

/// The `application_id` of this program's databases, "swbd". A migration writes it.
const OWN_APPLICATION_ID: i32 = 0x7377_6264;

/// Queries that succeed in every database of this program.
const OWN_TABLES: [&str; 3] = [
    "SELECT id, name, last_seen FROM users",
    "SELECT conversation, user, role, since, until, read, received FROM members",
    "SELECT conversation, seq, kind, sender, at, messages, key, body FROM events",
];

/// The error text for another program's database.
const FOREIGN_DATABASE: &str = "it is another program's database; choose another directory with --data";

/// The marker file that says that the installation was moved to another store.
const MOVED_FILE: &str = "MOVED";

/// The name of the write-ahead log.
pub(crate) const WAL_FILE: &str = "switchboard.db-wal";

/// How often locking the directory is attempted: for a second in all.
const MAX_LOCK_ATTEMPTS: u32 = 20;
/// The delay between two attempts to lock the directory.
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(50);

/// How many bytes of the write-ahead log are rewritten at a time.
const SYNC_CHUNK_BYTES: usize = 1024 * 1024;

/// Makes every byte of the write-ahead log durable, before any session receives its contents and before it is appended to
/// or checkpointed.
///
/// After a failed fsync, the system's cache may have a commit of the log that is not on the disk, and no later fsync puts
/// it there (Rebello et al., USENIX ATC 2020). A new process would still read that commit. After a power cut the log would
/// end before it, even if later commits were synced, and a half-finished checkpoint would leave the database damaged. So
/// this writes every byte of the log again; then the next fsync puts it on the disk.
///
/// Until that is done, closing the database leaves the log as it is.
pub(super) fn sync_log(db: &Connection, path: &Path) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    rewrite_log(db, path)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(drop)
}

fn rewrite_log(db: &Connection, path: &Path) -> rusqlite::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.map_err(|error| sqlite_error(ffi::SQLITE_CANTOPEN, &error))?,
    };
    // The write lock keeps other processes from appending to the log or restarting it. Readers are not affected, because
    // each byte is overwritten with the same value.
    let _alone = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let mut chunk = vec![0; SYNC_CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let length =
            file.read_at(&mut chunk, offset).map_err(|error| sqlite_error(ffi::SQLITE_IOERR_READ, &error))?;
        if length == 0 {
            break;
        }
        file.write_all_at(&chunk[..length], offset)
            .map_err(|error| sqlite_error(ffi::SQLITE_IOERR_WRITE, &error))?;
        offset += length as u64;
    }
    file.sync_all().map_err(|error| sqlite_error(ffi::SQLITE_IOERR_FSYNC, &error))
}

/// Converts an I/O error to the error of SQLite with this code.
fn sqlite_error(code: i32, error: &std::io::Error) -> rusqlite::Error {
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let code = if full { ffi::SQLITE_FULL } else { code };
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
}

/// Whether the error was caused by a full disk.
pub(super) fn is_disk_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let fault = cause.downcast_ref::<rusqlite::Error>().and_then(WriteFault::from_error);
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        fault == Some(WriteFault::DiskFull)
            || matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    })
}

/// How the connections of this process access the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Together with other processes, through shared memory in a file beside the database.
    Shared,
    /// Alone, because the disk has no room for the file of the shared memory. That memory is on the heap instead
    /// (sqlite.org/vfs.html, "unix-excl").
    Exclusive,
}

impl Access {
    fn open(self, path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
        match self {
            Self::Shared => Connection::open_with_flags(path, flags),
            Self::Exclusive => Connection::open_with_flags_and_vfs(path, flags, c"unix-excl"),
        }
    }
}

/// A database that was opened for a server.
pub(super) struct Opened {
    pub(super) db: Connection,
    /// How the readers have to open the database.
    pub(super) access: Access,
    /// The path of the write-ahead log, if the disk was too full to sync it at opening. It must then be rewritten before
    /// the first commit.
    pub(super) unsynced_log: Option<PathBuf>,
}

/// Logs that the last server in a directory was killed: a clean stop empties the write-ahead log and removes it.
pub(super) fn warn_of_unclean_stop(data: &Path) {
    if std::fs::metadata(data.join(WAL_FILE)).is_ok_and(|log| log.len() > 0) {
        tracing::warn!(
            "the last run did not stop cleanly (killed, out of memory or power lost), or another program was reading the \
             database"
        );
    }
}

/// Logs what the database has, so that an operator sees whether it is the right one: a restored backup ends earlier than the last
/// line of the log before.
pub(super) fn log_contents(db: &Connection) -> rusqlite::Result<()> {
    let contents = "SELECT count(*), coalesce(sum(head), 0), max(at) FROM conversations";
    let (conversations, events, newest): (i64, i64, Option<i64>) =
        db.query_row(contents, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let newest_event = newest.map(Timestamp::from_millis).map(tracing::field::display);
    tracing::info!(path = db.path(), conversations, events, newest_event, "the database is open");
    Ok(())
}

/// Opens the database in a directory for a server that holds its lock. If the disk is full, opens it for reading only,
/// provided that its schema is up to date.
pub(super) fn open_to_serve(data: &Path) -> anyhow::Result<Opened> {
    match open_database(data) {
        Ok(db) => Ok(Opened { db, access: Access::Shared, unsynced_log: None }),
        Err(error) if is_disk_full(&error) => open_on_full_disk(data).context(error),
        Err(error) => Err(error),
    }
}

fn open_on_full_disk(data: &Path) -> anyhow::Result<Opened> {
    let access = Access::Exclusive;
    let flags = OpenFlags::default() - OpenFlags::SQLITE_OPEN_CREATE;
    let db = access.open(&data.join(DATABASE_FILE), flags)?;
    let version = check_version(&db)?;
    ensure!(
        matches!(version, SchemaVersion::Inside(version) if version.get() == MIGRATIONS.len()),
        "its tables must be brought up to date first"
    );
    set_up(&db)?;
    let log = data.join(WAL_FILE);
    match sync_log(&db, &log) {
        Ok(()) => Ok(Opened { db, access, unsynced_log: None }),
        Err(error) if WriteFault::from_error(&error) == Some(WriteFault::DiskFull) => {
            Ok(Opened { db, access, unsynced_log: Some(log) })
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens the database in a directory for reading and writing, and migrates its schema. The caller holds the directory's
/// lock, because a migration must not change the tables of a running server.
pub(crate) fn open_database(data: &Path) -> anyhow::Result<Connection> {
    let mut db = open_unmigrated(data)?;
    sync_log(&db, &data.join(WAL_FILE))
        .context("cannot make sure that the disk has the write-ahead log")
        .and_then(|()| migrate(&mut db))
        .with_context(|| open_error(data))?;
    Ok(db)
}

/// Opens the database in a directory while another process may use it. Does not migrate the tables. Creates them, under the
/// directory's lock, if there are none yet.
pub(crate) fn open_shared(data: &Path) -> anyhow::Result<Connection> {
    check_not_moved(data)?;
    let mut db = open_unmigrated(data)?;
    if is_new(&db, data)? {
        match lock(data) {
            Ok(_lock) => migrate(&mut db).with_context(|| open_error(data))?,
            // If there are tables now, a server that has just started has created them.
            Err(error) if is_new(&db, data)? => return Err(error),
            Err(_) => {}
        }
    }
    Ok(db)
}

/// Opens the database in a directory for reading and writing, without checking its tables.
fn open_unmigrated(data: &Path) -> anyhow::Result<Connection> {
    let path = data.join(DATABASE_FILE);
    let open = || -> anyhow::Result<Connection> {
        make_directory(data)?;
        // SQLite gives its other files the same mode as the database file, which this creates.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        check_header(&path)?;
        let db = Access::Shared.open(&path, OpenFlags::default())?;
        check_application_id(&db)?;
        set_up(&db)?;
        Ok(db)
    };
    open().with_context(|| open_error(data))
}

fn set_up(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.execute_batch(SETTINGS)?;
    // A process that writes beside a running server makes no checkpoints, because the server makes them.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    configure_statement_cache(db)
}

/// Refuses another program's database by the `application_id` in its first page, without opening it.
pub(crate) fn check_header(path: &Path) -> anyhow::Result<()> {
    /// The offset of that number (sqlite.org/fileformat.html section 1.3).
    const APPLICATION_ID: usize = 68;
    let mut header = [0; APPLICATION_ID + 4];
    match File::open(path)?.read_exact(&mut header) {
        Ok(()) => {}
        // The file is new and empty.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let id = header.last_chunk().copied().map(i32::from_be_bytes);
    ensure!(
        !header.starts_with(SQLITE_HEADER) || id == Some(0) || id == Some(OWN_APPLICATION_ID),
        FOREIGN_DATABASE
    );
    Ok(())
}

/// Refuses another program's database by its tables. Early databases of this program have no `application_id`; they are
/// recognised by their tables. Returns the version of the schema.
pub(crate) fn check_application_id(db: &Connection) -> anyhow::Result<SchemaVersion> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    let version = Migrations::from_slice(MIGRATIONS).current_version(db)?;
    let is_ours = if version == SchemaVersion::NoneSet {
        db.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?
    } else {
        OWN_TABLES.iter().all(|select| db.prepare(select).is_ok())
    };
    ensure!(is_ours, FOREIGN_DATABASE);
    check_version(db)
}

/// Refuses a directory whose installation was moved to PostgreSQL, because writes here would be missing there.
pub(crate) fn check_not_moved(data: &Path) -> anyhow::Result<()> {
    let marker = data.join(MOVED_FILE);
    match std::fs::read_to_string(&marker) {
        Ok(note) => bail!("{}", note.trim_end()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", marker.display())),
    }
}

/// Records that the installation in a directory was moved to `to`, so that no server writes to it by mistake.
pub(crate) fn mark_moved(data: &Path, to: &str) -> anyhow::Result<()> {
    let marker = data.join(MOVED_FILE);
    let write = || {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&marker)?;
        let data = data.display();
        writeln!(
            file,
            "the installation in {data} was moved to {to}: start with `--store` or the setting `store`, not with this directory. To go \
             back to it, without what has been written there since, remove {}",
            marker.display()
        )?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", marker.display()))
}

fn migrate(db: &mut Connection) -> anyhow::Result<()> {
    check_version(db)?;
    Migrations::from_slice(MIGRATIONS).to_latest(db)?;
    Ok(insert_kinds(db)?)
}

/// Adds the kinds of this version to the table of kinds. Writes nothing if all are there.
fn insert_kinds(db: &mut Connection) -> rusqlite::Result<()> {
    let known: u64 = db.query_row("SELECT count(*) FROM kinds", [], |row| row.get(0))?;
    if known >= EventKind::ALL.len() as u64 {
        return Ok(());
    }
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (number, name, users) in NewerKind::own_rows() {
        let insert = "INSERT OR IGNORE INTO kinds (number, name, users) VALUES (?1, ?2, ?3)";
        transaction.execute(insert, params![number, name, users])?;
    }
    transaction.commit()
}

fn is_new(db: &Connection, data: &Path) -> anyhow::Result<bool> {
    Ok(check_version(db).with_context(|| open_error(data))? == SchemaVersion::NoneSet)
}

fn open_error(data: &Path) -> String {
    format!("cannot open the database {}", data.join(DATABASE_FILE).display())
}

/// Creates the directory with access only for its owner, because it will contain private messages.
fn make_directory(data: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data)
}

/// Refuses a database that a newer version made, because this version does not know what its tables mean.
pub(crate) fn check_version(db: &Connection) -> anyhow::Result<SchemaVersion> {
    let version = Migrations::from_slice(MIGRATIONS).current_version(db)?;
    if let SchemaVersion::Outside(version) = version {
        bail!(
            "a newer version of switchboard made it (schema {version}, this one knows {}); use that version or a newer one",
            MIGRATIONS.len()
        );
    }
    Ok(version)
}

/// Whether a server has the lock of a directory.
pub(crate) fn is_locked(data: &Path) -> bool {
    let file = File::open(data.join(LOCK_FILE));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// An empty database in memory, with the tables of a version.
pub(crate) fn empty_database(version: usize) -> anyhow::Result<Connection> {
    let mut db = Connection::open_in_memory()?;
    Migrations::from_slice(MIGRATIONS).to_version(&mut db, version)?;
    Ok(db)
}

/// An empty database in memory, with the tables of this version.
pub(crate) fn latest_database() -> anyhow::Result<Connection> {
    empty_database(MIGRATIONS.len())
}

pub(super) fn open_reader(data: &Path, access: Access) -> anyhow::Result<Connection> {
    open_to_read_with(access, &data.join(DATABASE_FILE))
}

pub(crate) fn open_to_read(path: &Path) -> anyhow::Result<Connection> {
    open_to_read_with(Access::Shared, path)
}

fn open_to_read_with(access: Access, path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = access.open(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    configure_statement_cache(&db)?;
    Ok(db)
}

/// Caches prepared statements, each with one plan for all values bound to it. By default SQLite plans a query with `LIMIT
/// ?` again for each other value (sqlite.org/c3ref/c_dbconfig_defensive.html, `SQLITE_DBCONFIG_ENABLE_QPSG`); decision 47
/// has the cost of that.
pub(crate) fn configure_statement_cache(db: &Connection) -> rusqlite::Result<()> {
    db.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Frees the memory of a connection's page cache (sqlite.org/pragma.html#pragma_shrink_memory).
pub(super) fn free_page_cache(db: &Connection) {
    if let Err(error) = db.execute_batch("PRAGMA shrink_memory") {
        tracing::warn!(%error, "the database's page cache cannot be emptied");
    }
}

/// Locks the directory for this process, because two writers would each trust their cached rows. The system releases the
/// lock when the file is closed, however the process ends. This function retries for a moment, because the lock can outlive
/// its owner: a process that was just killed holds it until the system has cleaned up, and a child process holds it until
/// it closes the inherited file (flock(2): a lock belongs to the open file).
pub(crate) fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join(LOCK_FILE);
    let open = || {
        make_directory(data)?;
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)
    };
    let file = open().with_context(|| format!("cannot use the data directory {}", data.display()))?;
    let mut tries = MAX_LOCK_ATTEMPTS;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tries > 0 => {
                tries -= 1;
                sleep(LOCK_RETRY_DELAY);
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
fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}
