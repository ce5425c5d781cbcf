//! The log lines of a live session, with its connection's id, user and address.

use std::net::IpAddr;

use switchboard_protocol::{CloseCode, ErrorCode};
use tokio::time::{Duration, Instant};
use tracing::Span;

use super::live::{LiveSession, SlowConsumer};
use super::log_lines::{log_end, reason, span};
use super::socket::{ConnectionEnd, Socket};
use crate::throttle::AffectedClient;

/// The time between two lines about a slow consumer.
const LAG_LINE_INTERVAL: Duration = Duration::from_secs(60);

/// The time from the first line about a slow consumer to the second. The first one only knows that the lag has begun.
const SECOND_LAG_LINE: Duration = Duration::from_secs(10);

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
        self.services
            .denials
            .log_refusal(code, field, Some(AffectedClient::User(&self.user)), || self.span());
    }

    /// Logs that the client is a slow consumer: further events wait in the log of the conversation, because it has not read earlier
    /// ones. The first line comes at once, the next when the lag has grown, and then one each [`LAG_LINE_INTERVAL`].
    pub(super) fn log_lag(&mut self) {
        let now = Instant::now();
        match &mut self.slow {
            Some(slow) if slow.next_line > now => return,
            Some(slow) => slow.next_line = now + LAG_LINE_INTERVAL,
            None => self.slow = Some(Box::new(SlowConsumer { since: now, next_line: now + SECOND_LAG_LINE })),
        }
        let due = self.services.log_throttles.slow_consumers.record_event_for(self.outbox.id());
        let Some(count) = due else { return };
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

    /// Logs that a slow consumer has received all events.
    pub(super) fn log_caught_up(&mut self) {
        let Some(slow) = self.slow.take() else { return };
        if let Some(count) =
            self.services.log_throttles.recovered_consumers.record_event_for(self.outbox.id())
        {
            let (suppressed, lag_seconds) = (count - 1, slow.since.elapsed().as_secs());
            self.span()
                .in_scope(|| tracing::info!(lag_seconds, suppressed, "the slow consumer has caught up"));
        }
    }
}
