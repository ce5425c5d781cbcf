//! How users go offline: what the other nodes and the watchers get, and what the store writes.

use switchboard_protocol::{Timestamp, UserId};
use tokio_util::sync::CancellationToken;

use super::registry::UserSlot;
use super::{DEPARTURES, Router};
use switchboard_store::origin::Origin;
use switchboard_store::{Change, Submission};

impl Router {
    /// Tells the watchers of a user that the user is offline. For one who was online: who, and when they were seen last.
    pub(super) fn go_offline(&mut self, user: UserSlot) -> Option<(UserId, Timestamp)> {
        let gone = self.registry.begin_unload(user)?;
        self.unloading.push_back(user);
        let at = self.presence.departed(user)?;
        self.presence.tell_gone(&self.registry, &gone, at);
        Some((gone.name, at))
    }

    pub(super) fn store_last_seen(&mut self, user: UserId, at: Timestamp) {
        let submission = Submission { actor: user, change: Change::Seen(at), origin: Origin::Nobody };
        // Lost if the store is busy: then the last time before stands.
        self.departing += usize::from(self.store.submit(submission).is_ok());
    }

    /// All users go offline, because the server stops. The other nodes get that at once; the store gets when each user was
    /// seen last, so many at a time, because all of them at once do not fit its queue. What it has not stored at the cut
    /// is lost.
    pub(super) async fn depart_all(&mut self, cut: &CancellationToken) {
        let users = self.registry.users();
        let seen: Vec<_> = users.into_iter().filter_map(|user| self.go_offline(user)).collect();
        self.tell_gone();
        for (user, at) in seen {
            while self.departing >= DEPARTURES {
                let batch = tokio::select! {
                    biased;
                    () = cut.cancelled() => return,
                    batch = self.batches.recv() => batch,
                };
                let Some(batch) = batch else { return };
                self.publish(batch);
            }
            self.store_last_seen(user, at);
        }
    }
}

#[cfg(test)]
mod tests;
