//! Taking connections: how many, how long a request may take to come, and the end.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
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
use crate::in_flight::Permit;
use crate::metrics::Drop;
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

/// Whose connection it is, as far as an address tells: of IPv6 the network, since whoever has one has all the 2^64
/// addresses in it (RFC 4291 section 2.5.1). An IPv4 address that is written as an IPv6 one is what it is.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

/// What the log says of refused connections, once a minute each.
#[derive(Debug, Default)]
struct Lines {
    full: Throttle,
    address: Throttle,
    evicted: Throttle,
    failed: Throttle,
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
    let door = Door { services, routes, places, lines: Lines::default() };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.services.tasks.stop().cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => door.admit(stream, source(peer.ip())).await,
            Err(error) => door.back_off(&error).await,
        }
    }
}

impl Door {
    async fn admit(&self, stream: TcpStream, address: IpAddr) {
        // Small frames must not wait for each other (Nagle); without it they are merely later.
        let _ = stream.set_nodelay(true);
        match self.places.enter(address) {
            Ok((place, evicted)) => {
                let connection = connection(stream, self.routes.clone(), place, self.services.clone());
                self.services.tasks.spawn(connection);
                if evicted {
                    self.report_eviction();
                    // The evicted connection ends before another one is taken, so that their number stays bounded.
                    tokio::task::yield_now().await;
                }
            }
            Err(full) => {
                self.report_refusal(full);
                if let Some(place) = self.places.refuse() {
                    let refusing =
                        refuse(stream, full.into(), self.routes.clone(), place, self.services.clone());
                    self.services.tasks.spawn(refusing);
                }
                tokio::task::yield_now().await;
            }
        }
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

    fn report_refusal(&self, full: Full) {
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

fn is_probe<B>(request: &hyper::Request<B>) -> bool {
    PROBES.contains(&request.uri().path())
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

async fn connection(stream: TcpStream, routes: axum::Router, place: Arc<Place>, services: Arc<Services>) {
    let (in_request, answering) = (place.clone(), Answering::default());
    let answers = answering.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        let probing = is_probe(&request).then(|| in_request.begin_probe()).flatten();
        request.extensions_mut().insert(in_request.clone());
        let answering = answers.clone();
        routes.clone().oneshot(request).map_ok(move |mut answer: Response| {
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
            if ended.is_err_and(|error| is_stalled(&error)) {
                services.metrics.dropped(Drop::StalledConnection);
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
async fn refuse(
    stream: TcpStream,
    code: ErrorCode,
    routes: axum::Router,
    place: RefusedPlace,
    services: Arc<Services>,
) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        place.begin_answer();
        let routes = is_probe(&request).then(|| routes.clone());
        async move {
            match routes {
                Some(routes) => routes.oneshot(request.map(axum::body::Body::new)).await,
                None => Ok::<Response, Infallible>(full(code)),
            }
        }
    });
    let mut builder = builder();
    let serving = builder.keep_alive(false).serve_connection(TokioIo::new(Patient::new(stream)), service);
    tokio::select! {
        _ = serving => {}
        () = place.evicted() => {}
        () = services.tasks.cut().cancelled() => {}
    }
}

fn full(code: ErrorCode) -> Response {
    let message = "too many connections; try again later";
    let refusal = Refusal { retry_after: Some(FULL_RETRY_MS), ..Refusal::new(code, message) };
    Problem::from(refusal).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_that_of_its_network_in_ipv6() {
        for (one, other, same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("192.0.2.1", "192.0.2.2", false),
            ("::1", "::2", true),
        ] {
            let of = |address: &str| source(address.parse().expect("an address"));
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }
}
