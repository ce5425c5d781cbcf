//! `switchboard check`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use super::output::{self, printable};
use super::place::Place;
use crate::store::check::{Progress, Report, check};

/// Who waits longer is told how far it is, this often.
const PACE: Duration = Duration::from_secs(2);

/// A database of so many bytes is worth a word before its pages are read, which cannot be watched.
const BIG: u64 = 256 * 1024 * 1024;

/// The flags of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// A database, such as a backup [default: the one in the data directory]
    #[arg(value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Verifies, and says what is wrong.
pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let json = args.place.json;
    let path = match args.file {
        Some(file) => file,
        None => args.place.data()?,
    };
    let mut pace = Pace::begin();
    let report = check(&path, &mut |step| progress(&mut pace, step))?;
    if json {
        let mut told = json!(report);
        told["path"] = json!(path);
        told["clean"] = json!(report.is_clean());
        output::line(&told.to_string())?;
    } else {
        tell(&report)?;
        let found = report.problems.len() as u64 + report.more;
        let state = if found == 0 { "all is well".to_owned() } else { format!("{found} problems") };
        output::line(&format!("{}: {state}; {}", path.display(), counts(&report)))?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the problems, one a line.
pub(super) fn tell(report: &Report) -> anyhow::Result<()> {
    for problem in &report.problems {
        output::line(&printable(&problem.to_string()))?;
    }
    if report.more > 0 {
        output::line(&format!("and {} more", report.more))?;
    }
    Ok(())
}

/// What there is, in words.
pub(super) fn counts(report: &Report) -> String {
    let Report { schema, conversations, events, messages, .. } = report;
    format!("{messages} messages among {events} events in {conversations} conversations, schema {schema}")
}

/// Says how far a check is.
pub(super) fn progress(pace: &mut Pace, step: Progress) {
    match step {
        Progress::Pages { bytes } if bytes > BIG => {
            output::note(&format!("reading the pages of {} MB", bytes / 1_000_000));
        }
        Progress::Pages { .. } => {}
        Progress::Events { done, of } => pace.says(|| format!("checked {done} of {of} events")),
    }
}

/// Lets a word through now and then.
#[derive(Debug)]
pub(super) struct Pace(Instant);

impl Pace {
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }

    pub(super) fn says(&mut self, text: impl FnOnce() -> String) {
        if self.0.elapsed() >= PACE {
            self.0 = Instant::now();
            output::note(&text());
        }
    }
}
