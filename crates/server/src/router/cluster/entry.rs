//! Attaching sessions in a cluster: the memberships of a snapshot must be consistent with the events that this node has applied.
//!
//! A snapshot, like every answer of the store, shows one moment. If this node does not host a conversation of the snapshot, it
//! begins to host it at the head in the snapshot, and reads the log from there. If the node already hosts the conversation and has
//! applied later events, the user may have been removed since the snapshot. The node can exclude that only if it has applied all
//! events since the snapshot was queried.

use std::collections::hash_map;
use std::mem::take;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;

use super::Cluster;
use super::store_reply::{PendingLeave, StoreReply};
use crate::router::parked::{LeftConversations, NextStep, Obstacle, ParkedPage};
use crate::router::registry::{
    LocalSession, LocalUser, MembershipChange, ObstacleChanges, SessionSlot, UserSlot,
};
use crate::router::{LocalNode, Subscription};
use switchboard_store::record::{ConversationKey, Effect, JoinOrLeave};
use switchboard_store::refusal::Refusal;
use switchboard_store::{CommittedEvent, LogExcerpt, Memberships};

/// A page of memberships that is being applied.
pub(super) struct EnteringPage {
    page: Memberships,
    /// Further conversations that this node, if it hosts them, must have applied up to the given event.
    must_be_applied: Vec<(ConversationKey, Seq)>,
    /// The conversations of the summaries. The session reads these after all pages, or together with its only page.
    listed: Vec<ConversationKey>,
    /// Conversations that are on no page, although the user was a member at the given event. The session learned that when its
    /// cursors were checked, before the page, or when the summaries were read, after the page.
    members_off_page: FxHashMap<ConversationKey, Seq>,
    /// Conversations that this node must first apply up to the given event.
    events_to_apply: Vec<(ConversationKey, Seq)>,
    /// Conversations that the user has left according to the page, while this node has not applied the leave yet.
    unapplied_leaves: Vec<ConversationKey>,
    /// Memberships on the page that the store must confirm, because they may have ended. `None` until the page has been compared
    /// with the applied events.
    to_confirm: Option<UnconfirmedMemberships>,
    /// Conversations that the user left after the page was read, with the event of the leave once it is found.
    leaves: FxHashMap<ConversationKey, Option<Seq>>,
}

/// Memberships that the store must confirm.
struct UnconfirmedMemberships {
    /// Each conversation with an event at which the user was a member.
    memberships: Vec<(ConversationKey, Seq)>,
    /// The number of the last query that had been sent when this was made. Only the answer of a later query confirms the
    /// memberships.
    query_number: u64,
}

impl EnteringPage {
    fn new(parked: &ParkedPage) -> Self {
        let mut entry = Self {
            page: parked.page.clone(),
            must_be_applied: Vec::new(),
            listed: Vec::new(),
            members_off_page: FxHashMap::default(),
            events_to_apply: Vec::new(),
            unapplied_leaves: Vec::new(),
            to_confirm: None,
            leaves: FxHashMap::default(),
        };
        if let NextStep::MakeLive(subscribe) = &parked.next_step {
            entry.add_other_reads(subscribe);
        }
        entry
    }

    /// Adds the cursors and summaries of a session, which it has read at other moments than the pages.
    fn add_other_reads(&mut self, subscribe: &Subscription) {
        self.must_be_applied =
            subscribe.left_conversations.iter().chain(&subscribe.listed).copied().collect();
        self.listed = subscribe.listed.iter().map(|(conversation, _)| *conversation).collect();
        for (conversation, seq) in subscribe.cursors.iter().chain(&subscribe.listed) {
            if subscribe.heads.get(*conversation).is_none() {
                let known = self.members_off_page.entry(*conversation).or_default();
                *known = (*known).max(*seq);
            }
        }
    }

    /// The conversations that the user left after the page was read.
    fn into_leaves(self) -> LeftConversations {
        self.leaves.into_iter().filter_map(|(conversation, leave)| Some((conversation, leave?))).collect()
    }
}

/// Whether a user joined or left a conversation by a later event than the one in `known`.
fn has_changed(
    changes: &[MembershipChange],
    known: &[(ConversationKey, Seq)],
    conversation: ConversationKey,
) -> bool {
    let until = known.iter().find(|bound| bound.0 == conversation).map_or(Seq(0), |bound| bound.1);
    changes.iter().any(|change| change.conversation == conversation && change.seq > until)
}

impl Cluster {
    /// Applies a page of memberships of an attaching session, or parks the session until that is possible.
    pub(in crate::router) fn accept_page(&mut self, node: &mut LocalNode, parked: ParkedPage) {
        if let NextStep::MakeLive(subscribe) = &parked.next_step {
            record_leaves(node, subscribe);
        }
        let mut entry = EnteringPage::new(&parked);
        if let Some(user) = user_of(node, parked.session) {
            self.query_unapplied_events(node, user, &mut entry);
        }
        self.admit_page(node, parked, entry);
    }

