//! The writer thread. While one batch is made durable, the next one gathers in the queue (group commit).

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use rusqlite::ffi;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::readers::{ReadersClosedSignal, SqliteReader};
use super::rows::SqliteRows;
use super::{CHECKPOINT_PAGES, IDLE_TIMEOUT, Settings, opening};
use crate::batch::{self, WriteResults, WriterChannels, WriterState};
use crate::change::Rules;
use crate::clock::Clock;
use crate::counting::{self, CounterHandle};
use crate::rewrite::{MAX_EVENTS_PER_PORTION, REWRITE_INTERVAL};
use crate::write_fault::WriteFault;
use crate::{Batch, Change, Outcome, Submission};
use crate::{CommitMetrics, WRITER_THREAD};

/// The delay before a failed or blocked checkpoint is retried.
const CHECKPOINT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Pages in the write-ahead log at which the writer runs a checkpoint while there are imports or a deleted room is removed. These write
/// to pages all over the database, and other writes wait for a checkpoint: for one of [`CHECKPOINT_PAGES`] some 50 ms.
const BULK_CHECKPOINT_PAGES: u32 = 1_000;

/// How long after an import or a slice checkpoints are short.
const BULK_INTERVAL: Duration = Duration::from_secs(1);

/// The parts that the writer is made of.
pub(super) struct WriterParts {
    pub(super) rows: SqliteRows,
    pub(super) settings: Settings,
    pub(super) batches: mpsc::Sender<Batch>,
    pub(super) state: Arc<WriterState>,
    pub(super) queue: Receiver<Submission>,
    pub(super) counter: CounterHandle<SqliteReader>,
    pub(super) readers: ReadersClosedSignal,
    /// The lock of the directory, held as long as the thread writes.
    pub(super) lock: File,
    /// The path of the write-ahead log, if it must be rewritten before the first commit, because it could not be synced.
    pub(super) unsynced_log: Option<PathBuf>,
}

/// Starts the thread. It ends when the queue's senders are dropped, the queue is empty and the readers have ended. The
/// channel of batches closes after the database.
pub(super) fn start(parts: WriterParts) -> std::io::Result<()> {
    let WriterParts { rows, settings, batches, state, queue, counter, readers, lock, unsynced_log } = parts;
    let mut committer = Committer::new(rows, &settings, state.clone());
    committer.unsynced_log = unsynced_log;
    let writer =
        Writer { committer, channels: WriterChannels::new(queue, batches, state), counter, readers, lock };
    let thread = std::thread::Builder::new().name(WRITER_THREAD.to_owned()).spawn(move || {
        writer.run();
    });
    thread.map(drop)
}

struct Writer {
    committer: Committer,
    channels: WriterChannels,
    counter: CounterHandle<SqliteReader>,
    readers: ReadersClosedSignal,
    lock: File,
}

/// Commits batches.
pub(super) struct Committer {
    pub(super) rows: SqliteRows,
    rules: Rules,
    clock: Clock,
    metrics: CommitMetrics,
    state: Arc<WriterState>,
    /// The `read` commands of the last batch for which readers have to count messages first.
    uncounted: Vec<Submission>,
    /// Whether content was erased whose bytes are still in the write-ahead log.
    log_has_erased: bool,
    /// Whether the last batch failed and its error was logged.
    has_logged_failure: bool,
    /// The time of the last failed checkpoint.
    last_failed_checkpoint: Option<Instant>,
    /// The time of the last attempt to empty the write-ahead log.
    last_truncation: Option<Instant>,
    /// The path of the write-ahead log, if it must be rewritten before the next commit, because it could not be synced.
    unsynced_log: Option<PathBuf>,
    /// If there are old bodies to rewrite: the time of the last portion.
    last_rewrite: Option<Instant>,
    /// If there is a deleted room of which content is left: the time of the last slice.
    last_removal: Option<Instant>,
    /// The time of the last import, or of the last slice of a deleted room.
    last_bulk_write: Option<Instant>,
}

/// The operation that failed, with its error.
enum WriteError {
    /// One of the batch's changes failed.
    Change(rusqlite::Error),
    /// The transaction itself failed.
    Commit(rusqlite::Error),
    /// A checkpoint failed: it moves committed pages from the write-ahead log into the database.
    Checkpoint(rusqlite::Error),
}

impl WriteError {
    fn error(&self) -> &rusqlite::Error {
        let (Self::Change(error) | Self::Commit(error) | Self::Checkpoint(error)) = self;
        error
    }
}

