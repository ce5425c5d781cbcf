//! Real servers and real clients under faults, and a checker that knows only the protocol.
//!
//! One run: a server's process, or several nodes on PostgreSQL and NATS, devices on the Rust client and apps on the TypeScript
//! SDK, networks between them that fail, and a schedule of faults that a seed decides. At the end everybody gets what is there,
//! and the whole log is held against what anybody tried, was told and saw. It prints the record, and ends with 1 if a law of
//! the protocol was broken.

mod cluster;
mod delay;
mod device;
mod nemesis;
mod process;
mod proxy;
mod record;
mod report;
mod run;
mod schedule;
mod sdk;
mod server;
mod single;
mod verify;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::task::JoinHandle;

use crate::cluster::ClusterArgs;
use crate::report::say;
use crate::single::SingleArgs;

/// Attacks a server in every way that its world will, and counts what is lost, doubled or out of order. Run it in the
/// repository's root.
#[derive(Debug, Parser)]
#[command(name = "torture", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(flatten)]
    single: SingleArgs,
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Debug, Subcommand)]
enum Mode {
    Cluster(ClusterArgs),
}

/// What every run needs to know.
#[derive(Debug, Parser)]
struct Common {
    /// How long the faults go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides the schedule; one is chosen and told if there is none
    #[arg(long)]
    seed: Option<u64>,
    /// Messages a second that all devices together try to send [default: 500, in a cluster 150]
    #[arg(long)]
    rate: Option<f64>,
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

impl Common {
    fn binary(&self) -> anyhow::Result<PathBuf> {
        Ok(match &self.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("switchboard"),
        })
    }
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
    let common = match &args.mode {
        Some(Mode::Cluster(args)) => &args.common,
        None => &args.single.common,
    };
    let seed = common.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    say(&format!("seed {seed}"));
    std::fs::create_dir_all(&common.scratch)?;
    let scratch = tempfile::Builder::new().prefix("torture-").tempdir_in(&common.scratch)?;
    let outcome = match &args.mode {
        Some(Mode::Cluster(args)) => Box::pin(cluster::run(args, seed, scratch.path())).await?,
        None => Box::pin(single::run(&args.single, seed, scratch.path())).await?,
    };
    outcome.report(seed, common.seconds, common.json.as_deref())?;
    if !outcome.is_good() {
        say(&format!("what is left of it is in {}", scratch.keep().display()));
    }
    Ok(outcome.is_good())
}

/// A task of the run; the process ends with the run.
#[expect(clippy::disallowed_methods, reason = "there is no server here whose shutdown would wait for it")]
fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(task)
}
