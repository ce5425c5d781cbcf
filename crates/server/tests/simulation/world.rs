//! A run of the simulation: the servers, the users' devices, the network between them, and all faults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use switchboard::config::Config;
use switchboard::simulated::{SimulatedCluster, SimulatedServer};
use switchboard_protocol::{Limits, Timestamp};
use switchboard_store::CommitMetrics;
use switchboard_store::clock::Clock;
use switchboard_store::sqlite::Settings;
use switchboard_store::sqlite::memory::{CommitFault, DiskControl, KillSwitch, MemoryDisk, MemoryStore};
use switchboard_store::{Outcome, Store};
use tokio::io::DuplexStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::backend;
use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::device::Device;
use crate::network;
use crate::truth::{Counts, ReferenceModel};
use crate::wait_simulated;
use crate::watched::Watched;

/// How long the devices may take to receive all events after the faults have ended.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(300);

/// The simulated time at which every run begins, in milliseconds since the Unix epoch.
const START_TIME_MS: i64 = 1_795_435_200_000;

/// The phases of a run, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Users send commands, and faults are injected.
    Faults,
    /// There are no faults; the devices send their remaining messages.
    WithoutFaults,
    /// In a cluster, the devices wait until every event has reached them.
    CatchUp,
    /// Every device reads all conversations again from the beginning.
    Audit,
    /// The run has ended, because it is complete or because a law was broken.
    Ended,
}

/// The result of a run and the record of what happened in it.
pub(crate) struct RunResult {
    /// The broken law; `None` if all laws hold.
    pub(crate) violation: Option<String>,
    /// A hash of everything that happened in the run, in order; two runs with the same seed have the same hash.
    pub(crate) hash: u64,
    pub(crate) lines: Vec<String>,
    pub(crate) counts: Counts,
}

