//! `switchboard migrate-store`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use super::{FileArgs, environment, output};
use crate::config::{Config, Flags, Mode};
use crate::store::postgres::moving::{Step, move_store};

/// Whoever waits is told how far it is, this often.
const PACE: Duration = Duration::from_secs(2);

/// The flags of `migrate-store`.
#[derive(Debug, Args)]
pub(super) struct MigrateStoreArgs {
    /// The directory of the SQLite database; its server is stopped, and it stays as it is
    #[arg(long, value_name = "DIRECTORY")]
    from: PathBuf,
    #[command(flatten)]
    file: FileArgs,
    /// The PostgreSQL database: empty, or left half done by an earlier run, which this one goes on with [default: `store` of the
    /// configuration, which keeps its password out of the list of processes]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Moves everything, compares everything, and says how many of what there are.
pub(super) fn run(args: MigrateStoreArgs) -> anyhow::Result<ExitCode> {
    let MigrateStoreArgs { from, file, to, json } = args;
    let flags = Flags { store: to, ..file.flags() };
    let Some(shared) = Config::read(Mode::Serve, &flags, &environment())?.cluster else {
        bail!("say where to: with --to, or by the setting `store`");
    };
    let mut told = Instant::now();
    let mut tell = |step: Step| {
        if told.elapsed() >= PACE {
            told = Instant::now();
            let what = if step.compares { "compared" } else { "copied" };
            output::note(&format!("{}: {} of {} rows {what}", step.table, step.done, step.of));
        }
    };
    let to = &shared.store;
    let moved = move_store(&from, to.expose(), shared.store_ca.as_deref(), &mut tell)?;
    if json {
        output::line(&json!({"from": from, "to": to, "tables": moved}).to_string())?;
    } else {
        for moved in &moved {
            let before = if moved.before > 0 {
                format!(", {} by an earlier run", moved.before)
            } else {
                String::new()
            };
            output::line(&format!("{:<16} {} rows{before}", moved.table, moved.rows))?;
        }
        output::line(&format!(
            "{to} has all of it, each row compared; `switchboard serve --store` goes on from there, and no server starts on {} any more",
            from.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
