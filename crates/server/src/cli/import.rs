//! `switchboard import`: sends the history of another system to a running server, in small calls of `/v1/import`.
//!
//! Every line has a key or is found by its content, so a line that is sent again is a duplicate. A file of positions only saves the
//! time of sending again what was sent before.

mod csv;
mod export;
mod lines;
mod position;
mod sender;
mod slack;
mod stream;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use self::csv::CsvOptions;
use self::export::UserIds;
use self::position::{Position, PositionFile, Source};
use self::sender::{Outcome, Sender};
use super::output;
use super::remote::RemoteArgs;

/// The most bytes of a call: less than the server's limit, so that a call of long messages fits.
const MAX_CALL_BYTES: usize = 1024 * 1024;

/// A line to send.
#[derive(Debug)]
struct Record {
    /// Where it is from, for a person.
    place: String,
    /// The line for the server, without its end.
    line: Vec<u8>,
}

/// The lines of a source, in order.
type Records = Box<dyn Iterator<Item = anyhow::Result<Record>>>;

/// Systems whose exports are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// The unpacked export of a Slack workspace: a directory
    Slack,
    /// The channels that Stream exports: a JSON file
    Stream,
}

/// The flags of `import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A file with a JSON object a line; `-` for stdin. With --csv a CSV file, with --from what that system exports
    source: PathBuf,
    /// The file is CSV, and its first row names the columns
    #[arg(long, conflicts_with = "from")]
    csv: bool,
    /// The columns of the CSV file, such as to=room,from=author,at=created,text=body
    #[arg(long, value_name = "FIELD=COLUMN,…", value_delimiter = ',', value_parser = csv::parse_column, requires = "csv")]
    columns: Vec<(String, String)>,
    /// Creates the rooms that the CSV file names; their first authors become their admins
    #[arg(long, requires = "csv")]
    create_rooms: bool,
    /// The system that has exported the history
    #[arg(long, value_name = "SYSTEM")]
    from: Option<ExportFormat>,
    /// A CSV file with two columns: the user's id in that system, and here [default: the ids stay the same]
    #[arg(long, value_name = "FILE", requires = "from")]
    users: Option<PathBuf>,
    /// Prints the lines and sends nothing
    #[arg(long)]
    dry_run: bool,
    /// Writes refused lines to a file and goes on, in place of stopping at the first
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// The most lines of a call: other writes wait for each call
    #[arg(long, value_name = "LINES", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    chunk: u16,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
}

/// What an import has done so far.
#[derive(Debug, Default, Serialize)]
struct Tally {
    /// Lines that are stored now.
    stored: u64,
    /// Lines that were stored before.
    duplicates: u64,
    /// Lines that the server refused.
    refused: u64,
    /// Lines that an earlier run has sent.
    skipped: u64,
}

