//! Delays cursor commands that exceed their user's rate. Delayed cursors of one kind in one conversation count as one, because the
//! store only moves the cursor to the highest.
//!
//! These are the cursors of `read` and `received`. For the cursors of `hello`, `hello.rs` decides on `gap` and `bad_cursor`.

use std::time::Duration;

use switchboard_protocol::CommandId;
use tokio::time::Instant;

use super::live::LiveSession;
use super::pending::{CursorGroup, DelayedCursors};
use crate::metrics::DropReason;
use switchboard_store::Change;

impl LiveSession {
    /// Submits a cursor to the store at the user's rate of cursors. A cursor over the rate is delayed instead of refused, so that
    /// clients need not keep cursors for a retry.
    pub(super) fn move_cursor(&mut self, id: Option<CommandId>, change: Change) {
        let Some((of, target, _)) = change.cursor() else { return };
        let conversation = target.resolve(&self.user);
        self.outbox.begin_in_flight();
        // A new cursor must not overtake a delayed one.
        let wait = if self.delayed_cursors.is_none() { self.check_cursor() } else { Some(Duration::ZERO) };
        let Some(wait) = wait else { return self.submit(id, change, None) };
        self.services.metrics.count_dropped(DropReason::RateLimit);
        let new = || Box::new(DelayedCursors::new(Instant::now() + wait));
        self.delayed_cursors.get_or_insert_with(new).add(of, conversation, id, change);
    }

    /// When the delayed cursors are to be submitted.
    pub(super) fn cursors_due(&self) -> Option<Instant> {
        Some(self.delayed_cursors.as_ref()?.due)
    }

    /// Takes a token of the cursor rate, or returns the time until the next token.
    fn check_cursor(&self) -> Option<Duration> {
        let over = self.services.limiter.check_cursor(&self.rate_owner()).err()?;
        Some(Duration::from_millis(over.retry_after.unwrap_or(0)))
    }

    /// Submits those delayed cursors whose time has come.
    pub(super) fn submit_due_cursors(&mut self, now: Instant) {
        let Some(mut delayed) = self.delayed_cursors.take_if(|delayed| delayed.due <= now) else { return };
        while let Some(group) = delayed.groups.pop_front() {
            if let Some(wait) = self.check_cursor() {
                delayed.groups.push_front(group);
                delayed.due = now + wait;
                self.delayed_cursors = Some(delayed);
                return;
            }
            self.submit_group(group);
        }
    }

    /// Submits all delayed cursors at once.
    pub(super) fn submit_all_cursors(&mut self) {
        for group in self.delayed_cursors.take().into_iter().flat_map(|delayed| delayed.groups) {
            self.submit_group(group);
        }
    }

    /// Submits a group of delayed cursors. The store moves the cursor to the highest of the group, and answers every command.
    fn submit_group(&mut self, group: CursorGroup) {
        for (id, change) in group.commands {
            self.submit(id, change, None);
        }
    }
}
