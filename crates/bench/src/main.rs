//! `switchboard-bench`: load over real sockets, baselines (floors) to compare the results with, and the report.
//!
//! It starts the servers that it measures, on a loopback address, on their own core and on an empty directory, and stops them.
//! Every run checks that the deliveries are complete and in order, and fails otherwise.

mod clock;
mod database;
mod floor;
mod load;
mod process;
mod report;
mod rivals;
mod scenario;
mod server;
mod stamp;
mod switchboard;
mod traffic;
mod wire;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use self::floor::sockets;
use self::report::Report;
use self::rivals::Rival;
use self::scenario::Context;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures a Switchboard server on this machine, beside what the machine can do
#[derive(Debug, Parser)]
#[command(name = "switchboard-bench", version)]
struct BenchArgs {
    #[command(subcommand)]
    hidden_command: Option<HiddenCommand>,
    /// Scenarios to measure [default: all of them]
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Rounds of each measurement; the report has the median
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Numbers of senders for `ack`, one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512", value_name = "NUMBERS")]
    senders: Vec<usize>,
    /// The server to measure [default: `switchboard` beside this program]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Directory for the servers' data, in a temporary subdirectory: on a disk, not in memory
    #[arg(long, default_value = ".", value_name = "DIRECTORY")]
    scratch: PathBuf,
    /// Measures other servers too: the path of `bench/rivals` in the sources, once they are installed
    #[arg(long, value_name = "DIRECTORY")]
    rivals: Option<PathBuf>,
    /// Which other servers
    #[arg(long, value_enum, value_delimiter = ',', requires = "rivals", default_values_t = Rival::value_variants().to_vec())]
    against: Vec<Rival>,
    /// Measures `ack` on PostgreSQL in place of SQLite: the URL of a database whose user may create databases
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Also writes the figures as JSON to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum HiddenCommand {
    /// Runs the comparison server of the delivery floor, which only forwards frames; the benchmark starts it as a process.
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        len: usize,
        #[arg(long)]
        size: usize,
    },
}

/// What the program can measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One sender, 1,000 receivers
    Fanout,
    /// 20 rooms of 50 in which every user sends
    Rooms,
    /// 500 pairs
    Direct,
    /// A room of 100,000 members, 1,000 of them online
    Room,
    /// 1 to 512 senders who wait for each acknowledgement
    Ack,
    /// 5,000 to 15,000 idle connections
    Idle,
    /// 10,000 clients that reconnect at once
    Storm,
    /// A chat day of 2,000 users, many times faster
    Mixed,
    /// 100,000 to 10 million stored messages
    Growth,
    /// Acknowledgements with and without a hook on this machine that accepts at once
    Hook,
}

/// The exit code is 0 for success, 1 for failure, and 2 if the command line cannot be parsed.
fn main() -> ExitCode {
    let done = run(&BenchArgs::parse()).and_then(|table| Ok(writeln!(std::io::stdout(), "{table}")?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, the error cannot be reported.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The path of the server's program: the given one, or `switchboard` beside this program.
fn server_program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("switchboard"),
    };
    let shown = program.display();
    ensure!(
        program.exists(),
        "there is no {shown}: build it with the same profile, or name another with --binary"
    );
    Ok(program)
}

/// Runs the measurements, and returns the table of results.
///
/// # Errors
/// A server does not start, or a message was lost, duplicated or delivered out of order.
fn run(args: &BenchArgs) -> anyhow::Result<String> {
    if let Some(HiddenCommand::Floor { len, size }) = args.hidden_command {
        return sockets::serve(len, size).map(|()| String::new());
    }
    let program = server_program(args.binary.as_deref())?;
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit of open files")?;
    let mut context = Context {
        program: &program,
        scratch: &args.scratch,
        store: args.store.as_deref(),
        rivals: args
            .rivals
            .as_deref()
            .map_or(Vec::new(), |from| args.against.iter().map(|r| (*r, from)).collect()),
        rounds: args.rounds,
        time: Duration::from_secs_f64(args.seconds),
        report: Report::new(),
    };
    let all = if args.scenarios.is_empty() { Scenario::value_variants() } else { &args.scenarios };
    for scenario in all {
        match scenario {
            Scenario::Fanout => scenario::fanout::one_to_many(&mut context, 1_000)?,
            Scenario::Rooms => scenario::fanout::measure_rooms(&mut context, 20, 50)?,
            Scenario::Direct => scenario::fanout::measure_pairs(&mut context, 500)?,
            Scenario::Idle => scenario::idle::run(&mut context, 5_000, 15_000)?,
            Scenario::Storm => scenario::storm::run(&mut context, 10_000)?,
            Scenario::Mixed => scenario::mixed::run(&mut context, 2_000)?,
            Scenario::Room => scenario::room::run(&mut context, 1_000, 100_000)?,
            Scenario::Growth => scenario::growth::run(&mut context, &[1, 10, 100])?,
            Scenario::Hook => scenario::hook::run(&mut context, &[1, 64])?,
            Scenario::Ack if args.store.is_some() => scenario::shared::run(&mut context, &args.senders)?,
            Scenario::Ack => scenario::ack::run(&mut context, &args.senders)?,
        }
    }
    context.clear_line();
    if let Some(path) = &args.json {
        std::fs::write(path, context.report.to_json()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(context.report.to_table())
}
