//! What goes wrong in a cluster, by a schedule that its seed decides.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Cluster;
use super::database::End;
use super::fault::Fault;
use super::node::{Line, STOPPING, Site};
use crate::proxy::{Partition, Tampering};
use crate::record::Law;
use crate::schedule::Schedule;

/// Faults that are there at once, at most. Those of the same thing wait for each other.
const TOGETHER: usize = 2;

/// From one fault to the next, on average.
const CALM: Duration = Duration::from_secs(1);

/// Milliseconds for which something is disturbed, most of the time.
const SHORT: Range<u64> = 200..5_000;

/// Milliseconds for which it is disturbed at times: longer than anybody waits for an answer.
const LONG: Range<u64> = 10_000..20_000;

/// Breaks things, and mends them.
pub(crate) struct Nemesis {
    cluster: Arc<Cluster>,
    rng: fastrand::Rng,
    pub(crate) schedule: Schedule<Fault>,
}

impl Nemesis {
    pub(crate) fn new(cluster: Arc<Cluster>, faults: Vec<Fault>, mut rng: fastrand::Rng) -> Self {
        let schedule = Schedule::new(faults, CALM, &mut rng);
        Self { cluster, rng, schedule }
    }

    /// Goes on until then, and leaves everything mended.
    pub(crate) async fn rage(&mut self, end: Instant) -> anyhow::Result<()> {
        let room = Arc::new(Semaphore::new(TOGETHER));
        let mut under_way: JoinSet<anyhow::Result<()>> = JoinSet::new();
        while Instant::now() < end && self.cluster.world.record.lock().breaches.is_empty() {
            let Some(fault) = self.schedule.next(&mut self.rng, end).await else { continue };
            let permit = room.clone().acquire_owned().await?;
            while let Some(done) = under_way.try_join_next() {
                done??;
            }
            let (cluster, rng) = (self.cluster.clone(), self.rng.fork());
            under_way.spawn(async move {
                let _permit = permit;
                Infliction { cluster: &cluster, rng }.inflict(fault).await
            });
            self.cluster.restart_the_fallen().await?;
        }
        while let Some(done) = under_way.join_next().await {
            done??;
        }
        self.cluster.restart_the_fallen().await
    }
}

/// One fault, from its beginning to its end.
struct Infliction<'a> {
    cluster: &'a Cluster,
    rng: fastrand::Rng,
}

