//! Attaching sessions in a cluster: the memberships of a snapshot must fit the events that this node has applied.
//!
//! A snapshot, like every answer of the store, is of one moment. For a conversation that this node does not host, it is the
//! beginning: the node reads the log from there. If the node has applied later events, the user may have been removed since. The
//! node knows whether it has applied that removal only if it has applied all events since the snapshot was queried.

use std::collections::hash_map;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;

use super::parked::{Obstacle, Parked};
use super::registry::{MembershipChange, UserSlot};
use super::store_reply::{PendingLeave, StoreReply};
use super::{Router, Subscribe};
use crate::router::registry::SessionSlot;
use switchboard_store::record::{ConversationKey, Passage};
use switchboard_store::refusal::Refusal;
use switchboard_store::{CommittedEvent, Excerpt, Memberships};

/// The last join or leave of a user in each conversation that they joined or left.
pub(super) fn changed(changes: &[MembershipChange]) -> FxHashMap<ConversationKey, Seq> {
    changes.iter().map(|change| (change.conversation, change.seq)).collect()
}

/// A page of memberships that is being applied.
pub(super) struct Entry {
    pub(super) page: Memberships,
    /// Further conversations that must be applied up to an event, if this node hosts them.
    bounds: Vec<(ConversationKey, Seq)>,
    /// The conversations of the summaries, which are read after all pages, or with the only one.
    listed: Vec<ConversationKey>,
    /// Conversations on no page in which the user was a member at an event when the cursors were checked, before the page, or when the
    /// summaries were read, after it.
    beside: FxHashMap<ConversationKey, Seq>,
    /// What must be applied first: conversations up to an event,
    behind: Vec<(ConversationKey, Seq)>,
    /// and the leaves from conversations in which this node still counts the user as a member.
    stays: Vec<ConversationKey>,
    /// Memberships of which the store must answer whether they still hold. `None` until the page has been compared with the applied
    /// events.
    open: Option<Open>,
    /// Conversations that the user left after the page, and the event, once it is found.
    pub(super) leaves: FxHashMap<ConversationKey, Option<Seq>>,
}

/// Memberships of a query.
struct Open {
    /// Each with an event after which the user was a member.
    memberships: Vec<(ConversationKey, Seq)>,
    /// The number of the last query before.
    question: u64,
}

impl Entry {
    pub(super) fn new(page: Memberships) -> Self {
        let (listed, beside) = (Vec::new(), FxHashMap::default());
        let (behind, stays, leaves) = (Vec::new(), Vec::new(), FxHashMap::default());
        Self { page, bounds: Vec::new(), listed, beside, behind, stays, open: None, leaves }
    }

    /// The last page of a session, with what the session has read at other moments than the pages.
    pub(super) fn last(subscribe: &Subscribe) -> Self {
        let mut entry = Self::new(subscribe.page.clone());
        entry.bounds = subscribe.gone.iter().chain(&subscribe.listed).copied().collect();
        entry.listed = subscribe.listed.iter().map(|(conversation, _)| *conversation).collect();
        for (conversation, seq) in subscribe.cursors.iter().chain(&subscribe.listed) {
            if subscribe.heads.get(*conversation).is_none() {
                let known = entry.beside.entry(*conversation).or_default();
                *known = (*known).max(*seq);
            }
        }
        entry
    }
}

/// Whether a user joined or left a conversation by a later event than the known one.
fn has_changed(
    changes: &[MembershipChange],
    known: &[(ConversationKey, Seq)],
    conversation: ConversationKey,
) -> bool {
    let until = known.iter().find(|bound| bound.0 == conversation).map_or(Seq(0), |bound| bound.1);
    changes.iter().any(|change| change.conversation == conversation && change.seq > until)
}

impl Router {
    /// What this node must apply or learn before it can apply a page. Starts the queries for that.
    pub(super) fn cluster_obstacle(&mut self, parked: &mut Parked) -> Option<Obstacle> {
        let entry = &mut parked.entry;
        let session = self.registry.session(parked.session)?;
        let (user, subscription_epoch) = (session.user, session.subscription_epoch);
        if entry.open.is_none() {
            // What has been found before comes first; more may have come up meanwhile.
            if self.is_behind(user, entry) || self.find_missing(user, entry) {
                let event = entry.behind.first();
                return Some(event.map_or(Obstacle::User(user), |(conversation, seq)| {
                    Obstacle::Event(*conversation, *seq)
                }));
            }
            self.enter_page(user, subscription_epoch, entry);
        }
        // This node may have begun to host conversations at their heads on the page, and later events of them are known.
        if let Some((conversation, seq)) = self.not_placed(&entry.bounds) {
            return Some(Obstacle::Event(conversation, seq));
        }
        let Open { memberships, question } =
            entry.open.as_ref().filter(|open| !open.memberships.is_empty())?;
        let local = self.registry.user(user)?;
        // An answer says nothing about conversations that are not in its query.
        let entries = &local.answered_entries;
        let answered = local.answered > *question
            || memberships.iter().all(|(conversation, _)| entries.get(conversation) > Some(question));
        let known = answered && self.knows_leaves(parked.session, user, memberships, &mut entry.leaves);
        if !known {
            return Some(Obstacle::User(user));
        }
        // This node may have begun to host the conversation by an older answer than the page, at an earlier event.
        let (conversation, seq) = self.not_placed(memberships)?;
        Some(Obstacle::Event(conversation, seq))
    }

