//! The store's rules on a database in memory, one call at a time, without threads, files or fsync. Tests use it to run
//! thousands of sequences. Everything else is as in the SQLite store.

use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::Migrations;
use serde_json::value::RawValue;
#[cfg(test)]
use switchboard_protocol::Read;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Limits, Seq, Timestamp, UserId};

#[cfg(test)]
use crate::batch;
use crate::batch::WriterState;
use crate::change::{self, Actor, OperationError, Rules};
use crate::check::{PageCheck, Problem, check_connection};
#[cfg(test)]
use crate::origin::Origin;
#[cfg(test)]
use crate::read::counts::CountStep;
use crate::record::{ConversationKey, ReadEvent, UserKey};
use crate::refusal::Refusal;
use crate::sqlite::MIGRATIONS;
use crate::sqlite::opening::configure_statement_cache;
use crate::sqlite::query::{Reader, reader};
use crate::sqlite::rows::SqliteRows;
use crate::{Change, Committed, Query, Snapshot};
#[cfg(test)]
use crate::{CountedRead, MessageCounts, Submission};

/// The fewest steps that SQLite's virtual machine executes for each row that it reads and counts.
#[cfg(test)]
const MIN_STEPS_PER_ROW: i32 = 5;

/// Gives each database a unique name, which its two connections share.
static DATABASE_COUNT: AtomicU64 = AtomicU64::new(0);

/// A database in memory, with the writer's connection and a reader's.
pub struct InMemory {
    rows: SqliteRows,
    rules: Rules,
    db: Connection,
    state: WriterState,
}

/// Panics on an error of the store, because for a database in memory it is a bug.
fn panic_on_failure<T>(done: Result<T, OperationError>) -> Result<T, Refusal> {
    match done {
        Ok(done) => Ok(done),
        Err(OperationError::Refused(refusal)) => Err(refusal),
        Err(OperationError::Store(error)) => panic!("the database does not work: {error}"),
        Err(OperationError::Uncounted | OperationError::Checked) => {
            panic!("a writer without a bound counts by itself")
        }
    }
}

impl InMemory {
    pub fn new(limits: Limits) -> Self {
        let name = DATABASE_COUNT.fetch_add(1, Ordering::Relaxed);
        let open = || {
            let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_URI;
            let db = Connection::open_with_flags(
                format!("file:in-memory-{name}?mode=memory&cache=shared"),
                flags,
            )?;
            configure_statement_cache(&db)?;
            Ok::<_, rusqlite::Error>(db)
        };
        let mut writer = open().expect("a database");
        Migrations::from_slice(MIGRATIONS).to_latest(&mut writer).expect("its tables");
        let db = open().expect("the same");
        let mut rules = Rules::new(limits, true, false);
        rules.max_events_counted_by_writer = u64::MAX;
        Self { rows: SqliteRows::new(writer), rules, db, state: WriterState::default() }
    }

    /// Begins a batch. The caller must not read before the batch ends.
    pub fn begin(&mut self) {
        self.rows.begin().expect("a transaction");
    }

    pub fn commit(&mut self) {
        self.rows.commit().expect("committed");
    }

    /// Rolls the batch back, as after a failed commit.
    pub fn roll_back(&mut self) {
        self.rows.roll_back();
    }

    /// Applies a change within a batch.
    pub fn apply(&mut self, actor: &UserId, change: Change, now: Timestamp) -> Result<Committed, Refusal> {
        panic_on_failure(change::apply(
            &mut self.rows,
            &self.rules,
            Actor::without_allowances(actor),
            change,
            now,
        ))
    }

    /// Sets the most events that the writer itself reads to count the messages up to a cursor. Over more events, readers
    /// count.
    #[cfg(test)]
    pub fn set_max_events_counted_by_writer(&mut self, near: u64) {
        self.rules.max_events_counted_by_writer = near;
    }

