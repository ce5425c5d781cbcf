//! `switchboard backup`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::check::{Pace, counts, progress, tell};
use super::output;
use super::place::Place;
use crate::store::backup::{Options, Outcome, Step, Written, backup};

/// The flags of `backup`.
#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file to write
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
    /// Do not check the copy: for a database that is known to be damaged
    #[arg(long)]
    unchecked: bool,
    #[command(flatten)]
    place: Place,
}

/// Copies, and says what was written.
pub(super) fn run(args: BackupArgs) -> anyhow::Result<ExitCode> {
    let BackupArgs { to, force, unchecked, place } = args;
    let json = place.json;
    let mut pace = Pace::begin();
    let mut watch = |step| match step {
        Step::Copying { pages, of } => pace.says(|| format!("copied {pages} of {of} pages")),
        Step::Checking(step) => progress(&mut pace, step),
    };
    match backup(&place.data()?, &to, Options { force, unchecked }, &mut watch)? {
        Outcome::Written(written) => output::line(&describe(&written, json)?)?,
        Outcome::Unsound(report) => {
            tell(&report)?;
            anyhow::bail!(
                "the database is damaged, and {} was not written; --unchecked copies it as it is",
                to.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(written: &Written, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(serde_json::to_string(written)?);
    }
    let Written { file, bytes, report } = written;
    Ok(format!("{}: {bytes} bytes, {}", file.display(), counts(report)))
}
