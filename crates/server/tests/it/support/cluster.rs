//! Several nodes on one PostgreSQL, with NATS between them or without.

use switchboard::config::{ClusterConfig, Config, EngineUrl};

use super::Server;

/// With `TEST_STORE=postgres` every server of the tests is a cluster node on its own PostgreSQL database, with NATS. Tests that do
/// not depend on SQLite must pass with it, too.
pub(super) async fn requested_by_environment() -> Option<SharedEngines> {
    match std::env::var("TEST_STORE") {
        Ok(store) if store == "postgres" => Some(SharedEngines::new().await),
        Ok(other) => panic!("TEST_STORE={other}: there is postgres, and without it SQLite"),
        Err(_) => None,
    }
}

/// The database and the bus of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct SharedEngines {
    pub(crate) store: EngineUrl,
    pub(crate) bus: Option<EngineUrl>,
    /// The prefix of the cluster's NATS subjects, because other tests use the same nats-server.
    pub(crate) prefix: String,
}

impl SharedEngines {
    /// Creates a database in the PostgreSQL that all tests share, for a cluster with the shared NATS.
    pub(crate) async fn new() -> Self {
        let nats = engines::shared_nats().await.expect("a nats-server");
        Self { bus: Some(EngineUrl::new(nats.url())), ..Self::without_bus().await }
    }

    /// Creates a database for a cluster without a bus.
    pub(crate) async fn without_bus() -> Self {
        let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
        let store = EngineUrl::new(postgres.new_database().await.expect("a database"));
        let prefix = format!("test-{}", uuid::Uuid::now_v7().simple());
        Self { store, bus: None, prefix }
    }

    /// Runs a statement in the database and returns its output.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        self.tries_sql(sql).await.expect("a good statement")
    }

    /// Runs a statement that may fail.
    pub(crate) async fn tries_sql(&self, sql: &str) -> anyhow::Result<String> {
        let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
        let url = self.store.expose();
        let database = url.split('?').next().and_then(|url| url.rsplit('/').next()).expect("a database");
        postgres.psql_in(database, sql).await
    }

    /// Changes the settings of a server, so that it becomes a node of this cluster.
    pub(crate) fn configure(&self, config: &mut Config) {
        let mut cluster = ClusterConfig::with_engines(self.store.clone(), self.bus.clone());
        cluster.settings.bus_prefix.clone_from(&self.prefix);
        config.cluster = Some(cluster);
    }
}

/// A cluster of nodes, each a server in this process.
pub(crate) struct Cluster {
    pub(crate) shared: SharedEngines,
    nodes: Vec<Server>,
}

impl Cluster {
    /// Starts a cluster with this number of nodes.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_on(SharedEngines::new().await, nodes, |_| {}).await
    }

    /// Starts a cluster on an existing database, with settings that `settings` changes.
    pub(crate) async fn start_on(
        shared: SharedEngines,
        nodes: usize,
        settings: impl Fn(&mut Config),
    ) -> Self {
        let mut cluster = Self { shared, nodes: Vec::new() };
        for _ in 0..nodes {
            let node = Server::start_with(|config| {
                cluster.shared.configure(config);
                settings(config);
            });
            cluster.nodes.push(node.await);
        }
        cluster
    }

    /// The node with this number.
    pub(crate) fn node(&self, number: usize) -> &Server {
        &self.nodes[number]
    }

    /// The node with this number, for a test that stops or starts it.
    pub(crate) fn node_mut(&mut self, number: usize) -> &mut Server {
        &mut self.nodes[number]
    }
}
