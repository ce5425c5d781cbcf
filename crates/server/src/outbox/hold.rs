//! What keeps the order of a connection's writes when one of them is not stored: docs/decisions/0039-a-hold-starts-when-its-refusal-is-written.md.

use std::time::Duration;

use tokio::time::Instant;

use crate::refusal::Refusal;

/// How long nothing of a connection is stored after a client was told that a write was over a rate: what it had sent behind
/// that comes within this time, and must not be stored before it.
const OVER_RATE: Duration = Duration::from_secs(1);

/// The same after a write could not be stored.
const GIVEN_BACK: Duration = Duration::from_millis(750);

/// How much longer the client is told to wait: what was given back together is told one by one, and all of it is to come
/// again after the last of it was.
const SLACK: Duration = Duration::from_millis(250);

/// Why a write was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    OverRate,
    GivenBack,
}

/// Nothing of a connection is stored. The time begins when the refusal has been written, and stands still while the
/// client is not listened to: what it had sent behind the refused write waits as long.
#[derive(Debug)]
pub(super) struct Hold {
    cause: Cause,
    lasts: Duration,
    /// Writes that were given back, and whose refusal is not queued yet.
    untold: u32,
    /// Bytes to be written until the last refusal has left.
    unwritten: usize,
    /// When the time began.
    since: Option<Instant>,
}

impl Hold {
    /// After a write was over a rate, which lets the next one through after `wait`.
    pub(super) fn over_rate(wait: Duration) -> Self {
        Self::new(Cause::OverRate, wait.max(OVER_RATE))
    }

    /// After a write could not be stored.
    pub(super) fn given_back() -> Self {
        Self::new(Cause::GivenBack, GIVEN_BACK)
    }

    fn new(cause: Cause, lasts: Duration) -> Self {
        Self { cause, lasts, untold: 0, unwritten: 0, since: None }
    }

    /// Another write was given back. The client is to be told of it.
    pub(super) fn give_back(&mut self) {
        self.cause = Cause::GivenBack;
        self.untold += 1;
    }

    /// The refusal of a write that was given back is queued: the time begins anew.
    pub(super) fn told_given_back(&mut self, bytes: usize) {
        self.cause = Cause::GivenBack;
        self.untold = self.untold.saturating_sub(1);
        self.since = None;
        self.told(bytes);
    }

    /// A refusal is queued, and has left when so many bytes have.
    pub(super) fn told(&mut self, bytes: usize) {
        self.unwritten = bytes;
    }

    /// So many bytes have left. Asking does not put the end off, unless a refusal was that slow to leave.
    pub(super) fn written(&mut self, bytes: usize) {
        if self.unwritten == 0 {
            return;
        }
        self.unwritten = self.unwritten.saturating_sub(bytes);
        let now = Instant::now();
        if self.unwritten == 0 && self.since.is_none_or(|since| since + self.lasts <= now) {
            self.since = Some(now);
        }
    }

    /// The client is listened to again, for the first time since `paused`.
    pub(super) fn resume(&mut self, paused: Instant) {
        if let Some(since) = &mut self.since {
            let now = Instant::now();
            *since += now - paused.max(*since);
        }
    }

    /// What a write is told that comes now; `None` once the hold is over.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let left = match self.since {
            Some(since) => (since + self.lasts).saturating_duration_since(Instant::now()),
            None => self.lasts,
        };
        let left = match (left, self.untold == 0 && self.unwritten == 0) {
            (Duration::ZERO, true) => return None,
            // It begins anew.
            (Duration::ZERO, false) => self.lasts,
            (left, _) => left,
        };
        Some(match self.cause {
            Cause::OverRate => Refusal::too_fast(left),
            Cause::GivenBack => Refusal::unavailable_for(left + SLACK),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_begins_when_the_refusal_has_left() {
        let mut hold = Hold::over_rate(Duration::ZERO);
        hold.told(100);
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
    async fn what_is_given_back_is_to_be_told_first() {
        let mut hold = Hold::given_back();
        hold.give_back();
        hold.give_back();
        hold.told_given_back(10);
        hold.written(10);
        tokio::time::advance(60 * SECOND).await;
        assert_eq!(hold.refusal(), Some(Refusal::unavailable()), "one is not told");
        hold.told_given_back(10);
        hold.written(10);
        tokio::time::advance(SECOND).await;
        assert_eq!(hold.refusal(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stands_still_while_the_client_is_not_listened_to() {
        let mut hold = Hold::over_rate(Duration::ZERO);
        hold.told(1);
        let paused = Instant::now();
        tokio::time::advance(SECOND * 3).await;
        hold.written(1);
        tokio::time::advance(SECOND * 5).await;
        hold.resume(paused);
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(1_000)), "it began in the pause");
        tokio::time::advance(SECOND / 2).await;
        let paused = Instant::now();
        tokio::time::advance(SECOND * 60).await;
        hold.resume(paused);
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_is_slow_to_leave_is_waited_for() {
        let mut hold = Hold::over_rate(Duration::ZERO);
        hold.told(1);
        hold.written(1);
        tokio::time::advance(SECOND / 2).await;
        hold.told(1);
        hold.written(1);
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(500)), "asking does not put it off");
        hold.told(1);
        tokio::time::advance(SECOND * 2).await;
        hold.written(1);
        assert_eq!(hold.refusal(), Some(Refusal::rate_limited(1_000)));
    }
}
