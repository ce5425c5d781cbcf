//! Committing batches over a connection that may be lost at any moment, to a database that others write to.
//!
//! What a batch meets decides what is done about it ([`Trouble`]). Lost before the commit was sent: nothing is stored, and the
//! batch is written again. Lost while the commit was on its way: the writer's own row, which the transaction changed and
//! locked first, tells what became of it (docs/decisions/0042-unknown-outcomes.md).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustc_hash::FxHashSet;
use switchboard_protocol::UserId;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::connect::{Error, Link};
use super::ids::{self, Ids};
use super::rows::{self, Mode, PostgresRows, Unsaved};
use super::target::Target;
use super::trouble::{Trouble, Verdict, classify, conflict_pause};
use super::{SERVING, Settings};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::record::ConversationKey;
use crate::store::batch::{self, Results, Settled, State};
use crate::store::change::Rules;
use crate::store::write_fault::WriteFault;
use crate::store::{Outcome, Submission};

/// How long a batch may wait for a connection. Its writes wait as long, and what comes meanwhile behind them.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long it is tried to find out what became of a commit. The database ends what a lost connection has left open
/// within its own limits of 5 s, and an answer is worth more than haste.
const DOUBT: Duration = Duration::from_secs(12);

/// How soon it is tried again to connect: at first, and at most.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_AT_MOST: Duration = Duration::from_secs(1);

/// How often a batch is written that gets into the way of other nodes.
const TRIES: u32 = 5;

/// How long the writes of a batch are tried, each alone, after one of them was too slow for the batch. What is left then is
/// refused as `unavailable`, so that the next batch is not kept waiting.
const ALONE_TIME: Duration = Duration::from_secs(10);

/// How the writer's session is set up, besides what all of them have. Everything that it reads is found by an index, in tables
/// whose statistics may be of when they were empty: it is never right to read one from end to end, and planning anew is
/// never worth its time.
pub(super) const SETUP: &str =
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
                     SET enable_mergejoin = off; SET jit = off";

/// Tells what became of an attempt, and makes sure of it: it is a commit itself, so what it has read is as durable as that. It
/// waits for a transaction of before that is still under way.
const RESOLVE: &str = "INSERT INTO writers (id, batch) VALUES ($1, 0)
    ON CONFLICT (id) DO UPDATE SET at = now() RETURNING batch";

/// Rows of writers that have not written for so long that nobody asks for them.
const SWEEP: &str = "DELETE FROM writers WHERE at < now() - interval '7 days'";

const LEAVE: &str = "DELETE FROM writers WHERE id = $1";

const PING: &str = "SELECT 1";

/// Makes batches durable.
pub(super) struct Committer {
    link: Option<Link>,
    target: Target,
    ids: Ids,
    /// This writer's row.
    id: String,
    /// Counts transactions.
    attempt: i64,
    rules: Rules,
    clock: Clock,
    metrics: Arc<Metrics>,
    state: Arc<State>,
    /// Reads of the last batch that need a count first.
    uncounted: Vec<Submission>,
    /// Writes are tried one by one, each for a short time only.
    alone: bool,
    /// It was told once that the database cannot be written to.
    troubled: bool,
    /// It could not be connected to for so long that writes no longer wait for it.
    away: bool,
    /// When it is tried again to connect, and how long that is after the last time.
    retry: Option<(Instant, Duration)>,
    /// A commit of which nobody knows what became, and where its events would be.
    unknown: Option<(i64, Vec<ConversationKey>)>,
    /// What became of the last such commit.
    found: Option<bool>,
    check: Vec<ConversationKey>,
}

/// Users whose writes were too slow in a pass over the writes of a batch, each alone, and when that pass ends.
struct AlonePass {
    until: Instant,
    slow: FxHashSet<UserId>,
}

impl AlonePass {
    fn new() -> Self {
        Self { until: Instant::now() + ALONE_TIME, slow: FxHashSet::default() }
    }

    /// Whether a write is rejected without a try: the others have waited long enough, or long enough for its user.
    fn skips(&self, one: &Submission) -> bool {
        self.slow.contains(&one.actor) || Instant::now() >= self.until
    }
}

