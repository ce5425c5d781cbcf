//! Taking connections: how many, how long a request may take to come, and the end.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use futures_util::TryFutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use switchboard_protocol::ErrorCode;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use super::patience::{Answering, Patient, is_stalled};
use super::problem::Problem;
use crate::denial::Denial;
use crate::in_flight::Permit;
use crate::metrics::Drop;
use crate::peer::{Peer, proxy_protocol};
use crate::places::{Full, Place, Places, RefusedPlace};
use crate::refusal::Refusal;
use crate::services::Services;
use crate::throttle::Throttle;

/// Time for the head of a request to come, from the first byte of the connection or the end of the
/// answer before: a head that dribbles in is a way to hold sockets for nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of a request's head; browsers send 1–2 KiB. Beyond: 431.
const HEAD_BYTES: usize = 16 * 1024;

/// Most headers of a request; browsers send about 20. Beyond: 431.
const HEADERS: usize = 64;

/// How long to wait before taking connections again when there are no descriptors, or the listener fails otherwise.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Strangers that are evicted at once when there are no descriptors: some are needed for other things than connections.
const EVICTED_FOR_DESCRIPTORS: usize = 16;

/// Milliseconds after which a refused client may try again.
const FULL_RETRY_MS: u64 = 5_000;

/// What is answered though there is no place: how an operator, or an orchestrator, tells a flooded server from a dead one.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// What the log says of refused connections, once a minute each.
#[derive(Debug, Default)]
struct Lines {
    full: Throttle,
    address: Throttle,
    evicted: Throttle,
    failed: Throttle,
}

/// Whose a request is.
#[derive(Clone)]
pub(super) struct Client {
    /// Its address, as far as trusted proxies say so.
    pub(super) address: IpAddr,
    door: Arc<Door>,
}

impl Client {
    /// Counts a connection for this client, where it is a proxy's and so counts for none; a problem if the client has too many.
    pub(super) fn count(&self, place: &Place) -> Result<(), Problem> {
        place.count(self.address).map_err(|full| {
            self.door.report_refusal(full, self.address);
            too_many(full.into())
        })
    }
}

/// What accepting needs.
struct Door {
    services: Arc<Services>,
    routes: axum::Router,
    places: Arc<Places>,
    lines: Lines,
}

/// Takes connections until the server stops.
pub(crate) async fn serve(listener: TcpListener, services: Arc<Services>) {
    let (routes, places) = (super::routes(&services), Places::new(&services.limits));
    let door = Arc::new(Door { services, routes, places, lines: Lines::default() });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.services.tasks.stop().cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => door.admit(stream, peer.ip()).await,
            Err(error) => door.back_off(&error).await,
        }
    }
}

