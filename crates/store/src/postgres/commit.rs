//! Commits batches over a connection that may be lost at any moment, to a database that other nodes also write to.
//!
//! The kind of error decides the reaction ([`BatchError`]). If the connection is lost before the commit was sent, nothing is
//! stored and the batch is retried. If it is lost after that, the outcome is unknown. It is resolved with the writer's own
//! row, which every transaction locks and changes first (docs/decisions/0042-unknown-outcomes.md).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::connect::{BlockingConnection, Error};
use super::ids::{self, Ids};
use super::installation::{self, InstallationUpkeep, Node, VERSIONED_NODE_LOCK_ID, is_outdated};
use super::rows::{self, LockMode, PostgresRows, SaveError};
use super::split::OneByOnePass;
use super::target::Target;
use super::trouble::{BatchError, FailureAction, classify_error, conflict_retry_delay, describe};
use super::{SERVING_LOCK_ID, Settings};
use crate::CommitMetrics;
use crate::batch::{self, WriteResult, WriteResults, WriterState};
use crate::change::Rules;
use crate::clock::Clock;
use crate::record::ConversationKey;
use crate::write_fault::WriteFault;
use crate::{Outcome, Submission};

/// How long a batch may wait for a connection. Later batches wait for it in the queue.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time-out of resolving the unknown outcome of a commit. It is long, because the database ends the transaction of a lost
/// connection only after its own time-outs of 5 s, and a known outcome is worth the wait.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(12);

/// The first delay of the exponential backoff between connection attempts.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(50);
/// The longest delay of this backoff.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Most attempts to write a batch that conflicts with other nodes' transactions.
const MAX_ATTEMPTS: u32 = 5;

/// Settings of the writer's session, besides those of all sessions. The writer reads only by index. The planner's statistics may be
/// from when a table was empty, so sequential scans are disabled, and a generic plan is always good enough.
pub(super) const SESSION_SETUP: &str =
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
                     SET enable_mergejoin = off; SET jit = off";

/// Reads the number of the last committed attempt. The statement is itself committed, so the number is durable. It waits
/// for an earlier transaction that is still open, because that one holds the row's lock.
const RESOLVE_ATTEMPT: &str = "INSERT INTO writers (id, batch, version, features) VALUES ($1, 0, $2, $3)
    ON CONFLICT (id) DO UPDATE SET at = now() RETURNING batch";

/// Deletes the rows of writers that have not written for so long that no outcome can be pending.
const DELETE_OLD_WRITERS: &str = "DELETE FROM writers WHERE at < now() - interval '7 days'";

const DELETE_WRITER: &str = "DELETE FROM writers WHERE id = $1";

const SELECT_ONE: &str = "SELECT 1";

/// Commits batches.
pub(super) struct Committer {
    link: Option<BlockingConnection>,
    target: Target,
    ids: Ids,
    /// Writes this node's heartbeat, and does the work for the installation that is due between batches.
    upkeep: InstallationUpkeep,
    /// The number of the last transaction, by which an unknown outcome is resolved.
    attempt: i64,
    rules: Rules,
    clock: Clock,
    metrics: CommitMetrics,
    state: Arc<WriterState>,
    /// The `read` commands of the last batch for which readers have to count messages first.
    uncounted: Vec<Submission>,
    /// Whether each write gets its own transaction, with a short time-out.
    writes_alone: bool,
    /// Whether it was logged that the database cannot be written to.
    logged_failure: bool,
    /// Whether the database has been unreachable for so long that writes no longer wait for it.
    unreachable: bool,
    /// When to try to connect again, and the current delay of the backoff.
    reconnect: Option<(Instant, Duration)>,
    /// Why the last attempt to connect failed.
    last_failure: String,
    /// The attempt whose outcome is unknown, and the conversations of its events.
    unknown_attempt: Option<(i64, Vec<ConversationKey>)>,
    /// Whether the last attempt with an unknown outcome was committed.
    resolved: Option<bool>,
    /// Conversations with events that were committed without an outcome for the router.
    check: Vec<ConversationKey>,
}

