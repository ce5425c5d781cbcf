//! Token buckets (governor's GCRA): how fast a connection and a user may go.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use switchboard_protocol::{ConversationId, Limits, UserId};
use tokio::time::Instant;

use crate::refusal::Refusal;

/// Seconds' worth that may come at once after a quiet time: a client that reconnects has a few.
const BURST: u32 = 5;

/// How often the buckets of users who are quiet are dropped.
pub(crate) const SWEEP: Duration = Duration::from_secs(60);

/// How long nobody is told again that somebody is typing: the signal lasts 5 s, so a repeat within one says nothing, and
/// each is copied to every member.
const TYPING: Duration = Duration::from_secs(1);

/// Tokio's time, which tests can pause, since the bucket was made.
#[derive(Debug, Clone)]
struct Pausable(Instant);

impl Clock for Pausable {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, Pausable, NoOpMiddleware<Duration>>;
type Buckets<K> = RateLimiter<K, DefaultKeyedStateStore<K>, Pausable, NoOpMiddleware<Duration>>;

/// A rate a second; 0 is no limit.
fn quota(rate: u32) -> Option<Quota> {
    let rate = NonZeroU32::new(rate)?;
    Some(Quota::per_second(rate).allow_burst(rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST - 1))))
}

/// The buckets of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    sends: Option<Box<Bucket>>,
    frames: Option<Box<Bucket>>,
}

impl ConnectionLimiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        let clock = Pausable(Instant::now());
        let bucket =
            |rate| quota(rate).map(|quota| Box::new(RateLimiter::direct_with_clock(quota, clock.clone())));
        Self { sends: bucket(limits.sends_per_connection), frames: bucket(limits.frames_per_connection) }
    }

    /// Counts a frame of any kind.
    pub(crate) fn check_frame(&self) -> Result<(), Refusal> {
        check(self.frames.as_deref())
    }

    /// Counts a command that stores.
    pub(crate) fn check_send(&self) -> Result<(), Refusal> {
        check(self.sends.as_deref())
    }
}

fn check(bucket: Option<&Bucket>) -> Result<(), Refusal> {
    let Some(bucket) = bucket else { return Ok(()) };
    bucket.check().map_err(|not_until| Refusal::too_fast(not_until.wait_time_from(bucket.clock().now())))
}

/// The buckets of all users.
#[derive(Debug)]
pub(crate) struct UserLimiter {
    sends: Option<Buckets<UserId>>,
    /// Apart from `sends`: whoever types too much can still send.
    typing: Option<Buckets<UserId>>,
    /// Who has been told to be typing where. It is no rate, and holds for those who have none, too.
    typists: Buckets<(UserId, ConversationId)>,
}

impl UserLimiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        let clock = Pausable(Instant::now());
        let buckets = || {
            quota(limits.sends_per_user).map(|quota| RateLimiter::dashmap_with_clock(quota, clock.clone()))
        };
        let once = Quota::with_period(TYPING).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Self {
            sends: buckets(),
            typing: buckets(),
            typists: RateLimiter::dashmap_with_clock(once, clock.clone()),
        }
    }

    /// Counts a command of `user`'s that stores, over whichever door.
    pub(crate) fn check_send(&self, user: &UserId) -> Result<(), Refusal> {
        check_user(self.sends.as_ref(), user)
    }

    /// Counts a `typing` of `user`'s, over whichever door.
    pub(crate) fn check_typing(&self, user: &UserId) -> Result<(), Refusal> {
        check_user(self.typing.as_ref(), user)
    }

    /// Whether others are to be told that `user` is typing, and have not just been.
    pub(crate) fn is_news(&self, user: &UserId, conversation: &ConversationId) -> bool {
        self.typists.check_key(&(user.clone(), conversation.clone())).is_ok()
    }

    /// Drops the buckets that are full again.
    pub(crate) fn sweep(&self) {
        for buckets in [&self.sends, &self.typing].into_iter().flatten() {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
        self.typists.retain_recent();
        self.typists.shrink_to_fit();
    }
}

fn check_user(buckets: Option<&Buckets<UserId>>, user: &UserId) -> Result<(), Refusal> {
    let Some(buckets) = buckets else { return Ok(()) };
    buckets
        .check_key(user)
        .map_err(|not_until| Refusal::too_fast(not_until.wait_time_from(buckets.clock().now())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard_protocol::ErrorCode;

    #[test]
    fn a_burst_is_allowed_and_what_follows_is_told_to_wait() {
        let limits = Limits { sends_per_connection: 2, ..Limits::default() };
        let limiter = ConnectionLimiter::new(&limits);
        let refused: Vec<_> = (0..11).filter_map(|_| limiter.check_send().err()).collect();
        assert_eq!(refused.len(), 1, "2 a second, 5 seconds' worth at once");
        assert_eq!(refused[0].code, ErrorCode::RateLimited);
        assert!(refused[0].retry_after.is_some_and(|ms| (1..=500).contains(&ms)), "{refused:?}");
    }

    #[test]
    fn zero_is_no_limit() {
        let limiter = UserLimiter::new(&Limits::default().without_rates());
        let user = UserId::parse("alice").expect("id");
        assert!((0..10_000).all(|_| limiter.check_send(&user).is_ok()));
    }
}
