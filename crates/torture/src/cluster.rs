//! Nodes on one PostgreSQL with a standby and one nats-server, and everything between them that fails.

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

use self::balancer::Backend;
use self::database::Database;
use self::fault::Fault;
use self::nemesis::Nemesis;
use self::node::{Engines, SWEEP, Site};
use crate::Common;
use crate::proxy::Tampered;
use crate::record::Law;
use crate::report::Outcome;
use crate::run::{self, Company};
use crate::sdk::Sdk;
use crate::world::{Phase, World};

/// Messages a second that all devices together try to send.
const RATE: f64 = 150.0;

/// How long nodes and clients have to find each other again, before delays are measured.
const RECOVERING: Duration = Duration::from_secs(15);

/// Attacks nodes on one PostgreSQL with a standby and one nats-server, which must be installed.
#[derive(Debug, Parser)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..))]
    nodes: u8,
    /// Whether there is a nats-server between the nodes; without it they learn of each other by the store alone
    #[arg(long, value_enum, default_value_t = Bus::On)]
    bus: Bus,
    /// Which faults, with commas between [default: all]
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// How many seconds delays are measured for, after the faults
    #[arg(long, default_value_t = 20)]
    fair: u64,
    /// The longest delay then that is no breach, in milliseconds [default: any]
    #[arg(long)]
    within: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bus {
    On,
    Off,
}

/// What all faults have before them.
struct Cluster {
    world: Arc<World>,
    sites: Vec<Site>,
    database: Mutex<Database>,
    bus: Option<Mutex<Nats>>,
    sdks: Mutex<Vec<Sdk>>,
}

pub(crate) async fn run(args: &ClusterArgs, seed: u64, scratch: &Path) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let (cluster, company, phase) = Cluster::start(args, scratch, begun, &mut rng).await?;
    let cluster = Arc::new(cluster);
    let world = cluster.world.clone();
    let mut nemesis = Nemesis::new(cluster.clone(), args.faults(), rng.fork());
    let raged = nemesis.rage(Instant::now() + Duration::from_secs(args.common.seconds)).await;
    let faults = nemesis.schedule.done().iter().map(|(fault, count)| (fault.name(), *count)).collect();
    let mut outcome = Outcome { faults, ..Outcome::of(world.clone()) };
    drop(nemesis);
    let mended = match raged {
        Ok(()) => cluster.is_fine_for(args, &phase, &mut outcome).await,
        Err(error) => Err(error),
    };
    cluster.note(args, &mut outcome);
    match mended {
        Ok(()) => {
            let sdks = std::mem::take(&mut *cluster.sdks.lock().await);
            outcome.stored = run::to_the_end(&world, &phase, company, sdks).await;
        }
        // There is nobody left to ask.
        Err(error) => world.record.breach(Law::Stuck, format!("{error:#}"), &[], None),
    }
    outcome.took = begun.elapsed();
    Ok(outcome)
}

impl ClusterArgs {
    fn faults(&self) -> Vec<Fault> {
        let all = if self.faults.is_empty() { Fault::value_variants() } else { &self.faults };
        all.iter().copied().filter(|fault| self.bus == Bus::On || !fault.is_of_the_bus()).collect()
    }
}