impl Committer {
    /// # Errors
    /// The tables are missing or not as expected.
    pub(super) fn new(
        link: BlockingConnection,
        target: Target,
        settings: &Settings,
        state: Arc<WriterState>,
        mut upkeep: InstallationUpkeep,
    ) -> anyhow::Result<Self> {
        prepare_statements(&link)?;
        link.run(link.rows(DELETE_OLD_WRITERS, &[]))?;
        upkeep.join(&link)?;
        Ok(Self {
            link: Some(link),
            target,
            ids: Ids::default(),
            upkeep,
            attempt: 0,
            rules: Rules::new(settings.limits.clone(), settings.strangers, settings.tells_reads),
            clock: settings.clock.clone(),
            metrics: settings.metrics.clone(),
            state,
            uncounted: Vec::new(),
            writes_alone: false,
            logged_failure: false,
            unreachable: false,
            reconnect: None,
            last_failure: String::new(),
            unknown_attempt: None,
            resolved: None,
            check: Vec::new(),
        })
    }

    /// Writes a batch in one transaction. If that fails because of one write, writes each alone.
    pub(super) fn write(&mut self, batch: Vec<Submission>) -> Vec<Outcome> {
        let (started, writes) = (Instant::now(), batch::count_writes(&batch));
        let outcomes = match self.persist(&batch) {
            Ok(results) => batch::pair_outcomes(batch, results, &mut self.uncounted),
            // A damaged row must not fail the other writes.
            Err(FailureAction::WriteEachAlone) => self.write_one_by_one(batch),
            Err(verdict) => batch.into_iter().map(|one| refuse_write(one, &verdict)).collect(),
        };
        if writes > 0 {
            self.metrics.record_commit(started.elapsed(), writes);
        }
        outcomes
    }

    /// Writes each write of a batch in a transaction of its own.
    fn write_one_by_one(&mut self, batch: Vec<Submission>) -> Vec<Outcome> {
        self.writes_alone = true;
        let mut pass = OneByOnePass::new();
        let mut uncounted = Vec::new();
        let outcomes = batch::write_each_alone(batch, &mut uncounted, |one| {
            let submission = one.first().filter(|one| !pass.should_skip(one))?;
            match self.persist(one) {
                Ok(results) => Some(results),
                Err(verdict) => {
                    if matches!(verdict, FailureAction::TooSlow) {
                        pass.skip_user(submission);
                    }
                    verdict.refusal().map(|refusal| vec![WriteResult::Answered(Err(refusal))])
                }
            }
        });
        self.uncounted = uncounted;
        self.writes_alone = false;
        outcomes
    }

