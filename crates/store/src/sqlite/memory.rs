//! The store of a simulation: the SQL statements of the real store on a database in memory, with tasks instead of threads.
//! Reads and writes are those of the real store; [`Pace`] decides when they happen.
//!
//! A store can have a disk alone, as a server with SQLite does. Or several stores can share a disk, as nodes share a
//! database server: each has its own queue, batches and pace, and sees what any of them has committed.

mod reads;
mod store;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use switchboard_protocol::{Limits, Read, UserId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::reads::MemoryReader;
use super::feed::Tail;
use super::opening::configure_statement_cache;
use super::query::{Reader, reader};
use super::rows::SqliteRows;
use super::writer::Committer;
use super::{MIGRATIONS, Settings, empty_database};
use crate::batch::{self, MAX_QUEUED_BATCHES, MAX_QUEUED_WRITES, MAX_WRITES_PER_BATCH, WriterState};
use crate::change::OperationError;
use crate::origin::{self, Numbers};
use crate::read::counts::CountStep;
use crate::readers::failure_to_refusal;
use crate::record::{Answer, ConversationKey};
use crate::refusal::Refusal;
use crate::write_fault::WriteFault;
use crate::{Batch, Change, Committed, CountedRead, MessageCounts, Outcome, Submission};

/// What the simulated disk does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// The batch becomes durable.
    Durable,
    /// The first row of the batch cannot be written.
    RowFails,
    /// All rows can be written, but the commit fails.
    CommitFails,
    /// The fsync fails: the batch is lost, and the store writes no more. On a shared disk this is the same as
    /// [`CommitFault::CommitFails`].
    SyncFails,
    /// The batch becomes durable, but the store does not learn of it. It refuses the batch and resolves the outcome later.
    /// Only on a shared disk.
    OutcomeUnknown,
}

/// Decides when a store reads and writes, and observes what it commits.
pub trait DiskControl: Send + Sync + 'static {
    /// How long the next step takes. Called before each write and read, and before its outcome is sent.
    fn next_delay(&self) -> Duration;

    /// What the disk does with the next batch.
    fn next_fault(&self) -> CommitFault;

    /// Called when a batch is durable, before its outcomes are sent.
    fn on_commit(&self, outcomes: &[Outcome]);
}

/// A database in memory. Like a disk, it outlives the stores that are opened on it.
#[derive(Clone)]
pub struct MemoryDisk(Arc<Mutex<DatabaseUse>>);

/// Which stores use the database.
enum DatabaseUse {
    /// No store uses it.
    Unowned(Connection),
    /// One store has the database for itself.
    Exclusive,
    /// All stores that join share the database.
    Shared(Arc<Mutex<Committer>>),
}

impl MemoryDisk {
    /// Makes an empty database.
    ///
    /// # Errors
    /// SQLite does not work.
    pub fn new() -> anyhow::Result<Self> {
        let db = empty_database(MIGRATIONS.len())?;
        configure_statement_cache(&db)?;
        Ok(Self(Arc::new(Mutex::new(DatabaseUse::Unowned(db)))))
    }

    fn lock(&self) -> MutexGuard<'_, DatabaseUse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the database for one store; `None` if it is in use.
    fn take_database(&self) -> Option<Connection> {
        let mut held = self.lock();
        match std::mem::replace(&mut *held, DatabaseUse::Exclusive) {
            DatabaseUse::Unowned(db) => Some(db),
            other => {
                *held = other;
                None
            }
        }
    }
}

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

/// The store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    queue: mpsc::Sender<Submission>,
    reads: MemoryReader,
    feed: Arc<Tail>,
}

/// Ends a store as if its process were killed.
#[derive(Debug)]
pub struct KillSwitch {
    killed: CancellationToken,
    database: Database,
}

impl KillSwitch {
    /// Ends the store: uncommitted writes are lost, committed ones stay, and no more outcomes are sent.
    pub fn kill(&self) {
        self.killed.cancel();
        self.database.close();
    }
}

/// The state that the writer and the readers share.
#[derive(Clone)]
struct Database {
    /// The access to the database; `None` once [`KillSwitch::kill`] has ended the store.
    access: Arc<Mutex<Option<DatabaseAccess>>>,
    disk: MemoryDisk,
    limits: Arc<Limits>,
    state: Arc<WriterState>,
    control: Arc<dyn DiskControl>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

/// The result of a batch.
struct BatchResult {
    outcomes: Vec<Outcome>,
    /// Conversations with events that were stored although their outcomes say `unavailable`.
    check: Vec<ConversationKey>,
    /// `read` commands for which readers have to count messages first.
    uncounted: Vec<Submission>,
}

/// A store's access to its database.
enum DatabaseAccess {
    Exclusive(Box<Committer>),
    Shared(Arc<Mutex<Committer>>),
}

impl Database {
    fn lock(&self) -> MutexGuard<'_, Option<DatabaseAccess>> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `what` on the database, unless the store is closed.
    fn with_committer<T>(&self, what: impl FnOnce(&mut Committer) -> T) -> Option<T> {
        match self.lock().as_mut()? {
            DatabaseAccess::Exclusive(committer) => Some(what(committer)),
            DatabaseAccess::Shared(committer) => {
                Some(what(&mut committer.lock().unwrap_or_else(PoisonError::into_inner)))
            }
        }
    }