    /// The first of these conversations that this node hosts and has not applied up to its event. Expects its events.
    fn not_placed(&mut self, bounds: &[(ConversationKey, Seq)]) -> Option<(ConversationKey, Seq)> {
        let registry = &self.registry;
        let behind = |(conversation, seq): &(ConversationKey, Seq)| {
            registry.applied(*conversation).is_some_and(|applied| applied < *seq)
        };
        let (conversation, seq) = bounds.iter().copied().find(behind)?;
        self.expect(conversation, seq);
        Some((conversation, seq))
    }

    /// Whether something that `find_missing` has found is still missing.
    fn is_behind(&self, user: UserSlot, entry: &mut Entry) -> bool {
        let registry = &self.registry;
        let behind = |(conversation, seq): &(ConversationKey, Seq)| {
            registry.applied(*conversation).is_some_and(|applied| applied < *seq)
        };
        entry.behind.retain(behind);
        let (changes, bounds) = (registry.user(user).map_or(&[][..], |local| &local.changes), &entry.bounds);
        entry.stays.retain(|here| registry.is_member(user, *here) && !has_changed(changes, bounds, *here));
        !entry.behind.is_empty() || !entry.stays.is_empty()
    }

    /// Finds what must be applied before a page, and queries it. Whether there is anything.
    fn find_missing(&mut self, user: UserSlot, entry: &mut Entry) -> bool {
        let joined = entry.page.joined.iter().map(|joined| (joined.conversation, joined.head));
        let registry = &self.registry;
        let behind = |(conversation, seq): &(ConversationKey, Seq)| {
            registry.applied(*conversation).is_some_and(|applied| applied < *seq)
        };
        entry.behind = joined.chain(entry.bounds.iter().copied()).filter(behind).collect();
        entry.stays = self.stays(user, entry);
        for (conversation, seq) in &entry.behind {
            self.expect(*conversation, *seq);
        }
        if !entry.stays.is_empty() {
            // Either the leave is queried, or the page of another session is newer, and the store says since when the user is a member.
            self.verify_membership(user, &entry.stays);
            if let Some(peers) = &mut self.peers {
                peers.unchecked.extend(&entry.stays);
            }
        }
        !entry.behind.is_empty() || !entry.stays.is_empty()
    }

    /// Conversations in which this node counts the user as a member and the page does not: the leave is not applied yet. Except those
    /// which the user joined after the page was read, as another page or the summaries say.
    fn stays(&self, user: UserSlot, entry: &Entry) -> Vec<ConversationKey> {
        let Some(local) = self.registry.user(user) else { return Vec::new() };
        let here = &local.conversations;
        let first = here.partition_point(|here| *here <= entry.page.after);
        let end = entry.page.next.map_or(here.len(), |next| here.partition_point(|here| *here <= next));
        let here = here.get(first..end).unwrap_or_default();
        let joined = |here: &ConversationKey| {
            entry.page.joined.binary_search_by_key(here, |joined| joined.conversation).is_ok()
        };
        let joined_since = |here: &ConversationKey| {
            entry.listed.contains(here) || has_changed(&local.changes, &entry.bounds, *here)
        };
        here.iter().filter(|here| !joined(here) && !joined_since(here)).copied().collect()
    }

    /// Queries what must be applied before a page.
    pub(super) fn catch_up_with(&mut self, parked: &mut Parked) {
        if let (Some(user), true) = (self.user_of(parked.session), self.peers.is_some()) {
            self.find_missing(user, &mut parked.entry);
        }
    }

