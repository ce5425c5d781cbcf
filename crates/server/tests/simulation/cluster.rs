//! Simulated clusters: several servers on one store, and the faults of the message bus between them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::simulated::{BusFaults, SimulatedNetwork};
use switchboard_protocol::{Timestamp, UserId};
use tokio::time::{Instant, timeout};

use crate::chance::Chance;
use crate::wait_simulated;
use crate::world::{Phase, SimulatedWorld};

/// One seed in this many simulates a cluster; the other seeds simulate a single server.
const CLUSTER_SEED_DIVISOR: u64 = 3;

/// How long a device may take to receive an event that a sweep (a periodic search for missed events) found, without the store's
/// pauses, in milliseconds.
const SETTLING_SLACK_MS: u64 = 1_000;

/// How many of the store's pauses may delay the event, each of the longest length.
const MAX_STORE_PAUSES: u64 = 20;

/// The configuration and faults of a cluster.
pub(crate) struct Cluster {
    pub(crate) node_count: usize,
    /// The simulated bus between the servers; `None` for a cluster without a bus.
    pub(crate) network: Option<SimulatedNetwork>,
    pub(crate) sweep_interval: Duration,
    pub(crate) lease: Duration,
    /// How long users keep sending after all faults except the bus faults have ended.
    pub(crate) sending_time_after_faults: Duration,
    /// How long the phase `CatchUp` lasts: by its end every stored event must have reached every device.
    pub(crate) settling_time: Duration,
    faults: Arc<Faults>,
    chance: Chance,
    revocations: Mutex<BTreeMap<&'static str, Revocations>>,
}

/// When the tokens of a user were revoked, which logs the user out on all devices.
#[derive(Default, Clone, Copy)]
struct Revocations {
    in_progress: usize,
    last_finished: Option<Instant>,
    /// The highest time that a revocation got from a server's clock.
    latest_time: Option<Timestamp>,
}

/// The faults of the bus between the nodes, and the random numbers that decide them.
struct Faults {
    chance: Chance,
    /// One notice in `losses` is lost, and one in `doubles` is delivered twice; 0 means that none is.
    losses: usize,
    doubles: usize,
    /// The longest delay of a notice on the bus, in milliseconds.
    max_delay_ms: u64,
    lost: AtomicU64,
    doubled: AtomicU64,
}

impl BusFaults for Faults {
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
        (0..copies).map(|_| self.chance.random_delay(self.max_delay_ms)).collect()
    }

    fn delivery_delay(&self) -> Duration {
        self.chance.random_delay(self.max_delay_ms.min(1_000))
    }
}

impl Cluster {
    /// Draws the cluster of a seed; `None` for a seed with a single server. `slowness`: the store's longest pause in milliseconds.
    pub(crate) fn random(seed: u64, chance: &Chance, slowness: u64) -> Option<Self> {
        if seed % CLUSTER_SEED_DIVISOR != CLUSTER_SEED_DIVISOR - 1 {
            return None;
        }
        let chance = chance.independent_generator();
        let faults = Arc::new(Faults {
            losses: chance.random_choice(&[0, 0, 1, 2, 5, 30]),
            doubles: chance.random_choice(&[0, 3, 20]),
            max_delay_ms: chance.random_choice(&[0, 5, 50, 500, 8_000]),
            lost: AtomicU64::new(0),
            doubled: AtomicU64::new(0),
            chance: chance.independent_generator(),
        });
        let sweep = chance.random_between(1_000, 4_000);
        Some(Self {
            node_count: 2 + chance.random_below(3),
            network: (!chance.once_in(6)).then(|| SimulatedNetwork::new(faults.clone())),
            sweep_interval: Duration::from_millis(sweep),
            lease: chance.random_millis(1_000, 5_000),
            sending_time_after_faults: chance.random_millis(0, 4_000),
            settling_time: Duration::from_millis(sweep + SETTLING_SLACK_MS + MAX_STORE_PAUSES * slowness),
            faults,
            chance,
            revocations: Mutex::default(),
        })
    }

    /// How many notices the bus has lost, and how many it has delivered twice.
    pub(crate) fn lost_and_doubled_notices(&self) -> (u64, u64) {
        (self.faults.lost.load(Ordering::SeqCst), self.faults.doubled.load(Ordering::SeqCst))
    }