impl Committer {
    /// # Errors
    /// The tables are not there, or not what they should be.
    pub(super) fn new(
        link: Link,
        target: Target,
        settings: &Settings,
        state: Arc<State>,
    ) -> anyhow::Result<Self> {
        prepare(&link)?;
        link.run(link.rows(SWEEP, &[]))?;
        Ok(Self {
            link: Some(link),
            target,
            ids: Ids::default(),
            id: uuid::Uuid::now_v7().simple().to_string(),
            attempt: 0,
            rules: Rules::new(settings.limits.clone(), settings.strangers),
            clock: settings.clock.clone(),
            metrics: settings.metrics.clone(),
            state,
            uncounted: Vec::new(),
            alone: false,
            troubled: false,
            away: false,
            retry: None,
            unknown: None,
            found: None,
            check: Vec::new(),
        })
    }

    /// Writes a batch in one transaction, or what of it can be.
    pub(super) fn write(&mut self, batch: Vec<Submission>) -> Vec<Outcome> {
        let (started, writes) = (Instant::now(), batch::count_writes(&batch));
        let outcomes = match self.persist(&batch) {
            Ok(results) => batch::told(batch, results, &mut self.uncounted),
            // One bad row must not fail the others' writes.
            Err(Verdict::Alone) => self.write_alone(batch),
            Err(verdict) => batch.into_iter().map(|one| refuse(one, &verdict)).collect(),
        };
        if writes > 0 {
            self.metrics.commit(started.elapsed(), writes);
        }
        outcomes
    }

    /// Writes each of a batch in a transaction of its own.
    fn write_alone(&mut self, batch: Vec<Submission>) -> Vec<Outcome> {
        self.alone = true;
        let mut pass = AlonePass::new();
        let mut uncounted = Vec::new();
        let outcomes = batch::each_alone(batch, &mut uncounted, |one| {
            let submission = one.first().filter(|one| !pass.skips(one))?;
            match self.persist(one) {
                Ok(results) => Some(results),
                Err(verdict) => {
                    if matches!(verdict, Verdict::TooSlow) {
                        pass.slow.insert(submission.actor.clone());
                    }
                    verdict.refusal().map(|refusal| vec![Settled::Answered(Err(refusal))])
                }
            }
        });
        self.uncounted = uncounted;
        self.alone = false;
        outcomes
    }

    /// Writes a batch, again and again where that may help.
    fn persist(&mut self, batch: &[Submission]) -> Result<Results, Verdict> {
        let patience = Instant::now() + PATIENCE;
        let (mut mode, mut tries) = (Mode::Wait, 0);
        loop {
            if !self.is_connected(patience) {
                return Err(Verdict::Refuse);
            }
            tries += 1;
            let trouble = match self.transact(batch, mode) {
                Ok(results) => {
                    self.is_well();
                    return Ok(results);
                }
                Err(trouble) => trouble,
            };
            let error = match trouble {
                Trouble::Unknown(error, results, conversations) => {
                    self.link = None;
                    self.unknown = Some((self.attempt, conversations));
                    match self.find_out(Instant::now() + DOUBT) {
                        Some(true) => return Ok(results),
                        Some(false) if tries < TRIES => continue,
                        _ => error,
                    }
                }
                // One of the changes may have been too much work.
                Trouble::Lost(Error::Silent) if batch.len() > 1 => {
                    self.link = None;
                    return Err(Verdict::Alone);
                }
                Trouble::Lost(error) => {
                    self.link = None;
                    // Whoever has waited for a silent database has waited for long.
                    let waited = Instant::now() >= patience && (tries > 1 || matches!(error, Error::Silent));
                    if !waited {
                        pause(AGAIN * (tries - 1));
                        continue;
                    }
                    error
                }
                Trouble::Conflict(error) if tries < TRIES => {
                    tracing::debug!(%error, "another node was in the way of a batch; it is written again");
                    pause(conflict_pause(tries));
                    continue;
                }
                // The others need not wait for what is held.
                Trouble::Held(_) if mode == Mode::Wait => {
                    mode = Mode::Pass;
                    continue;
                }
                Trouble::Database(error) => error,
                _ if batch.len() > 1 => return Err(Verdict::Alone),
                Trouble::Cancelled(error) if self.is_responsive() => {
                    tracing::warn!(%error, "a write was refused: it takes the database too long");
                    return Err(Verdict::TooSlow);
                }
                Trouble::Invalid(error) => {
                    tracing::warn!(%error, "a write was refused: the database does not store it");
                    return Err(Verdict::Invalid);
                }
                Trouble::Conflict(error)
                | Trouble::Change(error)
                | Trouble::Held(error)
                | Trouble::Cancelled(error) => error,
            };
            self.is_troubled(&error);
            return Err(Verdict::Refuse);
        }
    }

