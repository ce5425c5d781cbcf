//! Several servers on one log: how many, and what the bus between them does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::simulated::{Air, Weather};
use switchboard_protocol::{Timestamp, UserId};
use tokio::time::{Instant, timeout};

use crate::chance::Chance;
use crate::wait;
use crate::world::{Phase, World};

/// One seed in so many is about a cluster.
const SHARE: u64 = 3;

/// How long somebody's devices may take, besides the store's pauses, to have what the sweep has found.
const SLACK: u64 = 1_000;

/// How many of the store's longest pauses may be in the way of that.
const PAUSES: u64 = 20;

/// What makes a world one of several servers.
pub(crate) struct Cluster {
    pub(crate) nodes: usize,
    /// None where the nodes do not hear of each other.
    pub(crate) air: Option<Air>,
    pub(crate) sweep: Duration,
    pub(crate) lease: Duration,
    /// How long people go on when nothing but the bus fails any more.
    pub(crate) lull: Duration,
    /// What there is to be said has arrived everywhere after this time.
    pub(crate) settling: Duration,
    faults: Arc<Faults>,
    chance: Chance,
    revocations: Mutex<BTreeMap<&'static str, Revocations>>,
}

/// When a user was logged out everywhere.
#[derive(Default, Clone, Copy)]
struct Revocations {
    under_way: usize,
    last: Option<Instant>,
    /// The latest time on the clock of one.
    latest: Option<Timestamp>,
}

/// What the bus does.
struct Faults {
    chance: Chance,
    /// One notice in so many is lost, and comes twice.
    losses: usize,
    doubles: usize,
    /// How long a notice takes at worst, in milliseconds.
    slowness: u64,
    lost: AtomicU64,
    doubled: AtomicU64,
}

impl Weather for Faults {
    fn copies(&self) -> Vec<Duration> {
        let once_in = |n: usize| n > 0 && self.chance.once_in(n);
        let copies = if once_in(self.losses) {
            self.lost.fetch_add(1, Ordering::SeqCst);
            0
        } else if once_in(self.doubles) {
            self.doubled.fetch_add(1, Ordering::SeqCst);
            2
        } else {
            1
        };
        (0..copies).map(|_| self.chance.hiccup(self.slowness)).collect()
    }

    fn pause(&self) -> Duration {
        self.chance.hiccup(self.slowness.min(1_000))
    }
}

impl Cluster {
    /// The cluster that a seed is about, if it is. `slowness` is that of the store.
    pub(crate) fn of(seed: u64, chance: &Chance, slowness: u64) -> Option<Self> {
        if seed % SHARE != SHARE - 1 {
            return None;
        }
        let chance = chance.fork();
        let faults = Arc::new(Faults {
            losses: chance.one_of(&[0, 0, 1, 2, 5, 30]),
            doubles: chance.one_of(&[0, 3, 20]),
            slowness: chance.one_of(&[0, 5, 50, 500, 8_000]),
            lost: AtomicU64::new(0),
            doubled: AtomicU64::new(0),
            chance: chance.fork(),
        });
        let sweep = chance.between(1_000, 4_000);
        Some(Self {
            nodes: 2 + chance.below(3),
            air: (!chance.once_in(6)).then(|| Air::new(faults.clone())),
            sweep: Duration::from_millis(sweep),
            lease: chance.millis(1_000, 5_000),
            lull: chance.millis(0, 4_000),
            settling: Duration::from_millis(sweep + SLACK + PAUSES * slowness),
            faults,
            chance,
            revocations: Mutex::default(),
        })
    }

    /// What the bus has lost, and what it has doubled.
    pub(crate) fn lost_and_doubled(&self) -> (u64, u64) {
        (self.faults.lost.load(Ordering::SeqCst), self.faults.doubled.load(Ordering::SeqCst))
    }

