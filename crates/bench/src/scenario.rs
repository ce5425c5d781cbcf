//! The measurements.

pub(crate) mod ack;
pub(crate) mod fanout;
pub(crate) mod growth;
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

/// Moves to the start of the terminal's line, and clears it.
const CLEAR_LINE: &str = "\r\x1b[K";

/// State that every scenario shares.
pub(crate) struct Context<'a> {
    /// The path of the `switchboard` program to measure.
    pub(crate) program: &'a Path,
    /// Directory for the servers' data.
    pub(crate) scratch: &'a Path,
    /// The other servers to measure, with the directory of their settings.
    pub(crate) rivals: Vec<(Rival, &'a Path)>,
    /// A PostgreSQL database to measure on, whose user may create databases.
    pub(crate) store: Option<&'a str>,
    pub(crate) rounds: u32,
    /// Duration of a measurement.
    pub(crate) time: Duration,
    pub(crate) report: Report,
}

impl<'a> Context<'a> {
    /// Measures each of the other servers. If one fails, the error is printed and the next one is measured.
    pub(crate) fn against(
        &mut self,
        cores: &[usize],
        wanted: impl Fn(Rival) -> bool,
        mut measure: impl FnMut(&mut Self, &(dyn Server + 'a)) -> anyhow::Result<()>,
    ) {
        for (rival, from) in self.rivals.clone().into_iter().filter(|(rival, _)| wanted(*rival)) {
            let started = rival.start(from, self.scratch, cores);
            if let Err(error) = started.and_then(|server| measure(self, &*server)) {
                self.note(&format!("{rival:?}: {error:#}"));
            }
        }
    }

    /// Prints the progress; on a terminal it replaces the previous one.
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
    pub(crate) fn note(&self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    /// Removes what [`Self::progress`] printed from the terminal.
    #[expect(clippy::print_stderr, reason = "it clears what was printed to stderr")]
    pub(crate) fn clear(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("{CLEAR_LINE}");
        }
    }
}