    /// Writes a batch in one transaction.
    fn transact(&mut self, batch: &[Submission], mode: Mode) -> Result<Results, Trouble> {
        let Some(link) = &self.link else { return Err(Trouble::Lost(Error::Silent)) };
        self.attempt += 1;
        let now = self.clock.now();
        let mut rows = PostgresRows::new(link, &mut self.ids, &self.rules);
        let applied = rows
            .begin(&self.id, self.attempt, mode, self.alone, batch)
            .and_then(|()| batch::apply(&mut rows, &self.rules, batch, now));
        let results = match applied {
            // Also where nothing was changed: what a repetition is told rests on what it has read, and after this commit that
            // is as safe as what is written.
            Ok(results) => results,
            Err(error) => {
                // One that does not answer is not asked again. Where this fails the connection is lost, and found to be so.
                if !link.is_closed() {
                    let _ = rows.roll_back();
                }
                return Err(classify(error));
            }
        };
        match rows.save() {
            Ok(()) => Ok(results),
            Err(Unsaved::Undone(error)) => Err(classify(error)),
            Err(Unsaved::Unknown(error)) => {
                let conversations = rows.touched();
                Err(Trouble::Unknown(error, results, conversations))
            }
        }
    }

    /// Whether the database commits a transaction in which nothing is changed but the writer's own row, within the time that
    /// a write alone has.
    fn is_responsive(&mut self) -> bool {
        let alone = std::mem::replace(&mut self.alone, true);
        let done = self.transact(&[], Mode::Wait);
        self.alone = alone;
        if matches!(done, Err(Trouble::Lost(_) | Trouble::Unknown(..))) {
            self.link = None;
        }
        done.is_ok()
    }

    /// Whether there is a connection, and no doubt left about what was done over the one before. Waits for it, unless that has
    /// been in vain before.
    fn is_connected(&mut self, until: Instant) -> bool {
        loop {
            let error = match self.try_connect() {
                Ok(()) => return true,
                Err(error) => error,
            };
            let now = Instant::now();
            if now >= until || self.away {
                self.is_away(&error);
                return false;
            }
            let next = self.retry.map_or(now, |(next, _)| next).min(until);
            pause(next.saturating_duration_since(now));
        }
    }

    /// Connects, unless that has failed a moment ago, and clears up what is in doubt.
    fn try_connect(&mut self) -> anyhow::Result<()> {
        if self.link.as_ref().is_some_and(Link::is_closed) {
            self.link = None;
        }
        if self.link.is_some() && self.unknown.is_none() {
            return Ok(());
        }
        ensure!(self.retry.is_none_or(|(next, _)| Instant::now() >= next), "it failed a moment ago");
        let done = self.connect().and_then(|()| self.settle());
        self.retry = match done {
            Ok(()) => None,
            Err(_) => {
                let pause = self.retry.map_or(AGAIN, |(_, pause)| (pause * 2).min(AGAIN_AT_MOST));
                Some((Instant::now() + pause, pause))
            }
        };
        done
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        if self.link.is_none() {
            let link = Link::open(&self.target)?;
            prepare(&link)?;
            // What the sequences gave before, a standby that took over may give once more.
            self.ids = Ids::default();
            self.link = Some(link);
        }
        Ok(())
    }

