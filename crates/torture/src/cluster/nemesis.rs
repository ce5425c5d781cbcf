//! Injects faults into a cluster, by a schedule that a seed determines.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Cluster;
use super::database::PrimaryLoss;
use super::fault::Fault;
use super::node::{LockedProxy, NodeSite, STOP_TIMEOUT};
use crate::proxy::{Partition, TamperingRates};
use crate::record::Law;
use crate::schedule::Schedule;

/// How many faults are active at the same time. A fault waits until no other fault acts on the same part.
const MAX_CONCURRENT_FAULTS: usize = 2;

/// Mean time from one fault to the next.
const MEAN_CLUSTER_FAULT_INTERVAL: Duration = Duration::from_secs(1);

/// How long most faults last, in milliseconds.
const SHORT_FAULT_MILLIS: Range<u64> = 200..5_000;

/// How long some faults last, in milliseconds: longer than the clients' time-outs.
const LONG_FAULT_MILLIS: Range<u64> = 10_000..20_000;

/// Injects faults into a cluster, and ends each of them.
pub(crate) struct Nemesis {
    cluster: Arc<Cluster>,
    rng: fastrand::Rng,
    pub(crate) schedule: Schedule<Fault>,
}

impl Nemesis {
    pub(crate) fn new(cluster: Arc<Cluster>, faults: Vec<Fault>, mut rng: fastrand::Rng) -> Self {
        let schedule = Schedule::new(faults, MEAN_CLUSTER_FAULT_INTERVAL, &mut rng);
        Self { cluster, rng, schedule }
    }

    /// Injects faults until `end`, or until a breach, and then ends all faults.
    pub(crate) async fn run_until(&mut self, end: Instant) -> anyhow::Result<()> {
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_FAULTS));
        let mut active: JoinSet<anyhow::Result<()>> = JoinSet::new();
        while Instant::now() < end && self.cluster.world.record.lock().breaches.is_empty() {
            let Some(fault) = self.schedule.next(&mut self.rng, end).await else { continue };
            let permit = permits.clone().acquire_owned().await?;
            while let Some(done) = active.try_join_next() {
                done??;
            }
            let (cluster, rng) = (self.cluster.clone(), self.rng.fork());
            active.spawn(async move {
                let _permit = permit;
                Injection { cluster: &cluster, rng }.inject(fault).await
            });
            self.cluster.restart_dead_nodes().await?;
        }
        while let Some(done) = active.join_next().await {
            done??;
        }
        self.cluster.restart_dead_nodes().await
    }
}

/// One fault that is injected into the cluster, from its start to its end.
struct Injection<'a> {
    cluster: &'a Cluster,
    rng: fastrand::Rng,
}

