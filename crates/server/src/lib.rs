//! Switchboard, the server: one binary that stores every message before it acknowledges the message, and delivers it to every
//! device of its recipients.
//!
//! `ARCHITECTURE.md` has the map and the invariants; this file has the wiring.

mod absences;
mod attendees;
pub mod auth;
mod bus;
pub mod cli;
pub mod config;
mod connections;
pub mod denial;
mod dev;
mod encode;
mod engine_url;
mod filter;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod hooks;
pub mod http;
mod http_client;
mod in_flight;
mod limiter;
mod log;
pub mod metrics;
mod network;
mod node_name;
mod nodes;
mod outbox;
mod peer;
mod places;
mod readiness;
mod reload;
pub mod router;
mod services;
mod session;
mod signature;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulated;
mod tasks;
mod throttle;
mod timers;
mod tls;
mod webhooks;
mod words;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};

use crate::attendees::Attendees;
use crate::auth::Authenticator;
use crate::bus::{Bus, BusEvent, NoBus, NodeId, nats};
use crate::config::{ClusterConfig, Config, UnknownUsers};
use crate::connections::Connections;
use crate::filter::Filter;
use crate::hooks::Hooks;
use crate::limiter::Limiter;
use crate::metrics::Metrics;
pub use crate::node_name::NodeName;
use crate::router::RouterHandle;
use crate::services::Services;
pub use crate::tasks::TaskFailure;
use crate::tasks::Tasks;
pub use switchboard_store::check::check_database;
use switchboard_store::clock::Clock;
use switchboard_store::inspect::Inspector;
use switchboard_store::keys::KeyStore;
use switchboard_store::postgres::{self, PostgresStore};
use switchboard_store::record::NoticeKey;
use switchboard_store::sqlite::{Settings, SqliteStore};
use switchboard_store::{Batch, SharedStore};

/// How long a server that has failed waits for its tasks to end. It is short, so that a supervisor starts the server again soon.
const FAILURE_DEADLINE: Duration = Duration::from_secs(1);

/// The time after which a server that has failed ends, even if tasks still run.
const FAILURE_LIMIT: Duration = Duration::from_millis(1_500);

/// The database that has the API keys of a server with this configuration.
pub fn key_store(config: &Config) -> KeyStore {
    match &config.cluster {
        None => KeyStore::Directory(config.data.clone()),
        Some(shared) => {
            KeyStore::Shared { url: shared.store.expose().to_owned(), ca: shared.settings.store_ca.clone() }
        }
    }
}

/// The database of a server with this configuration, for the queries of operators.
pub(crate) fn inspector(config: &Config) -> Inspector {
    match key_store(config) {
        KeyStore::Directory(data) => Inspector::Directory(data),
        KeyStore::Shared { url, ca } => Inspector::Shared { url, ca },
    }
}

/// Runs a server on `listener` until `shutdown` resolves, then stops it gracefully.
///
/// # Errors
/// The configuration cannot be used, the data directory cannot be opened, or the server has failed: [`TaskFailure`].
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let server = Server::start(listener, config, Clock::system()).await?;
    tokio::select! {
        () = shutdown => {}
        () = server.failed() => {}
    }
    Ok(server.stop().await?)
}

/// The parts of a server, besides its configuration.
pub(crate) struct ServerParts {
    pub(crate) authenticator: Authenticator,
    pub(crate) store: SharedStore,
    /// The hook of the application, if there is one.
    pub(crate) hooks: Option<Arc<Hooks>>,
    /// The filter of words, if there is one.
    pub(crate) filter: Option<Arc<Filter>>,
    pub(crate) batches: mpsc::Receiver<Batch>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    /// From this number of users on this node, a conversation coalesces its events.
    pub(crate) coalesce_from: usize,
    /// The connection to the other nodes; `None` on a single node.
    pub(crate) cluster: Option<router::ClusterParts>,
    pub(crate) attendees: Arc<Attendees>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) tasks: Tasks,
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    tasks: Tasks,
    router: RouterHandle,
    deadline: Duration,
    operators: OperatorListener,
}

/// The operators' listener, which serves until everything else has ended. `address` is `None` if it is not configured.
#[derive(Debug)]
struct OperatorListener {
    address: Option<SocketAddr>,
    tasks: Tasks,
}

