//! Real servers and real clients under faults, and a checker that knows only the protocol.
//!
//! One run: a server's process, devices on the Rust client and apps on the TypeScript SDK, a network between them that fails, and a
//! schedule of faults that a seed decides. At the end everybody gets what is there, and the whole log is held against what
//! anybody tried, was told and saw. It prints the record, and ends with 1 if a law of the protocol was broken.

mod device;
mod nemesis;
mod proxy;
mod record;
mod sdk;
mod server;
mod verify;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::device::Device;
use crate::nemesis::{Fault, Nemesis};
use crate::proxy::Proxy;
use crate::record::{Law, Record};
use crate::sdk::Sdk;
use crate::server::Server;
use crate::verify::Logs;
use crate::world::{Phase, World};

/// Users behind the SDK, in each of its programs.
const SDK_USERS: usize = 3;

/// Programs on the SDK.
const SDK_PROGRAMS: usize = 2;

/// Devices of each user behind the Rust client.
const DEVICES: usize = 2;

/// How long everybody has, after the faults, to have everything acknowledged.
const SETTLING: Duration = Duration::from_secs(90);

/// How often it says how it stands.
const PROGRESS: Duration = Duration::from_secs(10);

/// Attacks a server in every way that its world will, and counts what is lost, doubled or out of order. Run it in the
/// repository's root.
#[derive(Debug, Parser)]
#[command(name = "torture")]
struct Args {
    /// How long the faults go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides the schedule; one is chosen and told if there is none
    #[arg(long)]
    seed: Option<u64>,
    /// Messages a second that all devices together try to send
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Which faults, with commas between [default: all]
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// The server's program [default: `switchboard` beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where data goes; it must be on a disk
    #[arg(long, default_value = "target")]
    scratch: PathBuf,
    /// The program on the SDK; an empty path leaves it out
    #[arg(long, default_value = "crates/torture/sdk/client.mjs")]
    sdk: PathBuf,
    /// Writes the record to a file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// 0 if every law held, 1 if one was broken, 2 if the run itself failed.
#[tokio::main]
async fn main() -> ExitCode {
    match torture(&Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("the run failed: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Whether every law held.
async fn torture(args: &Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    say(&format!("seed {seed}"));
    std::fs::create_dir_all(&args.scratch)?;
    let scratch = tempfile::Builder::new().prefix("torture-").tempdir_in(&args.scratch)?;
    let outcome = run(args, seed, scratch.path()).await?;
    report(args, seed, &outcome)?;
    let good = outcome.world.record.lock().broken == 0;
    if !good {
        say(&format!("what is left of it is in {}", scratch.keep().display()));
    }
    Ok(good)
}

/// What is left of a run.
struct Outcome {
    world: Arc<World>,
    done: std::collections::BTreeMap<Fault, u64>,
    /// Power cuts, those after other faults included.
    power_cuts: u64,
    stored: u64,
    took: Duration,
}

async fn run(args: &Args, seed: u64, scratch: &Path) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("switchboard"),
    };
    let mut server = Server::new(&binary, scratch)?;
    ensure!(server.start().await?, "the server does not start:\n{}", server.last_words());
    let proxy = Proxy::start(server.address).await?;
    let sdk = (!args.sdk.as_os_str().is_empty()).then(|| args.sdk.clone());
    let (users, sdk_users, rooms) = world::cast(if sdk.is_some() { SDK_USERS * SDK_PROGRAMS } else { 0 });
    let (phase, watched) = watch::channel(Phase::Storm);
    let world = Arc::new(World {
        record: Record::new(start),
        url: format!("ws://{}/v1/ws", proxy.address),
        direct: format!("ws://{}/v1/ws", server.address),
        users,
        sdk_users,
        rooms,
        rate: args.rate,
        phase: watched,
        quiet: Default::default(),
        sdk,
        comings: Default::default(),
    });
    world.fill().await?;
    let devices: Vec<JoinHandle<_>> = (0..DEVICES)
        .flat_map(|number| world.users.iter().map(move |user| (user.clone(), number)))
        .map(|(user, number)| spawn(Device::new(world.clone(), user, number, rng.fork()).live()))
        .collect();
    let mut sdks = Vec::new();
    for users in world.sdk_users.chunks(SDK_USERS) {
        sdks.extend(Sdk::start(&world, users, rng.u64(..u64::from(u32::MAX)))?);
    }
    let faults = if args.faults.is_empty() { Fault::value_variants().to_vec() } else { args.faults.clone() };
    let progress = spawn(progress(world.clone()));
    let mut nemesis = Nemesis::new(world.clone(), server, proxy, sdks, faults, rng.fork());
    let raged = nemesis.rage(start + Duration::from_secs(args.seconds)).await;
    let (done, power_cuts) = (nemesis.done.clone(), nemesis.power_cuts);
    progress.abort();
    if let Err(error) = raged {
        // There is nobody left to ask.
        world.record.breach(Law::Stuck, format!("{error:#}"), &[], None);
        return Ok(Outcome { world, done, power_cuts, stored: 0, took: start.elapsed() });
    }
    let (_server, sdks) = nemesis.into_parts();
    let stored = match settle(&world, &phase, devices, sdks).await {
        Ok(logs) => logs.stored,
        // A client that died is to be looked into like anything else, and so is what was found before.
        Err(error) => {
            world.record.breach(
                Law::Stuck,
                format!("the run does not come to its end: {error:#}"),
                &[],
                None,
            );
            0
        }
    };
    if world.record.counts().acknowledged == 0 {
        world.record.breach(
            Law::Stuck,
            "nothing was acknowledged: that proves nothing".to_owned(),
            &[],
            None,
        );
    }
    Ok(Outcome { world, done, power_cuts, stored, took: start.elapsed() })
}

/// Lets everybody finish, and holds what there is against what was promised.
async fn settle(
    world: &Arc<World>,
    phase: &watch::Sender<Phase>,
    devices: Vec<JoinHandle<device::Standing>>,
    mut sdks: Vec<Sdk>,
) -> anyhow::Result<Logs> {
    phase.send_replace(Phase::Calm);
    for sdk in &mut sdks {
        if !sdk.settle().await? {
            world.record.breach(
                Law::Stuck,
                "the SDK has not had everything acknowledged".to_owned(),
                &[],
                None,
            );
        }
    }
    let deadline = Instant::now() + SETTLING;
    while world.quiet.load(Ordering::SeqCst) < devices.len() && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    phase.send_replace(Phase::End);
    let mut standings = Vec::new();
    for device in devices {
        standings.push(device.await?);
    }
    let logs = match verify::everything(world, &standings).await {
        Ok(logs) => logs,
        // Everybody may read it now.
        Err(error) => {
            world.record.breach(Law::Answer, format!("the log cannot be read: {error:#}"), &[], None);
            return Ok(Logs::default());
        }
    };
    let last = logs.messages.iter().filter_map(|(id, all)| Some((id.clone(), all.last()?.0))).collect();
    for sdk in sdks {
        match sdk.finish(&last).await? {
            Some(screens) => verify::screens(world, &logs, &screens),
            None => world.record.breach(Law::Stuck, "the SDK does not show everything".to_owned(), &[], None),
        }
    }
    Ok(logs)
}

async fn progress(world: Arc<World>) {
    let begun = Instant::now();
    loop {
        sleep(PROGRESS).await;
        let (counts, faults) = (world.record.counts(), world.record.lock().faults);
        say(&format!(
            "{:>5} s: {faults} faults, {} tried, {} acknowledged, {} delivered",
            begun.elapsed().as_secs(),
            counts.tried,
            counts.acknowledged,
            counts.delivered
        ));
    }
}

/// Prints the record.
fn report(args: &Args, seed: u64, outcome: &Outcome) -> anyhow::Result<()> {
    let inner = outcome.world.record.lock();
    let counts = &inner.counts;
    for breach in &inner.breaches {
        say(&format!("\n{breach}"));
    }
    let of = |law: &[Law]| inner.breaches.iter().filter(|breach| law.contains(&breach.law)).count();
    let done: Vec<String> =
        outcome.done.iter().map(|(fault, count)| format!("{} {count}", fault.name())).collect();
    let faults = done.join(", ");
    say(&format!(
        "seed {seed}, {} s of faults: {faults}; the power failed {} times",
        args.seconds, outcome.power_cuts
    ));
    say(&format!(
        "tried {}, acknowledged {}, in the log {}, refused {}, answered as duplicates {}",
        counts.tried, counts.acknowledged, outcome.stored, counts.refused, counts.duplicates
    ));
    say(&format!(
        "other commands {}, delivered {}, shown by the SDK {}, connections {}, gaps told {}, probes {}",
        counts.other_acknowledged,
        counts.delivered,
        counts.shown,
        counts.connections,
        counts.gaps,
        counts.probes
    ));
    say(&format!(
        "lost {}, doubled {}, out of order {}, forbidden reads {}, other breaches {} (in all {}); {} s",
        of(&[Law::Lost]),
        of(&[Law::Doubled, Law::OtherSeq]),
        of(&[Law::OutOfOrder]),
        of(&[Law::Forbidden]),
        of(&[Law::SilentGap, Law::WentBack, Law::Unlike, Law::Answer, Law::Stuck]),
        inner.broken,
        outcome.took.as_secs()
    ));
    if let Some(path) = &args.json {
        let faults: serde_json::Map<String, serde_json::Value> =
            outcome.done.iter().map(|(fault, count)| (fault.name(), (*count).into())).collect();
        let record = serde_json::json!({
            "seed": seed, "seconds": args.seconds, "rate": args.rate, "faults": faults,
            "power_cuts": outcome.power_cuts, "counts": counts,
            "in_the_log": outcome.stored, "broken": inner.broken,
        });
        std::fs::write(path, format!("{record:#}\n"))?;
    }
    Ok(())
}

/// A task of the run; the process ends with the run.
#[expect(clippy::disallowed_methods, reason = "there is no server here whose shutdown would wait for it")]
fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(task)
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn say(line: &str) {
    println!("{line}");
}
