//! The metrics of the filter of words.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabels {
    what: &'static str,
}

/// The metrics of the filter. Without a list they stay zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct FilterMetrics {
    found: Family<WhatLabels, Counter>,
    /// Counts messages that wait for a moderator because of a word.
    pub(crate) held: Counter,
    /// How many entries of the list find something.
    pub(crate) words: Gauge,
    /// Counts new lists that could not be used.
    pub(crate) load_failures: Counter,
}

impl FilterMetrics {
    /// What the filter looks at.
    const WHAT: [&str; 6] = ["message", "edit", "react", "create", "rename", "profile"];

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Writes that were refused because the filter found a word, by what they were";
        registry.register("filter_refused", help, self.found.clone());
        let help = "Messages that were held because the filter found a word";
        registry.register("filter_held", help, self.held.clone());
        registry.register("filter_words", "Entries of the list of words", self.words.clone());
        let help = "New lists of words that could not be used";
        registry.register("filter_load_failures", help, self.load_failures.clone());
    }

    /// Exports every counter as zero.
    pub(crate) fn begin_at_zero(&self) {
        for what in Self::WHAT {
            drop(self.found.get_or_create(&WhatLabels { what }));
        }
    }

    /// Counts a write that was refused because of a word.
    pub(crate) fn count(&self, what: &'static str) {
        self.found.get_or_create(&WhatLabels { what }).inc();
    }
}
