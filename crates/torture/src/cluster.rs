//! Runs of several nodes on one PostgreSQL with a standby and one nats-server, with proxies between all of them.

mod balancer;
mod database;
mod fault;
mod nemesis;
mod node;
mod presence;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use engines::Nats;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use self::balancer::BalancedNode;
use self::database::Database;
use self::fault::Fault;
use self::nemesis::Nemesis;
use self::node::{Engines, NodeSite, SWEEP_INTERVAL};
use crate::CommonArgs;
use crate::proxy::TamperingCounts;
use crate::record::Law;
use crate::report::Outcome;
use crate::run::{self, Devices};
use crate::sdk::Sdk;
use crate::world::{Phase, World};

/// Messages a second that all devices together try to send.
const DEFAULT_CLUSTER_RATE: f64 = 150.0;

/// How long nodes and clients have to reconnect before delays are measured.
const RECOVERY_TIME: Duration = Duration::from_secs(15);

/// Injects faults into nodes on one PostgreSQL with a standby and one nats-server. PostgreSQL and nats-server must be installed.
#[derive(Debug, Parser)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..))]
    nodes: u8,
    /// Whether the nodes use a nats-server; without it they learn of each other's events from the store alone
    #[arg(long, value_enum, default_value_t = Bus::On)]
    bus: Bus,
    /// Kinds of faults, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Seconds for which delays are measured after the faults
    #[arg(long, default_value_t = 20)]
    fair: u64,
    /// The longest delay in that time that is no breach, in milliseconds [default: unlimited]
    #[arg(long)]
    within: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bus {
    On,
    Off,
}

/// The parts of a cluster into which faults are injected.
struct Cluster {
    world: Arc<World>,
    sites: Vec<NodeSite>,
    database: Mutex<Database>,
    bus: Option<Mutex<Nats>>,
    sdks: Mutex<Vec<Sdk>>,
}

pub(crate) async fn run(args: &ClusterArgs, seed: u64, scratch: &Path) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let (cluster, devices, phase) = Cluster::start(args, scratch, started, &mut rng).await?;
    let cluster = Arc::new(cluster);
    let world = cluster.world.clone();
    let mut nemesis = Nemesis::new(cluster.clone(), args.faults(), rng.fork());
    let result = nemesis.run_until(Instant::now() + Duration::from_secs(args.common.seconds)).await;
    let faults = nemesis.schedule.counts().iter().map(|(fault, count)| (fault.name(), *count)).collect();
    let mut outcome = Outcome { faults, ..Outcome::of(world.clone()) };
    drop(nemesis);
    let measured = match result {
        Ok(()) => cluster.measure_without_faults(args, &phase, &mut outcome).await,
        Err(error) => Err(error),
    };
    cluster.report_cluster_results(args, &mut outcome);
    match measured {
        Ok(()) => {
            let sdks = std::mem::take(&mut *cluster.sdks.lock().await);
            run::finish_and_verify(&world, &phase, devices, sdks, &mut outcome).await;
        }
        // If the cluster does not start, that is a breach, and there is nothing to verify.
        Err(error) => world.record.breach(Law::Stuck, format!("{error:#}"), &[], None),
    }
    outcome.duration = started.elapsed();
    Ok(outcome)
}

impl ClusterArgs {
    fn faults(&self) -> Vec<Fault> {
        let all = if self.faults.is_empty() { Fault::value_variants() } else { &self.faults };
        all.iter().copied().filter(|fault| self.bus == Bus::On || !fault.needs_bus()).collect()
    }
}

impl Cluster {
    /// Starts PostgreSQL, NATS, the nodes and the clients.
    async fn start(
        args: &ClusterArgs,
        scratch: &Path,
        started: Instant,
        rng: &mut fastrand::Rng,
    ) -> anyhow::Result<(Self, Devices, watch::Sender<Phase>)> {
        let scratch = std::path::absolute(scratch)?;
        let database = Database::start(&scratch).await?;
        let bus = match args.bus {
            Bus::On => Some(Nats::start(&scratch, &[]).await?),
            Bus::Off => None,
        };
        let engines = Engines {
            database: database.primary.address(),
            store: database.primary.url(),
            bus: bus.as_ref().map(Nats::address),
        };
        let binary = std::path::absolute(args.common.binary()?)?;
        let mut sites = Vec::new();
        for number in 0..args.nodes {
            let site = NodeSite::new(&binary, &scratch, number.into(), &engines, rng).await?;
            let mut node = site.node.lock().await;
            ensure!(node.start().await?, "{} did not start:\n{}", site.name, node.process.log_tail());
            drop(node);
            sites.push(site);
        }
        let backend =
            |site: &NodeSite| BalancedNode { node: site.address, forward_to: site.clients.proxy.address };
        let balancer = balancer::start(sites.iter().map(backend).collect()).await?;
        let url = |address| format!("ws://{address}/v1/ws");
        let (sender, watched) = watch::channel(Phase::Faults);
        let world = Arc::new(World {
            proxied_urls: sites.iter().map(|site| url(site.clients.proxy.address)).collect(),
            direct_urls: sites.iter().map(|site| url(site.address)).collect(),
            sdk_url: format!("http://{balancer}"),
            ..World::new(&args.common, args.common.rate.unwrap_or(DEFAULT_CLUSTER_RATE), started, watched)
        });
        world.create_rooms().await?;
        let devices = Devices::start(&world, rng).await?;
        let sdks = Mutex::new(run::start_sdks(&world, rng)?);
        let (database, bus) = (Mutex::new(database), bus.map(Mutex::new));
        Ok((Self { world, sites, database, bus, sdks }, devices, sender))
    }

