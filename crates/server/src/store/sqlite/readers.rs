//! The threads that read: each with a connection of its own, so that a page never waits for a write.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rusqlite::Connection;
use switchboard_protocol::Limits;
use tokio::sync::oneshot;

use super::query::Reader;
use super::{QUIET, State};
use crate::refusal::Refusal;
use crate::store::Answer;
use crate::store::change::Failed;

/// Reads that may wait: one for each connection of a server that everybody comes back to at once. A
/// waiting read takes some 200 bytes. Beyond: `unavailable`.
const WAITING: usize = 65_536;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The reader threads; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Readers {
    jobs: Sender<Job>,
    limits: Arc<Limits>,
    state: Arc<State>,
}

impl Readers {
    pub(super) fn start(
        count: usize,
        open: impl Fn() -> anyhow::Result<Connection>,
        limits: &Limits,
        state: &Arc<State>,
    ) -> anyhow::Result<Self> {
        let (jobs, queue) = crossbeam_channel::bounded::<Job>(WAITING);
        for n in 0..count {
            let (db, queue) = (open()?, queue.clone());
            std::thread::Builder::new().name(format!("reader-{n}")).spawn(move || run(&db, &queue))?;
        }
        Ok(Self { jobs, limits: Arc::new(limits.clone()), state: state.clone() })
    }

    /// Reads in one transaction, on one of the threads.
    pub(super) fn read<T, F>(&self, read: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Reader<'_>) -> Result<T, Failed> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let (limits, state) = (self.limits.clone(), self.state.clone());
        let job: Job = Box::new(move |db| {
            // Whoever asked may be gone by now.
            if !reply.is_closed() {
                let _ = reply.send(in_transaction(db, &limits, &state, read));
            }
        });
        let queued = self.jobs.try_send(job);
        Box::pin(async move {
            match queued {
                Ok(()) => answer.await.unwrap_or_else(|_| Err(Refusal::unavailable())),
                Err(_) => Err(Refusal::unavailable()),
            }
        })
    }
}

fn in_transaction<T>(
    db: &Connection,
    limits: &Limits,
    state: &State,
    read: impl FnOnce(&Reader<'_>) -> Result<T, Failed>,
) -> Result<T, Refusal> {
    let answer = ReadTransaction::begin(db)
        .map_err(Failed::from)
        .and_then(|_transaction| read(&Reader { db, limits, state }));
    told(answer)
}

/// What whoever asked is told.
pub(super) fn told<T>(answer: Result<T, Failed>) -> Result<T, Refusal> {
    answer.map_err(|failed| match failed {
        Failed::Refused(refusal) => refusal,
        Failed::Store(error) => {
            tracing::error!(%error, "cannot read the database");
            Refusal::unavailable()
        }
    })
}

/// A read transaction, until it is dropped. `rusqlite::Transaction` is the same and parses its statements anew each time,
/// which takes as long as a short read.
struct ReadTransaction<'a>(&'a Connection);

impl<'a> ReadTransaction<'a> {
    fn begin(db: &'a Connection) -> rusqlite::Result<Self> {
        db.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(db))
    }
}

impl Drop for ReadTransaction<'_> {
    fn drop(&mut self) {
        // Whatever it fails with, SQLite has rolled back by then, and nothing was written.
        let _ = self.0.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([]));
    }
}

fn run(db: &Connection, queue: &Receiver<Job>) {
    while let Some(job) = next(db, queue) {
        // One poisonous read must not take the thread, and with it every later read, away.
        if catch_unwind(AssertUnwindSafe(|| job(db))).is_err() {
            tracing::error!("a read panicked; it was answered as unavailable");
        }
    }
}

/// Waits for a read, and gives memory back if that takes long; `None` when there will be no more.
fn next(db: &Connection, queue: &Receiver<Job>) -> Option<Job> {
    match queue.recv_timeout(QUIET) {
        Ok(job) => Some(job),
        Err(RecvTimeoutError::Timeout) => {
            super::shrink(db);
            queue.recv().ok()
        }
        Err(RecvTimeoutError::Disconnected) => None,
    }
}