/// Sends everything, and prints a report.
pub(super) async fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let records = read_source(&args)?;
    if args.dry_run {
        for record in records {
            output::print_line(&String::from_utf8_lossy(&record?.line))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let RemoteArgs { url, ca, .. } = &args.remote;
    let sender = Sender::new(url, args.remote.key()?, ca.as_deref())?;
    let source = Source::of(&args.source)?;
    let file = PositionFile::beside(&args.source, url);
    let position = file.as_ref().and_then(|file| file.read(&source)).unwrap_or_default();
    let rejects = args.rejects.as_deref().map(lines::Rejects::create).transpose()?;
    let bar = progress_bar();
    if position.records > 0 {
        bar.println(format!("going on after line {}, where an earlier run ended", position.records));
    }
    let import = Import { sender, source, file, position, rejects, bar, sent: Vec::new(), sent_bytes: 0 };
    import.run(records, args.chunk.into(), args.json).await
}

/// The lines of the source.
fn read_source(args: &ImportArgs) -> anyhow::Result<Records> {
    let users = args.users.as_deref().map_or_else(|| Ok(UserIds::default()), UserIds::read)?;
    match args.from {
        Some(ExportFormat::Slack) => slack::records(&args.source, users),
        Some(ExportFormat::Stream) => stream::records(&args.source, users),
        None if args.csv => {
            let options = CsvOptions { columns: args.columns.clone(), creates_rooms: args.create_rooms };
            csv::records(lines::open(&args.source)?, &options)
        }
        None => Ok(lines::records(lines::open(&args.source)?)),
    }
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {pos} lines, {per_sec}, {elapsed}  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

/// An import on its way.
struct Import {
    sender: Sender,
    source: Source,
    file: Option<PositionFile>,
    position: Position,
    rejects: Option<lines::Rejects>,
    bar: ProgressBar,
    /// The lines of the next call.
    sent: Vec<Record>,
    sent_bytes: usize,
}

impl Import {
    async fn run(mut self, records: Records, chunk: usize, json: bool) -> anyhow::Result<ExitCode> {
        let began = Instant::now();
        let mut tally = Tally::default();
        let done = self.send_all(records, chunk, &mut tally).await;
        // What is stored is known, also if the import ends here.
        if let Some(file) = &self.file {
            if done.is_ok() { file.remove() } else { file.write(&self.source, &self.position) }
        }
        self.bar.finish_and_clear();
        let report = if json {
            serde_json::to_string(&tally).context("cannot encode the report")?
        } else {
            describe(&tally, began)
        };
        output::print_line(&report)?;
        done?;
        Ok(if tally.refused > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn send_all(&mut self, records: Records, chunk: usize, tally: &mut Tally) -> anyhow::Result<()> {
        for record in records {
            let record = record?;
            if tally.skipped < self.position.resumed {
                tally.skipped += 1;
                continue;
            }
            self.sent_bytes += record.line.len() + 1;
            self.sent.push(record);
            if self.sent.len() >= chunk || self.sent_bytes >= MAX_CALL_BYTES {
                self.send(tally).await?;
            }
        }
        while !self.sent.is_empty() {
            self.send(tally).await?;
        }
        Ok(())
    }

    /// Sends the lines that wait. Those after a refused one wait again.
    async fn send(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        let bar = &self.bar;
        let notify = |why: &str| bar.set_message(output::printable(why));
        let outcome = self.sender.send(self.sent.iter().map(|record| &record.line[..]), notify).await?;
        match outcome {
            Outcome::Stored { stored, duplicates } => {
                tally.stored += stored;
                tally.duplicates += duplicates;
                self.advance(self.sent.len());
            }
            Outcome::Refused { line: Some(line), why } if (1..=self.sent.len()).contains(&line) => {
                let mut rest = self.sent.split_off(line);
                let Some(refused) = self.sent.pop() else { bail!("{why}") };
                if !self.sent.is_empty() {
                    // The lines before it are not stored either, because a call is all or nothing.
                    let again = self.sender.send(self.sent.iter().map(|record| &record.line[..]), notify);
                    let Outcome::Stored { stored, duplicates } = again.await? else { bail!("{why}") };
                    tally.stored += stored;
                    tally.duplicates += duplicates;
                    self.advance(self.sent.len());
                }
                let place = output::printable(&refused.place);
                let Some(rejects) = &mut self.rejects else {
                    bail!("{place}: {}", output::printable(&why));
                };
                rejects.add(&refused.line)?;
                tally.refused += 1;
                self.bar.println(format!("{place}: {}", output::printable(&why)));
                self.position.records += 1;
                self.sent_bytes = rest.iter().map(|record| record.line.len() + 1).sum();
                self.sent.append(&mut rest);
            }
            Outcome::Refused { why, .. } => {
                bail!("the server refuses the import: {}", output::printable(&why))
            }
        }
        Ok(())
    }

    /// Notes that the first lines that wait are stored.
    fn advance(&mut self, count: usize) {
        self.sent.drain(..count);
        self.sent_bytes = 0;
        self.position.records += count as u64;
        self.bar.set_position(self.position.records);
        self.bar.set_message("");
        if let Some(file) = &mut self.file {
            file.write_if_due(&self.source, &self.position);
        }
    }
}

fn describe(tally: &Tally, began: Instant) -> String {
    let Tally { stored, duplicates, refused, skipped } = tally;
    let mut report = format!("{stored} lines stored, {duplicates} duplicates");
    if *refused > 0 {
        report.push_str(&format!(", {refused} refused"));
    }
    if *skipped > 0 {
        report.push_str(&format!(", {skipped} sent by an earlier run"));
    }
    format!("{report}, in {:.1} s", began.elapsed().as_secs_f64())
}
