//! Accepts connections: limits their number, sets the time-outs of request heads, and closes them at a shutdown.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use futures_util::TryFutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use switchboard_protocol::ErrorCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use super::STOP_GRACE;
use super::problem::Problem;
use super::write_timeout::{ResponsePermit, WriteTimeoutStream, is_write_timeout};
use crate::denial::Denial;
use crate::in_flight::Permit;
use crate::metrics::DropReason;
use crate::peer::{Peer, proxy_protocol};
use crate::places::{AdmissionError, Evicted, Place, Places, RefusedPlace};
use crate::services::Services;
use crate::throttle::{AffectedClient, NameBudget, Throttle};
use crate::tls::{HandshakeFailure, HandshakeStream, Tls};
use switchboard_store::refusal::Refusal;

/// The time-out of a request's head, from the accepted connection or the end of the previous response. It bounds how long a client
/// that sends its head byte by byte occupies a socket.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a request's head; browsers send 1–2 KiB. A longer head is answered with 431.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most headers of a request; browsers send about 20. A request with more is answered with 431.
const MAX_HEADERS: usize = 64;

/// Delay before the next accept after one failed, for example because no file descriptors are left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How many unauthenticated connections are closed when no file descriptors are left. It is more than one, because the database and
/// the log need descriptors too.
const EVICTIONS_PER_DESCRIPTOR_SHORTAGE: usize = 16;

/// `retry_after` of a refused connection, in milliseconds.
const TOO_MANY_CONNECTIONS_RETRY_MS: u64 = 5_000;

/// Paths that are answered even when the server has as many connections as it allows, so that an operator or an orchestrator can
/// tell a flooded server from a dead one.
const PROBE_PATHS: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// A connection's bytes: TCP, or TLS over it. Each has its own code, so that plain TCP pays nothing for TLS.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for S {}

/// Limits the log lines about refused connections to one a minute for each reason, and one a minute for each address.
#[derive(Debug)]
struct LogThrottles {
    server_full: Throttle,
    address_full: Throttle,
    evicted: Throttle,
    failed: Throttle,
    handshake: Throttle,
}

impl LogThrottles {
    fn new(budget: &NameBudget) -> Self {
        let by_address = || Throttle::default().with_names(budget);
        Self {
            server_full: by_address(),
            address_full: by_address(),
            evicted: by_address(),
            failed: Throttle::default(),
            handshake: by_address(),
        }
    }
}

/// The client that sent a request.
#[derive(Clone)]
pub(super) struct Client {
    /// The client's address: that of the TCP peer, or the one that a trusted proxy names.
    pub(super) address: IpAddr,
    acceptor: Arc<Acceptor>,
}

impl Client {
    /// Counts a proxied connection towards this client's limit, because a proxy's own connections are not counted.
    ///
    /// # Errors
    /// The client has too many connections.
    pub(super) fn count_for_address(&self, place: &Place) -> Result<(), Problem> {
        place.count_for_address(self.address).map_err(|full| {
            self.acceptor.report_refusal(full, self.address);
            too_many_connections(full.into())
        })
    }
}

/// Admits and serves connections.
struct Acceptor {
    services: Arc<Services>,
    routes: axum::Router,
    places: Arc<Places>,
    throttles: LogThrottles,
    /// TLS, which comes before HTTP; `None` if the listener speaks plain HTTP.
    tls: Option<Arc<Tls>>,
}

/// Accepts connections until the server stops.
pub(crate) async fn serve(listener: TcpListener, services: Arc<Services>, tls: Option<Arc<Tls>>) {
    let (routes, places) = (super::routes(&services), Places::new(&services.limits));
    let throttles = LogThrottles::new(&services.log_throttles.budget);
    let acceptor = Arc::new(Acceptor { services, routes, places, throttles, tls });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = acceptor.services.tasks.stop().cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => acceptor.admit(stream, peer.ip()).await,
            Err(error) => acceptor.back_off(&error).await,
        }
    }
}

