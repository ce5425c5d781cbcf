//! What is measured.

pub(crate) mod ack;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod storm;

use std::path::Path;
use std::time::Duration;

use crate::Product;
use crate::report::Report;

/// Bytes of a message's text.
pub(crate) const TEXT: usize = 200;

/// What every scenario needs.
pub(crate) struct Context<'a> {
    pub(crate) product: &'a Product<'a>,
    /// Where the data of servers goes.
    pub(crate) scratch: &'a Path,
    pub(crate) rounds: u32,
    /// How long a measurement takes.
    pub(crate) time: Duration,
    pub(crate) report: Report,
}

impl Context<'_> {
    /// Tells whoever waits how far it is.
    #[expect(clippy::print_stderr, reason = "a person waits for minutes")]
    pub(crate) fn progress(&self, text: &str) {
        eprintln!("{text}");
    }
}
