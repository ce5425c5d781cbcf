//! `switchboard check`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use super::database::DatabaseArgs;
use super::output::{self, printable};
use switchboard_store::check::{Progress, Report, check};

/// The shortest time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// For a larger database, a line is printed before its pages are read, because that step takes long and reports no progress.
const LARGE_DATABASE_BYTES: u64 = 256 * 1024 * 1024;

/// The flags of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// A database, such as a backup [default: the one in the data directory]
    #[arg(value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Checks the database and prints the problems.
pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let json = args.database.json;
    let path = match args.file {
        Some(file) => file,
        None => args.database.data_directory()?,
    };
    let mut printer = ProgressPrinter::start();
    let report = check(&path, &mut |step| print_progress(&mut printer, step))?;
    if json {
        let mut output = json!(report);
        output["path"] = json!(path);
        output["clean"] = json!(report.is_clean());
        output::print_line(&output.to_string())?;
    } else {
        print_problems(&report)?;
        let found = report.problems.len() as u64 + report.more;
        let state = if found == 0 { "all is well".to_owned() } else { format!("{found} problems") };
        output::print_line(&format!("{}: {state}; {}", path.display(), describe_counts(&report)))?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the problems, one per line.
pub(super) fn print_problems(report: &Report) -> anyhow::Result<()> {
    for problem in &report.problems {
        output::print_line(&printable(&problem.to_string()))?;
    }
    if report.more > 0 {
        output::print_line(&format!("and {} more", report.more))?;
    }
    Ok(())
}

/// Describes the contents of the database in one sentence.
pub(super) fn describe_counts(report: &Report) -> String {
    let Report { schema, conversations, events, messages, .. } = report;
    format!("{messages} messages among {events} events in {conversations} conversations, schema {schema}")
}

/// Prints the progress of a check.
pub(super) fn print_progress(printer: &mut ProgressPrinter, step: Progress) {
    match step {
        Progress::Pages { bytes } if bytes > LARGE_DATABASE_BYTES => {
            output::eprint_line(&format!("reading the pages of {} MB", bytes / 1_000_000));
        }
        Progress::Pages { .. } => {}
        Progress::Events { done, of } => printer.print(|| format!("checked {done} of {of} events")),
    }
}

/// Prints lines of progress, at most one per [`PROGRESS_INTERVAL`].
#[derive(Debug)]
pub(super) struct ProgressPrinter(Instant);

impl ProgressPrinter {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn print(&mut self, text: impl FnOnce() -> String) {
        if self.0.elapsed() >= PROGRESS_INTERVAL {
            self.0 = Instant::now();
            output::eprint_line(&text());
        }
    }
}
