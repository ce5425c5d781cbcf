//! The metrics of webhooks. Their label is the name that an operator gave.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use switchboard_protocol::Timestamp;

/// The labels of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    webhook: String,
}

/// The labels of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    webhook: String,
    result: &'static str,
}

/// The metrics of the webhooks that this node sends for.
#[derive(Debug, Clone, Default)]
pub(crate) struct WebhookMetrics {
    endpoints: Gauge,
    requests: Family<RequestLabels, Counter>,
    in_flight: Family<WebhookLabels, Gauge>,
    lag: Family<WebhookLabels, Gauge>,
    parked: Family<WebhookLabels, Gauge>,
    position: Family<WebhookLabels, Gauge>,
    failing: Family<WebhookLabels, Gauge>,
    next_try: Family<WebhookLabels, Gauge>,
}

/// Where a webhook stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WebhookStanding {
    /// The number up to which everything is taken, held or parked.
    pub(crate) position: u64,
    /// How many entries of the feed are after it.
    pub(crate) lag: u64,
    pub(crate) parked: usize,
    /// When the endpoint is tried again, if it is at fault.
    pub(crate) next_try: Option<Timestamp>,
}

impl WebhookMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Webhooks that this node sends for";
        registry.register("webhook_endpoints", help, self.endpoints.clone());
        let help = "Requests of webhooks, by result: taken, endpoint_fault, entry_fault";
        registry.register("webhook_requests", help, self.requests.clone());
        let help = "Requests of a webhook that are in flight";
        registry.register("webhook_requests_in_flight", help, self.in_flight.clone());
        let help = "Entries of the feed after the position of a webhook";
        registry.register("webhook_lag_entries", help, self.lag.clone());
        let help = "Entries that the endpoint of a webhook does not take";
        registry.register("webhook_parked_entries", help, self.parked.clone());
        let help = "The number in the feed up to which a webhook has sent";
        registry.register("webhook_position", help, self.position.clone());
        let help = "Whether the endpoint of a webhook is at fault, so that one entry is tried at a time";
        registry.register("webhook_failing", help, self.failing.clone());
        let help = "When an endpoint at fault is tried again; 0 if it is not at fault";
        registry.register_with_unit("webhook_next_try_timestamp", help, Unit::Seconds, self.next_try.clone());
    }

    /// Sets how many webhooks this node sends for.
    pub(crate) fn set_endpoints(&self, count: usize) {
        self.endpoints.set(signed(count));
    }

    /// Exports the counters of a webhook as zero.
    pub(crate) fn begin_at_zero(&self, webhook: &str) {
        for result in ["taken", "endpoint_fault", "entry_fault"] {
            let labels = RequestLabels { webhook: webhook.to_owned(), result };
            drop(self.requests.get_or_create(&labels));
        }
    }

    /// Counts a request by its result.
    pub(crate) fn count(&self, webhook: &str, result: &'static str) {
        self.requests.get_or_create(&RequestLabels { webhook: webhook.to_owned(), result }).inc();
    }

    /// Sets how many requests are in flight.
    pub(crate) fn set_in_flight(&self, webhook: &str, count: usize) {
        self.in_flight.get_or_create(&labels(webhook)).set(signed(count));
    }

    /// Sets where a webhook stands.
    pub(crate) fn set_standing(&self, webhook: &str, standing: WebhookStanding) {
        let WebhookStanding { position, lag, parked, next_try } = standing;
        let set = |gauges: &Family<WebhookLabels, Gauge>, value| {
            gauges.get_or_create(&labels(webhook)).set(value);
        };
        set(&self.position, i64::try_from(position).unwrap_or(i64::MAX));
        set(&self.lag, i64::try_from(lag).unwrap_or(i64::MAX));
        set(&self.parked, signed(parked));
        set(&self.failing, i64::from(next_try.is_some()));
        set(&self.next_try, next_try.map_or(0, |at| at.as_millis().div_euclid(1_000)));
    }

    /// Removes the gauges of a webhook that this node no longer sends for.
    pub(crate) fn remove(&self, webhook: &str) {
        for gauges in
            [&self.in_flight, &self.lag, &self.parked, &self.position, &self.failing, &self.next_try]
        {
            gauges.remove(&labels(webhook));
        }
    }
}

fn labels(webhook: &str) -> WebhookLabels {
    WebhookLabels { webhook: webhook.to_owned() }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
