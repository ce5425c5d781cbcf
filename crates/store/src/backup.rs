//! Copies the database while a server writes to it. docs/decisions/0035-a-backup-is-one-snapshot.md

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::check::{self, PageCheck, Progress, Report};
use super::sqlite::{DATABASE_FILE, LOCK_FILE};

/// The suffixes of the database file and of the files that SQLite makes beside it.
const DATABASE_FILE_SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// How many pages are copied between two syncs of the copy: 8 MiB.
const PAGES_PER_SYNC: i32 = 4_096;

/// The options of a backup.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether to replace an existing file of the same name.
    pub force: bool,
    /// Whether to skip the check of the copy.
    pub skip_check: bool,
}

/// A finished backup.
#[derive(Debug, Clone, Serialize)]
pub struct WrittenBackup {
    /// The path of the copy.
    pub file: PathBuf,
    /// The size of the copy.
    pub bytes: u64,
    /// What the copy contains. If it was not checked, the counts are those that its rows give.
    #[serde(flatten)]
    pub report: Report,
}

/// What became of a backup.
#[derive(Debug)]
pub enum Outcome {
    /// The copy is on stable storage under its name.
    Written(WrittenBackup),
    /// The copy failed its check and was deleted.
    Corrupt(Report),
}

/// The progress of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Pages are being copied.
    Copying {
        /// How many pages have been copied.
        pages: u64,
        /// How many pages there are.
        of: u64,
    },
    /// The copy is being checked.
    Checking(Progress),
}

/// Copies the database in the directory `data` to the file `to`. The copy contains everything that was acknowledged before
/// the call.
///
/// # Errors
/// There is no database, a newer version made it, the file exists already, or it cannot be written.
pub fn backup(
    data: &Path,
    to: &Path,
    options: Options,
    watch: &mut dyn FnMut(Step),
) -> anyhow::Result<Outcome> {
    let source = data.join(DATABASE_FILE);
    let db = check::open(&source)?;
    let (directory, name) = check_destination(&source, to, options.force)?;
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // The file has mode 600, and is deleted if a later step fails.
    let copy = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".part")
        .tempfile_in(directory)
        .with_context(|| format!("cannot write in {}", directory.display()))?;
    copy_to(&db, &copy, watch).context("cannot copy the database")?;
    drop(db);
    let report = check_copy(copy.path(), options, watch)?;
    if !report.is_clean() {
        return Ok(Outcome::Corrupt(report));
    }
    let bytes = copy.as_file().metadata()?.len();
    let kept = copy.as_file().sync_all().map(|()| copy);
    let kept = kept.with_context(|| format!("the disk does not keep {}", to.display()))?;
    let renamed = if options.force { kept.persist(to) } else { kept.persist_noclobber(to) };
    renamed.map_err(|error| error.error).with_context(|| format!("cannot write {}", to.display()))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("the disk does not keep {}", to.display()))?;
    Ok(Outcome::Written(WrittenBackup { file: to.to_owned(), bytes, report }))
}

/// The directory and the file name to write to. Refuses a destination that is a file of the live database.
fn check_destination<'a>(source: &Path, to: &'a Path, force: bool) -> anyhow::Result<(&'a Path, &'a OsStr)> {
    let name = to.file_name().with_context(|| format!("{} is no file's name", to.display()))?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    check_not_live(source, directory, name, to)?;
    if let Ok(found) = std::fs::metadata(to) {
        let is_source = std::fs::metadata(source)
            .is_ok_and(|source| (source.dev(), source.ino()) == (found.dev(), found.ino()));
        if is_source {
            bail!("{} is the database itself", to.display());
        }
        if !found.is_file() {
            bail!("{} is no file; name the file that is to be written", to.display());
        }
        if !force {
            bail!("there is a file {}; choose another name, or replace it with --force", to.display());
        }
    }
    Ok((directory, name))
}

/// Refuses a destination that the server uses, or that SQLite would use at the next start. A copy there would lose
/// messages; over the lock file it would let a second server start. A backup elsewhere in the data directory is harmless.
fn check_not_live(source: &Path, directory: &Path, name: &OsStr, to: &Path) -> anyhow::Result<()> {
    let Ok(directory) = directory.canonicalize() else { return Ok(()) };
    // The database may be a symbolic link; SQLite puts its other files beside the link's target.
    for database in [source.to_owned(), source.canonicalize()?] {
        let Some(own_name) = database.file_name() else { continue };
        let there = database.parent().and_then(|parent| parent.canonicalize().ok());
        let is_live = DATABASE_FILE_SUFFIXES.iter().any(|end| {
            let mut live = own_name.to_owned();
            live.push(end);
            live == name
        });
        if there.is_some_and(|there| there == directory) && (is_live || name == LOCK_FILE) {
            bail!("{} is for a file of the database itself; write the backup elsewhere", to.display());
        }
    }
    Ok(())
}

/// Copies every page as one read transaction sees it.
fn copy_to(db: &Connection, file: &NamedTempFile, watch: &mut dyn FnMut(Step)) -> anyhow::Result<()> {
    // SQLite restarts a backup when another process writes, unless the source is already in a transaction.
    let transaction = db.unchecked_transaction()?;
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let mut copy = Connection::open(file.path())?;
    // The copy needs no journal, because it has no name yet and is synced before it gets one.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    let backup = Backup::new(db, &mut copy)?;
    loop {
        let result = backup.step(PAGES_PER_SYNC)?;
        // One sync at the end would delay the server's own syncs for as long as the disk takes for the whole copy.
        file.as_file().sync_data()?;
        let progress = backup.progress();
        let done = u64::try_from(progress.pagecount - progress.remaining).unwrap_or_default();
        watch(Step::Copying { pages: done, of: u64::try_from(progress.pagecount).unwrap_or_default() });
        match result {
            StepResult::Done => break,
            StepResult::More => {}
            // No other process has the copy open, and no writer locks out a reader, so SQLite must not be busy.
            other => bail!("SQLite says {other:?}"),
        }
    }
    drop(backup);
    drop(transaction);
    // The copied header says that there is a write-ahead log. A backup must be a single file that can be read where nothing
    // can be written, so the journal mode is changed.
    copy.execute_batch("PRAGMA journal_mode = DELETE;")?;
    begin_epoch(&copy)?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Makes the first server on the copy begin a new epoch of the feed. The server of the original gives the numbers after the
/// copy as well, to other events.
fn begin_epoch(copy: &Connection) -> anyhow::Result<()> {
    // A copy of an earlier version's database has no feed.
    let has_feed = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'feed_state')";
    if copy.query_row(has_feed, [], |row| row.get(0))? {
        copy.execute("UPDATE feed_state SET epoch = ''", [])?;
    }
    Ok(())
}

fn check_copy(path: &Path, options: Options, watch: &mut dyn FnMut(Step)) -> anyhow::Result<Report> {
    let db = check::open(path)?;
    if options.skip_check {
        return check::unverified_report(&db);
    }
    check::check_connection(&db, PageCheck::Quick, &mut |progress| watch(Step::Checking(progress)))
        .context("cannot check the copy")
}