impl Writer {
    fn run(mut self) {
        self.committer.rows.count_logged_pages();
        // A probe finds out before the first write whether the disk has room.
        self.committer.probe();
        self.committer.begin_rewrite();
        self.committer.begin_removal();
        while let Some(first) = self.next() {
            let (committer, counter) = (&mut self.committer, &self.counter);
            let served = self.channels.write_queued(first, |batch| {
                let mut outcomes = committer.write(batch);
                outcomes.extend(counting::start_counts(counter, committer.take_uncounted()));
                (outcomes, Vec::new())
            });
            if !served {
                break;
            }
            // The clients have their outcomes already.
            self.committer.checkpoint();
            self.truncate_log_if_idle();
            self.committer.rewrite_if_due();
            self.committer.remove_if_due();
        }
        self.close_database();
    }

    /// Empties the write-ahead log, so that the database file alone is a complete copy without deleted messages.
    fn close_database(mut self) {
        self.channels.close();
        // The writer's connection is closed last, because connections that only read cannot empty the write-ahead log.
        let _ = self.readers.recv();
        if !self.committer.has_failed() {
            // Otherwise the next server finds out by itself how far the feed goes.
            if let Err(error) = self.committer.rows.close_feed() {
                tracing::warn!(%error, "cannot write the last page of the feed");
            }
            match self.committer.rows.truncate_wal() {
                Ok(true) => {}
                Ok(false) => tracing::warn!(
                    "another program reads the database, so switchboard.db-wal stays: it is part of the data"
                ),
                Err(error) => self.committer.record_failure(&WriteError::Checkpoint(error)),
            }
        }
        let Self { committer, lock, channels, .. } = self;
        drop(committer);
        drop(lock);
        drop(channels);
    }

