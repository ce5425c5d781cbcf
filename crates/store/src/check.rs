//! Verifies a database: that SQLite can read every page, that every log has all its events, and that the other rows are
//! what results from the logs. docs/decisions/0036-check-folds-the-log-again.md
//!
//! The check reads in one transaction, so it may run beside a server. Its memory is bounded by the largest room: one entry
//! for each present or past member.

mod blocks;
mod feed;
mod log;
mod profiles;
mod retired;
mod rows;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rusqlite_migration::SchemaVersion;
use serde::Serialize;

use super::sqlite::{DATABASE_FILE, check_version, empty_database, open_to_read};

/// The most problems that a report lists. A damaged page causes thousands of problems; the rest are only counted.
pub const MAX_LISTED_PROBLEMS: usize = 100;

/// After how many events the check reports its progress.
const EVENTS_PER_REPORT: u64 = 10_000;

/// The first schema version that records which rooms a user created or joined themselves.
const FIRST_SCHEMA_WITH_ROOMS_BY_CHOICE: usize = 2;

/// The first schema version with profiles.
const FIRST_SCHEMA_WITH_PROFILES: usize = 8;

/// The first schema version that has the requests for messages whose content the application has replaced.
const FIRST_SCHEMA_WITH_REPLACED_REQUESTS: usize = 9;

/// The first schema version in which rooms may have been deleted.
const FIRST_SCHEMA_WITH_ENDED_ROOMS: usize = 13;

/// The first schema version with bans.
const FIRST_SCHEMA_WITH_BANS: usize = 14;

/// The first schema version with reports.
const FIRST_SCHEMA_WITH_REPORTS: usize = 16;

/// The first schema version with held messages.
const FIRST_SCHEMA_WITH_HELD: usize = 17;

/// A fault in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The conversation, if the problem is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The number of the event, if the problem is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// A description of the problem. It never quotes a message or another text of a user.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.conversation, self.seq) {
            (Some(conversation), Some(seq)) => write!(f, "{conversation} {seq}: {}", self.what),
            (Some(conversation), None) => write!(f, "{conversation}: {}", self.what),
            (None, _) => f.write_str(&self.what),
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version of the database's schema.
    pub schema: usize,
    /// The number of conversations.
    pub conversations: u64,
    /// The number of events.
    pub events: u64,
    /// How many of the events are messages.
    pub messages: u64,
    /// The first [`MAX_LISTED_PROBLEMS`] problems.
    pub problems: Vec<Problem>,
    /// How many problems were found beyond those listed.
    pub more: u64,
}

impl Report {
    /// Whether no problem was found.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn add_problem(&mut self, conversation: Option<&str>, seq: Option<u64>, what: impl Into<String>) {
        if self.problems.len() < MAX_LISTED_PROBLEMS {
            let conversation = conversation.map(ToOwned::to_owned);
            self.problems.push(Problem { conversation, seq, what: what.into() });
        } else {
            self.more += 1;
        }
    }
}

/// The progress of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// SQLite is reading its pages.
    Pages {
        /// The size of all pages.
        bytes: u64,
    },
    /// The check is reading the logs.
    Events {
        /// How many events have been read.
        done: u64,
        /// About how many events there are.
        of: u64,
    },
}

/// How thoroughly SQLite checks its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageCheck {
    /// With SQLite's `integrity_check`, which also compares indexes with their tables.
    Full,
    /// With SQLite's `quick_check`, which does not compare indexes.
    Quick,
}

/// Verifies the database at a path: a file, or a data directory. Beside a running server it sees one state between two
/// commits. Returns the first [`MAX_LISTED_PROBLEMS`] problems, and one more with the number of the others. The list is
/// empty if the database is sound.
///
/// # Errors
/// There is no database, it cannot be read at all, or a newer version made it.
pub fn check_database(path: impl AsRef<Path>) -> anyhow::Result<Vec<Problem>> {
    let Report { mut problems, more, .. } = check(path.as_ref(), &mut |_| {})?;
    if more > 0 {
        problems.push(Problem { conversation: None, seq: None, what: format!("and {more} more") });
    }
    Ok(problems)
}

/// Verifies the database at a path like [`check_database`], but returns the whole report and calls `watch` with the
/// progress.
///
/// # Errors
/// There is no database, it cannot be read at all, or a newer version made it.
pub fn check(path: &Path, watch: &mut dyn FnMut(Progress)) -> anyhow::Result<Report> {
    let path = database_at(path);
    let db = open(&path)?;
    check_connection(&db, PageCheck::Full, watch).with_context(|| format!("cannot check {}", path.display()))
}

/// The database file for a path that may be a data directory.
fn database_at(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(DATABASE_FILE) } else { path.to_owned() }
}

