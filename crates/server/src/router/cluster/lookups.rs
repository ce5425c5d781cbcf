//! Asks the store which conversations a user is in whose presence has changed, because the notice named no conversation that a
//! watcher shares.

use switchboard_protocol::UserId;

use super::Cluster;
use super::store_reply::StoreReply;
use crate::router::LocalNode;
use crate::router::presence::Lookup;
use switchboard_store::MembershipsPage;
use switchboard_store::refusal::Refusal;

/// The most users whose conversations one query reads.
const MAX_USERS: usize = 500;

/// The most conversations of each user that one query reads. If a user is in more, the next query continues after the last one.
const PAGE_SIZE: u32 = 200;

impl Cluster {
    /// Queries the conversations of users whose presence change has not reached all watchers.
    pub(super) fn query_presence(&mut self, node: &mut LocalNode) {
        if self.querying_presence {
            return;
        }
        let asked = node.presence.take_lookups(MAX_USERS);
        if !asked.is_empty() {
            self.querying_presence = true;
            let users = asked.iter().map(|(user, lookup)| (user.clone(), lookup.after)).collect();
            let answer = self.store.membership_pages(users, PAGE_SIZE);
            self.query(answer, move |result| StoreReply::Presence { asked, result });
        }
    }

    pub(super) fn apply_presence(
        &mut self,
        node: &mut LocalNode,
        asked: Vec<(UserId, Lookup)>,
        result: Result<Vec<MembershipsPage>, Refusal>,
    ) {
        self.querying_presence = false;
        let Ok(pages) = result else {
            return asked.into_iter().for_each(|(user, lookup)| node.presence.put_back(user, lookup));
        };
        for ((user, mut lookup), page) in asked.into_iter().zip(pages) {
            let conversations: Vec<_> = page.memberships.iter().map(|place| place.conversation).collect();
            let more =
                node.presence.send_change_to_watchers(&node.registry, &user, &mut lookup, &conversations);
            if let Some(after) = page.next.filter(|_| more) {
                lookup.after = after;
                node.presence.put_back(user, lookup);
            }
        }
    }
}
