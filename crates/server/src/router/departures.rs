//! Takes users offline: publishes that to other nodes and to watchers, and stores when the user was last seen.

use switchboard_protocol::{Timestamp, UserId};
use tokio_util::sync::CancellationToken;

use super::registry::UserSlot;
use super::{MAX_QUEUED_DEPARTURES, Router};
use switchboard_store::origin::Origin;
use switchboard_store::{Change, Submission};

impl Router {
    /// Takes a user offline, and publishes that. Returns the user and when they were last seen, if they were online.
    pub(super) fn go_offline(&mut self, user: UserSlot) -> Option<(UserId, Timestamp)> {
        let gone = self.node.registry.begin_unload(user)?;
        self.unloading.push_back(user);
        let at = self.node.presence.remove_departed(user)?;
        self.node.presence.publish_departure(&self.node.registry, &gone, at);
        Some((gone.name, at))
    }

    pub(super) fn store_last_seen(&mut self, user: UserId, at: Timestamp) {
        let submission =
            Submission { actor: user, change: Change::SetLastSeen(at), origin: Origin::Internal };
        // If the queue of the store is full, the write is dropped, and the store keeps the earlier time.
        self.departures_in_flight += usize::from(self.store.submit(submission).is_ok());
    }

    /// Takes all users offline, because the server stops. The other nodes receive that at once. The times at which users were last
    /// seen are stored a few users at a time, because all of them do not fit the queue of the store. Times that are not stored at
    /// the deadline are lost.
    pub(super) async fn store_all_departures(&mut self, cut: &CancellationToken) {
        let users = self.node.registry.users();
        let seen: Vec<_> = users.into_iter().filter_map(|user| self.go_offline(user)).collect();
        if let Some(cluster) = &self.cluster {
            cluster.publish_stopped();
        }
        for (user, at) in seen {
            while self.departures_in_flight >= MAX_QUEUED_DEPARTURES {
                let batch = tokio::select! {
                    biased;
                    () = cut.cancelled() => return,
                    batch = self.batches.recv() => batch,
                };
                let Some(batch) = batch else { return };
                self.publish_batch(batch);
            }
            self.store_last_seen(user, at);
        }
    }
}

#[cfg(test)]
mod tests;