impl<'a> Injection<'a> {
    async fn inject(mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KillNode => self.kill_node().await?,
            Fault::StopNode => self.suspend_node().await,
            Fault::RestartNode => {
                let site = self.random_site();
                self.restart(site).await?;
            }
            Fault::RollingRestart => {
                for site in &self.cluster.sites {
                    self.restart(site).await?;
                }
            }
            Fault::SlowNode => self.slow_node().await,
            Fault::Clock => {
                let (site, seconds) = (self.random_site(), self.rng.i64(-7_200..7_200));
                self.log_fault(format!("the clock of {} is {seconds} s ahead", site.name));
                site.node.lock().await.clock.set_clock_offset(seconds);
            }
            Fault::CutClients | Fault::HalfOpenClients => self.disturb_clients(fault).await,
            Fault::StopClient => {
                let sdks = self.cluster.sdks.lock().await;
                self.log_fault("the programs on the SDK are suspended".to_owned());
                sdks.iter().for_each(|sdk| sdk.signal(Signal::STOP));
                self.sleep_random(500..6_000).await;
                sdks.iter().for_each(|sdk| sdk.signal(Signal::CONT));
            }
            Fault::KillBus | Fault::PauseBus => self.disturb_bus(fault).await?,
            Fault::TamperBus => self.tamper_with_bus().await,
            Fault::CutBus | Fault::SilentBus | Fault::SlowBus => {
                let site = self.random_site();
                if let Some(line) = &site.bus {
                    self.disturb_link_of_node(&format!("{} and NATS", site.name), line, fault).await;
                }
            }
            Fault::CutDatabase | Fault::SilentDatabase | Fault::SlowDatabase => {
                let site = self.random_site();
                self.disturb_link_of_node(&format!("{} and PostgreSQL", site.name), &site.database, fault)
                    .await;
            }
            Fault::PauseDatabase | Fault::PauseStandby | Fault::Failover => {
                self.disturb_database(fault).await?;
            }
        }
        Ok(())
    }

    async fn kill_node(&mut self) -> anyhow::Result<()> {
        let site = self.random_site();
        let mut node = site.node.lock().await;
        self.log_fault(format!("{} is killed", site.name));
        node.process.kill().await?;
        self.sleep_random(0..3_000).await;
        node.start_until_listening().await?;
        self.cluster.world.record.record_fault_detail(format!("{} is back", site.name));
        Ok(())
    }

    /// Suspends a random node, even if the node holds row locks of the database.
    async fn suspend_node(&mut self) {
        let site = self.random_site();
        let node = site.node.lock().await;
        let time = self.random_duration();
        self.log_fault(format!("{} is suspended for {time:?}", site.name));
        node.process.signal(Signal::STOP);
        sleep(time).await;
        node.process.signal(Signal::CONT);
    }

    async fn restart(&mut self, site: &NodeSite) -> anyhow::Result<()> {
        let mut node = site.node.lock().await;
        self.log_fault(format!("{} gets SIGTERM", site.name));
        if !node.stop_or_kill().await? {
            let what = format!("{} did not stop within {STOP_TIMEOUT:?}", site.name);
            self.cluster.world.record.breach(Law::Stuck, what, &[], None);
        }
        node.start_until_listening().await?;
        self.cluster.world.record.record_fault_detail(format!("{} is back", site.name));
        Ok(())
    }

    async fn slow_node(&mut self) {
        let site = self.random_site();
        if self.rng.bool() {
            let _busy = site.clients.lock.lock().await;
            self.log_fault(format!("the network of {} is slow", site.name));
            site.clients.proxy.set_slow(true);
            self.sleep_random(500..6_000).await;
            site.clients.proxy.heal();
            return;
        }
        let node = site.node.lock().await;
        let end = Instant::now() + Duration::from_millis(self.rng.u64(500..6_000));
        self.log_fault(format!("{} is suspended again and again", site.name));
        while Instant::now() < end {
            node.process.signal(Signal::STOP);
            self.sleep_random(50..150).await;
            node.process.signal(Signal::CONT);
            self.sleep_random(10..50).await;
        }
    }

    async fn disturb_clients(&mut self, fault: Fault) {
        let (site, share) = (self.random_site(), self.rng.f64());
        let _busy = site.clients.lock.lock().await;
        self.log_fault(format!("{fault:?} of {}", site.name));
        let rng = &mut self.rng;
        if fault == Fault::CutClients {
            site.clients.proxy.reset(|| rng.f64() < share);
            return;
        }
        site.clients.proxy.make_half_open(|| rng.f64() < share);
        self.sleep_random(500..6_000).await;
        site.clients.proxy.heal();
    }

    /// Partitions or slows down the network between a node and PostgreSQL or NATS for a while.
    async fn disturb_link_of_node(&mut self, between: &str, line: &LockedProxy, fault: Fault) {
        let time = self.random_duration();
        let partition = match fault {
            Fault::CutBus | Fault::CutDatabase => Partition::Refused,
            Fault::SlowBus | Fault::SlowDatabase => Partition::None,
            _ => [Partition::Silent, Partition::NoResponses, Partition::NoRequests][self.rng.usize(..3)],
        };
        let delay = Duration::from_millis(self.rng.u64(5..150));
        let _busy = line.lock.lock().await;
        self.log_fault(format!("{fault:?} between {between} for {time:?}: {partition:?}"));
        match partition {
            Partition::None => line.proxy.set_delay(delay),
            _ => line.proxy.set_partition(partition),
        }
        sleep(time).await;
        line.proxy.heal();
        self.cluster.world.record.record_fault_detail(format!("{fault:?} between {between} is over"));
    }

    async fn disturb_bus(&mut self, fault: Fault) -> anyhow::Result<()> {
        let Some(bus) = &self.cluster.bus else { return Ok(()) };
        let mut bus = bus.lock().await;
        let time = self.random_duration();
        self.log_fault(format!("{fault:?} for {time:?}"));
        if fault == Fault::KillBus {
            bus.kill().await?;
            sleep(time).await;
            bus.start_again().await
        } else {
            bus.pause()?;
            sleep(time).await;
            bus.resume()
        }
    }

    /// For a while, loses, duplicates or delays a share of NATS's messages (up to all of them) to one node or to all nodes.
    async fn tamper_with_bus(&mut self) {
        let (lost, doubled, late) = match self.rng.u32(..4) {
            0 => (100, 0, 0),
            1 => (self.rng.u32(..60), 0, self.rng.u32(..40)),
            2 => (0, self.rng.u32(..50), self.rng.u32(..50)),
            _ => (self.rng.u32(..30), self.rng.u32(..30), self.rng.u32(..40)),
        };
        let all = self.rng.bool();
        let first = self.rng.usize(..self.cluster.sites.len());
        let count = if all { self.cluster.sites.len() } else { 1 };
        let sites = self.cluster.sites.iter().cycle().skip(first).take(count);
        let lines: Vec<&LockedProxy> = sites.filter_map(|site| site.bus.as_ref()).collect();
        let mut busy = Vec::new();
        // The proxies are locked in the order of their addresses, so that two faults never deadlock.
        let mut in_order = lines.clone();
        in_order.sort_by_key(|line| line.proxy.address);
        for line in in_order {
            busy.push(line.lock.lock().await);
        }
        let tampering = TamperingRates { lost, doubled, late };
        self.log_fault(format!("NATS to {count} of the nodes from {first} on: {tampering:?}"));
        lines.iter().for_each(|line| line.proxy.tamper(tampering));
        self.sleep_random(1_000..8_000).await;
        lines.iter().for_each(|line| line.proxy.heal());
    }

    async fn disturb_database(&mut self, fault: Fault) -> anyhow::Result<()> {
        let mut database = self.cluster.database.lock().await;
        if fault == Fault::Failover {
            let time = Duration::from_millis(self.rng.u64(100..8_000));
            let end =
                [PrimaryLoss::Killed, PrimaryLoss::Unreachable(time), PrimaryLoss::StandbyUnreachable(time)]
                    [self.rng.usize(..3)];
            self.log_fault(format!("the primary is lost: {end:?}"));
            let proxies: Vec<_> = self.cluster.sites.iter().map(|site| &site.database.proxy).collect();
            database.fail_over(end, &proxies).await?;
            self.cluster.world.record.record_fault_detail("there is a new standby".to_owned());
            return Ok(());
        }
        let time = self.random_duration();
        let server = if fault == Fault::PauseStandby { &database.standby } else { &database.primary };
        self.log_fault(format!("{fault:?} for {time:?}"));
        server.pause()?;
        sleep(time).await;
        server.resume()
    }

    fn random_site(&mut self) -> &'a NodeSite {
        &self.cluster.sites[self.rng.usize(..self.cluster.sites.len())]
    }

    /// A random duration for a fault: mostly short, sometimes longer than the clients' time-outs.
    fn random_duration(&mut self) -> Duration {
        let range = if self.rng.u32(..5) == 0 { LONG_FAULT_MILLIS } else { SHORT_FAULT_MILLIS };
        Duration::from_millis(self.rng.u64(range))
    }

    async fn sleep_random(&mut self, millis: Range<u64>) {
        sleep(Duration::from_millis(self.rng.u64(millis))).await;
    }

    fn log_fault(&self, what: String) {
        self.cluster.world.record.record_fault(what);
    }
}
