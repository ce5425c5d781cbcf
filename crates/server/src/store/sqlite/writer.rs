//! The one writer: while one batch is being made durable the next one gathers in the queue.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rusqlite::ffi;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::rows::Rows;
use super::{QUIET, Settings, State};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::store::change::{self, Failed, Rules};
use crate::store::{Batch, Committed, Outcome, Submission};

/// Writes that may wait. At 20,000 a second that is under a second of work. Beyond: given back.
pub(super) const WAITING: usize = 16_384;

/// Most writes a transaction. Larger batches commit no more a second, and make the first one wait.
pub(super) const BATCH: usize = 1_024;

/// What the writer is made of.
pub(super) struct Parts {
    pub(super) rows: Rows,
    pub(super) settings: Settings,
    pub(super) batches: mpsc::Sender<Batch>,
    pub(super) state: Arc<State>,
    /// Held for as long as the thread writes.
    pub(super) lock: File,
}

/// Starts the thread; it ends when the queue's sender is dropped and the queue is empty.
pub(super) fn start(parts: Parts) -> std::io::Result<Sender<Submission>> {
    let (sender, queue) = crossbeam_channel::bounded(WAITING);
    let Parts { rows, settings, batches, state, lock } = parts;
    let writer =
        Writer { committer: Committer::new(rows, &settings, state), queue, batches, lock, number: 0 };
    std::thread::Builder::new().name("writer".to_owned()).spawn(move || writer.run())?;
    Ok(sender)
}

struct Writer {
    committer: Committer,
    queue: Receiver<Submission>,
    batches: mpsc::Sender<Batch>,
    lock: File,
    /// Of the batch in work.
    number: u64,
}

/// Makes batches durable.
pub(super) struct Committer {
    pub(super) rows: Rows,
    rules: Rules,
    clock: Clock,
    metrics: Arc<Metrics>,
    state: Arc<State>,
    /// Content was erased whose bytes are still in the write-ahead log.
    erased: bool,
    /// The last batch failed; it was told once.
    troubled: bool,
}