    /// How long the bus and the store may delay a presence signal; `None` if the bus may lose it.
    pub(crate) fn max_presence_delay(&self) -> Option<Duration> {
        let reliable = self.network.is_some() && self.faults.losses == 0;
        reliable.then(|| {
            self.settling_time
                .min(2 * Duration::from_millis(self.faults.max_delay_ms) + self.settling_time / 2)
        })
    }

    fn with_revocations_of<T>(&self, user: &'static str, what: impl FnOnce(&mut Revocations) -> T) -> T {
        what(self.revocations.lock().expect("nothing panics with it").entry(user).or_default())
    }

    /// Whether a revocation may close a connection that has been open since `since`.
    pub(crate) fn may_have_been_revoked(&self, user: &'static str, since: Instant) -> bool {
        self.with_revocations_of(user, |r| {
            r.in_progress > 0 || r.last_finished.is_some_and(|last| last >= since)
        })
    }
}

impl SimulatedWorld {
    /// Repeatedly cuts a random node off from the bus for a while.
    pub(crate) async fn partition_nodes(self: Arc<Self>) {
        let Some((cluster, network)) = self.cluster.as_ref().and_then(|c| Some((c, c.network.as_ref()?)))
        else {
            return;
        };
        let chance = cluster.chance.independent_generator();
        let often = chance.random_choice(&[1_000, 5_000, 60_000]);
        loop {
            if self.faults_end_within(chance.random_millis(1, often)).await {
                return;
            }
            let (node, reported) = (chance.random_below(cluster.node_count), !chance.once_in(3));
            self.count_in_model(&format!("server {node} is cut off"), |counts| &mut counts.partitions);
            network.cut(node);
            self.faults_end_within(chance.random_millis(10, 6_000)).await;
            self.lock_model().record("world", format_args!("server {node} is no longer cut off"));
            network.heal(node, reported);
        }
    }

    /// Revokes a random user's tokens from time to time.
    pub(crate) async fn revoke_randomly(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        let chance = cluster.chance.independent_generator();
        let often = chance.random_choice(&[3_000, 60_000, 60_000]);
        while !self.faults_end_within(chance.random_millis(1, often)).await {
            self.revoke(chance.random_choice(&self.users), &chance).await;
        }
    }

    /// Revokes a user's tokens. Returns whether the revocation was stored and is later than all earlier ones, so that every node
    /// must apply it.
    async fn revoke(&self, user: &'static str, chance: &Chance) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        let name = UserId::parse(user).expect("a name");
        let Some(revoking) = self.with_node(chance, |server| server.revoke(name)) else { return false };
        self.count_in_model(&format!("{user} is logged out"), |counts| &mut counts.revocations);
        // An earlier revocation may have a later time, from a clock that was ahead; it remains in force.
        let now = self.clock().now();
        let later = cluster.with_revocations_of(user, |revocations| {
            revocations.in_progress += 1;
            let later = revocations.latest_time.is_none_or(|latest| latest < now);
            revocations.latest_time = revocations.latest_time.max(Some(now));
            later
        });
        let stored = revoking.await;
        self.lock_model().record("world", format_args!("{user} is logged out: {stored}"));
        cluster.with_revocations_of(user, |revocations| {
            revocations.in_progress -= 1;
            revocations.last_finished = Some(Instant::now());
        });
        stored && later
    }

    /// Waits for the settling time, after which every stored event must have reached every device: a sweep delivers the events
    /// whose notices the bus has lost.
    pub(crate) async fn wait_until_settled(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        if self.phase.until(|phase| phase >= Phase::CatchUp).await == Phase::CatchUp {
            let chance = cluster.chance.independent_generator();
            if chance.once_in(4) {
                let user = chance.random_choice(&self.users);
                // The time before the revocation counts, because connections that open before its answer arrives may stay open.
                let began = Instant::now();
                if self.revoke(user, &chance).await {
                    self.lock_model().record("world", format_args!("no connection of {user}'s is to last"));
                    *self.revoked_user.lock().expect("nothing panics with it") = Some((user, began));
                }
            }
            wait_simulated(cluster.settling_time).await;
            self.lock_model().record("world", format_args!("everything has arrived"));
            self.enter_phase(Phase::Audit);
        }
    }

    /// Waits for `time`, or until the phase with faults (`Faults`) ends. Returns whether it has ended.
    async fn faults_end_within(&self, time: Duration) -> bool {
        timeout(time, self.phase.until(|phase| phase != Phase::Faults)).await.is_ok()
    }
}
