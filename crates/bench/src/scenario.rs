//! What is measured.

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

use crate::Product;
use crate::report::Report;
use crate::rivals::Rival;
use crate::server::Server;

/// Back to the start of the terminal's line, and nothing on it.
const CLEAR: &str = "\r\x1b[K";

/// What every scenario needs.
pub(crate) struct Context<'a> {
    pub(crate) product: &'a Product<'a>,
    /// Where the data of servers goes.
    pub(crate) scratch: &'a Path,
    /// The other servers to be measured, and where their settings are.
    pub(crate) rivals: Vec<(Rival, &'a Path)>,
    /// A PostgreSQL database to measure on, whose user may make others.
    pub(crate) store: Option<&'a str>,
    pub(crate) rounds: u32,
    /// How long a measurement takes.
    pub(crate) time: Duration,
    pub(crate) report: Report,
}

impl<'a> Context<'a> {
    /// Measures each of the rivals. One that fails is told of, and the others are measured.
    pub(crate) fn against(
        &mut self,
        cores: &[usize],
        wanted: impl Fn(Rival) -> bool,
        mut measure: impl FnMut(&mut Self, &(dyn Server + 'a)) -> anyhow::Result<()>,
    ) {
        for (rival, from) in self.rivals.clone().into_iter().filter(|(rival, _)| wanted(*rival)) {
            let started = rival.start(from, self.product, self.scratch, cores);
            if let Err(error) = started.and_then(|server| measure(self, &*server)) {
                self.note(&format!("{rival:?}: {error:#}"));
            }
        }
    }

    /// Tells whoever waits how far it is; on a terminal, in place of what it told before.
    #[expect(clippy::print_stderr, reason = "a person waits for minutes")]
    pub(crate) fn progress(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("{CLEAR}{text}");
        } else {
            eprintln!("{text}");
        }
    }

    /// Tells something that stays on the screen.
    #[expect(clippy::print_stderr, reason = "it says how far the figures can be trusted")]
    pub(crate) fn note(&self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    /// Takes what [`Self::progress`] told off the terminal.
    #[expect(clippy::print_stderr, reason = "it was put there")]
    pub(crate) fn clear(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("{CLEAR}");
        }
    }
}
