//! The measurements that the program can make, and what they share.

pub(crate) mod ack;
pub(crate) mod fanout;
pub(crate) mod growth;
pub(crate) mod hook;
pub(crate) mod idle;
pub(crate) mod mixed;
pub(crate) mod room;
pub(crate) mod shared;
pub(crate) mod storm;

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use crate::report::Report;
use crate::rivals::Rival;
use crate::server::Server;

/// A terminal that receives this moves to the start of its line and clears the line.
const CLEAR_LINE: &str = "\r\x1b[K";

/// The state that all scenarios share.
pub(crate) struct Context<'a> {
    /// The path of the `switchboard` program to measure.
    pub(crate) program: &'a Path,
    /// The directory below which the servers store their data.
    pub(crate) scratch: &'a Path,
    /// The servers of other projects to measure, each with the directory of its settings.
    pub(crate) rivals: Vec<(Rival, &'a Path)>,
    /// The URL of a PostgreSQL database to measure on; its user must have the right to create databases.
    pub(crate) store: Option<&'a str>,
    pub(crate) rounds: u32,
    /// How long one measurement lasts.
    pub(crate) time: Duration,
    pub(crate) report: Report,
}

impl<'a> Context<'a> {
    /// Measures each server of another project. If one fails, the error is printed and the next one is measured.
    pub(crate) fn for_each_rival(
        &mut self,
        cores: &[usize],
        wanted: impl Fn(Rival) -> bool,
        mut measure: impl FnMut(&mut Self, &(dyn Server + 'a)) -> anyhow::Result<()>,
    ) {
        for (rival, from) in self.rivals.clone().into_iter().filter(|(rival, _)| wanted(*rival)) {
            let started = rival.start(from, self.scratch, cores);
            if let Err(error) = started.and_then(|server| measure(self, &*server)) {
                self.print_note(&format!("{rival:?}: {error:#}"));
            }
        }
    }

    /// Prints the progress. On a terminal it replaces the progress that was printed before.
    #[expect(clippy::print_stderr, reason = "a person waits for minutes and needs the progress")]
    pub(crate) fn progress(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("{CLEAR_LINE}{text}");
        } else {
            eprintln!("{text}");
        }
    }

    /// Prints a line that stays on the screen.
    #[expect(clippy::print_stderr, reason = "it says how far the figures can be trusted")]
    pub(crate) fn print_note(&self, text: &str) {
        self.clear_line();
        eprintln!("{text}");
    }

    /// Removes what [`Self::progress`] printed from the terminal.
    #[expect(clippy::print_stderr, reason = "it clears what was printed to stderr")]
    pub(crate) fn clear_line(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("{CLEAR_LINE}");
        }
    }
}