    /// Adds a user to the members of the conversations of a page, as far as this node knows that the memberships still hold.
    fn enter_page(&mut self, user: UserSlot, subscription_epoch: u64, entry: &mut Entry) {
        let Some(local) = self.registry.user(user) else { return };
        let (first, changed) = (!local.loaded, changed(&local.changes));
        // The waiting events were applied before.
        self.release();
        let mut memberships = Vec::new();
        let page = entry.page.joined.iter().map(|joined| (joined.conversation, joined.head, first));
        // The user may have left, joined or both between the reads of the session: the store knows.
        let beside = entry.beside.iter().map(|(conversation, seq)| (*conversation, *seq, false));
        for (conversation, head, first) in page.chain(beside) {
            // A later membership change has been applied here.
            if changed.get(&conversation).is_some_and(|seq| *seq > head) {
                continue;
            }
            if let Some(gone) = self.registry.gone(user, conversation).filter(|gone| *gone >= head) {
                entry.leaves.insert(conversation, Some(gone));
            } else if self.registry.is_member(user, conversation) {
            } else if first && self.registry.covers(conversation, head, subscription_epoch) {
                self.registry.join(user, conversation, head);
            } else {
                memberships.push((conversation, head));
            }
        }
        if !memberships.is_empty() {
            let conversations: Vec<_> = memberships.iter().map(|(conversation, _)| *conversation).collect();
            self.verify_membership(user, &conversations);
        }
        let question = self.peers.as_ref().map_or(0, |peers| peers.comparisons.questions);
        entry.open = Some(Open { memberships, question });
    }

    /// Queries the leaves of a user that were not applied here. Whether all are known.
    fn knows_leaves(
        &self,
        session: SessionSlot,
        user: UserSlot,
        memberships: &[(ConversationKey, Seq)],
        leaves: &mut FxHashMap<ConversationKey, Option<Seq>>,
    ) -> bool {
        let changed = changed(self.registry.user(user).map_or(&[][..], |local| &local.changes));
        for (conversation, seq) in memberships {
            if self.registry.is_member(user, *conversation)
                || changed.get(conversation).is_some_and(|changed| changed > seq)
            {
                continue;
            }
            if let hash_map::Entry::Vacant(place) = leaves.entry(*conversation) {
                place.insert(None);
                self.look_up_leave(session, *conversation, *seq);
            }
        }
        leaves.values().all(Option::is_some)
    }

    /// Records the leaves that a session knows, except those that are not applied here yet.
    pub(super) fn record_leave(&mut self, subscribe: &Subscribe) {
        let Some(user) = self.user_of(subscribe.session) else { return };
        for (conversation, until) in &subscribe.gone {
            let here = self.registry.applied(*conversation).is_none_or(|applied| applied >= *until);
            if here && !self.registry.is_member(user, *conversation) {
                self.registry.record_leave(user, *conversation, *until);
            }
        }
    }

    /// Records how far a session receives conversations that its user has left.
    pub(super) fn record_told(
        &mut self,
        session: SessionSlot,
        told: impl Iterator<Item = (ConversationKey, Seq)>,
    ) {
        let Some(user) = self.user_of(session).filter(|_| self.peers.is_some()) else { return };
        for (conversation, upto) in told {
            if !self.registry.is_member(user, conversation)
                && let Some(session) = self.registry.session_mut(session)
            {
                session.record_told(conversation, upto);
            }
        }
    }

    fn look_up_leave(&self, session: SessionSlot, conversation: ConversationKey, after: Seq) {
        let outbox = self.registry.session(session).map(|session| session.outbox.clone());
        if let (Some(peers), Some(outbox)) = (&self.peers, outbox) {
            let answer = peers.store.log(conversation, after, Seq::MAX);
            let pending = PendingLeave { session, outbox, conversation, after };
            peers.query(answer, move |result| StoreReply::Leave { pending, result });
        }
    }

    pub(super) fn apply_leave(&mut self, pending: &PendingLeave, result: Result<Excerpt, Refusal>) {
        let PendingLeave { session, ref outbox, conversation, after } = *pending;
        let local = self.registry.session(session).filter(|session| Arc::ptr_eq(&session.outbox, outbox));
        let Some(user) = local.and_then(|local| self.registry.user(local.user)) else { return };
        let Ok(Excerpt { events, .. }) = result else {
            return self.look_up_leave(session, conversation, after);
        };
        let leaves = |event: &&CommittedEvent| {
            event.effects.iter().any(|effect| effect.user == user.name && effect.passage == Passage::Out)
        };
        let leave = events.iter().find(leaves).map(|event| event.seq);
        match (leave, events.last()) {
            (None, Some(last)) => self.look_up_leave(session, conversation, last.seq),
            // Without a leave the user is still a member.
            (leave, _) => {
                if let Some(parked) = self.parked.get_mut(session) {
                    parked.entry.leaves.insert(conversation, Some(leave.unwrap_or(after)));
                    self.parked.answered(session);
                }
            }
        }
    }

    fn user_of(&self, session: SessionSlot) -> Option<UserSlot> {
        self.registry.session(session).map(|session| session.user)
    }
}

#[cfg(test)]
mod tests;