impl Acceptor {
    async fn admit(self: &Arc<Self>, stream: TcpStream, address: IpAddr) {
        // Disables Nagle's algorithm, so that small frames are sent at once. A failure only delays them.
        let _ = stream.set_nodelay(true);
        let peer = Peer::new(address, &self.services.proxies);
        // A proxy's connection carries the requests of many clients.
        match self.places.admit((!peer.is_proxy()).then_some(peer.address())) {
            Ok((place, evicted)) => {
                self.services.tasks.spawn(self.clone().identify_and_serve(stream, peer, place));
                if let Some(evicted) = evicted {
                    self.report_eviction(evicted);
                    // Lets the evicted connection end before the next accept, so that the number of connections stays bounded.
                    tokio::task::yield_now().await;
                }
            }
            Err(full) => {
                self.report_refusal(full, peer.address());
                if let Some(place) = self.places.take_refused_place() {
                    self.services.tasks.spawn(self.clone().encrypt_and_refuse(stream, full, place));
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads the PROXY protocol header if the configuration requires one, and serves the connection.
    async fn identify_and_serve(self: Arc<Self>, mut stream: TcpStream, peer: Peer, place: Arc<Place>) {
        let services = &self.services;
        let named = tokio::select! {
            named = identify_client(&mut stream, peer, services) => named,
            () = place.wait_for_eviction() => return,
            () = services.tasks.stop().cancelled() => return,
        };
        let peer = match named {
            Ok(peer) => peer,
            Err(denial) => return record_denial(services, denial, peer.address()),
        };
        if !peer.is_proxy()
            && let Err(full) = place.count_for_address(peer.address())
        {
            self.report_refusal(full, peer.address());
            drop(place);
            if let Some(place) = self.places.take_refused_place() {
                self.encrypt_and_refuse(stream, full, place).await;
            }
            return;
        }
        let Some(tls) = self.tls.clone() else {
            return Box::pin(self.serve(stream, peer, place)).await;
        };
        let encrypted = tokio::select! {
            encrypted = self.handshake(&tls, stream, peer.address()) => encrypted,
            () = place.wait_for_eviction() => return,
            () = services.tasks.stop().cancelled() => return,
        };
        if let Some(stream) = encrypted {
            Box::pin(self.serve(stream, peer, place)).await;
        }
    }

    /// Performs the TLS handshake of a connection; counts and logs a failed one. Returns `None` if there is nothing to serve.
    async fn handshake(
        &self,
        tls: &Tls,
        stream: TcpStream,
        address: IpAddr,
    ) -> Option<TlsStream<HandshakeStream>> {
        let metrics = &self.services.metrics.tls;
        match Box::pin(tls.accept(stream)).await {
            Ok(stream) => {
                metrics.handshakes.inc();
                stream
            }
            Err(failure) => {
                metrics.handshake_failed(failure.as_str());
                // Port scanners and closed laptops disconnect all the time.
                if failure != HandshakeFailure::Disconnected
                    && let Some(count) = self
                        .throttles
                        .handshake
                        .record_event_for((failure.as_str(), AffectedClient::Address(address)))
                {
                    let (reason, suppressed) = (failure.as_str(), count - 1);
                    tracing::warn!(reason, %address, suppressed, "a TLS handshake failed");
                }
                None
            }
        }
    }

    /// Counts and logs the eviction of the oldest unauthenticated connection. A proxy's connection has no address.
    fn report_eviction(&self, Evicted(address): Evicted) {
        self.services.metrics.count_dropped(DropReason::StrangerLimit);
        if let Some(count) = self.throttles.evicted.record_event_for(address) {
            let strangers = self.services.limits.max_unauthenticated();
            let of_address = address.map(|address| self.places.unauthenticated_of(address));
            let address = address.map(tracing::field::display);
            tracing::warn!(
                address,
                of_address,
                count,
                strangers,
                "too many unauthenticated connections; closing the oldest"
            );
        }
    }

    fn report_refusal(&self, full: AdmissionError, address: IpAddr) {
        self.services.metrics.count_dropped(DropReason::ConnectionLimit);
        let limits = &self.services.limits;
        match full {
            AdmissionError::Server => {
                if let Some(count) =
                    self.throttles.server_full.record_event_for(AffectedClient::Address(address))
                {
                    let connections = limits.connections;
                    let lowered = self.services.lowered_connections;
                    tracing::warn!(
                        %address,
                        count,
                        connections,
                        lowered_from = lowered.map(|lowered| lowered.from),
                        open_files = lowered.map(|lowered| lowered.open_files),
                        "limits.connections is reached; refusing connections"
                    );
                }
            }
            AdmissionError::Address => {
                if let Some(count) =
                    self.throttles.address_full.record_event_for(AffectedClient::Address(address))
                {
                    let connections = limits.connections_per_address;
                    tracing::warn!(
                        %address,
                        count,
                        connections,
                        "limits.connections_per_address is reached for an address; refusing its connections"
                    );
                }
            }
        }
    }

    /// Handles a failed accept: closes the oldest unauthenticated connections if no descriptors are left, otherwise waits.
    async fn back_off(&self, error: &io::Error) {
        let out_of_descriptors =
            error.raw_os_error().is_some_and(|code| code == libc::EMFILE || code == libc::ENFILE);
        let evicted = if out_of_descriptors {
            self.places.evict_unauthenticated(EVICTIONS_PER_DESCRIPTOR_SHORTAGE)
        } else {
            0
        };
        if let Some(count) = self.throttles.failed.record_event() {
            tracing::warn!(%error, count, evicted, "cannot accept connections");
        }
        if evicted > 0 {
            // Lets the evicted connections end, which frees their descriptors.
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
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
}

/// Counts a client that was refused before its request had a span, and logs it with its address.
fn record_denial(services: &Services, denial: Denial, address: IpAddr) {
    services.denials.record(denial, None, address, || tracing::error_span!("client", %address));
}

/// Identifies the client: the TCP peer, or the client that a trusted proxy names in its PROXY protocol header.
///
/// # Errors
/// A trusted proxy sent no valid header, or another peer sent one.
async fn identify_client(stream: &mut TcpStream, peer: Peer, services: &Services) -> Result<Peer, Denial> {
    if !services.proxies.protocol {
        return Ok(peer);
    }
    if !peer.is_proxy() {
        let has_header = proxy_protocol::starts_with_header(stream).await;
        return if has_header { Err(Denial::UntrustedProxyHeader) } else { Ok(peer) };
    }
    match proxy_protocol::read_source(stream).await.map_err(Denial::from)? {
        proxy_protocol::ConnectionSource::Client(client) => Ok(Peer::new(client, &services.proxies)),
        proxy_protocol::ConnectionSource::Proxy => Ok(peer),
    }
}

impl Acceptor {
    async fn serve(self: Arc<Self>, stream: impl Transport, peer: Peer, place: Arc<Place>) {
        let (services, acceptor) = (self.services.clone(), self);
        let (request_place, response_permit) = (place.clone(), ResponsePermit::default());
        let next_permit = response_permit.clone();
        let answering = Arc::new(AtomicU32::new(0));
        let counter = answering.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let counted = CountedRequest::begin(&counter);
            let address = peer.client(request.headers(), &acceptor.services.proxies);
            let mut request: Request = request.map(axum::body::Body::new);
            let probing = is_probe_request(&request).then(|| request_place.begin_probe()).flatten();
            request.extensions_mut().insert(Client { address, acceptor: acceptor.clone() });
            request.extensions_mut().insert(request_place.clone());
            let response_permit = next_permit.clone();
            acceptor.routes.clone().oneshot(request).map_ok(move |mut response: Response| {
                drop((probing, counted));
                if let Some(permit) = response.extensions_mut().remove::<Arc<Permit>>() {
                    response_permit.hold_permit(permit);
                }
                response
            })
        });
        let stream = TokioIo::new(WriteTimeoutStream::with_permit(stream, response_permit));
        let serving = builder().serve_connection(stream, service).with_upgrades();
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            // Any other error means that the client has disconnected, which needs no log line.
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    if is_write_timeout(&error) {
                        services.metrics.count_dropped(DropReason::StalledConnection);
                    } else if error.is_parse() {
                        record_denial(&services, Denial::MalformedRequest, peer.address());
                    }
                }
                return;
            }
            () = place.wait_for_eviction() => return,
            () = services.tasks.stop().cancelled() => serving.as_mut().graceful_shutdown(),
        }
        loop {
            tokio::select! {
                _ = serving.as_mut() => return,
                () = place.wait_for_eviction() => return,
                () = services.tasks.deadline_passed().cancelled() => return,
                // If no request is being answered, the client sends half a request, or does not read its response.
                () = tokio::time::sleep(STOP_GRACE) => if answering.load(Ordering::Relaxed) == 0 { return },
            }
        }
    }

    /// Answers one request and closes, after the TLS handshake if there is TLS.
    async fn encrypt_and_refuse(
        self: Arc<Self>,
        stream: TcpStream,
        full: AdmissionError,
        place: RefusedPlace,
    ) {
        let Some(tls) = self.tls.clone() else { return self.refuse(stream, full, place).await };
        let Ok(address) = stream.peer_addr() else { return };
        let encrypted = tokio::select! {
            encrypted = self.handshake(&tls, stream, address.ip()) => encrypted,
            () = place.wait_for_eviction() => return,
            () = self.services.tasks.stop().cancelled() => return,
        };
        if let Some(stream) = encrypted {
            Box::pin(self.refuse(stream, full, place)).await;
        }
    }

    /// Answers one request and closes: a probe as usual, any other request with "too many connections".
    async fn refuse(self: Arc<Self>, stream: impl Transport, full: AdmissionError, place: RefusedPlace) {
        let service = service_fn(|request: hyper::Request<Incoming>| {
            place.begin_answer();
            let routes = is_probe_request(&request).then(|| self.routes.clone());
            async move {
                match routes {
                    Some(routes) => routes.oneshot(request.map(axum::body::Body::new)).await,
                    None => Ok::<Response, Infallible>(too_many_connections(full.into()).into()),
                }
            }
        });
        let mut builder = builder();
        let serving = builder
            .keep_alive(false)
            .serve_connection(TokioIo::new(WriteTimeoutStream::new(stream)), service);
        tokio::select! {
            _ = serving => {}
            () = place.wait_for_eviction() => {}
            () = self.services.tasks.deadline_passed().cancelled() => {}
        }
    }
}

/// Counts a request that is being answered, until it is dropped.
struct CountedRequest(Arc<AtomicU32>);

impl CountedRequest {
    fn begin(answering: &Arc<AtomicU32>) -> Self {
        answering.fetch_add(1, Ordering::Relaxed);
        Self(answering.clone())
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_probe_request<B>(request: &hyper::Request<B>) -> bool {
    PROBE_PATHS.contains(&request.uri().path())
}

fn too_many_connections(code: ErrorCode) -> Problem {
    let message = "too many connections; try again later";
    let refusal = Refusal { retry_after: Some(TOO_MANY_CONNECTIONS_RETRY_MS), ..Refusal::new(code, message) };
    Problem::from(refusal)
}
