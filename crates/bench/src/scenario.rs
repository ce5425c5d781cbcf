//! What is measured.

pub(crate) mod ack;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod storm;

use std::path::Path;
use std::time::Duration;

use crate::Product;
use crate::report::Report;
use crate::rivals::Rival;
use crate::server::Server;

/// Bytes of a message's text.
pub(crate) const TEXT: usize = 200;

/// What every scenario needs.
pub(crate) struct Context<'a> {
    pub(crate) product: &'a Product<'a>,
    /// Where the data of servers goes.
    pub(crate) scratch: &'a Path,
    /// The other servers to be measured, and where their settings are.
    pub(crate) rivals: Vec<(Rival, &'a Path)>,
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
                self.progress(&format!("{rival:?}: {error:#}"));
            }
        }
    }

    /// Tells whoever waits how far it is.
    #[expect(clippy::print_stderr, reason = "a person waits for minutes")]
    pub(crate) fn progress(&self, text: &str) {
        eprintln!("{text}");
    }
}