    /// Writes a batch, and retries temporary errors.
    fn persist(&mut self, batch: &[Submission]) -> Result<WriteResults, FailureAction> {
        let connect_deadline = Instant::now() + CONNECT_TIMEOUT;
        let (mut mode, mut attempts) = (LockMode::Wait, 0);
        loop {
            if !self.ensure_connected(connect_deadline) {
                return Err(FailureAction::Refuse);
            }
            attempts += 1;
            let trouble = match self.transact(batch, mode) {
                Ok(results) => {
                    self.report_recovery();
                    return Ok(results);
                }
                Err(trouble) => trouble,
            };
            let error = match trouble {
                BatchError::Unknown(error, results, conversations) => {
                    self.link = None;
                    self.unknown_attempt = Some((self.attempt, conversations));
                    match self.resolve_commit_before(Instant::now() + RESOLVE_TIMEOUT) {
                        Some(true) => return Ok(results),
                        Some(false) if attempts < MAX_ATTEMPTS => continue,
                        _ => error,
                    }
                }
                // The time-out may be due to one write that is too much work, so each is tried alone.
                BatchError::Lost(Error::AnswerTimeout) if batch.len() > 1 => {
                    self.link = None;
                    return Err(FailureAction::WriteEachAlone);
                }
                BatchError::Lost(error) => {
                    self.link = None;
                    // After the time-out of an answer the write has waited long enough, so it is not retried.
                    let gives_up = Instant::now() >= connect_deadline
                        && (attempts > 1 || matches!(error, Error::AnswerTimeout));
                    if !gives_up {
                        sleep(MIN_RECONNECT_DELAY * (attempts - 1));
                        continue;
                    }
                    error
                }
                BatchError::Conflict(error) if attempts < MAX_ATTEMPTS => {
                    tracing::debug!(%error, "a batch conflicted with another node's; retrying");
                    sleep(conflict_retry_delay(attempts));
                    continue;
                }
                // Another node holds a lock for long: retry without the locked conversations.
                BatchError::LockTimeout(_) if mode == LockMode::Wait => {
                    mode = LockMode::SkipLocked;
                    continue;
                }
                BatchError::Database(error) => error,
                BatchError::Outdated(error) => {
                    self.report_outdated(&error);
                    return Err(FailureAction::Refuse);
                }
                _ if batch.len() > 1 => return Err(FailureAction::WriteEachAlone),
                BatchError::Cancelled(error) if self.is_responsive() => {
                    tracing::warn!(%error, "refused a write that exceeds the database's time-out");
                    return Err(FailureAction::TooSlow);
                }
                BatchError::Invalid(error) => {
                    tracing::warn!(%error, "refused a write that the database cannot store");
                    return Err(FailureAction::Invalid);
                }
                BatchError::Conflict(error)
                | BatchError::Change(error)
                | BatchError::LockTimeout(error)
                | BatchError::Cancelled(error) => error,
            };
            self.report_write_failure(&error);
            return Err(FailureAction::Refuse);
        }
    }

    /// Writes a batch in one transaction.
    fn transact(&mut self, batch: &[Submission], mode: LockMode) -> Result<WriteResults, BatchError> {
        let Some(link) = &self.link else { return Err(BatchError::Lost(Error::AnswerTimeout)) };
        self.attempt += 1;
        let now = self.clock.now();
        let mut rows = PostgresRows::new(link, &mut self.ids, &self.rules);
        let applied = rows
            .begin(&self.upkeep.node, self.attempt, mode, self.writes_alone, batch)
            .and_then(|()| batch::apply(&mut rows, &self.rules, batch, now));
        let results = match applied {
            // Commit even if nothing changed. The outcome of a duplicate depends on rows that were read, and only a commit
            // proves that those are durable.
            Ok(results) => results,
            Err(error) => {
                // After a time-out the connection cannot be used, so there is no rollback. If the rollback fails, the next
                // statement finds the connection lost.
                if !link.is_closed() {
                    let _ = rows.roll_back();
                }
                return Err(classify_error(error));
            }
        };
        match rows.save() {
            Ok(()) => Ok(results),
            Err(SaveError::RolledBack(error)) => Err(classify_error(error)),
            Err(SaveError::Unknown(error)) => {
                let conversations = rows.changed_conversations();
                Err(BatchError::Unknown(error, results, conversations))
            }
        }
    }

    /// Whether the database commits a transaction that changes only the writer's own row, within the time-out of a single write.
    fn is_responsive(&mut self) -> bool {
        let splitting = std::mem::replace(&mut self.writes_alone, true);
        let done = self.transact(&[], LockMode::Wait);
        self.writes_alone = splitting;
        if matches!(done, Err(BatchError::Lost(_) | BatchError::Unknown(..))) {
            self.link = None;
        }
        done.is_ok()
    }

    /// Connects and resolves an unknown outcome. Retries up to the deadline, but not while the database is known to be
    /// unreachable. Returns whether it is connected.
    fn ensure_connected(&mut self, deadline: Instant) -> bool {
        loop {
            let error = match self.try_connect() {
                Ok(()) => return true,
                Err(error) => error,
            };
            let now = Instant::now();
            if now >= deadline || self.unreachable {
                self.report_unreachable(&error);
                return false;
            }
            let next = self.reconnect.map_or(now, |(next, _)| next).min(deadline);
            sleep(next.saturating_duration_since(now));
        }
    }

