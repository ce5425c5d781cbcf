//! Attaching sessions in a cluster: the memberships of a snapshot must fit the events that this node has applied.
//!
//! A snapshot, like every answer of the store, is of one moment. For a conversation that this node does not host, it is the
//! beginning: the node reads the log from there. If the node has applied later events, the user may have been removed since. The
//! node knows whether it has applied that removal only if it has applied all events since the snapshot was queried.

use std::collections::hash_map;
use std::mem::take;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;

use super::Cluster;
use super::store_reply::{PendingLeave, StoreReply};
use crate::router::parked::{Leaves, Obstacle, Parked, Then};
use crate::router::registry::{Changes, LocalUser, MembershipChange, SessionSlot, UserSlot};
use crate::router::{LocalNode, Subscribe};
use switchboard_store::record::{ConversationKey, Passage};
use switchboard_store::refusal::Refusal;
use switchboard_store::{CommittedEvent, Excerpt, Memberships};

/// A page of memberships that is being applied.
pub(super) struct Entry {
    page: Memberships,
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
    leaves: FxHashMap<ConversationKey, Option<Seq>>,
}

/// Memberships of a query.
struct Open {
    /// Each with an event after which the user was a member.
    memberships: Vec<(ConversationKey, Seq)>,
    /// The number of the last query before.
    question: u64,
}

impl Entry {
    fn new(parked: &Parked) -> Self {
        let mut entry = Self {
            page: parked.page.clone(),
            bounds: Vec::new(),
            listed: Vec::new(),
            beside: FxHashMap::default(),
            behind: Vec::new(),
            stays: Vec::new(),
            open: None,
            leaves: FxHashMap::default(),
        };
        if let Then::Live(subscribe) = &parked.then {
            entry.add_other_reads(subscribe);
        }
        entry
    }

    /// Adds what a session has read at other moments than the pages.
    fn add_other_reads(&mut self, subscribe: &Subscribe) {
        self.bounds = subscribe.gone.iter().chain(&subscribe.listed).copied().collect();
        self.listed = subscribe.listed.iter().map(|(conversation, _)| *conversation).collect();
        for (conversation, seq) in subscribe.cursors.iter().chain(&subscribe.listed) {
            if subscribe.heads.get(*conversation).is_none() {
                let known = self.beside.entry(*conversation).or_default();
                *known = (*known).max(*seq);
            }
        }
    }

