//! Writes the writes of a batch one by one, after one of them made the batch fail.

use std::time::Duration;

use rustc_hash::FxHashSet;
use switchboard_protocol::UserId;
use tokio::time::Instant;

use crate::Submission;

/// How long the writes of a batch may be written one by one, after one was too slow for the batch. The remaining writes are
/// refused as `unavailable`, so that the next batch does not wait longer.
const MAX_SPLIT_DURATION: Duration = Duration::from_secs(10);

/// The state of writing a batch's writes one by one.
pub(super) struct OneByOnePass {
    deadline: Instant,
    /// Users with a write that was too slow.
    slow_users: FxHashSet<UserId>,
}

impl OneByOnePass {
    pub(super) fn new() -> Self {
        Self { deadline: Instant::now() + MAX_SPLIT_DURATION, slow_users: FxHashSet::default() }
    }

    /// Whether to reject a write without trying it, because writing the batch one by one, or an earlier write of its user,
    /// took too long.
    pub(super) fn should_skip(&self, one: &Submission) -> bool {
        self.slow_users.contains(&one.actor) || Instant::now() >= self.deadline
    }

    /// Rejects later writes of a user whose write was too slow.
    pub(super) fn skip_user(&mut self, slow: &Submission) {
        self.slow_users.insert(slow.actor.clone());
    }
}
