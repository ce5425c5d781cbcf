//! Users who are away, for the feed: `user.offline`, and `user.missed` for those whom a message waits for.
//!
//! On a single node the router knows who is offline, and the writer adds the entry. Nodes that share a database each store who
//! comes and who goes, every second: the entry is added with the removal of a user's last row (`switchboard_store::absences`). A
//! departure is stored a second later than an arrival, so that a user who moves to another node keeps a row.
//!
//! What users have missed is found by a consumer of the feed that stays `feed.missed_after` behind. Of each conversation with
//! messages since, it looks up the members who have not read them, and leaves out those who are connected. One node at a time does
//! it, and its position is in the store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustc_hash::FxHashSet;
use switchboard_protocol::{Timestamp, UserId};
use switchboard_store::absences::{Absences, Attendance, Lease, MissedQuery};
use switchboard_store::keys::KeyStore;
use switchboard_store::origin::Origin;
use switchboard_store::{Change, PresenceChange, Submission};
use tokio::time::Instant;

use crate::attendees::Attendees;
use crate::config::Config;
use crate::metrics::FeedMetrics;
use crate::services::Services;
use crate::timers::millis;

/// How often a node stores who came and who went, and looks for what was missed.
const INTERVAL: Duration = Duration::from_secs(1);

/// The delay after the database could not be used.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// How often a node renews the lease on the consumer, as a part of its duration.
const RENEWALS_PER_LEASE: u32 = 3;

/// The most transactions of a round that remove users of nodes that are lost. Each removes up to a thousand.
const MAX_REMOVALS: usize = 16;

/// The times of the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// How long a node counts as alive that does not renew its rows.
    lease: Duration,
    /// How long a user counts as online after the last connection has closed.
    grace: Duration,
    /// When a message counts as missed; zero for never.
    missed_after: Duration,
}

impl Times {
    pub(crate) fn new(config: &Config) -> Self {
        let lease = config.cluster.as_ref().map_or(config.presence_grace, |cluster| cluster.settings.lease);
        Self { lease, grace: config.presence_grace, missed_after: config.feed.missed_after }
    }
}

/// What the task needs.
struct Parts {
    services: Arc<Services>,
    attendees: Arc<Attendees>,
    metrics: FeedMetrics,
    times: Times,
}

/// Starts to store who comes and who goes, and to find what was missed. `node` is the name of the node in the database: another
/// one after each start.
pub(crate) fn start(services: &Arc<Services>, attendees: Arc<Attendees>, node: String, times: Times) {
    let metrics = services.metrics.feed.clone();
    let parts = Parts { services: services.clone(), attendees, metrics, times };
    services.tasks.spawn_critical("absences", run(parts, node));
}

/// Runs until the server stops.
async fn run(parts: Parts, node: String) {
    let lease = Lease { node, duration: millis(parts.times.lease) };
    let stop = parts.services.tasks.stop().clone();
    let mut keeper = Keeper {
        lease,
        database: None,
        started: Instant::now(),
        last_at_start: *parts.services.store.feed_news().borrow(),
        is_start_done: false,
        position: None,
        claimed: None,
        is_failing: false,
        parts,
    };
    loop {
        let delay = keeper.round_or_retry().await;
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(delay) => {}
        }
    }
    keeper.finish().await;
}

struct Keeper {
    parts: Parts,
    lease: Lease,
    /// The connection, if it is open. It is used on threads that may block.
    database: Option<Absences>,
    started: Instant,
    /// The number of the last entry of the feed when the server started. A new consumer begins after it.
    last_at_start: u64,
    /// Whether the users who were connected at the last stop were dealt with.
    is_start_done: bool,
    /// How far the consumer has come, while this node has it.
    position: Option<u64>,
    /// When the consumer was claimed last, or the attempt made.
    claimed: Option<Instant>,
    is_failing: bool,
}