/// Why a batch was not committed.
enum Trouble {
    /// One of its changes met an error of the store.
    Change(rusqlite::Error),
    /// The transaction itself.
    Commit(rusqlite::Error),
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.next() {
            let mut batch = vec![first];
            batch.extend(self.queue.try_iter().take(BATCH - 1));
            self.number += 1;
            // Before the commit: whatever a reader sees of this batch, it sees this number too.
            self.committer.state.mark.store(self.number, Ordering::SeqCst);
            let outcomes = self.committer.write(batch);
            let batch = Batch { number: self.number, outcomes, more: !self.queue.is_empty() };
            if self.batches.blocking_send(batch).is_err() {
                break;
            }
            self.scrub();
        }
        drop(self.lock);
    }

    /// Waits for a write, and tidies up if that takes long; `None` when there will be no more.
    fn next(&mut self) -> Option<Submission> {
        let mut tidied = false;
        while self.committer.erased || !tidied {
            match self.queue.recv_timeout(QUIET) {
                Ok(submission) => return Some(submission),
                Err(RecvTimeoutError::Timeout) => {
                    self.scrub();
                    self.committer.rows.shrink();
                    tidied = true;
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        self.queue.recv().ok()
    }

    /// Empties the write-ahead log of erased content, in a quiet moment.
    fn scrub(&mut self) {
        if self.committer.erased && self.queue.is_empty() {
            self.committer.scrub();
        }
    }
}

impl Committer {
    pub(super) fn new(rows: Rows, settings: &Settings, state: Arc<State>) -> Self {
        let rules = Rules { limits: settings.limits.clone(), strangers: settings.strangers };
        let (clock, metrics) = (settings.clock.clone(), settings.metrics.clone());
        Self { rows, rules, clock, metrics, state, erased: false, troubled: false }
    }

    /// Writes a batch in one transaction, or what of it can be.
    pub(super) fn write(&mut self, batch: Vec<Submission>) -> Vec<Outcome> {
        let started = Instant::now();
        let outcomes = match self.transact(&batch) {
            Ok(results) => {
                if std::mem::take(&mut self.troubled) {
                    tracing::info!("the database can be written to again");
                }
                with_results(batch, results)
            }
            // One bad row must not fail the others' writes: each alone.
            Err(Trouble::Change(_)) if batch.len() > 1 => {
                batch.into_iter().map(|one| self.write_alone(one)).collect()
            }
            Err(trouble) => self.refuse(batch, &trouble),
        };
        self.metrics.commit(started.elapsed(), outcomes.len());
        outcomes
    }

    fn write_alone(&mut self, submission: Submission) -> Outcome {
        let result = match self.transact(std::slice::from_ref(&submission)) {
            Ok(mut results) => results.pop().unwrap_or_else(|| Err(Refusal::unavailable())),
            Err(trouble) => {
                self.note(&trouble);
                Err(Refusal::unavailable())
            }
        };
        Outcome { origin: submission.origin, result }
    }

    fn refuse(&mut self, batch: Vec<Submission>, trouble: &Trouble) -> Vec<Outcome> {
        self.note(trouble);
        let refused = |submission: Submission| Outcome {
            origin: submission.origin,
            result: Err(Refusal::unavailable()),
        };
        batch.into_iter().map(refused).collect()
    }

    fn note(&mut self, trouble: &Trouble) {
        let (Trouble::Change(error) | Trouble::Commit(error)) = trouble;
        if is_failed_sync(error) {
            self.state.failed.store(true, Ordering::Release);
            tracing::error!(%error, "the disk did not keep what was written; nothing more is written until a restart");
        } else if !std::mem::replace(&mut self.troubled, true) {
            tracing::error!(%error, "cannot write to the database; every write is refused until one works again");
        }
    }

    fn transact(&mut self, batch: &[Submission]) -> Result<Vec<Result<Committed, Refusal>>, Trouble> {
        if self.state.failed.load(Ordering::Acquire) {
            let code = ffi::Error::new(ffi::SQLITE_READONLY);
            return Err(Trouble::Commit(rusqlite::Error::SqliteFailure(code, None)));
        }
        let now = self.clock.now();
        let rows = &mut self.rows;
        let written = rows.begin().map_err(Trouble::Commit).and_then(|()| {
            let mut results = Vec::with_capacity(batch.len());
            for one in batch {
                // The copy is what a second try, alone, starts from.
                match change::apply(rows, &self.rules, &one.actor, one.change.clone(), now) {
                    Ok(committed) => results.push(Ok(committed)),
                    Err(Failed::Refused(refusal)) => results.push(Err(refusal)),
                    Err(Failed::Store(error)) => return Err(Trouble::Change(error)),
                }
            }
            rows.commit().map_err(Trouble::Commit)?;
            Ok(results)
        });
        if written.is_err() {
            rows.roll_back();
        }
        self.erased |= rows.take_erased();
        written
    }

    fn scrub(&mut self) {
        match self.rows.truncate_wal() {
            Ok(done) => self.erased = !done,
            Err(error) => {
                tracing::warn!(%error, "cannot empty the write-ahead log of deleted messages yet");
            }
        }
    }
}

fn with_results(batch: Vec<Submission>, results: Vec<Result<Committed, Refusal>>) -> Vec<Outcome> {
    let pairs = batch.into_iter().zip(results);
    pairs.map(|(submission, result)| Outcome { origin: submission.origin, result }).collect()
}

/// Whether the error is of an fsync: what the kernel dropped is not known, and a later fsync that
/// succeeds would not say so (Rebello et al., USENIX ATC 2020).
fn is_failed_sync(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_extended_error_code(), Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_fsync_error_is_for_good() {
        let failed = |code| is_failed_sync(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert!(failed(ffi::SQLITE_IOERR_FSYNC));
        assert!(!failed(ffi::SQLITE_FULL) && !failed(ffi::SQLITE_IOERR_WRITE) && !failed(ffi::SQLITE_BUSY));
    }
}
