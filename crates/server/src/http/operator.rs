//! The operators' listener: probes and metrics on a separate port, so that a flood of the clients' port does not delay them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::accept::builder;
use super::operations::OperatorPeer;
use crate::services::Services;
use crate::tasks::Tasks;
use crate::throttle::Throttle;

/// The most connections at once; supervisors, load balancers and Prometheus need a few. If there are this many, the oldest
/// connection that has sent no request for `REQUEST_TIMEOUT` is closed for a new one. If there is none, the new one waits.
pub(crate) const OPERATOR_CONNECTIONS: usize = 128;

/// The time-out of a connection, from accept to the end of its only response. A probe takes at most 2 s.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may send no request while other connections wait. A probe sends its request at once.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a waiting connection checks for an idle one to evict.
const EVICTION_INTERVAL: Duration = Duration::from_millis(20);

/// Delay before the next accept after one failed, for example because no file descriptors are left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The most connections that the kernel queues until they are accepted. It drops the first packet of further ones, and the client's
/// kernel retries after a second. A thousand simultaneous probes fit.
const OPERATOR_BACKLOG: u32 = 4_096;

/// Binds the listener.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Allows a restart while old connections are in TIME_WAIT, as `TcpListener::bind` does.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(OPERATOR_BACKLOG)
}

/// The connections that have not sent a request yet, the oldest first.
#[derive(Debug, Default)]
struct IdleConnections(Mutex<BTreeMap<u64, (Instant, CancellationToken)>>);

impl IdleConnections {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, (Instant, CancellationToken)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, number: u64) -> CancellationToken {
        let closed = CancellationToken::new();
        self.connections().insert(number, (Instant::now(), closed.clone()));
        closed
    }

    fn remove(&self, number: u64) {
        self.connections().remove(&number);
    }

    /// Closes the oldest connection if its request time-out has passed.
    fn evict_oldest(&self) {
        let mut connections = self.connections();
        let Some(oldest) = connections.first_entry() else { return };
        if oldest.get().0.elapsed() >= REQUEST_TIMEOUT {
            oldest.remove().1.cancel();
        }
    }
}

/// Waits until the server has fewer than `OPERATOR_CONNECTIONS` connections, and closes idle ones for that.
async fn acquire_place(places: &Arc<Semaphore>, idle: &IdleConnections) -> Option<OwnedSemaphorePermit> {
    loop {
        if places.available_permits() == 0 {
            idle.evict_oldest();
        }
        match tokio::time::timeout(EVICTION_INTERVAL, places.clone().acquire_owned()).await {
            Ok(place) => return place.ok(),
            Err(_) => continue,
        }
    }
}

/// Accepts connections until `tasks` stop. These tasks stop last, so that operators can see a server that is stopping.
pub(crate) async fn serve(listener: TcpListener, services: Arc<Services>, tasks: Tasks) {
    let routes = routes(&services, &tasks);
    // `services` owns the store, and a stopping server waits until the store has no owner.
    drop(services);
    let (places, idle) =
        (Arc::new(Semaphore::new(OPERATOR_CONNECTIONS)), Arc::new(IdleConnections::default()));
    let failed = Throttle::default();
    for number in 0.. {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stop().cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok((stream, address)) => (stream, OperatorPeer(address.ip())),
            Err(error) => {
                if let Some(count) = failed.record_event() {
                    tracing::warn!(%error, count, "cannot accept a connection on the operators' listener");
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = acquire_place(&places, &idle) => place,
            () = tasks.stop().cancelled() => return,
        };
        let closed = idle.add(number);
        let (routes, idle, stop) = (routes.clone(), idle.clone(), tasks.stop().clone());
        tasks.spawn(async move {
            let answered = answer(stream, peer, routes, || idle.remove(number));
            tokio::select! {
                _ = tokio::time::timeout(CONNECTION_TIMEOUT, answered) => {}
                () = closed.cancelled() => {}
                () = stop.cancelled() => {}
            }
            idle.remove(number);
            drop(place);
        });
    }
}

/// The current routes. They change to those of a stopping server as soon as the server stops.
fn routes(services: &Arc<Services>, tasks: &Tasks) -> watch::Receiver<Router> {
    let (sender, routes) = watch::channel(super::operator_routes(services));
    let (stop, stopping) = (services.tasks.stop().clone(), super::operator_routes_while_stopping(services));
    tasks.spawn(async move {
        stop.cancelled().await;
        drop(sender.send_replace(stopping));
    });
    routes
}

/// Answers one request; calls `on_request` when it has arrived.
async fn answer(
    stream: TcpStream,
    peer: OperatorPeer,
    routes: watch::Receiver<Router>,
    on_request: impl Fn(),
) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        on_request();
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(peer);
        let current = routes.borrow().clone();
        current.oneshot(request)
    });
    // Keep-alive is off, so that a connection ends with its response and makes room for another.
    let serving = builder().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // An error here means that the client has disconnected, which needs no log line.
    drop(serving.await);
}