    /// Waits for a write. While idle, rewrites old bodies, removes deleted rooms, retries checkpoints and failed writes, and frees
    /// memory. Returns `None` when the queue is closed.
    fn next(&mut self) -> Option<Submission> {
        while self.committer.may_rewrite() || self.committer.may_remove() {
            match self.channels.queue.try_recv() {
                Ok(submission) => return Some(submission),
                Err(TryRecvError::Empty) if self.committer.may_remove() => self.committer.remove(),
                Err(TryRecvError::Empty) => self.committer.rewrite(),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        let (idle, mut shrunk) = (Instant::now(), false);
        while self.committer.has_idle_work() || !shrunk {
            let soon = self.committer.has_idle_work();
            match self.channels.queue.recv_timeout(if soon { CHECKPOINT_RETRY_DELAY } else { IDLE_TIMEOUT }) {
                Ok(submission) => return Some(submission),
                Err(RecvTimeoutError::Timeout) => {
                    self.committer.probe_if_failing();
                    self.truncate_log_if_idle();
                    self.committer.rewrite_if_due();
                    self.committer.remove_if_due();
                    if !shrunk && idle.elapsed() >= IDLE_TIMEOUT {
                        self.committer.rows.free_page_cache();
                        shrunk = true;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        self.channels.queue.recv().ok()
    }

    /// Empties the write-ahead log of erased content, if no write waits.
    fn truncate_log_if_idle(&mut self) {
        if self.channels.queue.is_empty() {
            self.committer.truncate_erased_log();
        }
    }
}

impl Committer {
    pub(super) fn new(rows: SqliteRows, settings: &Settings, state: Arc<WriterState>) -> Self {
        let rules = Rules::new(settings.limits.clone(), settings.strangers, settings.tells_reads);
        let (clock, metrics) = (settings.clock.clone(), settings.metrics.clone());
        Self {
            rows,
            rules,
            clock,
            metrics,
            state,
            uncounted: Vec::new(),
            log_has_erased: false,
            has_logged_failure: false,
            last_failed_checkpoint: None,
            last_truncation: None,
            unsynced_log: None,
            last_rewrite: None,
            last_removal: None,
            last_bulk_write: None,
        }
    }

    /// Whether writes are refused, but may succeed again without a restart.
    fn may_recover(&self) -> bool {
        self.state.fault().is_some_and(|fault| !fault.is_final())
    }

    /// Probes whether writes succeed again. Called while no client writes.
    fn probe_if_failing(&mut self) {
        if self.may_recover() {
            self.probe();
        }
    }

    /// Whether work remains that the idle writer has to retry soon.
    fn has_idle_work(&self) -> bool {
        let has_portions = self.last_rewrite.is_some() || self.last_removal.is_some();
        self.log_has_erased || self.may_recover() || (has_portions && !self.has_failed())
    }

    /// Checks whether there are old bodies to rewrite.
    fn begin_rewrite(&mut self) {
        match self.rows.has_rewrite() {
            Ok(found) => self.last_rewrite = found.then(Instant::now),
            Err(error) => self.record_failure(&WriteError::Change(error)),
        }
    }

    /// Checks whether there is a deleted room of which content is left.
    fn begin_removal(&mut self) {
        match self.rows.has_ended_rooms() {
            Ok(found) => self.last_removal = found.then(Instant::now),
            Err(error) => self.record_failure(&WriteError::Change(error)),
        }
    }

    /// Whether a portion of old bodies can be rewritten now.
    fn may_rewrite(&self) -> bool {
        self.last_rewrite.is_some() && self.may_write_portion()
    }

    /// Whether a slice of a deleted room can be removed now.
    fn may_remove(&self) -> bool {
        self.last_removal.is_some() && self.may_write_portion()
    }

    fn may_write_portion(&self) -> bool {
        self.state.fault().is_none() && self.unsynced_log.is_none() && !is_recent(self.last_failed_checkpoint)
    }

    /// Rewrites a portion even though writes wait, if the last one was long enough ago.
    fn rewrite_if_due(&mut self) {
        if self.last_rewrite.is_some_and(|last| last.elapsed() >= REWRITE_INTERVAL) && self.may_rewrite() {
            self.rewrite();
        }
    }

    /// Rewrites a portion of old bodies. If that fails, the store refuses writes until one succeeds.
    fn rewrite(&mut self) {
        match self.rows.rewrite(MAX_EVENTS_PER_PORTION) {
            Ok(true) => self.last_rewrite = Some(Instant::now()),
            Ok(false) => {
                self.last_rewrite = None;
                tracing::info!("all events name users by number now");
            }
            Err(error) => self.record_failure(&WriteError::Commit(error)),
        }
        self.checkpoint();
    }

    /// Removes a slice of a deleted room even though writes wait, if the last one was long enough ago.
    fn remove_if_due(&mut self) {
        if self.last_removal.is_some_and(|last| last.elapsed() >= REWRITE_INTERVAL) && self.may_remove() {
            self.remove();
        }
    }

    /// Removes a slice of a deleted room. If that fails, the store refuses writes until one succeeds.
    fn remove(&mut self) {
        match self.rows.remove_ended() {
            Ok(more) => self.last_removal = more.then(Instant::now),
            Err(error) => self.record_failure(&WriteError::Commit(error)),
        }
        self.last_bulk_write = Some(Instant::now());
        self.log_has_erased |= self.rows.take_erased();
        self.checkpoint();
    }

    fn probe(&mut self) {
        if let Some(probe) = batch::probe_submission() {
            self.write(vec![probe]);
        }
    }

    /// Makes the writer leave all counts to readers. Outside the simulation, readers count only over long ranges.
    #[cfg(feature = "simulation")]
    pub(super) fn leave_counts_to_readers(&mut self) {
        self.rules.max_events_counted_by_writer = 0;
    }

    /// Takes the `read` commands of the last batch that are queued again after readers have counted for them.
    pub(super) fn take_uncounted(&mut self) -> Vec<Submission> {
        std::mem::take(&mut self.uncounted)
    }

    /// Writes a batch in one transaction. If one change fails, writes each alone.
    pub(super) fn write(&mut self, batch: Vec<Submission>) -> Vec<Outcome> {
        let (started, writes) = (Instant::now(), batch::count_writes(&batch));
        if batch.iter().any(|one| matches!(one.change, Change::Import(_))) {
            self.last_bulk_write = Some(started);
        }
        let outcomes = match self.transact(&batch) {
            Ok(results) => {
                self.state.clear_fault();
                if std::mem::take(&mut self.has_logged_failure) {
                    tracing::info!("the database can be written to again");
                }
                batch::pair_outcomes(batch, results, &mut self.uncounted)
            }
            // A damaged row must not fail the other writes, so each write gets its own transaction.
            Err(WriteError::Change(error)) if batch.len() > 1 && !is_failed_sync(&error) => {
                let mut uncounted = Vec::new();
                let outcomes = batch::write_each_alone(batch, &mut uncounted, |one| {
                    self.transact(one).map_err(|trouble| self.record_failure(&trouble)).ok()
                });
                self.uncounted = uncounted;
                outcomes
            }
            Err(trouble) => self.refuse(batch, &trouble),
        };
        if writes > 0 {
            self.metrics.record_commit(started.elapsed(), writes);
        }
        outcomes
    }

    fn refuse(&mut self, batch: Vec<Submission>, trouble: &WriteError) -> Vec<Outcome> {
        self.record_failure(trouble);
        batch.into_iter().map(batch::rejected_outcome).collect()
    }

    fn record_failure(&mut self, trouble: &WriteError) {
        let error = trouble.error();
        let fault = WriteFault::from_error(error);
        if fault == Some(WriteFault::SyncFailed) {
            self.state.set_fault(WriteFault::SyncFailed);
            // The log is left as it is, so that a restart can write it again from the beginning.
            self.rows.keep_log_on_close();
            self.has_logged_failure = true;
            tracing::error!(%error, "fsync failed on the write-ahead log; the database is read-only until the process is restarted");
        } else if let WriteError::Checkpoint(error) = trouble {
            self.last_failed_checkpoint = Some(Instant::now());
            tracing::warn!(%error, "checkpoint failed; retrying later");
        } else {
            let fault = match trouble {
                WriteError::Commit(_) => fault.or(Some(WriteFault::Refused)),
                // An error of one row says nothing about other writes.
                WriteError::Change(_) | WriteError::Checkpoint(_) => fault,
            };
            fault.into_iter().for_each(|fault| self.state.set_fault(fault));
            if !std::mem::replace(&mut self.has_logged_failure, true) {
                let path = self.rows.database().path();
                let what = if fault == Some(WriteFault::DiskFull) { ": the disk is full" } else { "" };
                tracing::error!(%error, path, "cannot write to the database{what}; refusing writes until one succeeds");
            }
        }
    }

    fn transact(&mut self, batch: &[Submission]) -> Result<WriteResults, WriteError> {
        if self.has_failed() {
            let code = ffi::Error::new(ffi::SQLITE_READONLY);
            return Err(WriteError::Commit(rusqlite::Error::SqliteFailure(code, None)));
        }
        if let Some(log) = &self.unsynced_log {
            opening::sync_log(self.rows.database(), log).map_err(WriteError::Commit)?;
            self.unsynced_log = None;
        }
        let now = self.clock.now();
        let rows = &mut self.rows;
        rows.note_time(now);
        let written = rows.begin().map_err(WriteError::Commit).and_then(|()| {
            let results = batch::apply(rows, &self.rules, batch, now).map_err(WriteError::Change)?;
            rows.commit().map_err(WriteError::Commit)?;
            Ok(results)
        });
        if written.is_err() {
            rows.roll_back();
        }
        self.log_has_erased |= rows.take_erased();
        if rows.take_ended_room() && written.is_ok() {
            self.last_removal.get_or_insert_with(Instant::now);
        }
        written
    }

    /// Moves the write-ahead log into the database if the log is long.
    fn checkpoint(&mut self) {
        let bulk = self.last_bulk_write.is_some_and(|last| last.elapsed() < BULK_INTERVAL);
        let most = if bulk { BULK_CHECKPOINT_PAGES } else { CHECKPOINT_PAGES };
        let long = self.rows.take_wal_page_count() >= most;
        if long
            && !self.has_failed()
            && !is_recent(self.last_failed_checkpoint)
            && let Err(error) = self.rows.checkpoint()
        {
            self.record_failure(&WriteError::Checkpoint(error));
        }
    }

    /// Empties the write-ahead log if it has erased content. A backup that reads can prevent that for long.
    fn truncate_erased_log(&mut self) {
        if self.log_has_erased && !self.has_failed() && !is_recent(self.last_truncation) {
            self.last_truncation = Some(Instant::now());
            match self.rows.truncate_wal() {
                Ok(done) => self.log_has_erased = !done,
                Err(error) => self.record_failure(&WriteError::Checkpoint(error)),
            }
        }
    }

    /// Whether an fsync has failed.
    fn has_failed(&self) -> bool {
        self.state.has_failed()
    }
}

/// Whether less than the retry delay has passed since the last attempt.
fn is_recent(tried: Option<Instant>) -> bool {
    tried.is_some_and(|tried| tried.elapsed() < CHECKPOINT_RETRY_DELAY)
}

/// Whether an fsync failed. Then it is unknown which data the kernel dropped, and a later fsync can succeed all the same
/// (Rebello et al., USENIX ATC 2020).
fn is_failed_sync(error: &rusqlite::Error) -> bool {
    WriteFault::from_error(error) == Some(WriteFault::SyncFailed)
}
