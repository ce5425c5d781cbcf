//! `switchboard backup`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::check::{ProgressPrinter, describe_counts, print_problems, print_progress};
use super::database::DatabaseArgs;
use super::output;
use switchboard_store::backup::{Options, Outcome, Step, WrittenBackup, backup};
use switchboard_store::inspect::record_backup;

/// The flags of `backup`.
#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file to write
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Do not check the copy: for a database that is known to be damaged
    #[arg(long)]
    unchecked: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Copies the database and prints what was written.
pub(super) fn run(args: BackupArgs) -> anyhow::Result<ExitCode> {
    let BackupArgs { to, force, unchecked, database } = args;
    let json = database.json;
    let mut printer = ProgressPrinter::start();
    let mut on_step = |step| match step {
        Step::Copying { pages, of } => printer.print(|| format!("copied {pages} of {of} pages")),
        Step::Checking(step) => print_progress(&mut printer, step),
    };
    let data = database.data_directory()?;
    match backup(&data, &to, Options { force, skip_check: unchecked }, &mut on_step)? {
        Outcome::Written(written) => {
            if !unchecked && let Err(error) = record_backup(&data) {
                // The backup is good, though the server cannot show its age.
                output::eprint_line(&format!("warning: cannot record the time of the backup: {error}"));
            }
            output::print_line(&describe(&written, json)?)?;
        }
        Outcome::Corrupt(report) => {
            print_problems(&report)?;
            anyhow::bail!(
                "the database is damaged, and {} was not written; --unchecked copies it as it is",
                to.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(written: &WrittenBackup, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(serde_json::to_string(written)?);
    }
    let WrittenBackup { file, bytes, report } = written;
    Ok(format!("{}: {bytes} bytes, {}", file.display(), describe_counts(report)))
}