    /// Counts the messages for a `read` command, as the readers do.
    #[cfg(test)]
    pub fn count(&self, actor: &UserId, read: &Read) -> Result<MessageCounts, Refusal> {
        let name = read.conversation.resolve(actor);
        let mut so_far = None;
        loop {
            match panic_on_failure(self.reader().count(actor, &name, read.upto, so_far))? {
                CountStep::Done(counts) => return Ok(counts),
                CountStep::More(progress) => so_far = Some(progress),
            }
        }
    }

    /// Applies a change in its own batch.
    #[cfg(test)]
    pub fn commit_change(
        &mut self,
        actor: &UserId,
        change: Change,
        now: Timestamp,
    ) -> Result<Committed, Refusal> {
        self.begin();
        let made =
            change::apply(&mut self.rows, &self.rules, Actor::without_allowances(actor), change.clone(), now);
        self.commit();
        match (made, change) {
            (Err(OperationError::Uncounted), Change::Read(read)) => {
                let counts = self.count(actor, &read);
                self.commit_change(actor, Change::CountedRead(Box::new(CountedRead { read, counts })), now)
            }
            (made, _) => panic_on_failure(made),
        }
    }

    /// Applies changes in one batch, in which the writer counts everything itself.
    #[cfg(test)]
    pub fn commit_batch(
        &mut self,
        changes: Vec<(UserId, Change)>,
        now: Timestamp,
    ) -> Vec<Result<Committed, Refusal>> {
        let batch = changes.into_iter();
        let batch = batch.map(|(actor, change)| Submission { actor, change, origin: Origin::Internal });
        let batch: Vec<_> = batch.collect();
        self.begin();
        let results = batch::apply(&mut self.rows, &self.rules, &batch, now).expect("a store that works");
        self.commit();
        let mut uncounted = Vec::new();
        let outcomes = batch::pair_outcomes(batch, results, &mut uncounted);
        assert!(uncounted.is_empty(), "everything was counted");
        outcomes.into_iter().map(|outcome| outcome.result).collect()
    }

    /// Runs SQL without the writer, to damage the database in a test.
    #[cfg(test)]
    pub fn execute_sql(&mut self, sql: &str) {
        self.rows.database().execute_batch(sql).expect("done");
        self.rows.roll_back();
    }

    /// The most events that the writer can have read for a `read` command, until it moved the cursor or left the count to
    /// readers. It is computed from SQLite's steps: a row takes five or more.
    #[cfg(test)]
    pub fn rows_read_to_write(&mut self, actor: &UserId, fields: &serde_json::Value) -> u64 {
        let command =
            switchboard_protocol::decode_named("read", &fields.to_string()).expect("a command").command;
        let switchboard_protocol::Command::Read(read) = command else { panic!("{command:?} reads nothing") };
        let steps = std::sync::Arc::new(AtomicU64::new(0));
        let counted = steps.clone();
        self.begin();
        let every = Some(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        });
        self.rows.database().progress_handler(MIN_STEPS_PER_ROW, every).expect("set");
        let made = change::apply(
            &mut self.rows,
            &self.rules,
            Actor::without_allowances(actor),
            Change::Read(read),
            Timestamp::from_millis(1),
        );
        assert!(matches!(made, Ok(_) | Err(OperationError::Uncounted)), "{made:?}");
        self.rows.database().progress_handler(0, None::<fn() -> bool>).expect("unset");
        self.commit();
        steps.load(Ordering::Relaxed)
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        reader(&self.db, &self.rules.limits, &self.state)
    }

    pub fn query(&self, user: &UserId, query: &Query) -> Result<OkBody<Box<RawValue>>, Refusal> {
        panic_on_failure(self.reader().answer(user, query))
    }

    pub fn attach(&self, user: &UserId, named: &[ConversationId]) -> Option<Snapshot> {
        panic_on_failure(self.reader().attach(user, named)).expect("a snapshot is never refused")
    }

    pub fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Result<Vec<ReadEvent>, Refusal> {
        panic_on_failure(self.reader().replay(user, conversation, after, upto))
    }

    /// The problems that a check of the database finds.
    pub fn check(&self) -> Vec<Problem> {
        check_connection(&self.db, PageCheck::Quick, &mut |_| {}).expect("it can be checked").problems
    }
}