    /// Connects, unless the backoff delay of a failed attempt is still running, and resolves an unknown outcome.
    fn try_connect(&mut self) -> anyhow::Result<()> {
        if self.link.as_ref().is_some_and(BlockingConnection::is_closed) {
            self.link = None;
        }
        if self.link.is_some() && self.unknown_attempt.is_none() {
            return Ok(());
        }
        ensure!(self.reconnect.is_none_or(|(next, _)| Instant::now() >= next), "{}", self.last_failure);
        let done = self.connect().and_then(|()| self.resolve_unknown_commit());
        self.reconnect = match &done {
            Ok(()) => None,
            Err(error) => {
                self.last_failure = describe(error);
                let delay = self
                    .reconnect
                    .map_or(MIN_RECONNECT_DELAY, |(_, delay)| (delay * 2).min(MAX_RECONNECT_DELAY));
                Some((Instant::now() + delay, delay))
            }
        };
        done
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        if self.link.is_none() {
            let link = BlockingConnection::open(&self.target)?;
            prepare_statements(&link)?;
            // A promoted standby may return the same ids of the sequences again, so reserved ids are dropped.
            self.ids = Ids::default();
            self.link = Some(link);
        }
        Ok(())
    }

    /// Resolves the unknown outcome of a commit, if there is one.
    fn resolve_unknown_commit(&mut self) -> anyhow::Result<()> {
        let (Some((attempt, _)), Some(link)) = (&self.unknown_attempt, &self.link) else { return Ok(()) };
        let attempt = *attempt;
        let _ = link.take_warning();
        let Node { id, version, features } = &self.upkeep.node;
        let resolved = link.run(link.rows(RESOLVE_ATTEMPT, &[id, version, features]));
        let rows = resolved.context("cannot resolve the outcome of a commit")?;
        ensure!(!link.take_warning(), Error::StandbyUncertain);
        let batch: i64 = rows.first().context("a writer has no row")?.try_get(0)?;
        self.resolved = Some(batch == attempt);
        if let Some((_, conversations)) = self.unknown_attempt.take().filter(|_| batch == attempt) {
            self.check.extend(conversations);
        }
        Ok(())
    }

    /// Whether the last attempt was committed; `None` if that cannot be resolved before the deadline.
    fn resolve_commit_before(&mut self, deadline: Instant) -> Option<bool> {
        let (known, _) = (self.check.len(), self.resolved.take());
        if !self.ensure_connected(deadline) {
            return None;
        }
        // The writes receive this outcome, so the router need not check their conversations.
        self.check.truncate(known);
        self.resolved
    }

    fn report_recovery(&mut self) {
        self.state.clear_fault();
        self.unreachable = false;
        if std::mem::take(&mut self.logged_failure) {
            tracing::info!("the database can be written to again");
        }
    }

    fn report_write_failure(&mut self, error: &Error) {
        match error.code() {
            Some(code) if *code == SqlState::DISK_FULL => self.state.set_fault(WriteFault::DiskFull),
            // SQLSTATE class 53: insufficient resources, such as a full disk.
            Some(code) if code.code().starts_with("53") => self.state.set_fault(WriteFault::Refused),
            // An error of one row does not affect other writes.
            _ => {}
        }
        if !std::mem::replace(&mut self.logged_failure, true) {
            tracing::error!(%error, "cannot write to the database; refusing writes until one succeeds");
        }
    }

    /// Called when the database has refused this node, because the version of the node is too old. Refuses all writes from now on,
    /// because the version of an installation never goes down.
    fn report_outdated(&mut self, error: &Error) {
        self.state.set_fault(WriteFault::Outdated);
        if !std::mem::replace(&mut self.logged_failure, true) {
            tracing::error!(%error, "this version is too old for the installation; the database is read-only here");
        }
    }

    /// Whether old bodies may be rewritten, or deleted rooms removed, while no write waits.
    pub(super) fn may_write_portion(&self) -> bool {
        self.upkeep.has_portions() && self.is_connected() && self.state.fault().is_none()
    }

    /// Whether the node is connected and has no unknown outcome.
    fn is_connected(&self) -> bool {
        self.unknown_attempt.is_none() && self.link.as_ref().is_some_and(|link| !link.is_closed())
    }