    /// Clears up what became of the commit that nobody knows about.
    fn settle(&mut self) -> anyhow::Result<()> {
        let (Some((attempt, _)), Some(link)) = (&self.unknown, &self.link) else { return Ok(()) };
        let attempt = *attempt;
        let _ = link.take_warning();
        let rows =
            link.run(link.rows(RESOLVE, &[&self.id])).context("cannot find out what became of a commit")?;
        ensure!(!link.take_warning(), Error::Doubtful);
        let batch: i64 = rows.first().context("a writer has no row")?.try_get(0)?;
        self.found = Some(batch == attempt);
        if let Some((_, conversations)) = self.unknown.take().filter(|_| batch == attempt) {
            self.check.extend(conversations);
        }
        Ok(())
    }

    /// Whether the last commit was done; `None` if that cannot be found out in time.
    fn find_out(&mut self, until: Instant) -> Option<bool> {
        let (known, _) = (self.check.len(), self.found.take());
        if !self.is_connected(until) {
            return None;
        }
        // The writes are told what became of them, and nobody has to look it up.
        self.check.truncate(known);
        self.found
    }

    fn is_well(&mut self) {
        self.state.clear_fault();
        self.away = false;
        if std::mem::take(&mut self.troubled) {
            tracing::info!("the database can be written to again");
        }
    }

    fn is_troubled(&mut self, error: &Error) {
        match error.code() {
            Some(code) if *code == SqlState::DISK_FULL => self.state.set_fault(WriteFault::DiskFull),
            // Insufficient resources.
            Some(code) if code.code().starts_with("53") => self.state.set_fault(WriteFault::Refused),
            // One bad row says nothing of the others.
            _ => {}
        }
        if !std::mem::replace(&mut self.troubled, true) {
            tracing::error!(%error, "cannot write to the database; writes are refused until one works again");
        }
    }

    fn is_away(&mut self, error: &anyhow::Error) {
        self.state.set_fault(WriteFault::Unreachable);
        self.away = true;
        if !std::mem::replace(&mut self.troubled, true) {
            tracing::error!(
                "cannot reach the database; writes are refused until it is there again: {error:#}"
            );
        }
    }

    /// Looks whether the database is still there, when there is nothing to write.
    pub(super) fn look_after(&mut self) {
        if matches!(self.state.fault(), Some(WriteFault::DiskFull | WriteFault::Refused)) {
            // That it answers says nothing of writes.
            self.write(batch::probe().into_iter().collect());
            return;
        }
        let there = self.try_connect().and_then(|()| {
            let link = self.link.as_ref().context("there is no connection")?;
            Ok(link.run(link.rows(PING, &[]))?)
        });
        match there {
            Ok(_) => self.is_well(),
            // The next look is at another connection.
            Err(_) if self.link.take().is_some() => {}
            Err(error) => self.is_away(&error),
        }
    }

    /// Reads of the last batch that are to come again once readers have counted for them.
    pub(super) fn take_uncounted(&mut self) -> Vec<Submission> {
        std::mem::take(&mut self.uncounted)
    }

    /// Conversations in which something was stored that nobody was told of.
    pub(super) fn take_check(&mut self) -> Vec<ConversationKey> {
        std::mem::take(&mut self.check)
    }

    /// Leaves nothing behind.
    pub(super) fn end(&mut self) {
        if let Some(link) = self.link.as_ref().filter(|link| !link.is_closed()) {
            // Otherwise it is swept up later.
            let _ = link.run(async { link.rows(LEAVE, &[&self.id]).await });
        }
    }
}

fn prepare(link: &Link) -> Result<(), Error> {
    link.run(link.client().batch_execute(SETUP))?;
    // Held for as long as the connection lives: an installation is moved to a database only while no node serves from it.
    let serves = link.run(link.client().query_one("SELECT pg_try_advisory_lock_shared($1)", &[&SERVING]))?;
    if !serves.try_get::<_, bool>(0)? {
        return Err(Error::Moving);
    }
    let own = [RESOLVE, SWEEP, LEAVE, PING];
    let statements: Vec<_> = rows::statements().chain(ids::STATEMENTS).chain(own).collect();
    link.prepare_all(&statements)
}

/// The outcome of a write that was not stored.
fn refuse(one: Submission, verdict: &Verdict) -> Outcome {
    match verdict.refusal() {
        Some(refusal) => Outcome { origin: one.origin, result: Err(refusal) },
        None => batch::reject(one),
    }
}

fn pause(time: Duration) {
    let _ = crossbeam_channel::after(time).recv();
}
