//! The log lines about a connection.
//!
//! Each line is logged within a span that has the connection's id, user and address. The span is made for each line, because a
//! stored span would cost every idle connection some hundred bytes.

use std::net::IpAddr;

use switchboard_protocol::{CloseCode, ConversationId, Seq, UserId};
use tracing::Span;
use uuid::Uuid;

use super::socket::{ConnectionEnd, Socket};
use crate::metrics::DropReason;
use crate::outbox::Outbox;
use crate::services::Services;
use crate::throttle::AffectedClient;
use switchboard_store::clock::Clock;

/// What RFC 6455 section 7.1.5 calls the code of a connection that ended without a close frame.
const ABNORMAL_CLOSURE: u16 = 1006;

/// Makes the span for a line about a connection. The span has the level `error`, so that no `log.level` removes it while it shows
/// the line.
pub(super) fn span(connection: Uuid, user: Option<&UserId>, address: IpAddr) -> Span {
    let user = user.map(tracing::field::display);
    tracing::error_span!("connection", %connection, user, address = %address.to_canonical())
}

/// Logs the end of a connection. The end of an unauthenticated connection is logged only at `debug`, because any stranger can cause
/// it.
pub(super) fn log_end<S>(
    services: &Services,
    outbox: &Outbox,
    socket: &Socket<S>,
    user: Option<&UserId>,
    (end, reason): (ConnectionEnd, &'static str),
) {
    let due = if user.is_some() { services.log_throttles.closed_connections.record_event() } else { None };
    if user.is_some() && due.is_none() {
        return;
    }
    let code = match end {
        ConnectionEnd::ConnectionLost => ABNORMAL_CLOSURE,
        ConnectionEnd::ClosedByClient => CloseCode::Normal.number(),
        ConnectionEnd::Close(code) => code.number(),
    };
    let duration_ms = age_ms(outbox.id());
    let (received, sent) = socket.messages();
    span(outbox.id(), user, socket.address()).in_scope(|| match due {
        Some(count) => {
            let suppressed = count - 1;
            tracing::info!(code, reason, duration_ms, received, sent, suppressed, "connection closed");
        }
        None => {
            tracing::debug!(code, reason, duration_ms, received, sent, "unauthenticated connection closed");
        }
    });
}

/// Counts and logs a connection that is closed because its client has sent no `hello` in time.
pub(super) fn log_no_hello(services: &Services, connection: Uuid, address: IpAddr) {
    services.metrics.count_dropped(DropReason::NoHello);
    let Some(count) =
        services.log_throttles.clients_without_hello.record_event_for(AffectedClient::Address(address))
    else {
        return;
    };
    let suppressed = count - 1;
    span(connection, None, address).in_scope(|| tracing::warn!(suppressed, "a client sent no hello in time"));
}

/// Logs that a client has events of a conversation that the log does not have. On a server that loses no event, this means that
/// its database is older than the client's state.
pub(super) fn log_client_ahead(
    services: &Services,
    user: &UserId,
    conversation: &ConversationId,
    (cursor, head): (Seq, Seq),
    span: impl FnOnce() -> Span,
) {
    let Some(count) = services.log_throttles.clients_ahead.record_event_for(AffectedClient::User(user))
    else {
        return;
    };
    let suppressed = count - 1;
    span().in_scope(|| {
        tracing::warn!(
            %conversation,
            %cursor,
            %head,
            suppressed,
            "a client is ahead of the log: the database was restored from a backup, or is another one"
        );
    });
}

/// The age of a connection in milliseconds, computed from the time in its id.
fn age_ms(connection: Uuid) -> i64 {
    let began = connection.get_timestamp().map_or((0, 0), |timestamp| timestamp.to_unix());
    let began_ms = i64::try_from(began.0).unwrap_or(i64::MAX).saturating_mul(1_000);
    let began_ms = began_ms.saturating_add(i64::from(began.1 / 1_000_000));
    Clock::system().now().as_millis().saturating_sub(began_ms).max(0)
}

/// The reason why a connection ended. Where a metric counts such ends, it is the label of the metric.
pub(super) fn reason(end: ConnectionEnd) -> &'static str {
    let ConnectionEnd::Close(code) = end else {
        return if end == ConnectionEnd::ClosedByClient { "closed_by_client" } else { "disconnected" };
    };
    match code {
        CloseCode::Normal => "closed_by_client",
        CloseCode::Protocol | CloseCode::NotUtf8 | CloseCode::TooBig | CloseCode::Policy => "broken_framing",
        CloseCode::Restart => "server_stops",
        CloseCode::TryLater => "unavailable",
        CloseCode::TokenExpired => "token_expired",
        CloseCode::Silent => "silent_connection",
        CloseCode::Kicked => "kicked",
        CloseCode::TooFast => "rate_limit",
        CloseCode::Unauthorized => "unauthorized",
        CloseCode::Revoked => "revoked",
        CloseCode::Banned => "banned",
        CloseCode::Refused => "refused",
    }
}

/// Logs which connection ended by a panic. The panic hook has logged the cause before.
pub(super) fn log_panic<S>(outbox: &Outbox, socket: &Socket<S>) -> ConnectionEnd {
    span(outbox.id(), None, socket.address())
        .in_scope(|| tracing::error!(code = ABNORMAL_CLOSURE, reason = "panic", "connection closed"));
    ConnectionEnd::ConnectionLost
}