    /// Reports nodes that exited by themselves as breaches, and starts them again.
    async fn restart_dead_nodes(&self) -> anyhow::Result<()> {
        for site in &self.sites {
            // If another task has locked the node, a fault is just killing or stopping it.
            let Ok(mut node) = site.node.try_lock() else { continue };
            if node.process.has_exited() {
                let what = format!("{} exited by itself:\n{}", site.name, node.process.log_tail());
                self.world.record.breach(Law::Stuck, what, &[], None);
                node.start_until_listening().await?;
            }
        }
        Ok(())
    }

    /// Measures delays while no fault is active. Then kills a node, and measures how soon its users are shown offline.
    async fn measure_without_faults(
        &self,
        args: &ClusterArgs,
        phase: &watch::Sender<Phase>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        for site in &self.sites {
            site.node.lock().await.clock.clear_faults();
        }
        if !self.world.record.lock().breaches.is_empty() {
            return Ok(());
        }
        phase.send_replace(Phase::Measuring);
        // waits for: the time in which nodes and clients reconnect, because no event reports that all have
        sleep(RECOVERY_TIME).await;
        self.world.record.lock().delays.start_measuring();
        sleep(Duration::from_secs(args.fair)).await;
        self.world.record.lock().delays.stop_measuring();
        if args.bus == Bus::Off {
            // Without the bus, other nodes do not learn the presence of a node's users.
            return Ok(());
        }
        let offline = presence::a_dead_nodes_user_goes_offline(self).await?;
        let millis = offline.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let when = millis.map_or_else(|| "not in time".to_owned(), |millis| format!("after {millis} ms"));
        outcome.extra_lines.push(format!("a user whose node had died was shown offline {when}"));
        outcome.json_fields.insert("offline_ms".to_owned(), millis.into());
        Ok(())
    }

    /// Adds the results that only the run of a cluster has.
    fn report_cluster_results(&self, args: &ClusterArgs, outcome: &mut Outcome) {
        let measured = self.world.record.lock().delays.delay_summary();
        let (with, sweep) =
            (if args.bus == Bus::On { "with" } else { "without" }, SWEEP_INTERVAL.as_millis());
        outcome.extra_lines.push(match measured {
            Some(m) => format!(
                "{with} the bus, without faults, from an acknowledgement to the delivery on another node: \
                 p50 {} ms, p99 {} ms, longest {} ms, {} deliveries; the sweep runs every {sweep} ms",
                m.p50_ms, m.p99_ms, m.longest_ms, m.deliveries
            ),
            None => "no delay was measured".to_owned(),
        });
        if let (Some(m), Some(within)) = (measured, args.within)
            && m.longest_ms > within
        {
            let what = format!("a message took {} ms to another node, {within} ms at most", m.longest_ms);
            self.world.record.breach(Law::Stuck, what, &[], None);
        }
        let mut tampered = TamperingCounts::default();
        let lines = self.sites.iter().filter_map(|site| site.bus.as_ref());
        lines.for_each(|line| tampered += line.proxy.tampered());
        let TamperingCounts { lost, doubled, late } = tampered;
        outcome
            .extra_lines
            .push(format!("messages of the bus: {lost} lost, {doubled} duplicated, {late} delayed"));
        for (name, value) in [
            ("nodes", args.nodes.into()),
            ("bus", (args.bus == Bus::On).into()),
            ("sweep_ms", serde_json::json!(sweep)),
            ("delays", serde_json::json!(measured)),
            ("bus_messages", serde_json::json!(tampered)),
        ] {
            outcome.json_fields.insert(name.to_owned(), value);
        }
    }
}
