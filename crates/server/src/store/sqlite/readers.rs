//! The threads that read: each with a connection of its own, so that a page never waits for a write.

mod turns;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::Receiver;
use rusqlite::Connection;
use switchboard_protocol::Limits;
use tokio::sync::oneshot;

pub(super) use self::turns::Who;
use self::turns::{Turn, Turns};
use super::query::Reader;
use super::{QUIET, State};
use crate::refusal::Refusal;
use crate::store::Answer;
use crate::store::change::Failed;

/// Disconnected once the readers' connections are closed.
pub(super) type Closed = Receiver<Infallible>;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The reader threads; they end when this is dropped.
pub(super) struct Readers {
    turns: Arc<Turns<Job>>,
    limits: Arc<Limits>,
    state: Arc<State>,
}

impl Readers {
    pub(super) fn start(
        count: usize,
        open: impl Fn() -> anyhow::Result<Connection>,
        limits: &Limits,
        state: &Arc<State>,
    ) -> anyhow::Result<(Self, Closed)> {
        let turns = Arc::new(Turns::new());
        let readers = Self { turns, limits: Arc::new(limits.clone()), state: state.clone() };
        let (open_still, closed) = crossbeam_channel::bounded(0);
        for n in 0..count {
            let (db, turns, open_still) = (open()?, readers.turns.clone(), open_still.clone());
            std::thread::Builder::new().name(format!("reader-{n}")).spawn(move || {
                run(&db, &turns);
                drop(db);
                drop(open_still);
            })?;
        }
        Ok((readers, closed))
    }

    /// Reads in one transaction, on one of the threads, when it is the turn of `who`.
    pub(super) fn read<T, F>(&self, who: Who, read: F) -> Answer<T>
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
        let queued = self.turns.push(who, job);
        Box::pin(async move {
            queued?;
            answer.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
        })
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.turns.close();
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readers")
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

fn run(db: &Connection, turns: &Turns<Job>) {
    let mut patience = Some(QUIET);
    loop {
        match turns.take(patience) {
            Turn::Work(who, job) => {
                // One poisonous read must not take the thread, and with it every later read, away.
                if catch_unwind(AssertUnwindSafe(|| job(db))).is_err() {
                    tracing::error!("a read panicked; it was answered as unavailable");
                }
                turns.done(who);
                patience = Some(QUIET);
            }
            Turn::Quiet => {
                super::shrink(db);
                patience = None;
            }
            Turn::End => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;
    use crate::store::sqlite::{READERS, open_database, open_reader};
    use switchboard_protocol::UserId;

    fn user(name: &str) -> Who {
        Who::User(UserId::parse(name).expect("a user id"))
    }

    #[tokio::test]
    async fn somebody_with_many_long_reads_keeps_nobody_else_waiting() {
        let data = tempfile::TempDir::new().expect("a directory");
        drop(open_database(data.path()).expect("a database"));
        let open = || open_reader(data.path());
        let (readers, _closed) =
            Readers::start(READERS, open, &Limits::default(), &Arc::new(State::default())).expect("readers");
        let (releases, long): (Vec<_>, Vec<_>) = (0..READERS)
            .map(|_| {
                let (release, until) = sync_channel::<()>(1);
                (release, readers.read(user("alice"), move |_| Ok(until.recv().is_ok())))
            })
            .unzip();
        let more: Vec<_> = (0..100).map(|n| readers.read(user("alice"), move |_| Ok(n))).collect();
        let other = tokio::time::timeout(Duration::from_secs(10), readers.read(user("bob"), |_| Ok("bob's")));
        assert_eq!(other.await.expect("in time"), Ok("bob's"));
        for (release, read) in releases.into_iter().zip(long) {
            release.send(()).expect("it waits");
            assert_eq!(read.await, Ok(true));
        }
        for (n, read) in more.into_iter().enumerate() {
            assert_eq!(read.await, Ok(n));
        }
    }
}