    /// How long the bus and the store may take until a presence is known; `None` where it may never be.
    pub(crate) fn presence_takes(&self) -> Option<Duration> {
        let sure = self.air.is_some() && self.faults.losses == 0;
        sure.then(|| self.settling.min(2 * Duration::from_millis(self.faults.slowness) + self.settling / 2))
    }

    fn revocations<T>(&self, user: &'static str, what: impl FnOnce(&mut Revocations) -> T) -> T {
        what(self.revocations.lock().expect("nothing panics with it").entry(user).or_default())
    }

    /// Whether a connection of a user's since then may be closed because they were logged out.
    pub(crate) fn may_be_revoked(&self, user: &'static str, since: Instant) -> bool {
        self.revocations(user, |r| r.under_way > 0 || r.last.is_some_and(|last| last >= since))
    }
}

impl World {
    /// Nodes lose each other for a while, again and again.
    pub(crate) async fn parts_nodes(self: Arc<Self>) {
        let Some((cluster, air)) = self.cluster.as_ref().and_then(|c| Some((c, c.air.as_ref()?))) else {
            return;
        };
        let chance = cluster.chance.fork();
        let often = chance.one_of(&[1_000, 5_000, 60_000]);
        loop {
            if self.calm_within(chance.millis(1, often)).await {
                return;
            }
            let (node, told) = (chance.below(cluster.nodes), !chance.once_in(3));
            self.counts(&format!("server {node} is cut off"), |counts| &mut counts.partitions);
            air.cut(node);
            self.calm_within(chance.millis(10, 6_000)).await;
            self.truth().note("world", format_args!("server {node} is no longer cut off"));
            air.heal(node, told);
        }
    }

    /// Users are logged out everywhere now and then.
    pub(crate) async fn revokes(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        let chance = cluster.chance.fork();
        let often = chance.one_of(&[3_000, 60_000, 60_000]);
        while !self.calm_within(chance.millis(1, often)).await {
            self.revoke(chance.one_of(&self.users), &chance).await;
        }
    }

    /// Logs a user out everywhere; whether everybody finds out.
    async fn revoke(&self, user: &'static str, chance: &Chance) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        let name = UserId::parse(user).expect("a name");
        let Some(revoking) = self.with_node(chance, |server| server.revoke(name)) else { return false };
        self.counts(&format!("{user} is logged out"), |counts| &mut counts.revocations);
        // What was noted of a clock that was ahead stands.
        let now = self.clock().now();
        let later = cluster.revocations(user, |revocations| {
            revocations.under_way += 1;
            let later = revocations.latest.is_none_or(|latest| latest < now);
            revocations.latest = revocations.latest.max(Some(now));
            later
        });
        let stored = revoking.await;
        self.truth().note("world", format_args!("{user} is logged out: {stored}"));
        cluster.revocations(user, |revocations| {
            revocations.under_way -= 1;
            revocations.last = Some(Instant::now());
        });
        stored && later
    }

    /// Everything is said: now all of it arrives everywhere within a sweep, whatever the bus does.
    pub(crate) async fn settles(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        if self.phase.until(|phase| phase >= Phase::Settle).await == Phase::Settle {
            let chance = cluster.chance.fork();
            if chance.once_in(4) {
                let user = chance.one_of(&self.users);
                // The answer may come long after the revocation was stored, and connections since then may last.
                let began = Instant::now();
                if self.revoke(user, &chance).await {
                    self.truth().note("world", format_args!("no connection of {user}'s is to last"));
                    *self.sent_away.lock().expect("nothing panics with it") = Some((user, began));
                }
            }
            wait(cluster.settling).await;
            self.truth().note("world", format_args!("everything has arrived"));
            self.enters(Phase::Audit);
        }
    }

    /// Waits, unless it becomes calm meanwhile; whether it does.
    async fn calm_within(&self, time: Duration) -> bool {
        timeout(time, self.phase.until(|phase| phase != Phase::Storm)).await.is_ok()
    }
}
