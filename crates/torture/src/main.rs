//! Fault injection for real servers with real clients, and a checker that knows only the protocol.
//!
//! A run has a server process, or several nodes on PostgreSQL and NATS; devices on the Rust client and apps on the TypeScript
//! SDK; proxies between them that fail; and a schedule of faults from a seed. At the end every client catches up, and the
//! checker compares the whole log with what each client sent, what the server answered and what each client received. The
//! program prints the record, and exits with 1 if a law of the protocol was broken.

mod cluster;
mod delay;
mod device;
mod held;
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

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Parser, Subcommand};
use tokio::task::JoinHandle;

use crate::cluster::ClusterArgs;
use crate::report::print_line;
use crate::single::SingleArgs;

/// Injects every kind of fault into a server, and counts what is lost, duplicated or out of order. Run it in the
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

/// Flags of every kind of run.
#[derive(Debug, Parser)]
struct CommonArgs {
    /// How long faults are injected
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the schedule of faults; without it, one is chosen and printed
    #[arg(long)]
    seed: Option<u64>,
    /// Messages a second that all devices together try to send [default: 500; 150 in a cluster]
    #[arg(long)]
    rate: Option<f64>,
    /// The server's binary [default: `switchboard` beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Directory for data; it must be on a disk
    #[arg(long, default_value = "target")]
    scratch: PathBuf,
    /// The program that uses the SDK; an empty path leaves it out
    #[arg(long, default_value = "crates/torture/sdk/client.mjs", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    sdk: PathBuf,
    /// Writes the record to a file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

impl CommonArgs {
    fn binary(&self) -> anyhow::Result<PathBuf> {
        Ok(match &self.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("switchboard"),
        })
    }
}

/// The exit code is 0 if every law held, 1 if one was broken, 2 if the run itself failed.
#[tokio::main]
async fn main() -> ExitCode {
    match torture(&Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_line(&format!("the run failed: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Runs the chosen mode: a single server or a cluster. Returns whether every law held.
async fn torture(args: &Args) -> anyhow::Result<bool> {
    let common = match &args.mode {
        Some(Mode::Cluster(args)) => &args.common,
        None => &args.single.common,
    };
    let seed = common.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    print_line(&format!("seed {seed}"));
    std::fs::create_dir_all(&common.scratch)?;
    let scratch = tempfile::Builder::new().prefix("torture-").tempdir_in(&common.scratch)?;
    let outcome = match &args.mode {
        Some(Mode::Cluster(args)) => Box::pin(cluster::run(args, seed, scratch.path())).await?,
        None => Box::pin(single::run(&args.single, seed, scratch.path())).await?,
    };
    outcome.report(seed, common.seconds, common.json.as_deref())?;
    if !outcome.has_passed() {
        print_line(&format!("the files of the run are in {}", scratch.keep().display()));
    }
    Ok(outcome.has_passed())
}

/// Spawns a task of the run. The task need not be awaited, because the process ends with the run.
#[expect(clippy::disallowed_methods, reason = "there is no server here whose shutdown would wait for it")]
fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(task)
}
