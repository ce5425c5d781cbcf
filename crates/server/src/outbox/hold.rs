//! The hold, which keeps the order of a connection's writes when one of them is not stored:
//! docs/decisions/0039-a-hold-starts-when-its-refusal-is-written.md.

use std::time::Duration;

use tokio::time::Instant;

use switchboard_store::refusal::Refusal;

/// Least duration of a hold after the refusal of a write over a rate. Writes that the client pipelined after it arrive within this
/// time and must not be stored before it.
const MIN_RATE_HOLD: Duration = Duration::from_secs(1);

/// Duration of a hold after the refusal of a write that the store rejected.
const REJECTION_HOLD: Duration = Duration::from_millis(750);

/// Added to the `retry_after` of rejected writes. Writes rejected together are refused one by one, and the client must retry all of
/// them after the last refusal.
const RETRY_SLACK: Duration = Duration::from_millis(250);

/// Why a write was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    RateLimit,
    Rejection,
}

/// Refuses all writes of a connection. The timer starts once the refusal was written, and pauses while the session does not read
/// from the socket, because the writes that the client pipelined after the refused one wait there.
#[derive(Debug)]
pub(super) struct Hold {
    cause: Cause,
    duration: Duration,
    /// Rejected writes whose refusal is not queued yet.
    pending_refusals: u32,
    /// Bytes to write until the last refusal is written.
    unwritten_bytes: usize,
    /// When the timer started.
    started: Option<Instant>,
}

impl Hold {
    /// A hold after a write over a rate, whose next token comes after `wait`.
    pub(super) fn after_rate_limit(wait: Duration) -> Self {
        Self::new(Cause::RateLimit, wait.max(MIN_RATE_HOLD))
    }

    /// A hold after the store rejected a write.
    pub(super) fn after_rejection() -> Self {
        Self::new(Cause::Rejection, REJECTION_HOLD)
    }

    fn new(cause: Cause, duration: Duration) -> Self {
        Self { cause, duration, pending_refusals: 0, unwritten_bytes: 0, started: None }
    }

    /// Adds a rejected write, whose refusal is queued later.
    pub(super) fn add_rejection(&mut self) {
        self.cause = Cause::Rejection;
        self.pending_refusals += 1;
    }

    /// The refusal of a rejected write is queued as the last of `bytes` queued bytes. Restarts the timer.
    pub(super) fn rejection_queued(&mut self, bytes: usize) {
        self.cause = Cause::Rejection;
        self.pending_refusals = self.pending_refusals.saturating_sub(1);
        self.started = None;
        self.refusal_queued(bytes);
    }

    /// A refusal is queued as the last of `bytes` queued bytes.
    pub(super) fn refusal_queued(&mut self, bytes: usize) {
        self.unwritten_bytes = bytes;
    }

    /// Bytes were written. Further refused writes do not extend the hold, unless it ended before their refusal was written.
    pub(super) fn written(&mut self, bytes: usize) {
        if self.unwritten_bytes == 0 {
            return;
        }
        self.unwritten_bytes = self.unwritten_bytes.saturating_sub(bytes);
        let now = Instant::now();
        if self.unwritten_bytes == 0 && self.started.is_none_or(|started| started + self.duration <= now) {
            self.started = Some(now);
        }
    }

    /// The session reads from the socket again, after a pause since `paused`.
    pub(super) fn resume(&mut self, paused: Instant) {
        if let Some(started) = &mut self.started {
            let now = Instant::now();
            *started += now - paused.max(*started);
        }
    }

    /// The refusal for a write that arrives now; `None` once the hold is over.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let left = match self.started {
            Some(started) => (started + self.duration).saturating_duration_since(Instant::now()),
            None => self.duration,
        };
        let left = match (left, self.pending_refusals == 0 && self.unwritten_bytes == 0) {
            (Duration::ZERO, true) => return None,
            // The timer restarts once the last refusal is written.
            (Duration::ZERO, false) => self.duration,
            (left, _) => left,
        };
        Some(match self.cause {
            Cause::RateLimit => Refusal::too_fast(left),
            Cause::Rejection => Refusal::unavailable_for(left + RETRY_SLACK),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_timer_starts_when_the_refusal_is_written() {
        let mut hold = Hold::after_rate_limit(Duration::ZERO);
        hold.refusal_queued(100);
        tokio::time::advance(60 * SECOND).await;
        hold.written(99);
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(1_000)));
        hold.written(1);
        tokio::time::advance(SECOND - Duration::from_millis(1)).await;
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(hold.refusal(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_hold_lasts_until_every_rejection_is_written() {
        let mut hold = Hold::after_rejection();
        hold.add_rejection();
        hold.add_rejection();
        hold.rejection_queued(10);
        hold.written(10);
        tokio::time::advance(60 * SECOND).await;
        assert_eq!(hold.refusal(), Some(Refusal::unavailable()), "one refusal is not queued yet");
        hold.rejection_queued(10);
        hold.written(10);
        tokio::time::advance(SECOND).await;
        assert_eq!(hold.refusal(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_pauses_while_the_session_does_not_read() {
        let mut hold = Hold::after_rate_limit(Duration::ZERO);
        hold.refusal_queued(1);
        let paused = Instant::now();
        tokio::time::advance(SECOND * 3).await;
        hold.written(1);
        tokio::time::advance(SECOND * 5).await;
        hold.resume(paused);
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(1_000)), "the timer started in the pause");
        tokio::time::advance(SECOND / 2).await;
        let paused = Instant::now();
        tokio::time::advance(SECOND * 60).await;
        hold.resume(paused);
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_written_after_the_end_restarts_the_timer() {
        let mut hold = Hold::after_rate_limit(Duration::ZERO);
        hold.refusal_queued(1);
        hold.written(1);
        tokio::time::advance(SECOND / 2).await;
        hold.refusal_queued(1);
        hold.written(1);
        assert_eq!(
            hold.refusal(),
            Some(Refusal::rate_limited(500)),
            "another refusal does not extend the hold"
        );
        hold.refusal_queued(1);
        tokio::time::advance(SECOND * 2).await;
        hold.written(1);
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(1_000)));
    }
}
