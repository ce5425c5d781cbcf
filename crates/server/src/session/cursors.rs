//! Delays cursors over their user's rate. Several cursors of one kind in one conversation coalesce: the store moves the highest.

use std::time::Duration;

use switchboard_protocol::CommandId;
use tokio::time::Instant;

use super::live::Live;
use crate::metrics::Drop;
use switchboard_store::Change;

impl Live {
    /// Submits a cursor to the store at the user's rate of cursors. Beyond the rate it is delayed instead of refused, so that clients
    /// need not keep cursors for a retry, of which only the last one matters.
    pub(super) fn move_cursor(&mut self, id: Option<CommandId>, change: Change) {
        let Some((of, target, _)) = change.cursor() else { return };
        let conversation = target.resolve(&self.user);
        self.outbox.begin_in_flight();
        // A new cursor must not overtake a delayed one.
        let wait = if self.cursors.groups.is_empty() { self.check_cursor() } else { Some(Duration::ZERO) };
        let Some(wait) = wait else { return self.submit(id, change, None) };
        self.services.metrics.dropped(Drop::RateLimit);
        self.cursors.add(of, conversation, id, change);
        self.cursors.due.get_or_insert_with(|| Instant::now() + wait);
    }

    /// Takes a token of the cursor rate, or returns the wait for the next one.
    fn check_cursor(&self) -> Option<Duration> {
        let over = self.services.limiter.check_cursor(&self.payer()).err()?;
        Some(Duration::from_millis(over.retry_after.unwrap_or(0)))
    }

    /// Submits the delayed cursors that are due.
    pub(super) fn release_cursors(&mut self, now: Instant) {
        if self.cursors.due.is_none_or(|due| due > now) {
            return;
        }
        self.cursors.due = None;
        while !self.cursors.groups.is_empty() {
            if let Some(wait) = self.check_cursor() {
                self.cursors.due = Some(now + wait);
                return;
            }
            self.release_group();
        }
    }

    /// Submits all delayed cursors at once.
    pub(super) fn release_all_cursors(&mut self) {
        self.cursors.due = None;
        while !self.cursors.groups.is_empty() {
            self.release_group();
        }
    }

    /// Submits the oldest group. The store moves the highest cursor of it and answers all.
    fn release_group(&mut self) {
        let Some(group) = self.cursors.groups.pop_front() else { return };
        for (id, change) in group.commands {
            self.submit(id, change, None);
        }
    }
}
