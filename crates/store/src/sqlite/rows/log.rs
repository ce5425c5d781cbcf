//! The write-ahead log: its length, and moving it into the database.

use std::cell::Cell;
use std::time::Duration;

use rusqlite::Result;
use rusqlite::config::DbConfig;

use super::SqliteRows;
use crate::sqlite::BUSY_TIMEOUT;

thread_local! {
    /// How many pages the write-ahead log had after this thread's last commit. It is a thread-local because SQLite's hook
    /// is a plain function; the writer thread has only one connection with the hook.
    static WAL_PAGE_COUNT: Cell<u32> = const { Cell::new(0) };
}

impl SqliteRows {
    /// Makes [`SqliteRows::take_wal_page_count`] report the commits of this connection from now on.
    pub(in crate::sqlite) fn count_logged_pages(&self) {
        self.db.wal_hook(Some(|_, pages| {
            WAL_PAGE_COUNT.set(u32::try_from(pages).unwrap_or(0));
            Ok(())
        }));
    }

    /// How many pages the write-ahead log had after the last commit; 0 if there was no commit since the last call.
    pub(in crate::sqlite) fn take_wal_page_count(&self) -> u32 {
        WAL_PAGE_COUNT.take()
    }

    /// Moves those pages of the write-ahead log into the database that no reader needs any more.
    pub(in crate::sqlite) fn checkpoint(&self) -> Result<()> {
        self.db.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |_| Ok(()))
    }

    /// Moves the write-ahead log into the database and empties it. Returns `false` without waiting if a reader still needs
    /// it.
    pub(in crate::sqlite) fn truncate_wal(&self) -> Result<bool> {
        self.db.busy_timeout(Duration::ZERO)?;
        let emptied =
            self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0));
        self.db.busy_timeout(BUSY_TIMEOUT)?;
        emptied
    }

    /// Leaves the write-ahead log as it is, even when the database is closed.
    pub(in crate::sqlite) fn keep_log_on_close(&self) {
        if let Err(error) = self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
            tracing::error!(%error, "cannot disable the checkpoint on close");
        }
    }
}
