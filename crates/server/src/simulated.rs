//! The server as the simulation runs it: everything behind the doors, over streams that are no sockets, on a store that
//! it is given. docs/decisions/0034-simulation.md says why; nothing else is to use it.

#[expect(
    clippy::disallowed_methods,
    reason = "notices under way belong to the simulated world, which ends with its runtime"
)]
mod bus;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use switchboard_protocol::UserId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use self::bus::{Air, Weather};
use crate::auth::Authenticator;
use crate::bus::NoBus;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::router::Cluster;
use crate::services::Services;
use crate::session::{self, socket::Socket};
use crate::tasks::Tasks;
use crate::{Parts, Server, http};
use switchboard_store::clock::Clock;
use switchboard_store::{Batch, SharedLog, SharedStore};

/// The address of clients that come over no network.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What makes a server one of several.
pub struct Among {
    /// What all of them write to.
    pub store: Arc<dyn SharedLog>,
    /// The way to the others, and this one's place there; none where they do not hear of each other.
    pub air: Option<(Air, usize)>,
    /// How often it compares what it hosts with the store.
    pub sweep: Duration,
    /// How long one that says nothing counts as alive.
    pub lease: Duration,
}

impl Among {
    fn cluster(self) -> Cluster {
        let Self { store, air, sweep, lease } = self;
        let (bus, heard) = match air {
            Some((air, place)) => air.join(place),
            None => (Arc::new(NoBus) as _, mpsc::channel(1).1),
        };
        Cluster { store, bus, heard, sweep, lease }
    }
}

/// A server without doors.
pub struct Simulated {
    server: Server,
    services: Arc<Services>,
}

impl Simulated {
    /// Starts one on a store, alone or among others. Events gather in conversations with `gather_from` users here or more.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn start(
        config: Config,
        clock: Clock,
        (store, batches): (SharedStore, mpsc::Receiver<Batch>),
        gather_from: usize,
        among: Option<Among>,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let authenticator = Authenticator::with_clock(&config.auth, clock.clone())?;
        let (cluster, tasks) = (among.map(Among::cluster), Tasks::new());
        let parts = Parts { authenticator, store, batches, metrics, clock, gather_from, cluster, tasks };
        let (server, services) = Server::without_doors(config, parts);
        Ok(Self { server, services })
    }

    /// Serves a connection on which the WebSocket handshake is done.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let services = self.services.clone();
        self.services.tasks.spawn(async move {
            let tasks = services.tasks.clone();
            let socket = Socket::new(stream, Vec::new());
            tasks.until_cut(Box::pin(session::run(services, socket, NOWHERE, None))).await;
        });
    }

    /// Logs a user out everywhere, as the HTTP door does; whether that was stored.
    pub fn revoke(&self, user: UserId) -> impl Future<Output = bool> + Send + use<> {
        let services = Arc::downgrade(&self.services);
        async move {
            let Some(services) = services.upgrade() else { return false };
            http::revoke::revoke_user(&services, user, false).await.is_ok()
        }
    }

    /// Stops as a server does that is asked to.
    pub async fn stop(self) {
        let Self { server, services } = self;
        drop(services);
        // A task that panics has said so, and the world notices what it does not do.
        let _ = server.stop().await;
    }

    /// Ends as a server does that is killed: every task is dropped where it is.
    pub async fn crash(self) {
        let Self { server, services } = self;
        drop(services);
        server.tasks.cut().cancel();
        server.tasks.finish(std::time::Duration::ZERO).await;
    }
}
