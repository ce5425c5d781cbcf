//! Cursors over their user's rate: they wait, and of several of one kind in one conversation only the highest has to move.

use std::collections::VecDeque;
use std::time::Duration;

use switchboard_protocol::{CommandId, ConversationId};
use tokio::time::Instant;

use super::live::Live;
use crate::metrics::Drop;
use crate::store::{Change, CursorOf};

/// The cursors of a connection that wait. They count as writes in flight, so `limits.in_flight` bounds them.
#[derive(Default)]
pub(super) struct HeldCursors {
    /// The longest wait first.
    groups: VecDeque<Group>,
    /// When the first of them is tried.
    due: Option<Instant>,
}

/// Cursors of one kind in one conversation.
struct Group {
    of: CursorOf,
    conversation: ConversationId,
    commands: Vec<(Option<CommandId>, Change)>,
}

impl HeldCursors {
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn hold(&mut self, of: CursorOf, conversation: ConversationId, id: Option<CommandId>, change: Change) {
        let group = self.groups.iter_mut().find(|group| group.of == of && group.conversation == conversation);
        match group {
            Some(group) => group.commands.push((id, change)),
            None => self.groups.push_back(Group { of, conversation, commands: vec![(id, change)] }),
        }
    }
}

impl Live {
    /// Passes a cursor on to the store, at the rate of the user's cursors. Beyond it waits, because a client that has to
    /// try again would have to keep it, and only the last one matters.
    pub(super) fn move_cursor(&mut self, id: Option<CommandId>, change: Change) {
        let Some((of, target, _)) = change.cursor() else { return };
        let conversation = target.resolve(&self.user);
        self.outbox.submitted();
        // What waits must not be overtaken.
        let wait = if self.cursors.groups.is_empty() { self.check_cursor() } else { Some(Duration::ZERO) };
        let Some(wait) = wait else { return self.submit(id, change, None) };
        self.services.metrics.dropped(Drop::RateLimit);
        self.cursors.hold(of, conversation, id, change);
        self.cursors.due.get_or_insert_with(|| Instant::now() + wait);
    }

    /// Takes a cursor's token, or says how long to wait for it.
    fn check_cursor(&self) -> Option<Duration> {
        let over = self.services.limiter.check_cursor(&self.payer()).err()?;
        Some(Duration::from_millis(over.retry_after.unwrap_or(0)))
    }

    /// Passes on what has waited long enough.
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

    /// Passes on all that waits.
    pub(super) fn release_all_cursors(&mut self) {
        self.cursors.due = None;
        while !self.cursors.groups.is_empty() {
            self.release_group();
        }
    }

    /// Passes on the group that has waited longest. The store moves the highest of it, and answers all.
    fn release_group(&mut self) {
        let Some(group) = self.cursors.groups.pop_front() else { return };
        for (id, change) in group.commands {
            self.submit(id, change, None);
        }
    }
}