/// The state that all tasks of a run share.
pub(crate) struct SimulatedWorld {
    model: Mutex<ReferenceModel>,
    pub(crate) phase: Watched<Phase>,
    pub(crate) limits: Limits,
    /// The users' ids.
    pub(crate) users: Vec<&'static str>,
    pub(crate) rooms: Vec<&'static str>,
    chance: Chance,
    servers: Vec<Mutex<Option<RunningNode>>>,
    /// The configuration and faults of the cluster; `None` if there is a single server.
    pub(crate) cluster: Option<Cluster>,
    /// In a cluster the users keep sending until this time, while only the bus has faults.
    load_until: Mutex<Option<Instant>>,
    /// The user whose tokens were revoked in the `CatchUp` phase, and when: older connections of the user must end in that phase.
    pub(crate) revoked_user: Mutex<Option<(&'static str, Instant)>>,
    /// The connected devices by name, each with its user and the time at which `welcome` arrived.
    connected: Mutex<BTreeMap<String, (&'static str, Instant)>>,
    links: TaskTracker,
    disk: MemoryDisk,
    clock: Arc<AtomicI64>,
    /// The simulated disk refuses one batch in `refusals`; 0 means that it refuses none.
    batches_per_refusal: usize,
    /// The longest pause of the store, in milliseconds.
    max_delay_ms: u64,
    coalesce_from: usize,
    /// The number of devices without unsent messages.
    finished_devices: AtomicUsize,
    devices: usize,
}

struct RunningNode {
    server: SimulatedServer,
    plug: KillSwitch,
    store: Weak<dyn Store>,
}

/// Injects the delays and faults of the simulated store.
struct SimulatedDiskControl {
    world: Weak<SimulatedWorld>,
    chance: Chance,
}

impl DiskControl for SimulatedDiskControl {
    fn next_delay(&self) -> Duration {
        self.world.upgrade().map_or(Duration::ZERO, |world| self.chance.random_delay(world.max_delay_ms))
    }

    fn next_fault(&self) -> CommitFault {
        let Some(world) = self.world.upgrade().filter(|world| world.is_in_phase(Phase::Faults)) else {
            return CommitFault::Durable;
        };
        if world.batches_per_refusal == 0 || !self.chance.once_in(world.batches_per_refusal) {
            return CommitFault::Durable;
        }
        world.lock_model().counts.refused_batches += 1;
        let fate = match self.chance.random_below(8) {
            // In a cluster the database server never loses commits, but their outcome may be unknown.
            0 if world.cluster.is_some() => CommitFault::OutcomeUnknown,
            0 => CommitFault::SyncFails,
            1..4 => CommitFault::RowFails,
            _ => CommitFault::CommitFails,
        };
        world.lock_model().record("disk", format_args!("{fate:?}"));
        fate
    }

    fn on_commit(&self, outcomes: &[Outcome]) {
        if let Some(world) = self.world.upgrade() {
            world.lock_model().on_commit(outcomes);
            world.end_if_violated();
        }
    }
}

impl SimulatedWorld {
    fn new(seed: u64) -> Arc<Self> {
        let chance = Chance::from_seed(seed);
        let users = ["alice", "bob", "carol", "dave", "erin"][..2 + chance.random_below(4)].to_vec();
        let mut world = Self {
            model: Mutex::new(ReferenceModel::new()),
            phase: Watched::new(Phase::Faults),
            limits: limits(&chance),
            rooms: ["#a", "#b", "#c"][..1 + chance.random_below(3)].to_vec(),
            disk: MemoryDisk::new().expect("SQLite works"),
            clock: Arc::new(AtomicI64::new(0)),
            batches_per_refusal: chance.random_choice(&[0, 0, 8, 40]),
            max_delay_ms: chance.random_choice(&[0, 5, 50, 400]),
            coalesce_from: chance.random_choice(&[1, 2, 3, 32]),
            finished_devices: AtomicUsize::new(0),
            devices: users.len() + chance.random_below(4.min(users.len() + 1)),
            servers: Vec::new(),
            cluster: None,
            load_until: Mutex::new(None),
            revoked_user: Mutex::new(None),
            connected: Mutex::default(),
            links: TaskTracker::new(),
            users,
            chance,
        };
        world.cluster = Cluster::random(seed, &world.chance, world.max_delay_ms);
        if world.cluster.is_some() {
            world.devices += world.chance.random_below(world.users.len() + 1);
        }
        let servers = world.cluster.as_ref().map_or(1, |cluster| cluster.node_count);
        world.servers.resize_with(servers, Mutex::default);
        Arc::new(world)
    }

    pub(crate) fn lock_model(&self) -> MutexGuard<'_, ReferenceModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_node(&self, node: usize) -> MutexGuard<'_, Option<RunningNode>> {
        self.servers[node].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a randomly chosen server.
    fn random_node(&self, chance: &Chance) -> usize {
        if self.servers.len() == 1 { 0 } else { chance.random_below(self.servers.len()) }
    }

    /// Calls `what` with a randomly chosen server; returns `None` if that server is not running.
    pub(crate) fn with_node<T>(
        &self,
        chance: &Chance,
        what: impl FnOnce(&SimulatedServer) -> T,
    ) -> Option<T> {
        self.lock_node(self.random_node(chance)).as_ref().map(|running| what(&running.server))
    }

    pub(crate) fn is_in_phase(&self, phase: Phase) -> bool {
        self.phase.get() == phase
    }

    /// Whether the users still send commands.
    pub(crate) fn has_load(&self) -> bool {
        let until = *self.load_until.lock().expect("nothing panics with it");
        self.is_in_phase(Phase::Faults)
            || self.is_in_phase(Phase::WithoutFaults) && until.is_some_and(|until| Instant::now() < until)
    }

    /// Enters a later phase; does nothing if the run is already in this phase or a later one.
    pub(crate) fn enter_phase(&self, phase: Phase) {
        if phase > self.phase.get() {
            self.phase.set(phase);
        }
    }

    /// Counts a device that has no more unsent messages.
    pub(crate) fn count_finished_device(&self) {
        if self.finished_devices.fetch_add(1, Ordering::SeqCst) + 1 == self.devices {
            self.lock_model().record("world", format_args!("no device has unsent messages"));
            self.enter_phase(if self.cluster.is_some() { Phase::CatchUp } else { Phase::Audit });
        }
    }

    /// Connects to a randomly chosen server; `None` if that server is not running.
    pub(crate) fn connect(&self, chance: &Chance) -> Option<(DuplexStream, usize)> {
        let node = self.random_node(chance);
        let running = self.lock_node(node);
        let server = &running.as_ref()?.server;
        let (client, far) = network::link(chance, &self.links, !self.is_in_phase(Phase::Faults));
        server.serve(far);
        drop(running);
        self.lock_model().counts.connections += 1;
        Some((client, node))
    }

    /// The store of a randomly chosen server; `None` if that server is not running.
    pub(crate) fn random_store(&self, chance: &Chance) -> Option<Arc<dyn Store>> {
        self.store_of(self.random_node(chance))
    }

    /// The store of a running server that stores writes.
    pub(crate) fn writable_store(&self) -> Option<Arc<dyn Store>> {
        (0..self.servers.len()).filter_map(|node| self.store_of(node)).find(|store| store.is_writable())
    }

    fn store_of(&self, node: usize) -> Option<Arc<dyn Store>> {
        self.lock_node(node).as_ref()?.store.upgrade()
    }

    /// Records that a device received `welcome` for a user, or with `None` that the device disconnected.
    pub(crate) fn is_connected(&self, device: &str, user: Option<&'static str>) {
        let mut connected = self.connected.lock().expect("nothing panics with it");
        match user {
            Some(user) => drop(connected.insert(device.to_owned(), (user, Instant::now()))),
            None => drop(connected.remove(device)),
        }
    }

    /// The users who have a device that has been connected since `then` without interruption.
    pub(crate) fn connected_since(&self, then: Instant) -> Vec<&'static str> {
        let connected = self.connected.lock().expect("nothing panics with it");
        connected.values().filter(|(_, since)| *since <= then).map(|(user, _)| *user).collect()
    }

    pub(crate) fn clock(&self) -> Clock {
        let (ahead, began) = (self.clock.clone(), Instant::now());
        let now = move || {
            let passed = i64::try_from(began.elapsed().as_millis()).expect("a short run");
            Timestamp::from_millis(START_TIME_MS + passed + ahead.load(Ordering::SeqCst))
        };
        Clock::from_fn(now)
    }

    /// Starts the server `node` on the simulated disk.
    async fn start(self: &Arc<Self>, node: usize) {
        let mut config = Config::for_dev(PathBuf::new());
        config.limits = self.limits.clone();
        config.presence_grace = self.chance.random_millis(0, 2_000);
        config.shutdown_deadline = self.chance.random_millis(10, 5_000);
        // No spread, because the server would draw the delays in `bye` from random numbers that the seed does not determine.
        config.reconnect_spread = Duration::ZERO;
        let clock = self.clock();
        let settings = Settings {
            data: PathBuf::new(),
            limits: self.limits.clone(),
            strangers: true,
            tells_reads: false,
            clock: clock.clone(),
            metrics: CommitMetrics::default(),
        };
        let pace =
            SimulatedDiskControl { world: Arc::downgrade(self), chance: self.chance.independent_generator() };
        let pace: Arc<dyn DiskControl> = Arc::new(pace);
        let opened = async {
            loop {
                let open = if self.cluster.is_some() { MemoryStore::open_shared } else { MemoryStore::open };
                match open(&self.disk, &settings, pace.clone()) {
                    Ok(opened) => return opened,
                    // The store is still in use: tasks of the previous server are still ending.
                    Err(_) => wait_simulated(Duration::from_millis(1)).await,
                }
            }
        };
        let Ok((store, batches)) = timeout(Duration::from_secs(60), opened).await else {
            self.report_violation("world", "the server before never let go of its disk");
            return;
        };
        let plug = store.kill_switch();
        let shared = Arc::new(store);
        let among = self.cluster.as_ref().map(|cluster| SimulatedCluster {
            store: shared.clone(),
            network: cluster.network.clone().map(|network| (network, node)),
            sweep: cluster.sweep_interval,
            lease: cluster.lease,
        });
        let store: Arc<dyn Store> = shared;
        let weak = Arc::downgrade(&store);
        let server = SimulatedServer::start(config, clock, (store, batches), self.coalesce_from, among);
        let server = server.expect("the configuration is good");
        self.lock_model().record("world", format_args!("server {node} starts"));
        *self.lock_node(node) = Some(RunningNode { server, plug, store: weak });
    }

    /// Ends the run if a broken law was recorded.
    pub(crate) fn end_if_violated(&self) {
        if self.lock_model().violation().is_some() {
            self.enter_phase(Phase::Ended);
        }
    }

    /// Records a broken law and ends the run.
    pub(crate) fn report_violation(&self, who: &str, what: &str) {
        self.lock_model().report_violation(who, what);
        self.enter_phase(Phase::Ended);
    }

    pub(crate) fn count_in_model(&self, what: &str, which: impl FnOnce(&mut Counts) -> &mut u64) {
        let mut truth = self.lock_model();
        truth.record("world", format_args!("{what}"));
        *which(&mut truth.counts) += 1;
    }

    async fn crash(&self, node: usize) {
        let Some(running) = self.lock_node(node).take() else { return };
        self.count_in_model(&format!("server {node} is killed"), |counts| &mut counts.crashes);
        running.plug.kill();
        running.server.crash().await;
    }

    async fn stop(&self, node: usize) {
        let Some(running) = self.lock_node(node).take() else { return };
        self.count_in_model(&format!("server {node} is stopped"), |counts| &mut counts.clean_stops);
        running.server.stop().await;
        // The store may still write commands of connections that were closed at the deadline.
        self.lock_model().record("world", format_args!("server {node} has stopped"));
    }

    /// Crashes and restarts a server again and again until the phase without faults begins, and then ensures that it is running.
    async fn restart_randomly(self: Arc<Self>, node: usize) {
        let chance = self.chance.independent_generator();
        let often = chance.random_choice(&[500, 2_000, 8_000, 60_000]);
        loop {
            let peace = chance.random_millis(1, often);
            if timeout(peace, self.phase.until(|phase| phase != Phase::Faults)).await.is_ok() {
                break;
            }
            let broken_disk = self.store_of(node).is_some_and(|store| !store.is_writable());
            match chance.random_below(4) {
                0 => self.crash(node).await,
                1 => self.stop(node).await,
                2 if !broken_disk => {
                    let jump = chance.random_choice(&[-3_600_000, -1_000, 1_000, 3_600_000]);
                    self.lock_model().record("world", format_args!("the clock jumps by {jump} ms"));
                    self.clock.fetch_add(jump, Ordering::SeqCst);
                    continue;
                }
                _ if !broken_disk => continue,
                _ => self.crash(node).await,
            }
            wait_simulated(chance.random_delay(3_000)).await;
            self.start(node).await;
        }
        if self.store_of(node).is_none_or(|store| !store.is_writable()) {
            self.crash(node).await;
            self.start(node).await;
        }
    }
}

/// Small limits, so that the runs reach every one of them.
fn limits(chance: &Chance) -> Limits {
    Limits {
        hello_timeout: 2_000,
        ping_interval: chance.random_choice(&[500, 2_000]),
        pong_timeout: chance.random_choice(&[200, 1_000]),
        connections_per_user: chance.random_choice(&[0, 0, 2, 3]),
        sends_per_connection: chance.random_choice(&[0, 0, 0, 1, 4]),
        sends_per_user: chance.random_choice(&[0, 0, 0, 2]),
        frames_per_connection: chance.random_choice(&[0, 0, 0, 20]),
        in_flight: chance.random_choice(&[1, 2, 8, 1_024]),
        page: chance.random_choice(&[2, 3, 10, 200]),
        page_bytes: chance.random_choice(&[400, 2_000, 524_288]),
        replay: chance.random_choice(&[0, 1, 4, 20, 5_000]),
        queue: chance.random_choice(&[600, 900, 2_000, 8_000, 262_144]),
        lags: chance.random_choice(&[1, 2, 7_000]),
        signal_room: chance.random_choice(&[1, 3, 100]),
        reactions: chance.random_choice(&[1, 3, 1_000]),
        ..Limits::default()
    }
}

/// Runs the simulation of a seed to its end.
pub(crate) async fn run(seed: u64) -> RunResult {
    let world = SimulatedWorld::new(seed);
    let users = world.users.join(" ");
    world
        .lock_model()
        .record("world", format_args!("{users}; {} devices; {:?}", world.devices, world.limits));
    for node in 0..world.servers.len() {
        world.start(node).await;
    }
    let tasks = TaskTracker::new();
    let quiet = backend::create_rooms(&world, &world.chance.independent_generator()).await;
    if quiet {
        let backend = backend::run(world.clone(), world.chance.independent_generator());
        tasks.spawn(backend);
        for n in 0..world.devices {
            let user = world.users[n % world.users.len()];
            let name = format!("{user}.{}", 1 + n / world.users.len());
            tasks.spawn(Device::new(world.clone(), name, user, world.chance.independent_generator()).run());
        }
        for node in 0..world.servers.len() {
            tasks.spawn(world.clone().restart_randomly(node));
        }
        tasks.spawn(world.clone().partition_nodes());
        tasks.spawn(world.clone().revoke_randomly());
        tasks.spawn(world.clone().wait_until_settled());
    } else {
        world.report_violation("world", "the rooms cannot be made");
    }
    tasks.close();
    let storm = world.chance.random_millis(500, 5_000);
    let _ = timeout(storm, world.phase.until(|phase| phase == Phase::Ended)).await;
    world.lock_model().record("world", format_args!("it is calm"));
    if let Some(cluster) = &world.cluster {
        *world.load_until.lock().expect("nothing panics with it") =
            Some(Instant::now() + cluster.sending_time_after_faults);
    }
    world.enter_phase(Phase::WithoutFaults);
    let ended = async {
        tokio::select! {
            biased;
            () = tasks.wait() => {}
            _ = world.phase.until(|phase| phase == Phase::Ended) => {}
        }
    };
    if timeout(CONVERGENCE_TIMEOUT, ended).await.is_err() {
        world.report_violation("world", "a device did not receive everything in time");
    }
    world.enter_phase(Phase::Ended);
    if world.lock_model().violation().is_none() {
        world.check_feed().await;
    }
    for node in 0..world.servers.len() {
        world.stop(node).await;
    }
    let mut truth = world.lock_model();
    if let Some(cluster) = &world.cluster {
        truth.counts.clusters += 1;
        (truth.counts.lost, truth.counts.doubled) = cluster.lost_and_doubled_notices();
    }
    RunResult {
        violation: truth.violation(),
        hash: truth.hash(),
        counts: truth.counts,
        lines: truth.take_history(),
    }
}
