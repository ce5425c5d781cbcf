//! The metrics of webhooks. Their label is the name that an operator gave.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
    }

    /// Sets how many webhooks this node sends for.
    pub(crate) fn set_endpoints(&self, count: usize) {
        self.endpoints.set(signed(count));
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
    pub(crate) fn set_position(&self, webhook: &str, lag: u64, parked: usize) {
        self.lag.get_or_create(&labels(webhook)).set(i64::try_from(lag).unwrap_or(i64::MAX));
        self.parked.get_or_create(&labels(webhook)).set(signed(parked));
    }

    /// Removes the gauges of a webhook that this node no longer sends for.
    pub(crate) fn remove(&self, webhook: &str) {
        for gauges in [&self.in_flight, &self.lag, &self.parked] {
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