    /// Closes the store, and returns the database to the disk if no other store shares it.
    fn close(&self) {
        if let Some(DatabaseAccess::Exclusive(committer)) = self.lock().take() {
            *self.disk.lock() = DatabaseUse::Unowned(committer.rows.into_database());
        }
    }

    async fn sleep_next_delay(&self) {
        let pause = self.control.next_delay();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes a batch, with the commit fault that [`Pace`] chose for it.
    fn write(&self, batch: Vec<Submission>) -> Option<BatchResult> {
        let shared = matches!(*self.lock(), Some(DatabaseAccess::Shared(_)));
        self.with_committer(|committer| {
            let fate = match self.control.next_fault() {
                CommitFault::SyncFails if shared => CommitFault::CommitFails,
                fate => fate,
            };
            if fate == CommitFault::SyncFails {
                self.state.set_fault(WriteFault::SyncFailed);
            }
            if fate != CommitFault::Durable {
                committer.rows.inject_faults(fate == CommitFault::RowFails, fate == CommitFault::CommitFails);
            }
            let numbers: Vec<_> = batch.iter().filter_map(|one| one.origin.numbers()).collect();
            let (mut outcomes, mut check) = (committer.write(batch), Vec::new());
            if fate != CommitFault::Durable {
                committer.rows.inject_faults(false, false);
            }
            self.control.on_commit(&outcomes);
            if fate == CommitFault::OutcomeUnknown {
                (outcomes, check) = hide_outcomes(outcomes, numbers);
            }
            BatchResult { outcomes, check, uncounted: committer.take_uncounted() }
        })
    }

    /// Counts the messages up to a cursor, in several reads.
    async fn count(&self, user: &UserId, command: &Read) -> Result<MessageCounts, Refusal> {
        let name = command.conversation.resolve(user);
        let mut so_far = None;
        loop {
            self.sleep_next_delay().await;
            match self.read(|reader| reader.count(user, &name, command.upto, so_far))? {
                CountStep::Done(counts) => return Ok(counts),
                CountStep::More(progress) => so_far = Some(progress),
            }
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Reader<'_>) -> Result<T, OperationError>) -> Result<T, Refusal> {
        self.with_committer(|committer| {
            // No transaction is needed, because the lock is held and so no other task writes meanwhile.
            let reader = reader(committer.rows.database(), &self.limits, &self.state);
            // Each read returns only a few memberships, so that attaching takes several pages, as it does for users in
            // very many conversations.
            failure_to_refusal(read(&Reader { memberships_per_step: self.limits.page as usize, ..reader }))
        })
        .unwrap_or_else(|| Err(Refusal::unavailable()))
    }
}

/// Makes a committed batch look like one with an unknown outcome. `numbers` are those that its connections had before.
fn hide_outcomes(
    outcomes: Vec<Outcome>,
    numbers: Vec<(Arc<dyn origin::OriginConnection>, Numbers)>,
) -> (Vec<Outcome>, Vec<ConversationKey>) {
    for (connection, numbers) in numbers {
        connection.set_numbers(numbers);
    }
    let mut stored = Vec::new();
    let refused = outcomes.into_iter().map(|Outcome { origin, result }| {
        if let Ok(Committed::Event(event)) = result {
            stored.push(event.conversation);
        }
        origin.record_rejection();
        Outcome { origin, result: Err(Refusal::unavailable()) }
    });
    (refused.collect(), stored)
}

/// The writer of a simulation leaves all counts to readers, so that the simulation covers that path.
fn new_committer(db: Connection, settings: &Settings, state: Arc<WriterState>) -> Committer {
    let mut committer = Committer::new(SqliteRows::new(db), settings, state);
    committer.leave_counts_to_readers();
    committer
}

/// Counts for `read` commands, and queues them for the writer again.
struct CountTask {
    database: Database,
    queue: mpsc::WeakSender<Submission>,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl CountTask {
    fn start(&self, mut submission: Submission) {
        let (database, queue, end) = (self.database.clone(), self.queue.clone(), self.end.clone());
        self.tasks.spawn(async move {
            let counted = async {
                let Change::Read(read) = submission.change else { return };
                let counts = database.count(&submission.actor, &read).await;
                submission.change = Change::CountedRead(Box::new(CountedRead { read, counts }));
                if let Some(queue) = queue.upgrade() {
                    let _ = queue.send(submission).await;
                }
            };
            let _ = end.run_until_cancelled(counted).await;
        });
    }
}

impl MemoryStore {
    /// Opens a disk that no other store uses. The writer ends when the store and the receiver are dropped.
    ///
    /// # Errors
    /// Another store uses the disk.
    pub fn open(
        disk: &MemoryDisk,
        settings: &Settings,
        pace: Arc<dyn DiskControl>,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Batch>)> {
        let db = disk.take_database().ok_or_else(|| anyhow::anyhow!("another store uses this disk"))?;
        let state = Arc::new(WriterState::new(settings.clock.clone()));
        let mut committer = new_committer(db, settings, state.clone());
        let feed = committer.rows.load_feed()?;
        Ok(Self::start(disk, (DatabaseAccess::Exclusive(Box::new(committer)), feed), state, settings, pace))
    }

    /// Opens a disk that other stores may join as well. The settings of the first store decide how changes are applied.
    ///
    /// # Errors
    /// A store uses the disk alone.
    pub fn open_shared(
        disk: &MemoryDisk,
        settings: &Settings,
        pace: Arc<dyn DiskControl>,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Batch>)> {
        if let Some(db) = disk.take_database() {
            // A final fault here would affect all stores that joined, but none occurs on a shared disk.
            let committer = new_committer(db, settings, Arc::default());
            *disk.lock() = DatabaseUse::Shared(Arc::new(Mutex::new(committer)));
        }
        let share = match &*disk.lock() {
            DatabaseUse::Shared(committer) => {
                let feed = committer.lock().unwrap_or_else(PoisonError::into_inner).rows.load_feed()?;
                (DatabaseAccess::Shared(committer.clone()), feed)
            }
            _ => anyhow::bail!("another store uses this disk alone"),
        };
        Ok(Self::start(disk, share, Arc::default(), settings, pace))
    }

    fn start(
        disk: &MemoryDisk,
        (share, feed): (DatabaseAccess, Arc<Tail>),
        state: Arc<WriterState>,
        settings: &Settings,
        pace: Arc<dyn DiskControl>,
    ) -> (Self, mpsc::Receiver<Batch>) {
        let database = Database {
            access: Arc::new(Mutex::new(Some(share))),
            disk: disk.clone(),
            limits: Arc::new(settings.limits.clone()),
            state,
            control: pace,
        };
        let (queue, submissions) = mpsc::channel(MAX_QUEUED_WRITES);
        let (batches, outcomes) = mpsc::channel(MAX_QUEUED_BATCHES);
        let (tasks, pulled) = (TaskTracker::new(), CancellationToken::new());
        let counting = CountTask {
            database: database.clone(),
            queue: queue.downgrade(),
            tasks: tasks.clone(),
            end: pulled.clone(),
        };
        let write = write(database.clone(), submissions, batches, counting);
        let end = pulled.clone();
        tasks.spawn(async move {
            let _ = end.run_until_cancelled(write).await;
        });
        (Self { queue, reads: MemoryReader { database, tasks, killed: pulled }, feed }, outcomes)
    }

    /// The handle that ends the store at once.
    pub fn kill_switch(&self) -> KillSwitch {
        KillSwitch { killed: self.reads.killed.clone(), database: self.reads.database.clone() }
    }

    pub(super) fn spawn_read<T, F>(&self, read: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Reader<'_>) -> Result<T, OperationError> + Send + 'static,
    {
        self.reads.spawn(read)
    }
}

/// The writer. The writes that arrive while one batch is made durable form the next batch. Returns when the receiver is
/// dropped or the plug is pulled.
async fn write(
    database: Database,
    mut queue: mpsc::Receiver<Submission>,
    batches: mpsc::Sender<Batch>,
    counting: CountTask,
) {
    let mut numbers = 1..;
    // The number is set before the commit, so that a reader that sees any row of a batch also sees its number.
    let mut begin = || {
        let number = numbers.next().unwrap_or_default();
        database.state.mark.store(number, Ordering::SeqCst);
        number
    };
    let tell = async |number, (outcomes, check), more| {
        batches.send(Batch { number, outcomes, has_more: more, stored_after_all: check }).await.is_ok()
    };
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MAX_WRITES_PER_BATCH).await > 0 {
        let late = batch::reject_stale(&mut waiting);
        if !late.is_empty() && !tell(begin(), (late, Vec::new()), true).await {
            break;
        }
        if waiting.is_empty() {
            continue;
        }
        let number = begin();
        database.sleep_next_delay().await;
        let Some(written) = database.write(std::mem::take(&mut waiting)) else { return };
        let BatchResult { outcomes, check, uncounted } = written;
        uncounted.into_iter().for_each(|read| counting.start(read));
        database.sleep_next_delay().await;
        if !tell(number, (outcomes, Vec::new()), !queue.is_empty()).await {
            break;
        }
        if check.is_empty() {
            continue;
        }
        let number = begin();
        database.sleep_next_delay().await;
        if !tell(number, (Vec::new(), check), false).await {
            break;
        }
    }
    database.close();
}
