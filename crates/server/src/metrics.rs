//! The metrics at `/metrics`: numbers of the whole process. No label names a user or a room.

mod feed;
mod filter;
mod hooks;
mod process;
mod prometheus_text;
mod reports;
mod store_files;
mod tls;
mod webhooks;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::feed::FeedMetrics;
pub(crate) use self::filter::FilterMetrics;
pub(crate) use self::hooks::{HookFailure, HookMetrics};
pub(crate) use self::process::resident_bytes;
pub(crate) use self::reports::ReportMetrics;
use self::store_files::StoreFiles;
pub(crate) use self::tls::TlsMetrics;
pub(crate) use self::webhooks::{WebhookMetrics, WebhookStanding};
use crate::auth::TokenKeyMetrics;
use crate::node_name::NodeName;
use switchboard_protocol::ErrorCode;
use switchboard_store::CommitMetrics;
use switchboard_store::inspect::Inspector;
use switchboard_store::write_fault::WriteFault;

/// The metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ready: Gauge,
    write_fault: Family<ReasonLabels, Gauge>,
    /// Open connections that have sent `hello`.
    pub(crate) connections: Gauge,
    /// Counts the events that were stored.
    pub(crate) accepted: Counter,
    /// Counts the lines of imports that were stored.
    pub(crate) imported: Counter,
    /// Live events queued for a connection, without a read of the log.
    pub(crate) delivered: Counter,
    /// Events queued for a connection after they were read from the log.
    pub(crate) replayed: Counter,
    /// How many lags all connections have: conversations that a connection is reading from the log.
    pub(crate) lag_count: Gauge,
    /// Counts the cursors of `hello` that are beyond the end of the log.
    pub(crate) cursors_ahead: Counter,
    refused: Family<RefusedLabels, Counter>,
    dropped: Family<ReasonLabels, Counter>,
    denied: Family<ReasonLabels, Counter>,
    /// The metrics of the store's commits.
    pub(crate) commits: CommitMetrics,
    delivery_seconds: Histogram,
    /// The metrics of the bus to other nodes.
    pub(crate) bus: BusMetrics,
    node: Family<NodeLabels, Gauge>,
    clock_skew: Gauge<f64, AtomicU64>,
    /// Counts the events of other nodes that were read from the store.
    pub(crate) missing_events_read: Counter,
    queued_writes: Gauge,
    replay_lag: Gauge,
    connections_limit: Gauge,
    store_files: StoreFiles,
    /// The metrics of TLS.
    pub(crate) tls: TlsMetrics,
    /// The metrics of the keys that token issuers publish.
    pub(crate) token_keys: TokenKeyMetrics,
    /// The metrics of the hook.
    pub(crate) hooks: HookMetrics,
    /// The metrics of the filter of words.
    pub(crate) filter: FilterMetrics,
    /// The metrics of the queue of reports.
    pub(crate) reports: ReportMetrics,
    /// The metrics of the feed.
    pub(crate) feed: FeedMetrics,
    /// The metrics of webhooks.
    pub(crate) webhooks: WebhookMetrics,
}

/// The metrics of the bus. They stay zero on a single node.
#[derive(Debug, Clone, Default)]
pub(crate) struct BusMetrics {
    /// 1 while the bus is connected, otherwise 0.
    pub(crate) connected: Gauge,
    /// The number of subscriptions on the bus.
    pub(crate) subscriptions: Gauge,
    /// Notices published to other nodes.
    pub(crate) published: Counter,
    /// Notices received from other nodes and handed to the router.
    pub(crate) received: Counter,
    /// Notices dropped, either before they were published or after they were received.
    pub(crate) dropped: Counter,
}

impl BusMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("bus_connected", "Whether the bus is connected", self.connected.clone());
        registry.register("bus_subscriptions", "Subscriptions on the bus", self.subscriptions.clone());
        registry.register(
            "bus_messages_published",
            "Notices published to other nodes",
            self.published.clone(),
        );
        registry.register(
            "bus_messages_received",
            "Notices received from other nodes",
            self.received.clone(),
        );
        registry.register("bus_dropped", "Notices dropped, on their way out or in", self.dropped.clone());
    }
}

/// Why a frame was dropped or refused, or why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/operating.md describes each")]
pub enum DropReason {
    SignalQueueFull,
    NoHello,
    SilentConnection,
    StalledConnection,
    TooFarBehind,
    BrokenFraming,
    RateLimit,
    ConnectionLimit,
    StrangerLimit,
    TokenExpired,
    Revoked,
    Banned,
    Kicked,
}