impl Server {
    /// Opens the store, connects to the bus of a cluster, and starts to serve on `listener`.
    ///
    /// # Errors
    /// The configuration cannot be used, or the database cannot be opened.
    pub async fn start(listener: TcpListener, config: Config, clock: Clock) -> anyhow::Result<Self> {
        let authenticator = Authenticator::with_clock(&config.auth, clock.clone()).context("auth")?;
        let operators = bind_for_operators(config.operator_listen)?;
        let (metrics, tasks) = (Arc::new(Metrics::new()), Tasks::new());
        metrics.set_node(&config.name());
        metrics.set_server(inspector(&config), config.limits.connections);
        let connections = Connections::new(config.name());
        let tls = start_tls(&config, &clock, &metrics, &tasks)?;
        let OpenedStore { store, batches, cluster } =
            open_store(&config, &clock, &metrics, &connections, &tasks).await?;
        let hooks = Hooks::start(&config, &store, &clock, &metrics, &tasks)?;
        let filter = Filter::start(config.moderation.as_ref(), &metrics, &tasks)?;
        let coalesce_from = router::COALESCE_FROM_USERS;
        let attendees = Arc::new(Attendees::new(cluster.is_some(), config.feed.online));
        let parts = ServerParts {
            attendees: attendees.clone(),
            authenticator,
            store,
            hooks,
            filter,
            batches,
            metrics,
            clock,
            coalesce_from,
            cluster,
            connections,
            tasks,
        };
        let node = format!("{}/{}", config.name(), uuid::Uuid::now_v7().simple());
        let times = absences::Times::new(&config);
        let (mut server, services) = Self::without_listeners(config, parts);
        start_webhooks(&services, node.clone());
        absences::start(&services, attendees, node, times);
        services.fetch_token_keys();
        if let Some(operators) = operators {
            server.serve_operators(operators, services.clone())?;
        }
        server.tasks.spawn_critical("acceptor", http::serve(listener, services, tls));
        Ok(server)
    }

    /// Makes a server without listeners: the router, and the services that sessions share.
    fn without_listeners(config: Config, parts: ServerParts) -> (Self, Arc<Services>) {
        let (bus, nodes) = parts.cluster.as_ref().map(router::ClusterParts::bus_and_nodes).unzip();
        let ServerParts {
            attendees,
            authenticator,
            store,
            hooks,
            filter,
            batches,
            metrics,
            clock,
            coalesce_from,
            cluster,
            connections,
            tasks,
        } = parts;
        let (key_store, inspection) = (key_store(&config), Some(Arc::new(Mutex::new(inspector(&config)))));
        let limits = Arc::new(config.limits);
        let (handle, router) = router::new(router::RouterParts {
            store: store.clone(),
            batches,
            metrics: metrics.clone(),
            clock: clock.clone(),
            limits: limits.clone(),
            grace: config.presence_grace,
            reconnect_spread_ms: u64::try_from(config.reconnect_spread.as_millis()).unwrap_or(u64::MAX),
            coalesce_from,
            cluster,
            attendees,
        });
        tasks.spawn_critical("router", router.run(tasks.clone()));
        let log_throttles = services::ClientLogThrottles::new(throttle::NameBudget::default());
        let denials = denial::Denials::new(metrics.clone(), &log_throttles.budget);
        let services = Arc::new(Services {
            mode: config.mode,
            lowered_connections: config.lowered_connections,
            limiter: Limiter::new(&limits),
            allowed_origins: config.allowed_origins,
            proxies: Arc::new(config.proxies),
            authenticator,
            clock,
            limits,
            metrics,
            router: handle.clone(),
            store,
            hooks,
            filter,
            bus,
            connections,
            nodes: nodes.unwrap_or_default(),
            inspection,
            operator_token: config.operator_token,
            has_operator_listener: config.operator_listen.is_some(),
            health: health::Health::default(),
            in_flight: Arc::default(),
            feed_keep: config.feed.keep,
            key_store,
            webhooks: config.webhooks,
            webhooks_changed: Arc::default(),
            feed_waits: Arc::default(),
            profiles: config.profiles,
            permissions: Arc::new(config.permissions.into()),
            bulk_calls: Arc::default(),
            import_turn: Arc::new(tokio::sync::Semaphore::new(1)),
            readiness: readiness::Readiness::default(),
            denials,
            log_throttles,
            tasks: tasks.clone(),
        });
        tasks.spawn_critical("sweep", sweep_periodically(services.clone()));
        (Self::new(tasks, handle, config.shutdown_deadline), services)
    }

