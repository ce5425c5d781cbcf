//! Takes users offline: publishes that to other nodes and to watchers, and stores when the user was last seen.

use switchboard_protocol::{Timestamp, UserId};
use tokio_util::sync::CancellationToken;

use super::registry::UserSlot;
use super::{MAX_QUEUED_DEPARTURES, Router};
use switchboard_store::origin::Origin;
use switchboard_store::{Change, PresenceChange, Submission};

impl Router {
    /// Takes a user offline, and publishes that. Returns the user and when they were last seen, if they were online.
    pub(super) fn go_offline(&mut self, user: UserSlot) -> Option<(UserId, Timestamp)> {
        let gone = self.node.registry.begin_unload(user)?;
        self.unloading.push_back(user);
        let at = self.node.presence.remove_departed(user)?;
        self.node.presence.publish_departure(&self.node.registry, &gone, at);
        Some((gone.name, at))
    }

    /// Takes a user offline whose grace period has ended.
    pub(super) fn store_departure(&mut self, user: UserSlot) {
        if let Some((user, at)) = self.go_offline(user) {
            self.node.attendees.depart(&user);
            self.unstored.push_back((user, at));
            self.store_unstored();
        }
    }

    /// Has the store write who went offline, as far as its queue has room. The rest follows after the next batch.
    pub(super) fn store_unstored(&mut self) {
        while self.departures_in_flight < MAX_QUEUED_DEPARTURES
            && let Some((user, at)) = self.unstored.pop_front()
        {
            let change = match (self.stopping, self.node.attendees.are_shared()) {
                // Other nodes find out whether the user is on none of them.
                (_, true) => PresenceChange::LastSeen(at),
                (false, false) => PresenceChange::Offline(at),
                (true, false) => PresenceChange::ConnectedAtStop(at),
            };
            let submission =
                Submission { actor: user, change: Change::SetPresence(change), origin: Origin::Internal };
            if let Err(refused) = self.store.submit(submission) {
                self.unstored.push_front((refused.actor, at));
                return;
            }
            self.departures_in_flight += 1;
        }
    }

    /// Takes all users offline, because the server stops. The other nodes receive that at once. The times at which users were last
    /// seen are stored a few users at a time, because all of them do not fit the queue of the store. Times that are not stored at
    /// the deadline are lost.
    pub(super) async fn store_all_departures(&mut self, cut: &CancellationToken) {
        let users = self.node.registry.users();
        for user in users {
            let gone = self.go_offline(user);
            self.unstored.extend(gone);
        }
        if let Some(cluster) = &self.cluster {
            cluster.publish_stopped();
        }
        self.store_unstored();
        while !self.unstored.is_empty() {
            let batch = tokio::select! {
                biased;
                () = cut.cancelled() => return,
                batch = self.batches.recv() => batch,
            };
            let Some(batch) = batch else { return };
            self.publish_batch(batch);
            self.store_unstored();
        }
    }
}

#[cfg(test)]
mod tests;