    /// Does the periodic work of the node between two batches: its heartbeat, rewriting old bodies, and removing deleted rooms.
    pub(super) fn run_upkeep(&mut self, is_idle: bool) {
        let Some(link) = self.link.as_ref().filter(|_| self.is_connected()) else { return };
        if let Err(error) = self.upkeep.run_due_work(link, is_idle) {
            if is_outdated(error.code()) {
                self.report_outdated(&error);
                return;
            }
            if self.state.fault().is_none() {
                tracing::warn!(%error, "cannot do what is due between batches; retrying later");
            }
            // If the connection is not lost, the database has answered, and the transaction is rolled back.
            if error.is_lost() {
                self.link = None;
            }
        }
    }

    fn report_unreachable(&mut self, error: &anyhow::Error) {
        self.state.set_fault(WriteFault::Unreachable);
        self.unreachable = true;
        if !std::mem::replace(&mut self.logged_failure, true) {
            let error = describe(error);
            tracing::error!(error, "cannot reach the database; refusing writes until it is reachable");
        }
    }

    /// Checks the connection while no write waits. After a refused write, makes a probe write instead.
    pub(super) fn check_connection(&mut self) {
        if matches!(self.state.fault(), Some(WriteFault::DiskFull | WriteFault::Refused)) {
            // A ping would not show whether writes succeed again.
            self.write(batch::probe_submission().into_iter().collect());
            return;
        }
        let alive = self.try_connect().and_then(|()| {
            let link = self.link.as_ref().context("there is no connection")?;
            Ok(link.run(link.rows(SELECT_ONE, &[]))?)
        });
        match alive {
            Ok(_) => self.report_recovery(),
            // The connection is dropped, and the next check uses a new one.
            Err(_) if self.link.take().is_some() => {}
            Err(error) => self.report_unreachable(&error),
        }
    }

    /// Removes and returns the `read` commands of the last batch for which readers have to count messages first.
    pub(super) fn take_uncounted(&mut self) -> Vec<Submission> {
        std::mem::take(&mut self.uncounted)
    }

    /// Removes and returns the conversations with committed events that the router has not received.
    pub(super) fn take_unreported_conversations(&mut self) -> Vec<ConversationKey> {
        std::mem::take(&mut self.check)
    }

    /// Deletes the writer's row.
    pub(super) fn close(&mut self) {
        if let Some(link) = self.link.as_ref().filter(|link| !link.is_closed()) {
            // If this fails, another node deletes the row later.
            let _ = link.run(async { link.rows(DELETE_WRITER, &[&self.upkeep.node.id]).await });
        }
    }
}

fn prepare_statements(link: &BlockingConnection) -> Result<(), Error> {
    link.run(link.client().batch_execute(SESSION_SETUP))?;
    // The lock is held as long as the connection, because `migrate-store` may write to the database only while no node
    // serves from it.
    let serves =
        link.run(link.client().query_one("SELECT pg_try_advisory_lock_shared($1)", &[&SERVING_LOCK_ID]))?;
    if !serves.try_get::<_, bool>(0)? {
        return Err(Error::MigrationRunning);
    }
    let described = "SELECT pg_advisory_lock_shared($1)";
    link.run(link.client().execute(described, &[&VERSIONED_NODE_LOCK_ID]))?;
    let own = [RESOLVE_ATTEMPT, DELETE_OLD_WRITERS, DELETE_WRITER, SELECT_ONE];
    let statements: Vec<_> =
        rows::statements().chain(ids::STATEMENTS).chain(installation::STATEMENTS).chain(own).collect();
    link.prepare_all(&statements)
}

/// The outcome of a write that was not stored.
fn refuse_write(one: Submission, verdict: &FailureAction) -> Outcome {
    match verdict.refusal() {
        Some(refusal) => Outcome { origin: one.origin, result: Err(refusal) },
        None => batch::rejected_outcome(one),
    }
}

fn sleep(time: Duration) {
    let _ = crossbeam_channel::after(time).recv();
}
