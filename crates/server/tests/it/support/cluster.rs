//! Several nodes on one PostgreSQL, with NATS between them or without.

use switchboard::config::{ClusterConfig, Config, EngineUrl};

use super::Server;

/// Where `TEST_STORE=postgres` asks for it, every server is a node on a database of its own, with NATS: the tests that know
/// nothing of where it stores must hold there as well.
pub(super) async fn wanted() -> Option<Shared> {
    match std::env::var("TEST_STORE") {
        Ok(store) if store == "postgres" => Some(Shared::new().await),
        Ok(other) => panic!("TEST_STORE={other}: there is postgres, and without it SQLite"),
        Err(_) => None,
    }
}

/// What the nodes of one installation share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) store: EngineUrl,
    pub(crate) bus: Option<EngineUrl>,
    /// So that tests that share a nats-server do not hear each other.
    pub(crate) prefix: String,
}

impl Shared {
    /// A new database, on the servers that all tests share.
    pub(crate) async fn new() -> Self {
        let nats = engines::shared_nats().await.expect("a nats-server");
        Self { bus: Some(EngineUrl::new(nats.url())), ..Self::without_bus().await }
    }

    /// The same with nothing between the nodes.
    pub(crate) async fn without_bus() -> Self {
        let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
        let store = EngineUrl::new(postgres.new_database().await.expect("a database"));
        let prefix = format!("test-{}", uuid::Uuid::now_v7().simple());
        Self { store, bus: None, prefix }
    }

    /// Runs a statement in its database; what it answers.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        self.tries_sql(sql).await.expect("a good statement")
    }

    /// The same for a statement that may be cancelled.
    pub(crate) async fn tries_sql(&self, sql: &str) -> anyhow::Result<String> {
        let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
        let url = self.store.expose();
        let database = url.split('?').next().and_then(|url| url.rsplit('/').next()).expect("a database");
        postgres.psql_in(database, sql).await
    }

    /// Makes a node part of it.
    pub(crate) fn configure(&self, config: &mut Config) {
        let bus_prefix = self.prefix.clone();
        config.cluster =
            Some(ClusterConfig { bus_prefix, ..ClusterConfig::on(self.store.clone(), self.bus.clone()) });
    }
}

/// Nodes, each a server in this process.
pub(crate) struct Cluster {
    pub(crate) shared: Shared,
    nodes: Vec<Server>,
}

impl Cluster {
    /// So many nodes.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_on(Shared::new().await, nodes, |_| {}).await
    }

    /// The same on what is given, with other settings.
    pub(crate) async fn start_on(shared: Shared, nodes: usize, settings: impl Fn(&mut Config)) -> Self {
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

    /// One of the nodes.
    pub(crate) fn node(&self, number: usize) -> &Server {
        &self.nodes[number]
    }

    /// One of the nodes, to be stopped or started.
    pub(crate) fn node_mut(&mut self, number: usize) -> &mut Server {
        &mut self.nodes[number]
    }
}
