//! The operators' listener: probes and metrics on a port of their own, so that no flood of the other one keeps them waiting.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::accept::builder;
use crate::services::Services;
use crate::tasks::Tasks;
use crate::throttle::Throttle;

/// Most connections at once; supervisors, load balancers and Prometheus have a few. Beyond, the oldest that has asked for nothing
/// for `SILENCE_TIMEOUT` is closed, or else the next one waits for the first that is answered.
pub(crate) const OPERATOR_CONNECTIONS: usize = 128;

/// Time for a connection from its start to the end of its one answer. A probe takes 2 s at most.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a connection to ask in when others need its place. A probe's request comes right behind its connection.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a connection that has no place looks for one that has been silent for too long.
const EVICTION_INTERVAL: Duration = Duration::from_millis(20);

/// How long to wait before taking connections again when the system has no more files to give.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// Connections that the system keeps until there is a place for them. Of more it drops the first packet, which comes again after
/// a second. A thousand probes at once are answered without that.
const BACKLOG: u32 = 4_096;

/// The listener at an address.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As `TcpListener::bind` does: a restart need not wait for old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The connections that have asked for nothing, the oldest first.
#[derive(Debug, Default)]
struct Silent(Mutex<BTreeMap<u64, (Instant, CancellationToken)>>);

impl Silent {
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

    /// Closes the oldest connection if it has been silent for too long.
    fn close_oldest(&self) {
        let mut connections = self.connections();
        let Some(oldest) = connections.first_entry() else { return };
        if oldest.get().0.elapsed() >= SILENCE_TIMEOUT {
            oldest.remove().1.cancel();
        }
    }
}

/// Waits for a place, of a connection that has been answered or of one that says nothing.
async fn take_place(places: &Arc<Semaphore>, silent: &Silent) -> Option<OwnedSemaphorePermit> {
    loop {
        if places.available_permits() == 0 {
            silent.close_oldest();
        }
        match tokio::time::timeout(EVICTION_INTERVAL, places.clone().acquire_owned()).await {
            Ok(place) => return place.ok(),
            Err(_) => continue,
        }
    }
}

/// Takes connections until `tasks` stop, which is after all else has stopped.
pub(crate) async fn serve(listener: TcpListener, services: Arc<Services>, tasks: Tasks) {
    let routes = super::operator_routes(&services);
    let (places, silent) = (Arc::new(Semaphore::new(OPERATOR_CONNECTIONS)), Arc::new(Silent::default()));
    let failed = Throttle::default();
    for number in 0.. {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stop().cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(count) = failed.record() {
                    tracing::warn!(%error, count, "cannot take a connection of an operator");
                }
                tokio::time::sleep(OUT_OF_FILES).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = take_place(&places, &silent) => place,
            () = tasks.stop().cancelled() => return,
        };
        let closed = silent.add(number);
        let (routes, silent, stop) = (routes.clone(), silent.clone(), tasks.stop().clone());
        tasks.spawn(async move {
            let answered = answer(stream, routes, || silent.remove(number));
            tokio::select! {
                _ = tokio::time::timeout(CONNECTION_TIMEOUT, answered) => {}
                () = closed.cancelled() => {}
                () = stop.cancelled() => {}
            }
            silent.remove(number);
            drop(place);
        });
    }
}

/// Answers one request; `asked` is called when it has come.
async fn answer(stream: TcpStream, routes: axum::Router, asked: impl Fn()) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        asked();
        let request: Request = request.map(axum::body::Body::new);
        routes.clone().oneshot(request)
    });
    // Many short connections: one whose request has been answered makes room.
    let serving = builder().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // However it ends, the client knows as much as we do.
    drop(serving.await);
}