    fn new(tasks: Tasks, router: RouterHandle, deadline: Duration) -> Self {
        let operators = OperatorListener { address: None, tasks: tasks.new_later_set() };
        Self { tasks, router, deadline, operators }
    }

    fn serve_operators(&mut self, listener: TcpListener, services: Arc<Services>) -> anyhow::Result<()> {
        let OperatorListener { address, tasks } = &mut self.operators;
        *address = Some(listener.local_addr().context("the operators' listener")?);
        let serving = http::serve_operators(listener, services, tasks.clone());
        tasks.spawn_critical("operators' acceptor", serving);
        Ok(())
    }

    /// The address of the operators' listener, if there is one.
    pub fn operator_address(&self) -> Option<SocketAddr> {
        self.operators.address
    }

    /// Resolves when the server has failed, because a critical task has ended. The caller should then stop it.
    pub async fn failed(&self) {
        self.tasks.failed().cancelled().await;
    }

    /// Returns when the router answers. A supervisor should restart a server whose router does not.
    pub async fn wait_for_router(&self) {
        self.router.ping().await;
    }

    /// Stops the server. It first accepts no new connections and is not ready any more; then it sends `bye` to all clients.
    /// Commands that have arrived are still answered until the deadline. Operators are answered until the end.
    ///
    /// # Errors
    /// The server has failed, before or during the stop. Then it stops within 2 seconds.
    pub async fn stop(self) -> Result<(), TaskFailure> {
        let Self { tasks, router, deadline, operators } = self;
        tasks.stop().cancel();
        let stopping = async {
            router.stop().await;
            drop(router);
            tasks.finish(deadline).await
        };
        let failed = async {
            tasks.failed().cancelled().await;
            let ended = tokio::time::timeout(FAILURE_LIMIT, tasks.finish(deadline.min(FAILURE_DEADLINE)));
            ended.await.unwrap_or(false)
        };
        let in_time = tokio::select! {
            in_time = stopping => in_time,
            in_time = failed => in_time,
        };
        if !in_time {
            tracing::warn!("the deadline for stopping has passed; what was still open was cut");
        }
        operators.tasks.finish(Duration::ZERO).await;
        tracing::info!("stopped");
        tasks.failure().map_or(Ok(()), Err)
    }
}

/// Binds the operators' listener if one is configured. This is done first, so that an address in use is reported at once.
fn bind_for_operators(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let bound = http::listen_for_operators(address);
    let advice = "choose another address with --operator-listen";
    bound.map(Some).with_context(|| format!("cannot listen on {address} for operators: {advice}"))
}

