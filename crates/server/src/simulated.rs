//! The server as the simulation runs it: everything behind the doors, over streams that are no sockets, on a store that
//! it is given. docs/decisions/0034-simulation.md says why; nothing else is to use it.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::services::Services;
use crate::session::{self, socket::Socket};
use crate::store::{Batch, SharedStore};
use crate::tasks::Tasks;
use crate::{Parts, Server};

/// A server without doors.
pub struct Simulated {
    server: Server,
    services: Arc<Services>,
}

impl Simulated {
    /// Starts one on a store. Events gather in conversations with `gather_from` users here or more.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn start(
        config: Config,
        clock: Clock,
        (store, batches): (SharedStore, mpsc::Receiver<Batch>),
        gather_from: usize,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let authenticator = Authenticator::with_clock(&config.auth, clock.clone())?;
        let parts = Parts {
            authenticator,
            store,
            batches,
            metrics,
            clock,
            gather_from,
            cluster: None,
            tasks: Tasks::new(),
        };
        let (server, services) = Server::without_doors(config, parts);
        Ok(Self { server, services })
    }

    /// Serves a connection on which the WebSocket handshake is done.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let services = self.services.clone();
        self.services.tasks.spawn(async move {
            let tasks = services.tasks.clone();
            tasks.until_cut(Box::pin(session::run(services, Socket::new(stream, Vec::new())))).await;
        });
    }

    /// Stops as a server does that is asked to.
    pub async fn stop(self) {
        let Self { server, services } = self;
        drop(services);
        server.stop().await;
    }

    /// Ends as a server does that is killed: every task is dropped where it is.
    pub async fn crash(self) {
        let Self { server, services } = self;
        drop(services);
        server.tasks.cut().cancel();
        server.tasks.finish(std::time::Duration::ZERO).await;
    }
}
