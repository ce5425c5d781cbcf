//! The metrics of TLS on the clients' listener.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::ReasonLabels;

/// The metrics of TLS. Without TLS they stay zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsMetrics {
    begins: Gauge,
    ends: Gauge,
    /// Counts handshakes that were completed.
    pub(crate) handshakes: Counter,
    failures: Family<ReasonLabels, Counter>,
    /// Counts certificates that are used, the first one included.
    pub(crate) loads: Counter,
    /// Counts new certificates that could not be loaded or obtained.
    pub(crate) load_failures: Counter,
}

impl TlsMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "When the certificate of the clients' listener becomes valid";
        registry.register_with_unit(
            "tls_certificate_start_timestamp",
            help,
            Unit::Seconds,
            self.begins.clone(),
        );
        let help = "When the certificate of the clients' listener ends";
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            help,
            Unit::Seconds,
            self.ends.clone(),
        );
        let help = "TLS handshakes completed";
        registry.register("tls_handshakes", help, self.handshakes.clone());
        let help = "TLS handshakes failed, by reason";
        registry.register("tls_handshake_failures", help, self.failures.clone());
        let help = "Certificates taken into use";
        registry.register("tls_certificate_loads", help, self.loads.clone());
        let help = "New certificates that could not be loaded from files or obtained by ACME";
        registry.register("tls_certificate_failures", help, self.load_failures.clone());
    }

    /// Exports the counter of a reason as zero.
    pub(crate) fn add_failure(&self, reason: &'static str) {
        drop(self.failures.get_or_create(&ReasonLabels { reason }));
    }

    /// Counts a handshake that failed.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Records from when to when the certificate is valid, in seconds since the Unix epoch.
    pub(crate) fn set_validity(&self, begins: i64, ends: i64) {
        self.begins.set(begins);
        self.ends.set(ends);
        self.loads.inc();
    }
}
