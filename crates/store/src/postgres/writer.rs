//! The one writer thread of a node. While a batch is being committed, the next one collects in the queue (group commit).

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Settings;
use super::commit::Committer;
use super::connect::BlockingConnection;
use super::installation::{Installation, InstallationUpkeep};
use super::readers::PostgresReader;
use super::target::Target;
use crate::WRITER_THREAD;
use crate::batch::{WriterChannels, WriterState};
use crate::counting::{self, CounterHandle};
use crate::record::NoticeKey;
use crate::{Batch, Submission};

/// How often an idle writer checks its connection.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The parts that the writer is made of.
pub(super) struct WriterParts {
    pub(super) target: Target,
    pub(super) settings: Settings,
    pub(super) batches: mpsc::Sender<Batch>,
    pub(super) state: Arc<WriterState>,
    pub(super) queue: Receiver<Submission>,
    pub(super) counter: CounterHandle<PostgresReader>,
    pub(super) installation: Arc<Installation>,
    /// Gets an item after each batch, for the feed.
    pub(super) committed: Sender<()>,
}

/// Connects, migrates the schema and starts the thread. The thread ends when the queue's senders are dropped and the queue
/// is empty. It drops the sender of batches last, when everything is written.
///
/// # Errors
/// The database cannot be used.
pub(super) fn start(parts: WriterParts) -> anyhow::Result<NoticeKey> {
    let (ready, opened) = crossbeam_channel::bounded(1);
    std::thread::Builder::new().name(WRITER_THREAD.to_owned()).spawn(move || {
        // The connection is opened on this thread, because it cannot move to another.
        let WriterParts { target, settings, batches, state, queue, counter, installation, committed } = parts;
        let link = BlockingConnection::open(&target).and_then(|mut link| {
            super::migrate(&mut link)?;
            super::moving::check_finished(&mut link)?;
            let key = super::read_notice_key(&mut link)?;
            Ok((link, key))
        });
        let opened = link.and_then(|(link, key)| {
            let upkeep = InstallationUpkeep::new(&settings.capabilities, installation);
            Ok((Committer::new(link, target, &settings, state.clone(), upkeep)?, key))
        });
        match opened {
            Ok((committer, key)) => {
                let writer = Writer {
                    committer,
                    channels: WriterChannels::new(queue, batches, state),
                    counter,
                    committed,
                };
                // If the caller has stopped waiting, the thread ends at once.
                if ready.send(Ok(key)).is_ok() {
                    writer.run();
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    })?;
    opened.recv()?
}

struct Writer {
    committer: Committer,
    channels: WriterChannels,
    counter: CounterHandle<PostgresReader>,
    committed: Sender<()>,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.next() {
            let (committer, counter) = (&mut self.committer, &self.counter);
            let served = self.channels.write_queued(first, |batch| {
                let mut outcomes = committer.write(batch);
                outcomes.extend(counting::start_counts(counter, committer.take_uncounted()));
                (outcomes, committer.take_unreported_conversations())
            });
            if !served {
                break;
            }
            // If there is an item already, the feed has not taken up the batch before.
            let _ = self.committed.try_send(());
            // This work delays no client of the batch, because the outcomes have been sent.
            self.committer.run_upkeep(false);
        }
        self.committer.close();
    }

    /// Waits for a write. Meanwhile does the work that is due between batches. Returns `None` when the queue is closed.
    fn next(&mut self) -> Option<Submission> {
        let mut checked = Instant::now();
        loop {
            if self.committer.may_write_portion() {
                match self.channels.queue.try_recv() {
                    Ok(submission) => return Some(submission),
                    Err(TryRecvError::Disconnected) => return None,
                    Err(TryRecvError::Empty) => self.committer.run_upkeep(true),
                }
                if checked.elapsed() < IDLE_CHECK_INTERVAL {
                    continue;
                }
            }
            match self.channels.queue.recv_timeout(IDLE_CHECK_INTERVAL.saturating_sub(checked.elapsed())) {
                Ok(submission) => return Some(submission),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    self.committer.check_connection();
                    self.committer.run_upkeep(true);
                    checked = Instant::now();
                    let check = self.committer.take_unreported_conversations();
                    if !check.is_empty() && !self.channels.commit_and_publish(|| (Vec::new(), check)) {
                        return None;
                    }
                }
            }
        }
    }
}
