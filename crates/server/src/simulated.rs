//! The server as the simulation runs it: without listeners, over in-memory streams, on a given store. Only the simulation uses it:
//! docs/decisions/0034-simulation.md.

#[expect(
    clippy::disallowed_methods,
    reason = "notices in flight belong to the simulated world, which ends with its runtime"
)]
mod bus;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use switchboard_protocol::UserId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use self::bus::{BusFaults, SimulatedNetwork};
use crate::auth::Authenticator;
use crate::bus::NoBus;
use crate::config::Config;
use crate::connections::Connections;
use crate::metrics::Metrics;
use crate::node_name::NodeName;
use crate::router::ClusterParts;
use crate::services::Services;
use crate::session::{self, socket::Socket};
use crate::tasks::Tasks;
use crate::{Server, ServerParts, http};
use switchboard_store::clock::Clock;
use switchboard_store::{Batch, SharedLog, SharedStore};

/// The address of all clients, because the simulation has no network.
const CLIENT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The parts that make a server a node of a cluster.
pub struct SimulatedCluster {
    /// The store that all nodes share.
    pub store: Arc<dyn SharedLog>,
    /// The network of the simulated bus, and the index of this node; `None` for nodes without a bus.
    pub network: Option<(SimulatedNetwork, usize)>,
    /// How often the node compares its users with the store.
    pub sweep: Duration,
    /// How long a node counts as alive after its last heartbeat.
    pub lease: Duration,
}

impl SimulatedCluster {
    fn into_parts(self, connections: Arc<Connections>) -> ClusterParts {
        let Self { store, network, sweep, lease } = self;
        let (bus, events) = match network {
            Some((network, place)) => network.join(place),
            None => (Arc::new(NoBus) as _, mpsc::channel(1).1),
        };
        ClusterParts { store, bus, events, sweep_interval: sweep, lease, nodes: Arc::default(), connections }
    }
}

/// A server without listeners.
pub struct SimulatedServer {
    server: Server,
    services: Arc<Services>,
}

impl SimulatedServer {
    /// Starts a node on a store, alone or in a cluster. A conversation with at least `coalesce_from` users on this node coalesces
    /// its events.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn start(
        config: Config,
        clock: Clock,
        (store, batches): (SharedStore, mpsc::Receiver<Batch>),
        coalesce_from: usize,
        among: Option<SimulatedCluster>,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let authenticator = Authenticator::with_clock(&config.auth, clock.clone())?;
        let connections = Connections::new(NodeName::of_host());
        let cluster = among.map(|among| among.into_parts(connections.clone()));
        let tasks = Tasks::new();
        let parts = ServerParts {
            attendees: Arc::default(),
            authenticator,
            store,
            hooks: None,
            filter: None,
            batches,
            metrics,
            clock,
            coalesce_from,
            cluster,
            connections,
            tasks,
        };
        let (server, services) = Server::without_listeners(config, parts);
        Ok(Self { server, services })
    }

    /// Serves a connection, which begins after the WebSocket handshake.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let services = self.services.clone();
        self.services.tasks.spawn(async move {
            let tasks = services.tasks.clone();
            let socket = Box::new(Socket::new(stream, Vec::new(), CLIENT_ADDRESS));
            tasks.run_until_deadline(Box::pin(session::run(services, socket, None))).await;
        });
    }

    /// Revokes the tokens of a user, as the HTTP API does. Resolves to whether the revocation was stored.
    pub fn revoke(&self, user: UserId) -> impl Future<Output = bool> + Send + use<> {
        let services = Arc::downgrade(&self.services);
        async move {
            let Some(services) = services.upgrade() else { return false };
            http::revoke::revoke_user(&services, user, false, (switchboard_store::record::Via::USER, None))
                .await
                .is_ok()
        }
    }

    /// Stops the server gracefully.
    pub async fn stop(self) {
        let Self { server, services } = self;
        drop(services);
        // The panic of a task has been reported where it happened.
        let _ = server.stop().await;
    }

    /// Crashes the server: drops every task in its current state.
    pub async fn crash(self) {
        let Self { server, services } = self;
        drop(services);
        server.tasks.deadline_passed().cancel();
        server.tasks.finish(std::time::Duration::ZERO).await;
    }
}
