//! `switchboard migrate-store`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::check::ProgressPrinter;
use super::{FileArgs, environment, output};
use crate::config::{Config, Flags, Mode};
use switchboard_store::postgres::moving::{Destination, MovingProgress, move_store};

/// The flags of `migrate-store`.
#[derive(Debug, Args)]
pub(super) struct MigrateStoreArgs {
    /// The directory of the SQLite database, which is not changed; stop its server first
    #[arg(long, value_name = "DIRECTORY")]
    from: PathBuf,
    #[command(flatten)]
    file: FileArgs,
    /// The PostgreSQL database: empty, or from an interrupted run, which is resumed [default: the setting `store`, which keeps the
    /// password out of the process list]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Copies and compares every row, and prints the number of rows per table.
pub(super) fn run(args: MigrateStoreArgs) -> anyhow::Result<ExitCode> {
    let MigrateStoreArgs { from, file, to, json } = args;
    let flags = Flags { store: to, ..file.flags() };
    let Some(shared) = Config::read(Mode::Serve, &flags, &environment())?.cluster else {
        bail!("no destination: pass --to, or set `store` in the configuration");
    };
    let mut printer = ProgressPrinter::start();
    let mut on_step = |step: MovingProgress| {
        let verb = if step.compares { "compared" } else { "copied" };
        printer.print(|| format!("{}: {} of {} rows {verb}", step.table, step.rows_done, step.rows_in_table));
    };
    let (to, name) = (&shared.store, shared.store.to_string());
    let destination = Destination { url: to.expose(), ca: shared.settings.store_ca.as_deref(), name: &name };
    let moved = move_store(&from, destination, &mut on_step)?;
    if json {
        output::print_line(&json!({"from": from, "to": to, "tables": moved}).to_string())?;
    } else {
        for moved in &moved {
            let before = if moved.rows_before > 0 {
                format!(", {} by an earlier run", moved.rows_before)
            } else {
                String::new()
            };
            output::print_line(&format!("{:<16} {} rows{before}", moved.table, moved.rows))?;
        }
        output::print_line(&format!(
            "all rows are in {to} and have been compared; run `switchboard serve --store` on it; no server starts on {} any more",
            from.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