    /// The conversations that the user left after the page.
    fn into_leaves(self) -> Leaves {
        self.leaves.into_iter().filter_map(|(conversation, leave)| Some((conversation, leave?))).collect()
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

impl Cluster {
    /// Takes a page of memberships of an attaching session.
    pub(in crate::router) fn take_page(&mut self, node: &mut LocalNode, parked: Parked) {
        if let Then::Live(subscribe) = &parked.then {
            record_leaves(node, subscribe);
        }
        let mut entry = Entry::new(&parked);
        if let Some(user) = user_of(node, parked.session) {
            self.find_missing(node, user, &mut entry);
        }
        self.admit(node, parked, entry);
    }

    /// Forgets a session that has ended.
    pub(in crate::router) fn forget_session(&mut self, session: SessionSlot) {
        self.entries.remove(&session);
    }

    /// Compares what may differ since a batch was published, and admits the sessions that waited for it. Of the conversations
    /// `check`, events were stored that could not be published.
    pub(in crate::router) fn batch_published(&mut self, node: &mut LocalNode, check: Vec<ConversationKey>) {
        self.check(node, check);
        self.unpark(node);
    }

    /// Admits the sessions that have no obstacle any more.
    pub(super) fn unpark(&mut self, node: &mut LocalNode) {
        loop {
            let Changes { users, conversations } = node.registry.take_changes();
            users.into_iter().for_each(|user| node.parked.changed(user));
            for conversation in conversations {
                // A conversation that this node no longer hosts is no obstacle.
                let applied = node.registry.applied(conversation).unwrap_or(Seq::MAX);
                node.parked.applied(conversation, applied);
            }
            let due = node.parked.take_due();
            if due.is_empty() {
                return;
            }
            // An admitted session may be what another one waits for.
            for parked in due {
                let entry = self.entries.remove(&parked.session).unwrap_or_else(|| Entry::new(&parked));
                self.admit(node, parked, entry);
            }
        }
    }

    /// Applies a page, or parks it until it has no obstacle.
    fn admit(&mut self, node: &mut LocalNode, parked: Parked, mut entry: Entry) {
        let session = parked.session;
        let obstacle = match parked.unpublished(node.published) {
            None => self.obstacle(node, session, &mut entry),
            unpublished => unpublished,
        };
        match obstacle {
            None => self.page_applied(node, parked, entry.into_leaves()),
            Some(obstacle) => {
                self.entries.insert(session, entry);
                node.parked.insert(parked, obstacle);
            }
        }
    }

    fn page_applied(&mut self, node: &mut LocalNode, parked: Parked, leaves: Leaves) {
        let session = parked.session;
        let Then::Live(subscribe) = &parked.then else {
            // The next page will be newer than the beginning of every hosted conversation.
            let subscription_epoch = node.registry.subscription_epoch();
            if let Some(session) = node.registry.session_mut(session) {
                session.subscription_epoch = subscription_epoch;
            }
            node.page_applied(parked, leaves);
            return;
        };
        record_leaves(node, subscribe);
        let left = node.page_applied(parked, leaves);
        let Some(user) = user_of(node, session) else { return };
        if node.registry.user_mut(user).is_some_and(|local| take(&mut local.suspect)) {
            self.verify(user);
        }
        // How far the session receives conversations that its user has left.
        for (conversation, upto) in left {
            if !node.registry.is_member(user, conversation)
                && let Some(session) = node.registry.session_mut(session)
            {
                session.record_told(conversation, upto);
            }
        }
    }

    /// What this node must apply or learn before it can apply a page. Starts the queries for that.
    fn obstacle(&mut self, node: &mut LocalNode, slot: SessionSlot, entry: &mut Entry) -> Option<Obstacle> {
        let session = node.registry.session(slot)?;
        let (user, subscription_epoch) = (session.user, session.subscription_epoch);
        if entry.open.is_none() {
            // What has been found before comes first; more may have come up meanwhile.
            if is_behind(node, user, entry) || self.find_missing(node, user, entry) {
                let event = entry.behind.first();
                return Some(event.map_or(Obstacle::User(user), |(conversation, seq)| {
                    Obstacle::Event(*conversation, *seq)
                }));
            }
            self.enter_page(node, user, subscription_epoch, entry);
        }
        // This node may have begun to host conversations at their heads on the page, and later events of them are known.
        if let Some((conversation, seq)) = self.not_applied(node, &entry.bounds) {
            return Some(Obstacle::Event(conversation, seq));
        }
        let Open { memberships, question } =
            entry.open.as_ref().filter(|open| !open.memberships.is_empty())?;
        let local = node.registry.user(user)?;
        // An answer says nothing about conversations that are not in its query.
        let entries = &local.answered_entries;
        let answered = local.answered > *question
            || memberships.iter().all(|(conversation, _)| entries.get(conversation) > Some(question));
        let known = answered && self.knows_leaves(node, slot, user, memberships, &mut entry.leaves);
        if !known {
            return Some(Obstacle::User(user));
        }
        // This node may have begun to host the conversation by an older answer than the page, at an earlier event.
        let (conversation, seq) = self.not_applied(node, memberships)?;
        Some(Obstacle::Event(conversation, seq))
    }

    /// The first of these conversations that this node hosts and has not applied up to its event. Expects its events.
    fn not_applied(
        &mut self,
        node: &LocalNode,
        bounds: &[(ConversationKey, Seq)],
    ) -> Option<(ConversationKey, Seq)> {
        let (conversation, seq) = bounds.iter().copied().find(|bound| is_unapplied(node, bound))?;
        self.expect(node, conversation, seq);
        Some((conversation, seq))
    }

    /// Finds what must be applied before a page, and queries it. Whether there is anything.
    fn find_missing(&mut self, node: &LocalNode, user: UserSlot, entry: &mut Entry) -> bool {
        let joined = entry.page.joined.iter().map(|joined| (joined.conversation, joined.head));
        let bounds = joined.chain(entry.bounds.iter().copied());
        entry.behind = bounds.filter(|bound| is_unapplied(node, bound)).collect();
        entry.stays = stays(node, user, entry);
        for (conversation, seq) in &entry.behind {
            self.expect(node, *conversation, *seq);
        }
        if !entry.stays.is_empty() {
            // Either the leave is queried, or the page of another session is newer, and the store says since when the user is a member.
            self.verify_membership(node, user, &entry.stays);
            self.unchecked.extend(&entry.stays);
        }
        !entry.behind.is_empty() || !entry.stays.is_empty()
    }

    /// Adds a user to the members of the conversations of a page, as far as this node knows that the memberships still hold.
    fn enter_page(
        &mut self,
        node: &mut LocalNode,
        user: UserSlot,
        subscription_epoch: u64,
        entry: &mut Entry,
    ) {
        let Some(local) = node.registry.user(user) else { return };
        let (first, changed) = (!local.loaded, local.changed());
        // The waiting events were applied before.
        node.release();
        let mut memberships = Vec::new();
        let page = entry.page.joined.iter().map(|joined| (joined.conversation, joined.head, first));
        // The user may have left, joined or both between the reads of the session: the store knows.
        let beside = entry.beside.iter().map(|(conversation, seq)| (*conversation, *seq, false));
        for (conversation, head, first) in page.chain(beside) {
            // A later membership change has been applied here.
            if changed.get(&conversation).is_some_and(|seq| *seq > head) {
                continue;
            }
            if let Some(gone) = node.registry.gone(user, conversation).filter(|gone| *gone >= head) {
                entry.leaves.insert(conversation, Some(gone));
            } else if node.registry.is_member(user, conversation) {
            } else if first && node.registry.covers(conversation, head, subscription_epoch) {
                node.registry.join(user, conversation, head);
            } else {
                memberships.push((conversation, head));
            }
        }
        if !memberships.is_empty() {
            let conversations: Vec<_> = memberships.iter().map(|(conversation, _)| *conversation).collect();
            self.verify_membership(node, user, &conversations);
        }
        entry.open = Some(Open { memberships, question: self.comparisons.questions });
    }

    /// Queries the leaves of a user that were not applied here. Whether all are known.
    fn knows_leaves(
        &self,
        node: &LocalNode,
        session: SessionSlot,
        user: UserSlot,
        memberships: &[(ConversationKey, Seq)],
        leaves: &mut FxHashMap<ConversationKey, Option<Seq>>,
    ) -> bool {
        let changed = node.registry.user(user).map(LocalUser::changed).unwrap_or_default();
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
            let answer = self.store.log(conversation, after, Seq::MAX);
            let pending = PendingLeave { session, outbox: local.outbox.clone(), conversation, after };
            self.query(answer, move |result| StoreReply::Leave { pending, result });
        }
    }

    pub(super) fn apply_leave(
        &mut self,
        node: &mut LocalNode,
        pending: &PendingLeave,
        result: Result<Excerpt, Refusal>,
    ) {
        let PendingLeave { session, ref outbox, conversation, after } = *pending;
        let local = node.registry.session(session).filter(|session| Arc::ptr_eq(&session.outbox, outbox));
        let Some(user) = local.and_then(|local| node.registry.user(local.user)) else { return };
        let Ok(Excerpt { events, .. }) = result else {
            return self.look_up_leave(node, session, conversation, after);
        };
        let leaves = |event: &&CommittedEvent| {
            event.effects.iter().any(|effect| effect.user == user.name && effect.passage == Passage::Out)
        };
        let leave = events.iter().find(leaves).map(|event| event.seq);
        match (leave, events.last()) {
            (None, Some(last)) => self.look_up_leave(node, session, conversation, last.seq),
            // Without a leave the user is still a member.
            (leave, _) => {
                if let Some(entry) = self.entries.get_mut(&session) {
                    entry.leaves.insert(conversation, Some(leave.unwrap_or(after)));
                    node.parked.answered(session);
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
    node.registry.applied(*conversation).is_some_and(|applied| applied < *seq)
}

/// Records the leaves that a session knows, except those that are not applied here yet.
fn record_leaves(node: &mut LocalNode, subscribe: &Subscribe) {
    let Some(user) = user_of(node, subscribe.session) else { return };
    for (conversation, until) in &subscribe.gone {
        if !is_unapplied(node, &(*conversation, *until)) && !node.registry.is_member(user, *conversation) {
            node.registry.record_leave(user, *conversation, *until);
        }
    }
}

/// Whether something that `find_missing` has found is still missing.
fn is_behind(node: &LocalNode, user: UserSlot, entry: &mut Entry) -> bool {
    let registry = &node.registry;
    entry.behind.retain(|bound| is_unapplied(node, bound));
    let (changes, bounds) = (registry.user(user).map_or(&[][..], |local| &local.changes), &entry.bounds);
    entry.stays.retain(|here| registry.is_member(user, *here) && !has_changed(changes, bounds, *here));
    !entry.behind.is_empty() || !entry.stays.is_empty()
}

/// Conversations in which this node counts the user as a member and the page does not: the leave is not applied yet. Except those
/// which the user joined after the page was read, as another page or the summaries say.
fn stays(node: &LocalNode, user: UserSlot, entry: &Entry) -> Vec<ConversationKey> {
    let Some(local) = node.registry.user(user) else { return Vec::new() };
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

#[cfg(test)]
mod tests;
