//! Runs of one server on its own disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::CommonArgs;
use crate::nemesis::{Fault, Nemesis};
use crate::proxy::Proxy;
use crate::record::Law;
use crate::report::Outcome;
use crate::run::{self, Devices};
use crate::server::Server;
use crate::world::{Phase, World};

/// Messages a second that all devices together try to send.
const DEFAULT_RATE: f64 = 500.0;

#[derive(Debug, Parser)]
pub(crate) struct SingleArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Kinds of faults, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
}

pub(crate) async fn run(args: &SingleArgs, seed: u64, scratch: &Path) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut server = Server::new(&args.common.binary()?, scratch)?;
    ensure!(server.start().await?, "the server did not start:\n{}", server.process.log_tail());
    let proxy = Proxy::start(server.address).await?;
    let (phase, watched) = watch::channel(Phase::Faults);
    let world = Arc::new(World {
        proxied_urls: vec![format!("ws://{}/v1/ws", proxy.address)],
        direct_urls: vec![format!("ws://{}/v1/ws", server.address)],
        sdk_url: format!("http://{}", proxy.address),
        ..World::new(&args.common, args.common.rate.unwrap_or(DEFAULT_RATE), start, watched)
    });
    world.create_rooms().await?;
    let devices = Devices::start(&world, &mut rng).await?;
    let sdks = run::start_sdks(&world, &mut rng)?;
    let faults = if args.faults.is_empty() { Fault::value_variants().to_vec() } else { args.faults.clone() };
    let mut nemesis = Nemesis::new(world.clone(), server, proxy, sdks, faults, rng.fork());
    let result = nemesis.run_until(start + Duration::from_secs(args.common.seconds)).await;
    let faults = nemesis.schedule.counts().iter().map(|(fault, count)| (fault.name(), *count)).collect();
    let mut outcome = Outcome { faults, ..Outcome::of(world.clone()) };
    outcome.text_after_fault_counts = format!("; the power failed {} times", nemesis.power_cuts);
    outcome.json_fields.insert("power_cuts".to_owned(), nemesis.power_cuts.into());
    match result {
        Ok(()) => {
            let (_server, sdks) = nemesis.into_server_and_sdks();
            run::finish_and_verify(&world, &phase, devices, sdks, &mut outcome).await;
        }
        // If the server does not start, that is a breach, and there is nothing to verify.
        Err(error) => world.record.breach(Law::Stuck, format!("{error:#}"), &[], None),
    }
    outcome.duration = start.elapsed();
    Ok(outcome)
}
