//! Delays the list of a `watch` command that exceeds its user's rate. Only the latest list is kept, because it replaces earlier
//! ones.

use std::time::Duration;

use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{CommandId, UserId};
use tokio::time::Instant;

use super::live::LiveSession;
use super::pending::{DelayedWatch, PendingQuery};
use crate::metrics::DropReason;

impl LiveSession {
    /// Looks up the users of a list in the store. A list over the user's rate is delayed instead of refused, so that clients need
    /// not keep it for a retry. A delayed list is looked up only when it is due, because the store's answer about shared
    /// conversations becomes outdated.
    pub(super) fn watch(&mut self, id: Option<CommandId>, mut users: Vec<UserId>) {
        users.sort_unstable();
        users.dedup();
        self.drop_delayed_watch();
        match self.check_watch(&users) {
            None => self.look_up(id, users),
            Some(wait) => {
                self.services.metrics.count_dropped(DropReason::RateLimit);
                self.delayed_watch = Some(Box::new(DelayedWatch { due: Instant::now() + wait, id, users }));
            }
        }
    }

    /// Takes one token of the rate for each user of a list, or returns the time until there are enough.
    fn check_watch(&self, users: &[UserId]) -> Option<Duration> {
        let over = self.services.limiter.check_watch(&self.user, users.len()).err()?;
        Some(Duration::from_millis(over.retry_after.unwrap_or(0)))
    }

    fn look_up(&mut self, id: Option<CommandId>, users: Vec<UserId>) {
        // The session does not read until the store has answered. The pause begins before the query, because the query may run at
        // once on this thread's core.
        self.pause_reading();
        let presence_peers = self.services.store.presence_peers(&self.user, users);
        self.pending = Some(Box::new(PendingQuery::Watch(id, presence_peers)));
    }

    /// Answers and drops the delayed list, because a new one replaces it or the connection closes.
    pub(super) fn drop_delayed_watch(&mut self) {
        if let Some(delayed) = self.delayed_watch.take() {
            self.reply(delayed.id, Ok(OkBody::Done {}));
        }
    }

    /// When the delayed list is due; `None` while another command waits for the store, because that command is answered first.
    pub(super) fn watch_due(&self) -> Option<Instant> {
        self.delayed_watch.as_deref().filter(|_| self.pending.is_none()).map(|delayed| delayed.due)
    }

    /// Looks up the users of the delayed list if it is due and within the rate. Returns `true` if it did.
    pub(super) fn release_watch(&mut self, now: Instant) -> bool {
        if self.watch_due().is_none_or(|due| due > now) {
            return false;
        }
        let Some(mut delayed) = self.delayed_watch.take() else { return false };
        if let Some(wait) = self.check_watch(&delayed.users) {
            // Another connection of the user has taken the tokens of the rate.
            delayed.due = now + wait;
            self.delayed_watch = Some(delayed);
            return false;
        }
        self.look_up(delayed.id, delayed.users);
        true
    }
}