impl Cluster {
    /// Engines, nodes, and everybody who talks.
    async fn start(
        args: &ClusterArgs,
        scratch: &Path,
        begun: Instant,
        rng: &mut fastrand::Rng,
    ) -> anyhow::Result<(Self, Company, watch::Sender<Phase>)> {
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
            let site = Site::new(&binary, &scratch, number.into(), &engines, rng).await?;
            let mut node = site.node.lock().await;
            ensure!(node.start().await?, "{} does not start:\n{}", site.name, node.process.last_words());
            drop(node);
            sites.push(site);
        }
        let door = |site: &Site| Backend { node: site.address, door: site.clients.proxy.address };
        let balancer = balancer::start(sites.iter().map(door).collect()).await?;
        let url = |address| format!("ws://{address}/v1/ws");
        let (sender, watched) = watch::channel(Phase::Storm);
        let world = Arc::new(World {
            doors: sites.iter().map(|site| url(site.clients.proxy.address)).collect(),
            direct: sites.iter().map(|site| url(site.address)).collect(),
            sdk_url: format!("http://{balancer}"),
            ..World::new(&args.common, args.common.rate.unwrap_or(RATE), begun, watched)
        });
        world.fill().await?;
        let company = Company::gather(&world, rng);
        let sdks = Mutex::new(run::programs(&world, rng)?);
        let (database, bus) = (Mutex::new(database), bus.map(Mutex::new));
        Ok((Self { world, sites, database, bus, sdks }, company, sender))
    }

    /// Starts the nodes again that have ended by themselves, which none should.
    async fn restart_the_fallen(&self) -> anyhow::Result<()> {
        for site in &self.sites {
            // Whoever has it in their hands knows.
            let Ok(mut node) = site.node.try_lock() else { continue };
            if node.process.has_ended() {
                let what = format!("{} ended by itself:\n{}", site.name, node.process.last_words());
                self.world.record.breach(Law::Stuck, what, &[], None);
                node.comes_back().await?;
            }
        }
        Ok(())
    }

    /// Nothing fails any more, and everybody goes on talking. Then one node dies once more.
    async fn is_fine_for(
        &self,
        args: &ClusterArgs,
        phase: &watch::Sender<Phase>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        for site in &self.sites {
            site.node.lock().await.clock.clear();
        }
        if !self.world.record.lock().breaches.is_empty() {
            return Ok(());
        }
        phase.send_replace(Phase::Fair);
        // waits for: time, in which nothing happens but what is measured
        sleep(RECOVERING).await;
        self.world.record.lock().delays.begin();
        sleep(Duration::from_secs(args.fair)).await;
        self.world.record.lock().delays.end();
        if args.bus == Bus::Off {
            // What is soft travels by the bus alone.
            return Ok(());
        }
        let offline = presence::a_dead_nodes_user_goes_offline(self).await?;
        let millis = offline.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let told = millis.map_or_else(|| "not in time".to_owned(), |millis| format!("after {millis} ms"));
        outcome.lines.push(format!("a user whose node had died was shown offline {told}"));
        outcome.json.insert("offline_ms".to_owned(), millis.into());
        Ok(())
    }

    /// What is to be told of a cluster alone.
    fn note(&self, args: &ClusterArgs, outcome: &mut Outcome) {
        let measured = self.world.record.lock().delays.measured();
        let (with, sweep) = (if args.bus == Bus::On { "with" } else { "without" }, SWEEP.as_millis());
        outcome.lines.push(match measured {
            Some(m) => format!(
                "{with} the bus, from an acknowledgement to a device on another node while nothing failed: \
                 p50 {} ms, p99 {} ms, longest {} ms, of {} arrivals; the sweep is every {sweep} ms",
                m.p50_ms, m.p99_ms, m.longest_ms, m.arrivals
            ),
            None => "no delay was measured".to_owned(),
        });
        if let (Some(m), Some(within)) = (measured, args.within)
            && m.longest_ms > within
        {
            let what = format!("a message took {} ms to another node, {within} ms at most", m.longest_ms);
            self.world.record.breach(Law::Stuck, what, &[], None);
        }
        let mut tampered = Tampered::default();
        let lines = self.sites.iter().filter_map(|site| site.bus.as_ref());
        lines.for_each(|line| tampered += line.proxy.tampered());
        let Tampered { lost, doubled, late } = tampered;
        outcome.lines.push(format!("of the bus's messages {lost} were lost, {doubled} doubled, {late} late"));
        for (name, value) in [
            ("nodes", args.nodes.into()),
            ("bus", (args.bus == Bus::On).into()),
            ("sweep_ms", serde_json::json!(sweep)),
            ("delays", serde_json::json!(measured)),
            ("bus_messages", serde_json::json!(tampered)),
        ] {
            outcome.json.insert(name.to_owned(), value);
        }
    }
}
