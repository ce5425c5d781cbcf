//! Lists of `watch` over their user's rate: the latest waits, because one that was replaced meanwhile is of no use.

use std::time::Duration;

use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{CommandId, UserId};
use tokio::time::Instant;

use super::command::Pending;
use super::live::Live;
use crate::metrics::Drop;

/// The list of a connection that waits.
pub(super) struct HeldWatch {
    /// When it is tried.
    due: Instant,
    id: Option<CommandId>,
    users: Vec<UserId>,
}

impl Live {
    /// Looks up those whom the client wants to watch, at the rate of the user. Beyond it the list waits and is not refused: a
    /// client that has to try again would have to keep it. The one that waits is looked up only when its turn comes, because
    /// what the store says about whom a user shares a conversation with becomes old.
    pub(super) fn watch(&mut self, id: Option<CommandId>, mut users: Vec<UserId>) {
        users.sort_unstable();
        users.dedup();
        self.drop_held_watch();
        match self.check_watch(&users) {
            None => self.look_up(id, users),
            Some(wait) => {
                self.services.metrics.dropped(Drop::RateLimit);
                self.held_watch = Some(Box::new(HeldWatch { due: Instant::now() + wait, id, users }));
            }
        }
    }

    /// Takes the tokens of a list, or says how long to wait for them.
    fn check_watch(&self, users: &[UserId]) -> Option<Duration> {
        let over = self.services.limiter.check_watch(&self.user, users.len()).err()?;
        Some(Duration::from_millis(over.retry_after.unwrap_or(0)))
    }

    fn look_up(&mut self, id: Option<CommandId>, users: Vec<UserId>) {
        // Nothing is heard until the store has answered. From before it is asked: it may be given this thread's processor.
        self.pause();
        let acquaintances = self.services.store.acquaintances(&self.user, users);
        self.pending = Some(Box::new(Pending::Watch(id, acquaintances)));
    }

    /// The list that waits is replaced, or ends with its connection.
    pub(super) fn drop_held_watch(&mut self) {
        if let Some(held) = self.held_watch.take() {
            self.reply(held.id, Ok(OkBody::Done {}));
        }
    }

    /// When the list that waits is tried; never while another command waits for the store, whose answer is what comes next.
    pub(super) fn watch_due(&self) -> Option<Instant> {
        self.held_watch.as_deref().filter(|_| self.pending.is_none()).map(|held| held.due)
    }

    /// Looks up those on the list that has waited long enough; whether there was one.
    pub(super) fn release_watch(&mut self, now: Instant) -> bool {
        if self.watch_due().is_none_or(|due| due > now) {
            return false;
        }
        let Some(mut held) = self.held_watch.take() else { return false };
        if let Some(wait) = self.check_watch(&held.users) {
            // Another connection of the user's was faster.
            held.due = now + wait;
            self.held_watch = Some(held);
            return false;
        }
        self.look_up(held.id, held.users);
        true
    }
}