impl Door {
    async fn admit(self: &Arc<Self>, stream: TcpStream, address: IpAddr) {
        // Small frames must not wait for each other (Nagle); without it they are merely later.
        let _ = stream.set_nodelay(true);
        let peer = Peer::new(address, &self.services.proxies);
        // A proxy's connection carries the requests of many clients.
        match self.places.enter((!peer.is_proxy()).then_some(peer.address())) {
            Ok((place, evicted)) => {
                self.services.tasks.spawn(self.clone().introduce(stream, peer, place));
                if evicted {
                    self.report_eviction();
                    // The evicted connection ends before another one is taken, so that their number stays bounded.
                    tokio::task::yield_now().await;
                }
            }
            Err(full) => {
                self.report_refusal(full, peer.address());
                if let Some(place) = self.places.refuse() {
                    self.services.tasks.spawn(self.clone().refuse(stream, full, place));
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Lets a proxy name the client before anything else where it is to, and serves the connection.
    async fn introduce(self: Arc<Self>, mut stream: TcpStream, peer: Peer, place: Arc<Place>) {
        let services = &self.services;
        let named = tokio::select! {
            named = name_client(&mut stream, peer, services) => named,
            () = place.evicted() => return,
            () = services.tasks.stop().cancelled() => return,
        };
        let peer = match named {
            Ok(peer) => peer,
            Err(denial) => return services.denials.record(denial, peer.address()),
        };
        if !peer.is_proxy()
            && let Err(full) = place.count(peer.address())
        {
            self.report_refusal(full, peer.address());
            drop(place);
            if let Some(place) = self.places.refuse() {
                self.refuse(stream, full, place).await;
            }
            return;
        }
        Box::pin(self.connection(stream, peer, place)).await;
    }

    fn report_eviction(&self) {
        self.services.metrics.dropped(Drop::StrangerLimit);
        if let Some(count) = self.lines.evicted.record() {
            let strangers = self.services.limits.strangers();
            tracing::warn!(
                count,
                strangers,
                "too many connections have not authenticated; the oldest of them are closed"
            );
        }
    }

    fn report_refusal(&self, full: Full, address: IpAddr) {
        self.services.metrics.dropped(Drop::ConnectionLimit);
        let limits = &self.services.limits;
        match full {
            Full::Server => {
                if let Some(count) = self.lines.full.record() {
                    let connections = limits.connections;
                    tracing::warn!(
                        count,
                        connections,
                        "limits.connections is reached; connections are refused"
                    );
                }
            }
            Full::Address => {
                if let Some(count) = self.lines.address.record() {
                    let connections = limits.connections_per_address;
                    tracing::warn!(
                        %address,
                        count,
                        connections,
                        "limits.connections_per_address is reached by an address; its connections are refused"
                    );
                }
            }
        }
    }

    /// Waits after a failure to accept. Without descriptors the oldest strangers give theirs.
    async fn back_off(&self, error: &io::Error) {
        let out_of_descriptors =
            error.raw_os_error().is_some_and(|code| code == libc::EMFILE || code == libc::ENFILE);
        let evicted =
            if out_of_descriptors { self.places.evict_strangers(EVICTED_FOR_DESCRIPTORS) } else { 0 };
        if let Some(count) = self.lines.failed.record() {
            tracing::warn!(%error, count, evicted, "cannot accept connections");
        }
        if evicted > 0 {
            // They end now, and their descriptors are free.
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(ACCEPT_BACKOFF).await;
        }
    }
}

pub(crate) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    builder
}

/// Who is at the other end: the TCP peer, or the client that a trusted proxy names before anything else. It is turned away if a
/// header of the PROXY protocol is there and must not be, or must be there and is not.
async fn name_client(stream: &mut TcpStream, peer: Peer, services: &Services) -> Result<Peer, Denial> {
    if !services.proxies.protocol {
        return Ok(peer);
    }
    if !peer.is_proxy() {
        let pretends = proxy_protocol::begins(stream).await;
        return if pretends { Err(Denial::UntrustedProxyHeader) } else { Ok(peer) };
    }
    match proxy_protocol::read(stream).await.map_err(Denial::from)? {
        proxy_protocol::Source::Client(client) => Ok(Peer::new(client, &services.proxies)),
        proxy_protocol::Source::Proxy => Ok(peer),
    }
}

impl Door {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: Peer, place: Arc<Place>) {
        let (services, door) = (self.services.clone(), self);
        let (in_request, answering) = (place.clone(), Answering::default());
        let answers = answering.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let address = peer.client(request.headers(), &door.services.proxies);
            let mut request: Request = request.map(axum::body::Body::new);
            let probing = is_probe(&request).then(|| in_request.begin_probe()).flatten();
            request.extensions_mut().insert(Client { address, door: door.clone() });
            request.extensions_mut().insert(in_request.clone());
            let answering = answers.clone();
            door.routes.clone().oneshot(request).map_ok(move |mut answer: Response| {
                drop(probing);
                if let Some(permit) = answer.extensions_mut().remove::<Arc<Permit>>() {
                    answering.hold(permit);
                }
                answer
            })
        });
        let stream = TokioIo::new(Patient::holding(stream, answering));
        let serving = builder().serve_connection(stream, service).with_upgrades();
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            // However else it ends, the client knows as much as we do.
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    if is_stalled(&error) {
                        services.metrics.dropped(Drop::StalledConnection);
                    } else if error.is_parse() {
                        services.denials.record(Denial::MalformedRequest, peer.address());
                    }
                }
                return;
            }
            () = place.evicted() => return,
            () = services.tasks.stop().cancelled() => serving.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = serving => {}
            () = place.evicted() => {}
            () = services.tasks.cut().cancelled() => {}
        }
    }

    /// Answers one request, a probe as usual and any other with "too many", and closes.
    async fn refuse(self: Arc<Self>, stream: TcpStream, full: Full, place: RefusedPlace) {
        let service = service_fn(|request: hyper::Request<Incoming>| {
            place.begin_answer();
            let routes = is_probe(&request).then(|| self.routes.clone());
            async move {
                match routes {
                    Some(routes) => routes.oneshot(request.map(axum::body::Body::new)).await,
                    None => Ok::<Response, Infallible>(too_many(full.into()).into()),
                }
            }
        });
        let mut builder = builder();
        let serving = builder.keep_alive(false).serve_connection(TokioIo::new(Patient::new(stream)), service);
        tokio::select! {
            _ = serving => {}
            () = place.evicted() => {}
            () = self.services.tasks.cut().cancelled() => {}
        }
    }
}

fn is_probe<B>(request: &hyper::Request<B>) -> bool {
    PROBES.contains(&request.uri().path())
}

fn too_many(code: ErrorCode) -> Problem {
    let message = "too many connections; try again later";
    let refusal = Refusal { retry_after: Some(FULL_RETRY_MS), ..Refusal::new(code, message) };
    Problem::from(refusal)
}