impl DropReason {
    /// All reasons.
    pub(crate) const ALL: [Self; 13] = [
        Self::SignalQueueFull,
        Self::NoHello,
        Self::SilentConnection,
        Self::StalledConnection,
        Self::TooFarBehind,
        Self::BrokenFraming,
        Self::RateLimit,
        Self::ConnectionLimit,
        Self::StrangerLimit,
        Self::TokenExpired,
        Self::Revoked,
        Self::Banned,
        Self::Kicked,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::SignalQueueFull => "signal_queue_full",
            Self::NoHello => "no_hello",
            Self::SilentConnection => "silent_connection",
            Self::StalledConnection => "stalled_connection",
            Self::TooFarBehind => "too_far_behind",
            Self::BrokenFraming => "broken_framing",
            Self::RateLimit => "rate_limit",
            Self::ConnectionLimit => "connection_limit",
            Self::StrangerLimit => "stranger_limit",
            Self::TokenExpired => "token_expired",
            Self::Revoked => "revoked",
            Self::Banned => "banned",
            Self::Kicked => "kicked",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    code: &'static str,
}

impl Metrics {
    /// Makes all metrics, with the value zero.
    pub fn new() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(process::ProcessCollector));
        let store_files = StoreFiles::default();
        all.register_collector(Box::new(store_files.clone()));
        let registry = all.sub_registry_with_prefix("switchboard");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of the program", version);
        // 0.1 ms to 3.3 s: an fsync takes 0.2 ms on a good disk and seconds on a dying one.
        let latency = || Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        let metrics = Self {
            ready: Gauge::default(),
            write_fault: Family::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            imported: Counter::default(),
            delivered: Counter::default(),
            replayed: Counter::default(),
            lag_count: Gauge::default(),
            cursors_ahead: Counter::default(),
            refused: Family::default(),
            dropped: Family::default(),
            denied: Family::default(),
            commits: CommitMetrics::default(),
            delivery_seconds: latency(),
            bus: BusMetrics::default(),
            node: Family::default(),
            clock_skew: Gauge::default(),
            missing_events_read: Counter::default(),
            queued_writes: Gauge::default(),
            replay_lag: Gauge::default(),
            connections_limit: Gauge::default(),
            store_files,
            tls: TlsMetrics::default(),
            token_keys: TokenKeyMetrics::default(),
            hooks: HookMetrics::default(),
            filter: FilterMetrics::default(),
            reports: ReportMetrics::default(),
            feed: FeedMetrics::default(),
            webhooks: WebhookMetrics::default(),
            registry: Registry::default(),
        };
        registry.register("ready", "Whether /readyz answers 200", metrics.ready.clone());
        let help = "Whether every write is refused, by reason";
        registry.register("write_fault", help, metrics.write_fault.clone());
        registry.register("connections", "Connections that have said hello", metrics.connections.clone());
        registry.register("accepted", "Events stored", metrics.accepted.clone());
        registry.register("imported_lines", "Lines of imports stored", metrics.imported.clone());
        registry.register("delivered", "Events queued live for a connection", metrics.delivered.clone());
        let help = "Events queued for a connection from the log";
        registry.register("replayed", help, metrics.replayed.clone());
        let help = "Conversations that connections are reading from the log";
        registry.register("catching_up", help, metrics.lag_count.clone());
        registry.register("refused", "Commands refused, by error code", metrics.refused.clone());
        let help = "Signals dropped and connections cut, by reason";
        registry.register("dropped", help, metrics.dropped.clone());
        let help =
            "Connections, handshakes, requests and hellos turned away before it was known whose they are";
        registry.register("denied", help, metrics.denied.clone());
        let help = "From taking a batch of writes to its being on stable storage";
        registry.register_with_unit("commit", help, Unit::Seconds, metrics.commits.commit_seconds());
        registry.register("batch_writes", "Writes in a transaction", metrics.commits.writes_per_commit());
        let help = "From an event being on stable storage to its being handed to the system for one \
                    connection; one observation a system call, of its oldest event";
        registry.register_with_unit("delivery", help, Unit::Seconds, metrics.delivery_seconds.clone());
        let help = "Lines of the log that were dropped, because they could not be written or not in time";
        registry.register("log_lines_dropped", help, crate::log::dropped_lines());
        metrics.register_state(registry);
        metrics.register_parts(registry);
        metrics.begin_at_zero();
        Self { registry: all, ..metrics }
    }

    /// Registers the metrics of parts that have a module of their own.
    fn register_parts(&self, registry: &mut Registry) {
        self.bus.register(registry);
        self.tls.register(registry);
        self.token_keys.register(registry);
        self.hooks.register(registry);
        self.filter.register(registry);
        self.reports.register(registry);
        self.feed.register(registry);
        self.webhooks.register(registry);
    }

    /// Registers what is set from time to time: the node, its queues, its limit and its clock.
    fn register_state(&self, registry: &mut Registry) {
        let help = "Cursors of clients beyond the end of the log, because the database is older than the clients' state";
        registry.register("cursors_ahead", help, self.cursors_ahead.clone());
        registry.register("node_info", "The name of the node", self.node.clone());
        let help = "Events of other nodes that were read from the store, because no notice brought them or they change memberships";
        registry.register("holes_filled", help, self.missing_events_read.clone());
        let help = "Writes that wait for the writer of the store";
        registry.register("queued_writes", help, self.queued_writes.clone());
        let help = "Events that connections have still to read from the log";
        registry.register("replay_lag_events", help, self.replay_lag.clone());
        let help =
            "The limit of connections: limits.connections, or what the limit of open files leaves of it";
        registry.register("connections_limit", help, self.connections_limit.clone());
        let help = "How far the clock of another node is ahead of this node's clock";
        registry.register_with_unit("clock_skew", help, Unit::Seconds, self.clock_skew.clone());
    }

    /// Exports every counter as zero before its first increment. Prometheus computes a rate from two values, so it would miss the
    /// increment with which a counter first appears.
    fn begin_at_zero(&self) {
        for code in ErrorCode::ALL {
            drop(self.refused.get_or_create(&RefusedLabels { code: code.as_str() }));
        }
        self.set_write_fault(None);
        for reason in DropReason::ALL {
            drop(self.dropped.get_or_create(&ReasonLabels { reason: reason.as_str() }));
        }
    }

    /// Records the name of the node.
    pub(crate) fn set_node(&self, name: &NodeName) {
        self.node.get_or_create(&NodeLabels { node: name.as_str().to_owned() }).set(1);
    }

    /// Records what does not change while the server runs: its database and its limit of connections.
    pub(crate) fn set_server(&self, inspector: Inspector, connections: u32) {
        self.store_files.set(inspector);
        self.connections_limit.set(connections.into());
    }

    /// Records the writes that wait for the writer, and the events that connections have still to read from the log.
    pub(crate) fn set_queues(&self, writes: usize, lag_events: u64) {
        self.queued_writes.set(i64::try_from(writes).unwrap_or(i64::MAX));
        self.replay_lag.set(i64::try_from(lag_events).unwrap_or(i64::MAX));
    }

    /// Records how far the clock of another node is ahead of this node's clock, in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "2^53 ms are 285,000 years")]
    pub(crate) fn set_clock_skew(&self, milliseconds: i64) {
        self.clock_skew.set(milliseconds as f64 / 1_000.0);
    }

    /// Records whether `/readyz` now answers that the server is ready.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// Records the fault for which every write is refused now; `None` while writes are stored.
    pub(crate) fn set_write_fault(&self, fault: Option<WriteFault>) {
        for each in WriteFault::ALL {
            let labels = ReasonLabels { reason: each.as_str() };
            self.write_fault.get_or_create(&labels).set((fault == Some(each)).into());
        }
    }

    /// Records how long an event waited to be written to a connection after it was stored.
    pub(crate) fn observe_delivery(&self, took: Duration) {
        self.delivery_seconds.observe(took.as_secs_f64());
    }

    /// Exports the counter of a denial reason as zero.
    pub(crate) fn add_denial_reason(&self, reason: &'static str) {
        drop(self.denied.get_or_create(&ReasonLabels { reason }));
    }

    pub(crate) fn count_denied(&self, reason: &'static str) {
        self.denied.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn count_dropped(&self, reason: DropReason) {
        self.dropped.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
    }

    pub(crate) fn count_refused(&self, code: ErrorCode) {
        self.refused.get_or_create(&RefusedLabels { code: code.as_str() }).inc();
    }

    /// Encodes the metrics in the Prometheus text format 0.0.4.
    pub(crate) fn encode_for_prometheus(&self) -> String {
        prometheus_text::from_open_metrics(&self.encode())
    }

    /// Encodes the metrics in the OpenMetrics format 1.0.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
