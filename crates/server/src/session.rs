//! One connection, from `hello` to its end: it authenticates, receives its snapshot, is live, and closes.

mod asked;
mod command;
mod cursors;
mod hello;
mod live;
mod log_lines;
mod open;
mod pending;
mod renewal;
mod report;
pub(crate) mod socket;
mod token_profile;
mod unread;
mod watch;
mod welcome;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use switchboard_protocol::CloseCode;

use self::hello::AdmittedSession;
use self::live::LiveSession;
use self::socket::{ConnectionEnd, Socket, Stream};
use crate::frame;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::places::Place;
use crate::services::Services;

/// How long a client may take to answer a close frame.
const CLOSE_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the last frames of a closing connection may take to be written.
const CLOSE_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves a client's connection to its end, and then removes it from the router.
///
/// A task needs the memory of its largest state for its whole life, an `async fn` keeps its arguments beside its local variables,
/// and a connection is idle for hours. So the values that a state owns are boxed, and so are the states before and after the live
/// one. The connection occupies its `place`, which the limits of connections count, until it ends.
pub(crate) async fn run<S: Stream>(
    services: Arc<Services>,
    mut socket: Box<Socket<S>>,
    place: Option<Arc<Place>>,
) {
    let outbox = Arc::new(Outbox::new(&services.limits, services.metrics.clone()));
    let end = match Box::pin(hello::receive_hello(&services, &mut socket, &outbox, place.as_deref())).await {
        Ok(mut admitted) => {
            let (session, device) = (admitted.session, admitted.device.take());
            let (address, agent) = (socket.address(), socket.take_agent());
            let connections = &services.connections;
            let entered = connections.register(&admitted.user, &outbox, address, device, agent.as_deref());
            let served = serve(&services, &mut socket, &outbox, admitted);
            // A panic is a bug. It must not leave the session in the registry.
            let end = AssertUnwindSafe(served).catch_unwind().await;
            drop(entered);
            Box::pin(services.router.leave(session)).await;
            end.unwrap_or_else(|_| log_lines::log_panic(&outbox, &socket))
        }
        Err(end) => {
            log_lines::log_end(&services, &outbox, &socket, None, (end, log_lines::reason(end)));
            end
        }
    };
    Box::pin(finish(&services.metrics, socket, &outbox, end)).await;
}

/// Serves a session that the router has registered.
async fn serve<S: Stream>(
    services: &Arc<Services>,
    socket: &mut Socket<S>,
    outbox: &Arc<Outbox>,
    admitted: Box<AdmittedSession>,
) -> ConnectionEnd {
    match Box::pin(LiveSession::attach(services, outbox, socket, admitted)).await {
        Ok(live) => live.run(socket).await,
        Err(end) => end,
    }
}

/// Writes the rest of the queue, then closes the connection according to RFC 6455 section 7.1.
pub(crate) async fn finish<S: Stream>(
    metrics: &Metrics,
    mut socket: Box<Socket<S>>,
    outbox: &Outbox,
    end: ConnectionEnd,
) {
    let code = match end {
        ConnectionEnd::ConnectionLost => return,
        ConnectionEnd::ClosedByClient => CloseCode::Normal,
        ConnectionEnd::Close(code) => code,
    };
    outbox.push_reply(frame::close(code));
    let flushed = std::future::poll_fn(|cx| socket.poll_write(cx, outbox, metrics));
    if tokio::time::timeout(CLOSE_FLUSH_TIMEOUT, flushed).await.is_ok_and(|written| written.is_ok()) {
        // A client that does not answer is disconnected.
        let _ = tokio::time::timeout(CLOSE_HANDSHAKE_TIMEOUT, socket.drain_and_close()).await;
    }
}