impl<'a> Infliction<'a> {
    async fn inflict(mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KillNode => self.kill_node().await?,
            Fault::StopNode => self.stop_node().await,
            Fault::RestartNode => {
                let site = self.a_site();
                self.restart(site).await?;
            }
            Fault::RollingRestart => {
                for site in &self.cluster.sites {
                    self.restart(site).await?;
                }
            }
            Fault::SlowNode => self.slow_node().await,
            Fault::Clock => {
                let (site, seconds) = (self.a_site(), self.rng.i64(-7_200..7_200));
                self.tell(format!("the clock of {} is {seconds} s ahead", site.name));
                site.node.lock().await.clock.set_clock_offset(seconds);
            }
            Fault::CutClients | Fault::HalfOpenClients => self.disturb_clients(fault).await,
            Fault::StopClient => {
                let sdks = self.cluster.sdks.lock().await;
                self.tell("the programs on the SDK stand still".to_owned());
                sdks.iter().for_each(|sdk| sdk.signal(Signal::STOP));
                self.rest(500..6_000).await;
                sdks.iter().for_each(|sdk| sdk.signal(Signal::CONT));
            }
            Fault::KillBus | Fault::PauseBus => self.disturb_bus(fault).await?,
            Fault::TamperBus => self.tamper_bus().await,
            Fault::CutBus | Fault::SilentBus | Fault::SlowBus => {
                let site = self.a_site();
                if let Some(line) = &site.bus {
                    self.disturb(&format!("{} and NATS", site.name), line, fault).await;
                }
            }
            Fault::CutDatabase | Fault::SilentDatabase | Fault::SlowDatabase => {
                let site = self.a_site();
                self.disturb(&format!("{} and PostgreSQL", site.name), &site.database, fault).await;
            }
            Fault::PauseDatabase | Fault::PauseStandby | Fault::Failover => {
                self.disturb_database(fault).await?;
            }
        }
        Ok(())
    }

    async fn kill_node(&mut self) -> anyhow::Result<()> {
        let site = self.a_site();
        let mut node = site.node.lock().await;
        self.tell(format!("{} is killed", site.name));
        node.process.kill().await?;
        self.rest(0..3_000).await;
        node.comes_back().await?;
        self.cluster.world.record.remark(format!("{} is back", site.name));
        Ok(())
    }

    /// Wherever it stands, it may have rows of the database locked.
    async fn stop_node(&mut self) {
        let site = self.a_site();
        let node = site.node.lock().await;
        let time = self.a_time();
        self.tell(format!("{} stands still for {time:?}", site.name));
        node.process.signal(Signal::STOP);
        sleep(time).await;
        node.process.signal(Signal::CONT);
    }

    async fn restart(&mut self, site: &Site) -> anyhow::Result<()> {
        let mut node = site.node.lock().await;
        self.tell(format!("{} is asked to stop", site.name));
        if !node.stops().await? {
            let what = format!("{} did not stop within {STOPPING:?}", site.name);
            self.cluster.world.record.breach(Law::Stuck, what, &[], None);
        }
        node.comes_back().await?;
        self.cluster.world.record.remark(format!("{} is back", site.name));
        Ok(())
    }

    async fn slow_node(&mut self) {
        let site = self.a_site();
        if self.rng.bool() {
            let _busy = site.clients.busy.lock().await;
            self.tell(format!("the network of {} is slow", site.name));
            site.clients.proxy.slow(true);
            self.rest(500..6_000).await;
            site.clients.proxy.heal();
            return;
        }
        let node = site.node.lock().await;
        let end = Instant::now() + Duration::from_millis(self.rng.u64(500..6_000));
        self.tell(format!("{} moves only now and then", site.name));
        while Instant::now() < end {
            node.process.signal(Signal::STOP);
            self.rest(50..150).await;
            node.process.signal(Signal::CONT);
            self.rest(10..50).await;
        }
    }

    async fn disturb_clients(&mut self, fault: Fault) {
        let (site, share) = (self.a_site(), self.rng.f64());
        let _busy = site.clients.busy.lock().await;
        self.tell(format!("{fault:?} of {}", site.name));
        let rng = &mut self.rng;
        if fault == Fault::CutClients {
            site.clients.proxy.cut(|| rng.f64() < share);
            return;
        }
        site.clients.proxy.half_open(|| rng.f64() < share);
        self.rest(500..6_000).await;
        site.clients.proxy.heal();
    }

    /// A node's network to one of the engines.
    async fn disturb(&mut self, between: &str, line: &Line, fault: Fault) {
        let time = self.a_time();
        let partition = match fault {
            Fault::CutBus | Fault::CutDatabase => Partition::Refused,
            Fault::SlowBus | Fault::SlowDatabase => Partition::None,
            _ => [Partition::Silent, Partition::NoAnswer, Partition::Unheard][self.rng.usize(..3)],
        };
        let delay = Duration::from_millis(self.rng.u64(5..150));
        let _busy = line.busy.lock().await;
        self.tell(format!("{fault:?} between {between} for {time:?}: {partition:?}"));
        match partition {
            Partition::None => line.proxy.delay(delay),
            _ => line.proxy.part(partition),
        }
        sleep(time).await;
        line.proxy.heal();
        self.cluster.world.record.remark(format!("{fault:?} between {between} is over"));
    }

    async fn disturb_bus(&mut self, fault: Fault) -> anyhow::Result<()> {
        let Some(bus) = &self.cluster.bus else { return Ok(()) };
        let mut bus = bus.lock().await;
        let time = self.a_time();
        self.tell(format!("{fault:?} for {time:?}"));
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

    /// Of a share of the messages, up to all of them, on the way to some of the nodes.
    async fn tamper_bus(&mut self) {
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
        let lines: Vec<&Line> = sites.filter_map(|site| site.bus.as_ref()).collect();
        let mut busy = Vec::new();
        // In the order of the nodes, so that two never wait for each other.
        let mut in_order = lines.clone();
        in_order.sort_by_key(|line| line.proxy.address);
        for line in in_order {
            busy.push(line.busy.lock().await);
        }
        let tampering = Tampering { lost, doubled, late };
        self.tell(format!("NATS to {count} of the nodes from {first} on: {tampering:?}"));
        lines.iter().for_each(|line| line.proxy.tamper(tampering));
        self.rest(1_000..8_000).await;
        lines.iter().for_each(|line| line.proxy.heal());
    }

    async fn disturb_database(&mut self, fault: Fault) -> anyhow::Result<()> {
        let mut database = self.cluster.database.lock().await;
        if fault == Fault::Failover {
            let time = Duration::from_millis(self.rng.u64(100..8_000));
            let end = [End::Killed, End::Silent(time), End::StandbyAway(time)][self.rng.usize(..3)];
            self.tell(format!("the primary is lost: {end:?}"));
            let proxies: Vec<_> = self.cluster.sites.iter().map(|site| &site.database.proxy).collect();
            database.fail_over(end, &proxies).await?;
            self.cluster.world.record.remark("there is a new standby".to_owned());
            return Ok(());
        }
        let time = self.a_time();
        let server = if fault == Fault::PauseStandby { &database.standby } else { &database.primary };
        self.tell(format!("{fault:?} for {time:?}"));
        server.pause()?;
        sleep(time).await;
        server.resume()
    }

    fn a_site(&mut self) -> &'a Site {
        &self.cluster.sites[self.rng.usize(..self.cluster.sites.len())]
    }

    /// Mostly short, at times longer than anybody waits for an answer.
    fn a_time(&mut self) -> Duration {
        let range = if self.rng.u32(..5) == 0 { LONG } else { SHORT };
        Duration::from_millis(self.rng.u64(range))
    }

    async fn rest(&mut self, millis: Range<u64>) {
        sleep(Duration::from_millis(self.rng.u64(millis))).await;
    }

    fn tell(&self, what: String) {
        self.cluster.world.record.fault(what);
    }
}
