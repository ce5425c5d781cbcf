//! The metrics of the queue of reports and held messages.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use switchboard_protocol::Timestamp;
use switchboard_store::report::UndecidedReports;

/// The metrics of the queue, as this node has last read it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReportMetrics {
    undecided: Gauge,
    oldest: Gauge,
}

impl ReportMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Reports and held messages that wait for a decision, up to 10,000";
        registry.register("reports_undecided", help, self.undecided.clone());
        let help = "When the oldest of the reports and held messages that wait for a decision was made, in seconds since the Unix epoch; 0 without any";
        registry.register("reports_oldest_undecided_timestamp_seconds", help, self.oldest.clone());
    }

    /// Sets what was read.
    pub(crate) fn set(&self, queue: UndecidedReports) {
        self.undecided.set(queue.count.into());
        self.oldest.set(queue.oldest.map_or(0, Timestamp::as_millis) / 1_000);
    }
}