/// Opens an existing database for reading.
pub(super) fn open(path: &Path) -> anyhow::Result<Connection> {
    let open = || -> anyhow::Result<Connection> {
        std::fs::metadata(path)?;
        let db = open_to_read(path)?;
        match db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) {
            Ok(()) => Ok(db),
            // In a read-only directory SQLite cannot create its `-shm` file. If there is no `-wal` file, no process writes
            // and the database file is complete, so it is opened without `-shm` (sqlite.org/wal.html, "Read-Only
            // Databases").
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && !has_wal(path) => {
                open_alone(path)
            }
            Err(error) => Err(error.into()),
        }
    };
    open().with_context(|| format!("cannot open the database {}", path.display()))
}

fn has_wal(path: &Path) -> bool {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    Path::new(&name).exists()
}

fn open_alone(path: &Path) -> anyhow::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let path = path.to_str().context("its path is no text")?;
    let escaped = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Ok(Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)?)
}

/// Verifies the database of a connection, in one read transaction.
pub(super) fn check_connection(
    db: &Connection,
    pages: PageCheck,
    watch: &mut dyn FnMut(Progress),
) -> anyhow::Result<Report> {
    let transaction = db.unchecked_transaction()?;
    let mut report = empty_report(db)?;
    let checked = check_pages(db, pages, &mut report, watch)
        .and_then(|()| check_tables(db, &mut report))
        .and_then(|complete| if complete { check_rows(db, &mut report, watch) } else { Ok(()) });
    if let Err(error) = checked {
        // A page that cannot be read ends the check. It is reported as a problem instead of an error, because finding such
        // pages is the purpose of the check.
        match error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code) {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                report.add_problem(
                    None,
                    None,
                    format!("the check ends here, at what SQLite cannot read: {error}"),
                );
            }
            _ => return Err(error),
        }
    }
    drop(transaction);
    Ok(report)
}

/// A report with the counts that the conversations' rows give, without verifying them.
pub(super) fn unverified_report(db: &Connection) -> anyhow::Result<Report> {
    let report = empty_report(db)?;
    // Of a deleted room, the last event is left.
    let events = if report.schema < FIRST_SCHEMA_WITH_ENDED_ROOMS { "head" } else { "iif(ended, 1, head)" };
    let counts =
        format!("SELECT count(*), coalesce(sum({events}), 0), coalesce(sum(messages), 0) FROM conversations");
    let (conversations, events, messages) =
        db.query_row(&counts, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(Report { conversations, events, messages, ..report })
}

/// An empty report with the version of the schema.
fn empty_report(db: &Connection) -> anyhow::Result<Report> {
    let SchemaVersion::Inside(version) = check_version(db)? else {
        anyhow::bail!("there are no tables of switchboard in it");
    };
    Ok(Report { schema: version.get(), ..Report::default() })
}

fn check_rows(db: &Connection, report: &mut Report, watch: &mut dyn FnMut(Progress)) -> anyhow::Result<()> {
    log::check(db, report, watch)?;
    rows::check(db, report)?;
    if report.schema >= FIRST_SCHEMA_WITH_PROFILES {
        profiles::check(db, report)?;
    }
    retired::check(db, report)?;
    blocks::check(db, report)?;
    Ok(feed::check(db, report)?)
}

fn check_pages(
    db: &Connection,
    pages: PageCheck,
    report: &mut Report,
    watch: &mut dyn FnMut(Progress),
) -> anyhow::Result<()> {
    let size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    watch(Progress::Pages { bytes: db.query_row(size, [], |row| row.get(0))? });
    let mut select = db.prepare(match pages {
        PageCheck::Full => "PRAGMA integrity_check",
        PageCheck::Quick => "PRAGMA quick_check",
    })?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        let what: String = row.get(0)?;
        if what != "ok" {
            report.add_problem(None, None, format!("SQLite: {what}"));
        }
    }
    let mut select = db.prepare("PRAGMA foreign_key_check")?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
        report.add_problem(None, None, format!("a row of {table} refers to what is not in {parent}"));
    }
    Ok(())
}

/// Whether all tables of the schema exist; reports the differences.
fn check_tables(db: &Connection, report: &mut Report) -> anyhow::Result<bool> {
    let (wanted, found) = (schema_definitions(&empty_database(report.schema)?)?, schema_definitions(db)?);
    let mut complete = true;
    for (kind, name, sql) in &wanted {
        match found.iter().find(|(_, other, _)| other == name) {
            None => {
                complete &= kind != "table";
                report.add_problem(None, None, format!("the {kind} {name} is missing"));
            }
            Some((_, _, other)) if other != sql => {
                report.add_problem(None, None, format!("the {kind} {name} is not as this version makes it"));
            }
            Some(_) => {}
        }
    }
    for (kind, name, _) in
        found.iter().filter(|(_, name, _)| !wanted.iter().any(|(_, other, _)| other == name))
    {
        report.add_problem(None, None, format!("the {kind} {name} is none of switchboard's"));
    }
    Ok(complete)
}

/// The definitions of all tables, indexes and so on: kind, name and SQL statement.
fn schema_definitions(db: &Connection) -> rusqlite::Result<Vec<(String, String, String)>> {
    // `sqlite_stat` tables are made by ANALYZE and belong to SQLite.
    let mut select = db.prepare(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name",
    )?;
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}