/// Loads the certificate of the clients' listener, if it has TLS.
fn start_tls(
    config: &Config,
    clock: &Clock,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> anyhow::Result<Option<Arc<tls::Tls>>> {
    tls::HandshakeFailure::ALL.into_iter().for_each(|failure| metrics.tls.add_failure(failure.as_str()));
    let tls = config.tls.as_ref();
    tls.map(|tls| tls::Tls::start(tls, &config.data, clock, metrics, tasks)).transpose()
}

/// Starts to send for the webhooks, if there is a secret that signs them.
fn start_webhooks(services: &Arc<Services>, node: String) {
    let Some(config) = services.webhooks.clone() else { return };
    let parts = webhooks::Parts {
        config,
        database: services.key_store.clone(),
        node,
        store: services.store.clone(),
        clock: services.clock.clone(),
        metrics: services.metrics.webhooks.clone(),
        tasks: services.tasks.clone(),
        changed: services.webhooks_changed.clone(),
    };
    services.tasks.spawn_critical("webhooks", webhooks::run(parts));
}

/// The opened store, and the connection to the other nodes that share it.
struct OpenedStore {
    store: SharedStore,
    batches: mpsc::Receiver<Batch>,
    cluster: Option<router::ClusterParts>,
}

async fn open_store(
    config: &Config,
    clock: &Clock,
    metrics: &Arc<Metrics>,
    connections: &Arc<Connections>,
    tasks: &Tasks,
) -> anyhow::Result<OpenedStore> {
    let (limits, strangers) = (config.limits.clone(), config.unknown_users == UnknownUsers::Allow);
    let (clock, metrics, tells_reads) = (clock.clone(), metrics.clone(), config.feed.reads);
    let Some(shared) = &config.cluster else {
        let data = config.data.clone();
        let metrics = metrics.commits.clone();
        let settings = Settings { data, limits, strangers, tells_reads, clock, metrics };
        // Opening blocks: it waits for a file lock, and rewrites the write-ahead log.
        let (store, batches) = tokio::task::spawn_blocking(|| SqliteStore::open(settings)).await??;
        return Ok(OpenedStore { store: Arc::new(store), batches, cluster: None });
    };
    let settings = postgres::Settings {
        url: shared.store.expose().to_owned(),
        ca: shared.settings.store_ca.clone(),
        readers: shared.settings.readers as usize,
        name: Some(config.name().to_string()),
        limits,
        strangers,
        tells_reads,
        clock,
        metrics: metrics.commits.clone(),
        capabilities: postgres::Capabilities::default(),
    };
    let (store, batches) = tokio::task::spawn_blocking(|| PostgresStore::open(settings)).await??;
    let store = Arc::new(store);
    let node = NodeId::new()?;
    let name = config.name();
    let (bus, events) = join_bus(shared, (node, &name), store.notice_key(), metrics, tasks).await?;
    let between = shared.bus.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    tracing::info!(store = %shared.store, bus = between, node = %name, node_id = %node, "started in cluster mode");
    let cluster = router::ClusterParts {
        store: store.clone(),
        bus,
        events,
        sweep_interval: shared.settings.sweep,
        lease: shared.settings.lease,
        nodes: Arc::default(),
        connections: connections.clone(),
    };
    Ok(OpenedStore { store, batches, cluster: Some(cluster) })
}

/// Connects to the bus of a cluster, if one is configured.
async fn join_bus(
    cluster: &ClusterConfig,
    (node, name): (NodeId, &NodeName),
    key: &NoticeKey,
    metrics: Arc<Metrics>,
    tasks: &Tasks,
) -> anyhow::Result<(Arc<dyn Bus>, mpsc::Receiver<BusEvent>)> {
    let Some(settings) = bus_settings(cluster, name) else {
        return Ok((Arc::new(NoBus), mpsc::channel(1).1));
    };
    let (bus, heard) = nats::connect(&settings, key, node, metrics, tasks).await?;
    Ok((Arc::new(bus), heard))
}

fn bus_settings(cluster: &ClusterConfig, name: &NodeName) -> Option<nats::NatsSettings> {
    let settings = &cluster.settings;
    Some(nats::NatsSettings {
        url: cluster.bus.clone()?,
        credentials: settings.bus_credentials.clone(),
        ca: settings.bus_ca.clone(),
        prefix: settings.bus_prefix.clone(),
        name: name.clone(),
    })
}

/// Checks the addresses of the database and the bus without connecting to them.
pub(crate) fn check_engines(cluster: &ClusterConfig) -> anyhow::Result<()> {
    postgres::check_url(cluster.store.expose(), cluster.settings.store_ca.as_deref())?;
    bus_settings(cluster, &NodeName::of_host()).as_ref().map_or(Ok(()), nats::check)
}

/// Connects to the bus once.
pub(crate) async fn try_bus(config: &Config) -> anyhow::Result<()> {
    let settings = config.cluster.as_ref().and_then(|cluster| bus_settings(cluster, &config.name()));
    match settings {
        Some(settings) => nats::try_connect(&settings).await,
        None => Ok(()),
    }
}

/// Drops the rate buckets of inactive users and logs how many log lines were suppressed, at an interval until the server stops.
async fn sweep_periodically(services: Arc<Services>) {
    http::reports::purge(&services);
    http::reports::count_undecided(&services);
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(limiter::SWEEP_INTERVAL) => {
                services.limiter.sweep();
                services.denials.flush();
                http::feed::trim(&services);
                http::reports::purge(&services);
                http::reports::count_undecided(&services);
                services.log_throttles.flush();
            }
            () = services.tasks.stop().cancelled() => return,
        }
    }
}
