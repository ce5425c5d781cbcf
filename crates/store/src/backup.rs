//! A copy of the database, made while a server writes to it. docs/decisions/0035-a-backup-is-one-snapshot.md

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::check::{self, Pages, Progress, Report};
use super::sqlite::{DATABASE, LOCK_FILE};

/// The suffixes of the database file and of the files that SQLite makes beside it.
const DATABASE_FILE_SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Pages that are copied between two syncs: 8 MiB.
const PAGES_PER_SYNC: i32 = 4_096;

/// How a backup is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A file of this name is replaced.
    pub force: bool,
    /// The copy is not checked.
    pub unchecked: bool,
}

/// A backup.
#[derive(Debug, Clone, Serialize)]
pub struct Written {
    /// Its path.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What is in it; of one that was not checked, what it says of itself.
    #[serde(flatten)]
    pub report: Report,
}

/// The result of a backup.
#[derive(Debug)]
pub enum Outcome {
    /// It is on stable storage under its name.
    Written(Written),
    /// The copy failed its check and was deleted.
    Unsound(Report),
}

/// The progress of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Pages are copied.
    Copying {
        /// So many are done.
        pages: u64,
        /// Of so many.
        of: u64,
    },
    /// The copy is checked.
    Checking(Progress),
}

/// Copies the database of the directory `data` to the file `to`: everything that was acknowledged before the call is in it.
///
/// # Errors
/// There is no database, or a newer version made it; there is such a file already; the file cannot be written.
pub fn backup(
    data: &Path,
    to: &Path,
    options: Options,
    watch: &mut dyn FnMut(Step),
) -> anyhow::Result<Outcome> {
    let source = data.join(DATABASE);
    let db = check::open(&source)?;
    let (directory, name) = check_destination(&source, to, options.force)?;
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // Of mode 600, and gone if what follows fails.
    let copy = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".part")
        .tempfile_in(directory)
        .with_context(|| format!("cannot write in {}", directory.display()))?;
    copy_to(&db, &copy, watch).context("cannot copy the database")?;
    drop(db);
    let report = check_copy(copy.path(), options, watch)?;
    if !report.is_clean() {
        return Ok(Outcome::Unsound(report));
    }
    let bytes = copy.as_file().metadata()?.len();
    let kept = copy.as_file().sync_all().map(|()| copy);
    let kept = kept.with_context(|| format!("the disk does not keep {}", to.display()))?;
    let renamed = if options.force { kept.persist(to) } else { kept.persist_noclobber(to) };
    renamed.map_err(|error| error.error).with_context(|| format!("cannot write {}", to.display()))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("the disk does not keep {}", to.display()))?;
    Ok(Outcome::Written(Written { file: to.to_owned(), bytes, report }))
}

/// The directory and the name of what is to be written, which is not what is to be copied.
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

/// A copy in the place of a file that the server uses, or that SQLite would take for one at the next start, loses messages,
/// and without the lock a second server comes in. A backup elsewhere in the data directory is harmless.
fn check_not_live(source: &Path, directory: &Path, name: &OsStr, to: &Path) -> anyhow::Result<()> {
    let Ok(directory) = directory.canonicalize() else { return Ok(()) };
    // The database may be a link: the files beside it are where that leads to.
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
    // A backup starts again whenever another process has written, unless its source is in a transaction already.
    let transaction = db.unchecked_transaction()?;
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let mut copy = Connection::open(file.path())?;
    // The file is nothing until it has its name, and it is synced before that.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    let backup = Backup::new(db, &mut copy)?;
    loop {
        let result = backup.step(PAGES_PER_SYNC)?;
        // In one go at the end it would hold up the server's own syncs for as long as the disk takes for everything.
        file.as_file().sync_data()?;
        let progress = backup.progress();
        let done = u64::try_from(progress.pagecount - progress.remaining).unwrap_or_default();
        watch(Step::Copying { pages: done, of: u64::try_from(progress.pagecount).unwrap_or_default() });
        match result {
            StepResult::Done => break,
            StepResult::More => {}
            // Nobody else has the copy, and no writer locks a reader out.
            other => bail!("SQLite says {other:?}"),
        }
    }
    drop(backup);
    drop(transaction);
    // The source's header says that there is a write-ahead log. A backup is one file, and is to be read where nothing
    // can be written.
    copy.execute_batch("PRAGMA journal_mode = DELETE;")?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(())
}

fn check_copy(path: &Path, options: Options, watch: &mut dyn FnMut(Step)) -> anyhow::Result<Report> {
    let db = check::open(path)?;
    if options.unchecked {
        return check::of_rows(&db);
    }
    check::check_in(&db, Pages::Quick, &mut |progress| watch(Step::Checking(progress)))
        .context("cannot check the copy")
}
