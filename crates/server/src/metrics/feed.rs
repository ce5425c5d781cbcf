//! The metrics of the feed.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics of the feed, and of the task that finds out who is away.
#[derive(Debug, Clone, Default)]
pub(crate) struct FeedMetrics {
    last: Gauge,
    missed: Counter,
    missed_lag: Gauge,
    is_failing: Gauge,
}

impl FeedMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "The number of the last entry of the feed that this node has seen";
        registry.register("feed_last_number", help, self.last.clone());
        let help = "Conversations of which users who were away have missed a message, as this node has added them to the feed";
        registry.register("feed_missed", help, self.missed.clone());
        let help = "Entries of the feed that were not yet examined for missed messages; 0 on a node that does not examine them";
        registry.register("feed_missed_lag_entries", help, self.missed_lag.clone());
        let help = "Whether entries about users who are away cannot be stored";
        registry.register("feed_away_failing", help, self.is_failing.clone());
    }

    /// Sets the number of the last entry.
    pub(crate) fn set_last(&self, last: u64) {
        self.last.set(i64::try_from(last).unwrap_or(i64::MAX));
    }

    /// Counts what users have missed.
    pub(crate) fn count_missed(&self, conversations: usize) {
        self.missed.inc_by(conversations as u64);
    }

    /// Sets how many entries were not examined yet.
    pub(crate) fn set_missed_lag(&self, entries: u64) {
        self.missed_lag.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// Sets whether the database cannot be used.
    pub(crate) fn set_failing(&self, is_failing: bool) {
        self.is_failing.set(i64::from(is_failing));
    }
}
