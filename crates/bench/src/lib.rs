//! `switchboard bench`: load over real sockets, the floors that it is held against, and the report of both.
//!
//! It starts the servers that it measures by itself, on a loopback address and on a core of their own, on an empty
//! directory, and ends them. Every run checks that what was delivered is complete and in order, and fails if not.

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

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use self::floor::sockets;
use self::report::Report;
use self::rivals::Rival;
use self::scenario::Context;

/// The secret that the servers under load verify tokens with.
pub use self::switchboard::SECRET;

/// What of the product is measured, beside the program itself.
pub struct Product<'a> {
    /// Makes a token for a user, signed with [`SECRET`].
    pub mint: &'a dyn Fn(&str) -> anyhow::Result<String>,
    /// The tables of its store, as SQL.
    pub schema: &'a str,
    /// How its store sets up the database, as SQL.
    pub settings: &'a str,
    /// The tables of its store on PostgreSQL, as SQL.
    pub shared_schema: &'a str,
}

/// The flags of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    floor: Option<Hidden>,
    /// What to measure [default: all of them]
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// How often each is measured; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds that one measurement takes
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How many senders `ack` has, in turn
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512", value_name = "NUMBERS")]
    senders: Vec<usize>,
    /// Where the data of the servers goes, below a directory that is removed: on a disk, not in memory
    #[arg(long, default_value = ".", value_name = "DIRECTORY")]
    scratch: PathBuf,
    /// Measures other servers, too: `bench/rivals` of the sources, where they have been installed
    #[arg(long, value_name = "DIRECTORY")]
    rivals: Option<PathBuf>,
    /// Which of them
    #[arg(long, value_enum, value_delimiter = ',', requires = "rivals", default_values_t = Rival::value_variants().to_vec())]
    against: Vec<Rival>,
    /// Measures `ack` on PostgreSQL in place of SQLite: the URL of a database whose user may make others
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Writes the figures as JSON there, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// The floor, as a server.
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        len: usize,
        #[arg(long)]
        size: usize,
    },
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One sender, 1,000 receivers
    Fanout,
    /// 20 rooms of 50 in which everybody talks
    Rooms,
    /// 500 pairs
    Direct,
    /// A room of 100,000 members, 1,000 of them online
    Room,
    /// 1 to 512 senders who wait for each acknowledgement
    Ack,
    /// 5,000 to 15,000 connections that do nothing
    Idle,
    /// 10,000 clients who come back at once
    Storm,
    /// A chat day of 2,000 users, many times faster
    Mixed,
    /// 100,000 to 10 million stored messages
    Growth,
}

/// Measures, and returns the table of what was found.
///
/// # Errors
/// A server does not start, or something was lost, came twice or out of order.
pub fn run(args: &BenchArgs, product: &Product<'_>) -> anyhow::Result<String> {
    if let Some(Hidden::Floor { len, size }) = args.floor {
        return sockets::serve(len, size).map(|()| String::new());
    }
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit of open files")?;
    let mut context = Context {
        product,
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
            Scenario::Rooms => scenario::fanout::rooms(&mut context, 20, 50)?,
            Scenario::Direct => scenario::fanout::pairs(&mut context, 500)?,
            Scenario::Idle => scenario::idle::run(&mut context, 5_000, 15_000)?,
            Scenario::Storm => scenario::storm::run(&mut context, 10_000)?,
            Scenario::Mixed => scenario::mixed::run(&mut context, 2_000)?,
            Scenario::Room => scenario::room::run(&mut context, 1_000, 100_000)?,
            Scenario::Growth => scenario::growth::run(&mut context, &[1, 10, 100])?,
            Scenario::Ack if args.store.is_some() => scenario::shared::run(&mut context, &args.senders)?,
            Scenario::Ack => scenario::ack::run(&mut context, &args.senders)?,
        }
    }
    context.clear();
    if let Some(path) = &args.json {
        std::fs::write(path, context.report.to_json()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(context.report.to_table())
}
