//! The log lines of a live session, with its connection's id, user and address.

use std::net::IpAddr;

use switchboard_protocol::{CloseCode, ErrorCode};
use tracing::Span;

use super::live::LiveSession;
use super::log_lines::{log_end, reason, span};
use super::socket::{ConnectionEnd, Socket};

impl LiveSession {
    fn span(&self) -> Span {
        span(self.outbox.id(), Some(&self.user), IpAddr::V6(self.address))
    }

    pub(super) fn log_end<S>(&self, socket: &Socket<S>, end: ConnectionEnd) {
        let reason = match end {
            ConnectionEnd::Close(CloseCode::TryLater) if self.outbox.is_too_far_behind() => "too_far_behind",
            ConnectionEnd::ConnectionLost if self.is_stalled() => "stalled_connection",
            end => reason(end),
        };
        log_end(&self.services, &self.outbox, socket, Some(&self.user), (end, reason));
    }

    pub(super) fn log_refusal(&self, code: ErrorCode, field: Option<&str>) {
        self.services.denials.log_refusal(code, field, || self.span());
    }

    /// Logs that the client is a slow consumer: further events wait in the log of the conversation, because it has not read earlier
    /// ones.
    pub(super) fn log_lag(&self) {
        let Some(count) = self.services.slow_consumer_lines.record() else { return };
        let (lag_conversations, lag_events) = self.outbox.total_lag();
        let suppressed = count - 1;
        self.span().in_scope(|| {
            tracing::warn!(
                lag_conversations,
                lag_events,
                suppressed,
                "slow consumer: the client reads more slowly than its events arrive"
            );
        });
    }
}