    /// Forgets a session that has ended.
    pub(in crate::router) fn remove_session(&mut self, session: SessionSlot) {
        self.entries.remove(&session);
    }

    /// Called after a batch was published: admits the sessions that waited for the batch. In the conversations `check`, events may
    /// have been stored whose outcome this node did not learn, so their heads are queried.
    pub(in crate::router) fn on_batch_published(
        &mut self,
        node: &mut LocalNode,
        check: Vec<ConversationKey>,
    ) {
        self.query_heads_of(node, check);
        self.admit_unblocked(node);
    }

    /// Admits the sessions that have no obstacle any more.
    pub(super) fn admit_unblocked(&mut self, node: &mut LocalNode) {
        loop {
            let ObstacleChanges { users, conversations } = node.registry.take_obstacle_changes();
            users.into_iter().for_each(|user| node.parked.wake_for_user(user));
            for conversation in conversations {
                // A conversation that this node no longer hosts is no obstacle.
                let applied = node.registry.applied_seq(conversation).unwrap_or(Seq::MAX);
                node.parked.wake_for_event(conversation, applied);
            }
            let due = node.parked.take_due();
            if due.is_empty() {
                return;
            }
            // Admitting a session changes the registry, and another session may wait for that change.
            for parked in due {
                let entry =
                    self.entries.remove(&parked.session).unwrap_or_else(|| EnteringPage::new(&parked));
                self.admit_page(node, parked, entry);
            }
        }
    }

    /// Applies a page, or parks it until it has no obstacle.
    fn admit_page(&mut self, node: &mut LocalNode, parked: ParkedPage, mut entry: EnteringPage) {
        let session = parked.session;
        let obstacle = match parked.unpublished_batch(node.published) {
            None => self.find_obstacle(node, session, &mut entry),
            unpublished => unpublished,
        };
        match obstacle {
            None => self.finish_page(node, parked, entry.into_leaves()),
            Some(obstacle) => {
                self.entries.insert(session, entry);
                node.parked.insert(parked, obstacle);
            }
        }
    }

    fn finish_page(&mut self, node: &mut LocalNode, parked: ParkedPage, leaves: LeftConversations) {
        let session = parked.session;
        let NextStep::MakeLive(subscribe) = &parked.next_step else {
            // The session reads its next page from now on, so that page is newer than every conversation that this node hosts now.
            let subscription_epoch = node.registry.subscription_epoch();
            if let Some(session) = node.registry.session_mut(session) {
                session.subscription_epoch = subscription_epoch;
            }
            node.finish_page(parked, leaves);
            return;
        };
        record_leaves(node, subscribe);
        let left = node.finish_page(parked, leaves);
        let Some(user) = user_of(node, session) else { return };
        if node.registry.user_mut(user).is_some_and(|local| take(&mut local.must_compare)) {
            self.compare_user(user);
        }
        // A session receives a conversation that its user has left up to this event.
        for (conversation, upto) in left {
            if !node.registry.is_member(user, conversation)
                && let Some(session) = node.registry.session_mut(session)
            {
                session.record_received(conversation, upto);
            }
        }
    }

    /// Returns what this node must apply or learn before it can finish with a page, and starts the queries for that.
    fn find_obstacle(
        &mut self,
        node: &mut LocalNode,
        slot: SessionSlot,
        entry: &mut EnteringPage,
    ) -> Option<Obstacle> {
        let session = node.registry.session(slot)?;
        let user = session.user;
        if entry.to_confirm.is_none() {
            // What has been found before comes first; more may have come up meanwhile.
            if still_has_unapplied(node, user, entry) || self.query_unapplied_events(node, user, entry) {
                let event = entry.events_to_apply.first();
                return Some(event.map_or(Obstacle::User(user), |(conversation, seq)| {
                    Obstacle::Event(*conversation, *seq)
                }));
            }
            self.add_page_members(node, slot, entry);
        }
        // This node may have just begun to host conversations at their heads on the page, while later events of them are known.
        if let Some((conversation, seq)) = self.expect_first_unapplied_event(node, &entry.must_be_applied) {
            return Some(Obstacle::Event(conversation, seq));
        }
        let UnconfirmedMemberships { memberships, query_number: question } =
            entry.to_confirm.as_ref().filter(|open| !open.memberships.is_empty())?;
        let local = node.registry.user(user)?;
        // The answer to a query about some conversations says nothing about others.
        let entries = &local.last_answers;
        let answered = local.last_full_answer > *question
            || memberships.iter().all(|(conversation, _)| entries.get(conversation) > Some(question));
        let known = answered && self.look_up_leaves(node, slot, user, memberships, &mut entry.leaves);
        if !known {
            return Some(Obstacle::User(user));
        }
        // Because of an older answer, this node may have begun to host the conversation at an earlier event than the page shows.
        let (conversation, seq) = self.expect_first_unapplied_event(node, memberships)?;
        Some(Obstacle::Event(conversation, seq))
    }

