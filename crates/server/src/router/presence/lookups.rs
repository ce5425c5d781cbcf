//! Presence changes for watchers that, as far as this node knows, share no conversation with the user. The node asks the store
//! which conversations the user is in, because it may not have learned of all of them.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use switchboard_protocol::{Signal, Timestamp, UserId};

use super::Presence;
use crate::encode::encode;
use crate::router::registry::{Registry, SessionSlot};
use switchboard_store::record::ConversationKey;

/// A presence change of a user. Sessions receive it if the store says that they share a conversation with the user.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::router) struct Lookup {
    online: bool,
    /// When the user was last seen; `None` for a user who is online or was never seen.
    last_seen: Option<Timestamp>,
    /// The watchers that have not received the change yet.
    sessions: BTreeSet<SessionSlot>,
    /// The last conversation of the user that has been compared with those of the watchers. The next page begins after it.
    pub(in crate::router) after: ConversationKey,
}

impl Presence {
    /// Queues a change for sessions that share no known conversation with the user. On a single node it does nothing, because such
    /// a node knows all conversations of its users.
    pub(super) fn queue_lookup(
        &mut self,
        user: &UserId,
        online: bool,
        last_seen: Option<Timestamp>,
        sessions: BTreeSet<SessionSlot>,
    ) {
        let Some(remote) = self.remote.as_mut().filter(|_| !sessions.is_empty()) else { return };
        let mut lookup = Lookup { online, last_seen, sessions, after: ConversationKey::MIN };
        if let Some(earlier) = remote.lookups.remove(user).filter(|earlier| earlier.online == online) {
            lookup.sessions.extend(earlier.sessions);
            lookup.last_seen = lookup.last_seen.max(earlier.last_seen);
        }
        remote.lookups.insert(user.clone(), lookup);
    }

    /// Removes and returns at most `most` queued changes.
    pub(in crate::router) fn take_lookups(&mut self, most: usize) -> Vec<(UserId, Lookup)> {
        let Some(remote) = &mut self.remote else { return Vec::new() };
        std::iter::from_fn(|| remote.lookups.pop_first()).take(most).collect()
    }

    /// Queues a change again, unless the user's presence has changed since.
    pub(in crate::router) fn put_back(&mut self, user: UserId, lookup: Lookup) {
        let Some(remote) = &mut self.remote else { return };
        match remote.lookups.entry(user) {
            Entry::Vacant(entry) => drop(entry.insert(lookup)),
            Entry::Occupied(mut entry) if entry.get().online == lookup.online => {
                entry.get_mut().sessions.extend(lookup.sessions);
            }
            Entry::Occupied(_) => {}
        }
    }

    /// Sends a change to the watchers that share one of `conversations` with the user. Returns `false` if no session is left that
    /// could receive the change.
    pub(in crate::router) fn send_change_to_watchers(
        &self,
        registry: &Registry,
        user: &UserId,
        lookup: &mut Lookup,
        conversations: &[ConversationKey],
    ) -> bool {
        if self.is_online(registry, user) != lookup.online {
            return false;
        }
        let last_seen = lookup.last_seen.max(self.departures.last_departure(user)).filter(|_| !lookup.online);
        let frame = encode(&Signal::Presence { user: user.clone(), online: lookup.online, last_seen });
        lookup.sessions.retain(|session| {
            let watching = registry.session(*session).filter(|session| session.watching.contains(user));
            let Some(session) = watching else { return false };
            if self.are_apart(registry, session.user, user) {
                return false;
            }
            let shares = registry.shares_conversation(conversations, session.user);
            if shares {
                session.outbox.push_signal(&frame);
            }
            !shares
        });
        !lookup.sessions.is_empty()
    }
}
