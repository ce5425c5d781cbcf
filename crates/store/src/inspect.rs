//! What an operator asks of the database: its rooms, and the sizes of its files and tables. Each query has a connection of its own
//! and a time-out, so that no read of a user waits for it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rusqlite::{Connection, ErrorCode, params};
use switchboard_protocol::{ConversationId, Seq, Timestamp};
use tokio::time::{Duration, Instant};

use super::postgres;
use super::sqlite::{
    DATABASE_FILE, MIGRATIONS, WAL_FILE, check_application_id, check_header, check_not_moved, is_locked,
    open_to_read,
};
use crate::clock::Clock;
use crate::key::ConversationKey;
pub use crate::sizes::{ConversationSize, Room, RoomOrder, Sizes, TableSize};
use crate::sizes::{INSPECTION_TIMEOUT, LARGEST_CONVERSATIONS, took_too_long};
use crate::table::TABLES;

/// An empty file in the data directory whose time is that of the last backup.
pub(crate) const LAST_BACKUP: &str = "last-backup";

/// After how many steps of its virtual machine SQLite checks the time-out: about a millisecond.
const STEPS_PER_CHECK: i32 = 10_000;

/// The database of a server, to be inspected.
#[derive(Debug, Clone)]
pub enum Inspector {
    /// The SQLite database in this directory.
    Directory(PathBuf),
    /// The PostgreSQL database that several nodes share.
    Shared {
        /// The URL of the database.
        url: String,
        /// A file with the root certificates that verify the database's certificate.
        ca: Option<PathBuf>,
    },
}

impl Inspector {
    /// At most `most` rooms in an order, after the room `after`. Blocks.
    ///
    /// # Errors
    /// The database cannot be read, or the query takes too long.
    pub fn rooms(
        &self,
        order: RoomOrder,
        after: Option<&ConversationId>,
        most: u32,
    ) -> anyhow::Result<Vec<Room>> {
        let after = after.map_or("", ConversationId::as_str);
        match self {
            Self::Directory(data) => rooms_in(&open(data)?, order, after, most).map_err(describe_error),
            Self::Shared { url, ca } => postgres::inspect::rooms(url, ca.as_deref(), order, after, most),
        }
    }

    /// The sizes of the database. Blocks.
    ///
    /// # Errors
    /// The database cannot be read, or a query other than a count takes too long.
    pub fn sizes(&self) -> anyhow::Result<Sizes> {
        match self {
            Self::Directory(data) => sizes_in(data),
            Self::Shared { url, ca } => postgres::inspect::sizes(url, ca.as_deref()),
        }
    }

    /// Opens the database for reading, and returns what a server would find. Blocks.
    ///
    /// # Errors
    /// A server could not serve from it.
    pub fn try_open(&self) -> anyhow::Result<String> {
        match self {
            Self::Directory(data) => try_open_in(data),
            Self::Shared { url, ca } => postgres::inspect::try_open(url, ca.as_deref()),
        }
    }

    /// When `switchboard backup` last made a checked backup of an SQLite database, if it has recorded that.
    #[must_use]
    pub fn last_backup(&self) -> Option<Timestamp> {
        let Self::Directory(data) = self else { return None };
        let written = std::fs::metadata(data.join(LAST_BACKUP)).ok()?.modified().ok()?;
        let since = written.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis()).ok().map(Timestamp::from_millis)
    }

    /// The sizes in bytes of SQLite's database and of its write-ahead log; `None` for PostgreSQL, or if the files cannot be read.
    #[must_use]
    pub fn file_sizes(&self) -> Option<(u64, u64)> {
        let Self::Directory(data) = self else { return None };
        let database = std::fs::metadata(data.join(DATABASE_FILE)).ok()?.len();
        Some((database, std::fs::metadata(data.join(WAL_FILE)).map_or(0, |wal| wal.len())))
    }
}

/// Records that a checked backup of the database in a directory has been made now.
///
/// # Errors
/// The directory is not writable.
pub fn record_backup(data: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(data.join(LAST_BACKUP))?;
    let now = u64::try_from(Clock::system().now().as_millis()).unwrap_or_default();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_millis(now))
}

