//! The store's rules on a database in memory, one call at a time: no threads, no files, no fsync. For whoever tries
//! thousands of sequences; everything else in it is as in the store.

use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::Migrations;
use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Limits, Seq, Timestamp, UserId};

use super::query::{Reader, reader};
use super::rows::SqliteRows;
use super::{MIGRATIONS, keep_statements};
use crate::record::{ConversationKey, LogEvent, UserKey};
use crate::refusal::Refusal;
use crate::store::batch::State;
use crate::store::change::{self, Failed, Rules};
use crate::store::check::{Pages, Problem, check_in};
use crate::store::{Change, Committed, Query, Snapshot};

/// Each database has a name of its own, by which its two connections find it.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// The writer's connection and a reader's.
pub(crate) struct InMemory {
    rows: SqliteRows,
    rules: Rules,
    db: Connection,
    state: State,
}

/// A store in memory has nothing that may fail.
fn works<T>(done: Result<T, Failed>) -> Result<T, Refusal> {
    match done {
        Ok(done) => Ok(done),
        Err(Failed::Refused(refusal)) => Err(refusal),
        Err(Failed::Store(error)) => panic!("the database does not work: {error}"),
    }
}

impl InMemory {
    pub(crate) fn new(limits: Limits) -> Self {
        let name = NAMES.fetch_add(1, Ordering::Relaxed);
        let open = || {
            let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_URI;
            let db = Connection::open_with_flags(
                format!("file:in-memory-{name}?mode=memory&cache=shared"),
                flags,
            )?;
            keep_statements(&db)?;
            Ok::<_, rusqlite::Error>(db)
        };
        let mut writer = open().expect("a database");
        Migrations::from_slice(MIGRATIONS).to_latest(&mut writer).expect("its tables");
        let db = open().expect("the same");
        Self {
            rows: SqliteRows::new(writer),
            rules: Rules { limits, strangers: true },
            db,
            state: State::default(),
        }
    }

    /// Begins a batch. Nothing is to be read before its end.
    pub(crate) fn begin(&mut self) {
        self.rows.begin().expect("a transaction");
    }

    pub(crate) fn commit(&mut self) {
        self.rows.commit().expect("committed");
    }

    /// What happens to a batch whose commit fails.
    pub(crate) fn roll_back(&mut self) {
        self.rows.roll_back();
    }

    /// Makes a change within a batch.
    pub(crate) fn apply(
        &mut self,
        actor: &UserId,
        change: Change,
        now: Timestamp,
    ) -> Result<Committed, Refusal> {
        works(change::apply(&mut self.rows, &self.rules, actor, change, now))
    }

    /// Makes a change in a batch of its own.
    #[cfg(test)]
    pub(crate) fn makes(
        &mut self,
        actor: &UserId,
        change: Change,
        now: Timestamp,
    ) -> Result<Committed, Refusal> {
        self.begin();
        let made = self.apply(actor, change, now);
        self.commit();
        made
    }

    pub(in crate::store) fn reader(&self) -> Reader<'_> {
        reader(&self.db, &self.rules.limits, &self.state)
    }

    pub(crate) fn query(&self, user: &UserId, query: &Query) -> Result<OkBody<Box<RawValue>>, Refusal> {
        works(self.reader().answer(user, query))
    }

    pub(crate) fn attach(&self, user: &UserId, named: &[ConversationId]) -> Option<Snapshot> {
        works(self.reader().attach(user, named)).expect("a snapshot is never refused")
    }

    pub(crate) fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Result<Vec<LogEvent>, Refusal> {
        works(self.reader().replay(user, conversation, after, upto))
    }

    /// What is wrong with the database.
    pub(crate) fn check(&self) -> Vec<Problem> {
        check_in(&self.db, Pages::Quick, &mut |_| {}).expect("it can be checked").problems
    }
}