    /// Returns the first conversation in `bounds` that this node hosts and has not applied up to the given event. Makes the node
    /// read the missing events.
    fn expect_first_unapplied_event(
        &mut self,
        node: &LocalNode,
        bounds: &[(ConversationKey, Seq)],
    ) -> Option<(ConversationKey, Seq)> {
        let (conversation, seq) = bounds.iter().copied().find(|bound| is_unapplied(node, bound))?;
        self.expect_event(node, conversation, seq);
        Some((conversation, seq))
    }

    /// Finds the events that must be applied before a page, and queries them. Returns whether there are any.
    fn query_unapplied_events(&mut self, node: &LocalNode, user: UserSlot, entry: &mut EnteringPage) -> bool {
        let joined = entry.page.joined.iter().map(|joined| (joined.conversation, joined.head));
        let bounds = joined.chain(entry.must_be_applied.iter().copied());
        entry.events_to_apply = bounds.filter(|bound| is_unapplied(node, bound)).collect();
        entry.unapplied_leaves = find_unapplied_leaves(node, user, entry);
        for (conversation, seq) in &entry.events_to_apply {
            self.expect_event(node, *conversation, *seq);
        }
        if !entry.unapplied_leaves.is_empty() {
            // Either this node has not applied the leave, and reads it after the query of heads. Or the user has rejoined, and the
            // page of another session is newer: then the store says by which event the user joined.
            self.query_memberships(node, user, &entry.unapplied_leaves);
            self.heads_to_query.extend(&entry.unapplied_leaves);
        }
        !entry.events_to_apply.is_empty() || !entry.unapplied_leaves.is_empty()
    }

    /// Adds a user to the members of the conversations on a page whose memberships are known to be current. The store is queried
    /// for the others.
    fn add_page_members(&mut self, node: &mut LocalNode, slot: SessionSlot, entry: &mut EnteringPage) {
        let Some(session) = node.registry.session_mut(slot) else { return };
        session.has_joined_page = true;
        let (user, subscription_epoch) = (session.user, session.subscription_epoch);
        let Some(local) = node.registry.user(user) else { return };
        // Another attaching session whose page is older must learn by which event the user joined, and the store says it. A session
        // whose page was not handled here yet is compared with the registry later.
        let is_older = |other: &LocalSession| !other.is_live && other.has_joined_page;
        let others = local.sessions.iter().filter(|other| **other != slot);
        let older = others.filter_map(|other| node.registry.session(*other)).any(is_older);
        let (first, changed) = (!local.is_loaded && !older, local.last_changes());
        // Coalesced events that still wait were applied before the page.
        node.flush_coalesced();
        let mut memberships = Vec::new();
        let page = entry.page.joined.iter().map(|joined| (joined.conversation, joined.head, first));
        // The user may have left, joined or both between the reads of the session, so the store is queried.
        let beside = entry.members_off_page.iter().map(|(conversation, seq)| (*conversation, *seq, false));
        for (conversation, head, first) in page.chain(beside) {
            // This node has applied a membership change that is later than the page.
            if changed.get(&conversation).is_some_and(|seq| *seq > head) {
                continue;
            }
            if let Some(gone) =
                node.registry.recorded_leave_of(user, conversation).filter(|gone| *gone >= head)
            {
                entry.leaves.insert(conversation, Some(gone));
            } else if node.registry.is_member(user, conversation) {
            } else if first && node.registry.is_membership_current(conversation, head, subscription_epoch) {
                node.registry.add_member(user, conversation, head);
            } else {
                memberships.push((conversation, head));
            }
        }
        if !memberships.is_empty() {
            let conversations: Vec<_> = memberships.iter().map(|(conversation, _)| *conversation).collect();
            self.query_memberships(node, user, &conversations);
        }
        entry.to_confirm =
            Some(UnconfirmedMemberships { memberships, query_number: self.comparisons.last_query_number });
    }

    /// Queries the leaves of a user that this node has not applied. Returns whether all leaves are known.
    fn look_up_leaves(
        &self,
        node: &LocalNode,
        session: SessionSlot,
        user: UserSlot,
        memberships: &[(ConversationKey, Seq)],
        leaves: &mut FxHashMap<ConversationKey, Option<Seq>>,
    ) -> bool {
        let changed = node.registry.user(user).map(LocalUser::last_changes).unwrap_or_default();
        for (conversation, seq) in memberships {
            if node.registry.is_member(user, *conversation)
                || changed.get(conversation).is_some_and(|changed| changed > seq)
            {
                continue;
            }
            if let hash_map::Entry::Vacant(place) = leaves.entry(*conversation) {
                place.insert(None);
                self.look_up_leave(node, session, *conversation, *seq);
            }
        }
        leaves.values().all(Option::is_some)
    }