/// Opens a connection whose statements fail once the time-out has passed.
fn open(data: &Path) -> anyhow::Result<Connection> {
    let db = open_to_read(&data.join(DATABASE_FILE))?;
    let began = Instant::now();
    db.progress_handler(STEPS_PER_CHECK, Some(move || began.elapsed() > INSPECTION_TIMEOUT))?;
    Ok(db)
}

fn is_timeout(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

fn describe_error(error: rusqlite::Error) -> anyhow::Error {
    if is_timeout(&error) {
        took_too_long()
    } else {
        anyhow::Error::from(error).context("cannot read the database")
    }
}

fn try_open_in(data: &Path) -> anyhow::Result<String> {
    check_not_moved(data)?;
    let path = data.join(DATABASE_FILE);
    let shown = path.display();
    if !path.try_exists().with_context(|| format!("cannot read {}", data.display()))? {
        return Ok(format!("{shown} does not exist yet, and `serve` creates it"));
    }
    let schema = || -> anyhow::Result<_> {
        check_header(&path)?;
        check_application_id(&open_to_read(&path)?)
    };
    let schema = usize::from(&schema().with_context(|| format!("cannot use {shown}"))?);
    let user = if is_locked(data) { "; a running server has it" } else { "" };
    Ok(format!("{shown} can be read, schema {schema} of {}{user}", MIGRATIONS.len()))
}

fn rooms_in(db: &Connection, order: RoomOrder, after: &str, most: u32) -> rusqlite::Result<Vec<Room>> {
    // Names of rooms begin with `#`, and `$` is the next character.
    let (order, is_ended) = (order.sql(), is_ended(db)?);
    let mut select = db.prepare(&format!(
        "SELECT id, name, title, public, members, messages, head, at FROM conversations
         WHERE name >= '#' AND name < '$' AND name > ?1 AND NOT {is_ended} ORDER BY {order} LIMIT ?2"
    ))?;
    let rooms = select.query_map(params![after, most], |row| {
        let name: String = row.get(1)?;
        let name = ConversationId::parse(&name).map_err(|_| rusqlite::Error::InvalidQuery)?;
        Ok(Room {
            key: ConversationKey(row.get(0)?),
            name,
            title: row.get(2)?,
            public: row.get(3)?,
            members: row.get(4)?,
            messages: row.get(5)?,
            last_seq: Seq(row.get(6)?),
            last_event: Timestamp::from_millis(row.get(7)?),
        })
    })?;
    rooms.collect()
}

/// The condition that a room was deleted. The database may be one of an earlier version, which has no column for it.
fn is_ended(db: &Connection) -> rusqlite::Result<&'static str> {
    let mut find = db.prepare("SELECT 1 FROM pragma_table_info('conversations') WHERE name = 'ended'")?;
    Ok(if find.exists([])? { "ended" } else { "0" })
}

fn sizes_in(data: &Path) -> anyhow::Result<Sizes> {
    let inspector = Inspector::Directory(data.to_owned());
    let Some((database_bytes, wal_bytes)) = inspector.file_sizes() else {
        bail!("there is no database in {}", data.display());
    };
    let db = open(data).context("cannot read the database")?;
    let largest_conversations = largest_conversations(&db).map_err(describe_error)?;
    let mut tables = Vec::new();
    for table in &TABLES {
        let name = table.name;
        let rows = match db.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0)) {
            Ok(rows) => Some(rows),
            Err(error) if is_timeout(&error) => None,
            Err(error) => return Err(describe_error(error)),
        };
        tables.push(TableSize { name, rows, bytes: None });
    }
    Ok(Sizes { database_bytes, wal_bytes: Some(wal_bytes), tables, largest_conversations })
}

fn largest_conversations(db: &Connection) -> rusqlite::Result<Vec<ConversationSize>> {
    let is_ended = is_ended(db)?;
    let mut select = db.prepare(&format!(
        "SELECT name, head, messages FROM conversations WHERE NOT {is_ended} ORDER BY head DESC, name LIMIT ?1"
    ))?;
    let largest = select.query_map([LARGEST_CONVERSATIONS], |row| {
        let name: String = row.get(0)?;
        let name = ConversationId::parse(&name).map_err(|_| rusqlite::Error::InvalidQuery)?;
        Ok(ConversationSize { name, events: row.get(1)?, messages: row.get(2)? })
    })?;
    largest.collect()
}