impl Keeper {
    async fn round_or_retry(&mut self) -> Duration {
        match self.round().await {
            Ok(()) => {
                self.parts.metrics.set_failing(false);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("entries about users who are away go on");
                }
                INTERVAL
            }
            Err(error) => {
                self.parts.metrics.set_failing(true);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!("users who are away cannot be stored: {error:#}");
                }
                RETRY_DELAY
            }
        }
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        self.parts.metrics.set_last(*self.parts.services.store.feed_news().borrow());
        if self.parts.attendees.are_shared() {
            self.store_attendance().await?;
            self.remove_lost().await?;
        } else {
            self.announce_arrivals();
            self.finish_last_stop().await?;
        }
        if !self.parts.times.missed_after.is_zero() {
            self.find_missed().await?;
        }
        Ok(())
    }

    /// Calls the database, on a thread that may block.
    async fn ask<T: Send + 'static>(
        &mut self,
        question: impl FnOnce(&mut Absences) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (database, source) = (self.database.take(), self.parts.services.key_store.clone());
        let blocking = tokio::task::spawn_blocking(move || {
            let mut database = match database {
                Some(database) => database,
                None => open(&source)?,
            };
            // A connection that has failed is closed here, because closing it may block, too.
            question(&mut database).map(|answer| (answer, database))
        });
        let (answer, database) = blocking.await.context("the thread of the feed")??;
        self.database = Some(database);
        Ok(answer)
    }

    /// Stores who came to this node and who left it, and that the node lives.
    async fn store_attendance(&mut self) -> anyhow::Result<()> {
        let changes = Arc::new(self.parts.attendees.take());
        let stored = self.try_to_store(&changes).await;
        if stored.is_err() {
            self.parts.attendees.put_back(Arc::unwrap_or_clone(changes));
        }
        stored
    }

    async fn try_to_store(&mut self, changes: &Arc<Attendance>) -> anyhow::Result<()> {
        if self.update(changes.clone()).await? {
            return Ok(());
        }
        // The database has lost the rows of this node, or never had any.
        let mut all = Attendance::clone(changes);
        all.arrived.extend(self.parts.services.router.online_users().await);
        all.arrived.extend(changes.departed.iter().cloned());
        all.is_complete = true;
        self.update(Arc::new(all)).await.map(drop)
    }

    async fn update(&mut self, changes: Arc<Attendance>) -> anyhow::Result<bool> {
        let (lease, now) = (self.lease.clone(), self.now());
        self.ask(move |database| database.update(&lease, &changes, now)).await
    }

    /// Takes the users of nodes offline that have died or stopped.
    async fn remove_lost(&mut self) -> anyhow::Result<()> {
        let (lease, grace, now) = (self.lease.clone(), millis(self.parts.times.grace), self.now());
        let removed = self.ask(move |database| {
            let mut removed = 0;
            for _ in 0..MAX_REMOVALS {
                match database.remove_lost(&lease, grace, now)? {
                    0 => break,
                    some => removed += some,
                }
            }
            Ok(removed)
        });
        let removed = removed.await?;
        if removed > 0 {
            tracing::info!(
                users = removed,
                "users of a node that is gone went offline, or are on another node"
            );
        }
        Ok(())
    }

    /// Has the store add `user.online`, if the configuration says so. What does not fit its queue follows later.
    fn announce_arrivals(&self) {
        let mut arrived = self.parts.attendees.take().arrived.into_iter();
        while let Some(actor) = arrived.next() {
            let submission = Submission {
                actor,
                change: Change::SetPresence(PresenceChange::Online),
                origin: Origin::Call(tokio::sync::oneshot::channel().0),
            };
            if let Err(refused) = self.parts.services.store.submit(submission) {
                let arrived = std::iter::once(refused.actor).chain(arrived).collect();
                self.parts.attendees.put_back(Attendance { arrived, ..Attendance::default() });
                return;
            }
        }
    }

    /// Takes the users offline who were connected when the server stopped last and have not come back.
    async fn finish_last_stop(&mut self) -> anyhow::Result<()> {
        if self.is_start_done || self.started.elapsed() < self.parts.times.grace {
            return Ok(());
        }
        let users = self.ask(Absences::connected_at_stop).await?;
        if !users.is_empty() {
            let gone: Vec<_> = self.not_connected_here(users).into_iter().collect();
            let now = self.now();
            self.ask(move |database| database.forget_connected_at_stop(&gone, now)).await?;
            self.number_pending();
        }
        self.is_start_done = true;
        Ok(())
    }

    /// Examines the messages that have become old enough.
    async fn find_missed(&mut self) -> anyhow::Result<()> {
        let store = self.parts.services.store.clone();
        let last = *store.feed_news().borrow();
        // A server that has stored nothing leaves no row, so that a migration may still fill the database.
        if last == 0 {
            return Ok(());
        }
        let Some(mut position) = self.claim().await? else { return Ok(()) };
        loop {
            if position >= last {
                self.parts.metrics.set_missed_lag(0);
                return Ok(());
            }
            let now = self.now();
            let before = now.as_millis().saturating_sub(millis(self.parts.times.missed_after));
            let query = MissedQuery {
                after: position,
                before: Timestamp::from_millis(before),
                most_members: self.parts.services.limits.signal_room,
            };
            let mut page = store.missed(query).await.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
            self.parts.metrics.set_missed_lag(last - page.next.min(last));
            if page.next == position {
                return Ok(());
            }
            // The shared database knows who is connected to any node, but for the last second.
            let names = page.messages.iter().map(|missed| missed.name.clone()).collect();
            let away = self.not_connected_here(names);
            page.messages.retain(|missed| away.contains(&missed.name));
            let (lease, next, messages) = (self.lease.clone(), page.next, page.messages);
            let count = messages.len();
            let saved = self.ask(move |database| database.save_missed(&lease, next, &messages, now));
            if !saved.await? {
                // Another node has claimed it.
                self.position = None;
                return Ok(());
            }
            self.parts.metrics.count_missed(count);
            if count > 0 {
                self.number_pending();
            }
            (position, self.position) = (page.next, Some(page.next));
            if !page.more {
                return Ok(());
            }
        }
    }

    /// How far the consumer has come; `None` if another node has it.
    async fn claim(&mut self) -> anyhow::Result<Option<u64>> {
        let interval = self.parts.times.lease / RENEWALS_PER_LEASE;
        let is_leased = self.parts.attendees.are_shared();
        let is_claimed = self.claimed.is_some_and(|claimed| !is_leased || claimed.elapsed() < interval);
        if is_claimed {
            return Ok(self.position);
        }
        let (lease, last, now) = (self.lease.clone(), self.last_at_start, self.now());
        self.position = self.ask(move |database| database.claim_missed(&lease, last, now)).await?;
        self.claimed = Some(Instant::now());
        Ok(self.position)
    }

    /// Those of the users who are not connected to this node.
    fn not_connected_here(&self, mut users: Vec<UserId>) -> FxHashSet<UserId> {
        users.sort_unstable();
        users.dedup();
        let connected = self.parts.services.connections.online_users(&users);
        let mut away: FxHashSet<_> = users.into_iter().collect();
        for user in connected {
            away.remove(&user);
        }
        away
    }

    /// Has the writer give numbers to the entries that were added on the connection of this task.
    fn number_pending(&self) {
        self.parts.services.store.submit_unanswered(Change::NumberPending);
    }

    fn now(&self) -> Timestamp {
        self.parts.services.clock.now()
    }

    /// Stores the last changes and ends the leases.
    async fn finish(mut self) {
        if self.parts.attendees.are_shared() {
            drop(self.store_attendance().await);
        }
        let (database, lease) = (self.database.take(), self.lease);
        // Closing the connection may block, too.
        let closing = tokio::task::spawn_blocking(move || {
            database.map(|mut database| database.end_lease(&lease)).transpose()
        });
        drop(closing.await);
    }
}

/// Connects to the rows of users who are away.
fn open(database: &KeyStore) -> anyhow::Result<Absences> {
    match database {
        KeyStore::Directory(data) => Absences::open_directory(data),
        KeyStore::Shared { url, ca } => Absences::open_shared(url, ca.as_deref()),
    }
}
