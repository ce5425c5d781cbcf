//! Taking connections: how many, how long a request may take to come, and the end.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustc_hash::FxHashMap;
use switchboard_protocol::ErrorCode;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use super::patience::{Patient, is_stalled};
use super::problem::Problem;
use crate::metrics::Drop;
use crate::refusal::Refusal;
use crate::services::Services;

/// Time for the head of a request to come, from the first byte of the connection or the end of the
/// answer before: a head that dribbles in is a way to hold sockets for nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of a request's head; browsers send 1–2 KiB. Beyond: 431.
const HEAD_BYTES: usize = 16 * 1024;

/// Most headers of a request; browsers send about 20. Beyond: 431.
const HEADERS: usize = 64;

/// Most connections at once that are told that there are too many. Beyond, they are closed in silence.
const TURNED_AWAY: u32 = 256;

/// How long to wait before taking connections again when the system has no more files to give.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// Milliseconds after which somebody turned away may try again.
const FULL_RETRY_MS: u64 = 5_000;

/// How many connections there are, in all and from each address.
#[derive(Debug, Default)]
struct Places {
    all: AtomicU32,
    turned_away: AtomicU32,
    by_address: Mutex<FxHashMap<IpAddr, u32>>,
}

/// Whose connection it is, as far as an address tells: of IPv6 the network, since whoever has one has all the 2^64
/// addresses in it (RFC 4291 section 2.5.1). An IPv4 address that is written as an IPv6 one is what it is.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

/// A connection's place among all; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    fn take(self: &Arc<Self>, address: IpAddr, services: &Services) -> Result<Arc<Place>, ErrorCode> {
        let limits = &services.limits;
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let here = by_address.get(&address).copied().unwrap_or(0);
        if self.all.load(Ordering::Relaxed) >= limits.connections {
            return Err(ErrorCode::Unavailable);
        }
        if limits.connections_per_address > 0 && here >= limits.connections_per_address {
            return Err(ErrorCode::RateLimited);
        }
        by_address.insert(address, here + 1);
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Place { places: self.clone(), address }))
    }
}

impl std::ops::Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.places.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        self.places.all.fetch_sub(1, Ordering::Relaxed);
        if let Some(here) = by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Takes connections until the server stops.
pub(crate) async fn serve(listener: TcpListener, services: Arc<Services>) {
    let routes = super::routes(&services);
    let places = Arc::new(Places::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = services.tasks.stop().cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(OUT_OF_FILES).await;
                continue;
            }
        };
        // Small frames must not wait for each other (Nagle); without it they are merely later.
        let _ = stream.set_nodelay(true);
        match places.take(source(peer.ip()), &services) {
            Ok(place) => services.tasks.spawn(connection(stream, routes.clone(), place, services.clone())),
            Err(code) => turn_away(stream, code, &places, &services),
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

async fn connection(stream: TcpStream, routes: axum::Router, place: Arc<Place>, services: Arc<Services>) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(place.clone());
        routes.clone().oneshot(request)
    });
    let stream = TokioIo::new(Patient::new(stream));
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
        () = services.tasks.stop().cancelled() => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = serving => {}
        () = services.tasks.cut().cancelled() => {}
    }
}

/// Answers whatever comes with "too many", and closes.
fn turn_away(stream: TcpStream, code: ErrorCode, places: &Arc<Places>, services: &Services) {
    services.metrics.dropped(Drop::ConnectionLimit);
    if places.turned_away.load(Ordering::Relaxed) >= TURNED_AWAY {
        return;
    }
    places.turned_away.fetch_add(1, Ordering::Relaxed);
    let (places, cut) = (places.clone(), services.tasks.cut().clone());
    services.tasks.spawn(async move {
        let service = service_fn(|_| async move { Ok::<Response, Infallible>(full(code)) });
        let mut builder = builder();
        let serving = builder.keep_alive(false).serve_connection(TokioIo::new(Patient::new(stream)), service);
        tokio::select! {
            _ = serving => {}
            () = cut.cancelled() => {}
        }
        places.turned_away.fetch_sub(1, Ordering::Relaxed);
    });
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
