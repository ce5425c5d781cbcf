//! The one writer of a node: while one batch is being committed the next one gathers in the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::commit::Committer;
use super::connect::Link;
use super::target::Target;
use super::{Settings, State};
use crate::store::batch::{self, WAITING};
use crate::store::{Batch, Outcome, Submission};

/// How often a writer with nothing to do asks whether the database is still there.
const IDLE: Duration = Duration::from_secs(2);

/// What the writer is made of.
pub(super) struct Parts {
    pub(super) target: Target,
    pub(super) settings: Settings,
    pub(super) batches: mpsc::Sender<Batch>,
    pub(super) state: Arc<State>,
}

/// Connects, brings the schema up to date and starts the thread; it ends when the queue's sender is dropped and the queue is
/// empty. The receiver of batches is told the end when everything is written.
///
/// # Errors
/// The database cannot be used.
pub(super) fn start(parts: Parts) -> anyhow::Result<Sender<Submission>> {
    let (sender, queue) = crossbeam_channel::bounded(WAITING);
    let (ready, opened) = crossbeam_channel::bounded(1);
    std::thread::Builder::new().name("writer".to_owned()).spawn(move || {
        // A connection lives on its thread.
        let Parts { target, settings, batches, state } = parts;
        let link = Link::open(&target).and_then(|mut link| {
            super::migrate(&mut link)?;
            super::moving::check_finished(&mut link)?;
            Ok(link)
        });
        let committer = link.and_then(|link| Committer::new(link, target, &settings, state.clone()));
        match committer {
            Ok(committer) => {
                let writer = Writer { _told: Told(state), committer, queue, batches, number: 0 };
                // Whoever waits for it may have given up.
                if ready.send(Ok(())).is_ok() {
                    writer.run();
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    })?;
    opened.recv()??;
    Ok(sender)
}

struct Writer {
    /// Dropped before `batches`: whoever learns of the end by that finds it noted.
    _told: Told,
    committer: Committer,
    queue: Receiver<Submission>,
    batches: mpsc::Sender<Batch>,
    /// Of the batch in work.
    number: u64,
}

/// Tells that nothing is written any more, should the thread panic.
struct Told(Arc<State>);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Release);
        }
    }
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.next() {
            let mut batch = batch::gather(first, &self.queue);
            // Each that is given back puts what its connection made behind it out of turn.
            let late = batch::take_late(&mut batch);
            let told = (late.is_empty() || self.tell(|_| late))
                && (batch.is_empty() || self.tell(|writer| writer.committer.write(batch)));
            if !told {
                break;
            }
        }
        self.committer.end();
    }

    /// Hands on what becomes of a batch; `false` if nobody wants to know any more.
    fn tell(&mut self, outcomes: impl FnOnce(&mut Self) -> Vec<Outcome>) -> bool {
        self.number += 1;
        // Before the commit: whatever a reader sees of this batch, it sees this number too.
        self.committer.state.mark.store(self.number, Ordering::SeqCst);
        let outcomes = outcomes(self);
        let check = self.committer.take_check();
        let batch = Batch { number: self.number, outcomes, more: !self.queue.is_empty(), check };
        self.batches.blocking_send(batch).is_ok()
    }

    /// Waits for a write, and looks after the connection meanwhile; `None` when there will be no more.
    fn next(&mut self) -> Option<Submission> {
        let mut looked = Instant::now();
        loop {
            match self.queue.recv_timeout(IDLE.saturating_sub(looked.elapsed())) {
                Ok(submission) => return Some(submission),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    self.committer.look_after();
                    looked = Instant::now();
                    if self.committer.has_check() && !self.tell(|_| Vec::new()) {
                        return None;
                    }
                }
            }
        }
    }
}