    fn look_up_leave(
        &self,
        node: &LocalNode,
        session: SessionSlot,
        conversation: ConversationKey,
        after: Seq,
    ) {
        if let Some(local) = node.registry.session(session) {
            let answer = self.store.read_log(conversation, after, Seq::MAX);
            let pending = PendingLeave { session, outbox: local.outbox.clone(), conversation, after };
            self.query(answer, move |result| StoreReply::Leave { pending, result });
        }
    }

    pub(super) fn apply_leave(
        &mut self,
        node: &mut LocalNode,
        pending: &PendingLeave,
        result: Result<LogExcerpt, Refusal>,
    ) {
        let PendingLeave { session, ref outbox, conversation, after } = *pending;
        let local = node.registry.session(session).filter(|session| Arc::ptr_eq(&session.outbox, outbox));
        let Some(user) = local.and_then(|local| node.registry.user(local.user)) else { return };
        let Ok(LogExcerpt { events, .. }) = result else {
            return self.look_up_leave(node, session, conversation, after);
        };
        let leaves = |event: &&CommittedEvent| {
            let is_own =
                |effect: &Effect| effect.user == user.name && effect.join_or_leave == JoinOrLeave::Leave;
            event.ends_conversation() || event.effects.iter().any(is_own)
        };
        let leave = events.iter().find(leaves).map(|event| event.seq);
        match (leave, events.last()) {
            (None, Some(last)) => self.look_up_leave(node, session, conversation, last.seq),
            // If the log has no leave, the user is still a member.
            (leave, _) => {
                if let Some(entry) = self.entries.get_mut(&session) {
                    entry.leaves.insert(conversation, Some(leave.unwrap_or(after)));
                    node.parked.wake_session(session);
                }
            }
        }
    }
}

fn user_of(node: &LocalNode, session: SessionSlot) -> Option<UserSlot> {
    node.registry.session(session).map(|session| session.user)
}

/// Whether this node hosts a conversation and has not applied it up to an event.
fn is_unapplied(node: &LocalNode, (conversation, seq): &(ConversationKey, Seq)) -> bool {
    node.registry.applied_seq(*conversation).is_some_and(|applied| applied < *seq)
}

/// Records the leaves that a session knows, except leaves that this node has not applied yet.
fn record_leaves(node: &mut LocalNode, subscribe: &Subscription) {
    let Some(user) = user_of(node, subscribe.session) else { return };
    for (conversation, until) in &subscribe.left_conversations {
        if !is_unapplied(node, &(*conversation, *until)) && !node.registry.is_member(user, *conversation) {
            node.registry.record_leave(user, *conversation, *until);
        }
    }
}

/// Whether events that `query_unapplied_events` has found to be missing are still not applied.
fn still_has_unapplied(node: &LocalNode, user: UserSlot, entry: &mut EnteringPage) -> bool {
    let registry = &node.registry;
    entry.events_to_apply.retain(|bound| is_unapplied(node, bound));
    let (changes, bounds) =
        (registry.user(user).map_or(&[][..], |local| &local.changes_while_attaching), &entry.must_be_applied);
    entry
        .unapplied_leaves
        .retain(|here| registry.is_member(user, *here) && !has_changed(changes, bounds, *here));
    !entry.events_to_apply.is_empty() || !entry.unapplied_leaves.is_empty()
}

/// Conversations in which the user is a member on this node and not on the page, because this node has not applied the leave yet.
/// Conversations that the user joined after the page was read, according to another page or to the summaries, are not among them.
fn find_unapplied_leaves(node: &LocalNode, user: UserSlot, entry: &EnteringPage) -> Vec<ConversationKey> {
    let Some(local) = node.registry.user(user) else { return Vec::new() };
    let here = &local.conversations;
    let first = here.partition_point(|here| *here <= entry.page.after);
    let end = entry.page.next.map_or(here.len(), |next| here.partition_point(|here| *here <= next));
    let here = here.get(first..end).unwrap_or_default();
    let joined = |here: &ConversationKey| {
        entry.page.joined.binary_search_by_key(here, |joined| joined.conversation).is_ok()
    };
    let joined_since = |here: &ConversationKey| {
        entry.listed.contains(here)
            || has_changed(&local.changes_while_attaching, &entry.must_be_applied, *here)
    };
    here.iter().filter(|here| !joined(here) && !joined_since(here)).copied().collect()
}

#[cfg(test)]
mod tests;
