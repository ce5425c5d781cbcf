//! The metrics of the keys that token issuers publish. Their label is the issuer in the configuration.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use switchboard_protocol::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    issuer: String,
    result: &'static str,
}

/// The metrics of issuers' keys. Without issuers there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenKeyMetrics {
    fetches: Family<FetchLabels, Counter>,
    keys: Family<IssuerLabels, Gauge>,
    fetched: Family<IssuerLabels, Gauge>,
}

impl TokenKeyMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Fetches of the keys of a token issuer, by result: ok, failed";
        registry.register("token_key_fetches", help, self.fetches.clone());
        let help = "Keys of a token issuer that can verify tokens";
        registry.register("token_keys", help, self.keys.clone());
        let help = "When the keys of a token issuer were last fetched; 0 if never";
        registry.register_with_unit(
            "token_keys_fetched_timestamp",
            help,
            Unit::Seconds,
            self.fetched.clone(),
        );
    }

    /// Exports the metrics of an issuer as zero.
    pub(crate) fn begin_at_zero(&self, issuer: &str) {
        for result in ["ok", "failed"] {
            drop(self.fetches.get_or_create(&FetchLabels { issuer: issuer.to_owned(), result }));
        }
        drop(self.keys.get_or_create(&IssuerLabels { issuer: issuer.to_owned() }));
        drop(self.fetched.get_or_create(&IssuerLabels { issuer: issuer.to_owned() }));
    }

    /// Counts a fetch.
    pub(crate) fn count(&self, issuer: &str, is_ok: bool) {
        let result = if is_ok { "ok" } else { "failed" };
        self.fetches.get_or_create(&FetchLabels { issuer: issuer.to_owned(), result }).inc();
    }

    /// Records how many keys were fetched, and when.
    pub(crate) fn set_keys(&self, issuer: &str, keys: usize, at: Timestamp) {
        let labels = IssuerLabels { issuer: issuer.to_owned() };
        self.keys.get_or_create(&labels).set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.fetched.get_or_create(&labels).set(at.as_millis() / 1_000);
    }
}
