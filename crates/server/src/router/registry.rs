//! The users who are connected to this node, their sessions and their conversations.

mod blocks;
mod changes;
mod session;
mod slots;
mod vec_set;

use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::{CloseCode, Seq, UserId};

pub(crate) use self::blocks::BlockStep;
use self::blocks::UserBlocks;
pub(super) use self::changes::ObstacleChanges;
pub(crate) use self::changes::SubscriptionChange;
pub(crate) use self::session::LocalSession;
use self::slots::{Slot, Slots};
pub(crate) use self::vec_set::VecSet;
use crate::outbox::Outbox;
use switchboard_store::record::{ConversationKey, JoinOrLeave};

/// The slot of a session in the registry. A lookup with the slot of a session that has ended finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionSlot(Slot);

impl SessionSlot {
    /// The lowest slot, as the start of a range of all slots.
    pub(super) const MIN: Self = Self(Slot::MIN);
    /// The highest slot, as the end of a range of all slots.
    pub(super) const MAX: Self = Self(Slot::MAX);
}

/// The slot of a user in the registry. A lookup with the slot of a removed user finds nothing, even if the user is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UserSlot(Slot);

/// A user with a session on this node, or who had one a short while ago.
#[derive(Debug)]
pub(crate) struct LocalUser {
    pub(crate) name: UserId,
    pub(crate) sessions: VecSet<SessionSlot>,
    /// Whether `conversations` has been loaded from the store.
    pub(crate) is_loaded: bool,
    /// The conversations of which the user is a member, sorted.
    pub(crate) conversations: Vec<ConversationKey>,
    /// Joins and leaves that were applied while a session was attaching.
    pub(crate) changes_while_attaching: Vec<MembershipChange>,
    /// How many sessions are attaching.
    pub(crate) attaching_sessions: u32,
    /// In a cluster: conversations that the user left, with the event of the leave. This node may read the log again from before
    /// that event, and must not add the user by an earlier join. [`Registry::prune_leaves`] removes entries that no longer matter.
    pub(crate) recorded_leaves: FxHashMap<ConversationKey, RecordedLeave>,
    /// Counts how often the user left a conversation or was removed. If the count has changed since a query, the answer of the
    /// store may contain a membership that has ended.
    pub(crate) leave_count: u64,
    /// Whether a notice about the user arrived, or may have been missed, while a session was attaching or `loaded` was false. When
    /// a session becomes live, the user is compared with the store.
    pub(crate) must_compare: bool,
    /// The number of the last query to the store about the user.
    pub(crate) last_query: u64,
    /// The number of the last query after whose answer this node knew all memberships of the user.
    pub(crate) last_full_answer: u64,
    /// While a session is attaching: for each conversation, the last query after whose answer this node knew the membership.
    pub(crate) last_answers: FxHashMap<ConversationKey, u64>,
    /// The users whom the user blocks.
    pub(crate) blocks: UserBlocks,
    /// The last conversation of the user that a sweep has compared with the store. The next sweep continues after it.
    pub(crate) last_swept: ConversationKey,
}

impl LocalUser {
    /// The last join or leave of the user in each conversation, among those that were applied while a session was attaching.
    pub(super) fn last_changes(&self) -> FxHashMap<ConversationKey, Seq> {
        self.changes_while_attaching.iter().map(|change| (change.conversation, change.seq)).collect()
    }
}

/// The record that a user has left a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordedLeave {
    seq: Seq,
    /// The generation of attaching sessions when this node learned of the leave.
    generation: u64,
}

/// A join or leave that this node has applied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MembershipChange {
    pub(crate) conversation: ConversationKey,
    pub(crate) seq: Seq,
    pub(crate) join_or_leave: JoinOrLeave,
}

impl MembershipChange {
    /// For a join: the last event that the user had seen before; `None` for a leave.
    pub(super) fn last_seen_event(&self) -> Option<Seq> {
        match self.join_or_leave {
            JoinOrLeave::Join { seen } => Some(seen),
            JoinOrLeave::Leave => None,
        }
    }
}

/// A conversation with members on this node.
#[derive(Debug, Default)]
struct LocalConversation {
    /// The last event that was queued for the sessions of the members.
    head: Seq,
    /// The last applied event. It may still wait to be coalesced with later events.
    applied: Seq,
    /// The subscription epoch in which this node began to host the conversation. Since then it has applied all events.
    hosted_since: u64,
    connected_members: VecSet<UserSlot>,
    /// The connected members who block other users. Nearly always empty.
    blockers: VecSet<UserSlot>,
}

/// A user who is no longer connected to this node.
#[derive(Debug)]
pub(crate) struct DepartedUser {
    pub(crate) name: UserId,
    pub(crate) conversations: Vec<ConversationKey>,
}

/// The users, sessions and conversations of this node, with their indexes.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: Slots<LocalSession>,
    users: Slots<LocalUser>,
    by_name: FxHashMap<UserId, UserSlot>,
    /// How many users have been added since the start.
    users_added: u64,
    conversations: FxHashMap<ConversationKey, LocalConversation>,
    /// Counts how often this node has begun to host a conversation.
    subscription_epoch: u64,
    /// The generation of the sessions that attach now.
    generation: u64,
    /// The changes of subscriptions since [`Registry::take_subscription_changes`] last took them; `None` on a single node.
    subscription_changes: Option<Vec<SubscriptionChange>>,
    /// The changes that attaching sessions may wait for, since [`Registry::take_obstacle_changes`] last took them; empty on a single node.
    obstacle_changes: ObstacleChanges,
}

impl Drop for Registry {
    /// Closes the sessions that are left when the router ends by a panic or at its deadline: they receive nothing more.
    fn drop(&mut self) {
        for (_, session) in self.sessions.iter() {
            session.outbox.close_without_outcomes(CloseCode::TryLater);
        }
    }
}

impl Registry {
    /// Returns the slot of a user, and adds the user if necessary.
    pub(super) fn user_or_new(&mut self, name: &UserId) -> UserSlot {
        if let Some(user) = self.by_name.get(name) {
            return *user;
        }
        // The high bits differ for each addition, so a user who is removed and added again never has the same count.
        self.users_added += 1;
        let user = UserSlot(self.users.insert(LocalUser {
            name: name.clone(),
            sessions: VecSet::default(),
            is_loaded: false,
            conversations: Vec::new(),
            changes_while_attaching: Vec::new(),
            attaching_sessions: 0,
            recorded_leaves: FxHashMap::default(),
            leave_count: self.users_added << 32,
            must_compare: false,
            last_query: 0,
            last_full_answer: 0,
            last_answers: FxHashMap::default(),
            blocks: UserBlocks::default(),
            last_swept: ConversationKey::MIN,
        }));
        self.by_name.insert(name.clone(), user);
        self.record_subscription_change(SubscriptionChange::SubscribeUser(name.clone()));
        user
    }

    pub(crate) fn find_user(&self, name: &UserId) -> Option<UserSlot> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn user(&self, user: UserSlot) -> Option<&LocalUser> {
        self.users.get(user.0)
    }

    pub(super) fn user_mut(&mut self, user: UserSlot) -> Option<&mut LocalUser> {
        self.users.get_mut(user.0)
    }

    /// The slots of all users.
    pub(super) fn users(&self) -> Vec<UserSlot> {
        self.users.iter().map(|(slot, _)| UserSlot(slot)).collect()
    }

    /// Begins to remove a user who has no session; [`Registry::unload`] does the rest.
    pub(super) fn begin_unload(&mut self, user: UserSlot) -> Option<DepartedUser> {
        let local = self.user_mut(user)?;
        // If the user connects before the removal is complete, the conversations are loaded again.
        local.is_loaded = false;
        Some(DepartedUser { name: local.name.clone(), conversations: local.conversations.clone() })
    }

    /// Removes a user who has no session from at most `most` conversations, and after the last one from the registry. Returns
    /// whether the removal is complete, or has ended because the user has a session again.
    pub(super) fn unload(&mut self, user: UserSlot, most: usize) -> bool {
        let Some(local) = self.user_mut(user) else { return true };
        if !local.sessions.is_empty() {
            return true;
        }
        let rest = local.conversations.len().saturating_sub(most);
        for conversation in local.conversations.split_off(rest) {
            self.remove_online(conversation, user);
        }
        if rest > 0 {
            return false;
        }
        if let Some(local) = self.users.remove(user.0) {
            self.by_name.remove(&local.name);
            self.record_subscription_change(SubscriptionChange::UnsubscribeUser(local.name));
        }
        true
    }

    /// Frees memory when the number of users is zero or a power of two, so that this is rare. Returns whether it did.
    pub(super) fn shrink(&mut self) -> bool {
        let halved = self.users.len() == 0 || self.users.len().is_power_of_two();
        if halved {
            self.sessions.shrink_to_fit();
            self.users.shrink_to_fit();
            self.by_name.shrink_to_fit();
            self.conversations.shrink_to_fit();
        }
        halved
    }

    /// Adds a session that is not live yet.
    pub(super) fn add_session(&mut self, user: UserSlot, outbox: Arc<Outbox>) -> SessionSlot {
        let session = LocalSession {
            user,
            outbox,
            is_live: false,
            has_joined_page: false,
            subscription_epoch: self.subscription_epoch,
            not_before: None,
            received: FxHashMap::default(),
            watching: Box::default(),
            following: Box::default(),
        };
        let session = SessionSlot(self.sessions.insert(session));
        if let Some(local) = self.user_mut(user) {
            local.sessions.insert(session);
        }
        session
    }

    pub(super) fn remove_session(&mut self, session: SessionSlot) -> Option<LocalSession> {
        let removed = self.sessions.remove(session.0)?;
        if let Some(local) = self.user_mut(removed.user) {
            local.sessions.remove(session);
        }
        Some(removed)
    }

    pub(crate) fn session(&self, session: SessionSlot) -> Option<&LocalSession> {
        self.sessions.get(session.0)
    }

    pub(crate) fn session_mut(&mut self, session: SessionSlot) -> Option<&mut LocalSession> {
        self.sessions.get_mut(session.0)
    }

    /// All sessions, including those that are attaching.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &LocalSession> {
        self.sessions.iter().map(|(_, session)| session)
    }

    /// The last event of a conversation that was queued for its sessions, if this node hosts it.
    pub(super) fn head(&self, conversation: ConversationKey) -> Option<Seq> {
        self.conversations.get(&conversation).map(|local| local.head)
    }

    /// The last applied event of a conversation, if this node hosts it.
    pub(super) fn applied_seq(&self, conversation: ConversationKey) -> Option<Seq> {
        self.conversations.get(&conversation).map(|local| local.applied)
    }

    /// The subscription epoch: how often this node has begun to host a conversation.
    pub(super) fn subscription_epoch(&self) -> u64 {
        self.subscription_epoch
    }

    /// Whether a membership that the store showed at the event `seq`, in a query made in `subscription_epoch`, still holds at the
    /// last applied event unless this node has applied a leave. `false` if the user may have left before this node began to host
    /// the conversation, because this node would not have applied that leave.
    pub(super) fn is_membership_current(
        &self,
        conversation: ConversationKey,
        seq: Seq,
        subscription_epoch: u64,
    ) -> bool {
        let here = self.conversations.get(&conversation);
        here.is_none_or(|here| here.applied == seq || here.hosted_since <= subscription_epoch)
    }

    /// Records the event by which a user left a conversation.
    pub(super) fn record_leave(&mut self, user: UserSlot, conversation: ConversationKey, seq: Seq) {
        let (shared, generation) = (self.subscription_changes.is_some(), self.generation);
        let Some(local) = self.users.get_mut(user.0).filter(|_| shared) else { return };
        let leave = local.recorded_leaves.entry(conversation).or_insert(RecordedLeave { seq, generation });
        *leave = RecordedLeave { seq: leave.seq.max(seq), generation };
        self.obstacle_changes.add_user(user);
    }

    /// Sets the generation of the sessions that attach from now on.
    pub(super) fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Removes the leaves that were recorded before the generation `since`. All snapshots and answers of the store in use are newer
    /// than these leaves, so none of them contains the memberships.
    pub(super) fn prune_leaves(&mut self, since: u64) {
        for user in self.users.values_mut() {
            if !user.recorded_leaves.is_empty() {
                user.recorded_leaves.retain(|_, leave| leave.generation >= since);
                user.recorded_leaves.shrink_to_fit();
            }
        }
    }

    /// The event by which a user left a conversation, if the leave is recorded.
    pub(super) fn recorded_leave_of(&self, user: UserSlot, conversation: ConversationKey) -> Option<Seq> {
        self.user(user)?.recorded_leaves.get(&conversation).map(|leave| leave.seq)
    }

    /// Whether this node knows that a user is a member.
    pub(super) fn is_member(&self, user: UserSlot, conversation: ConversationKey) -> bool {
        self.user(user).is_some_and(|local| local.conversations.binary_search(&conversation).is_ok())
    }

    /// Records that an event was applied.
    pub(super) fn set_applied(&mut self, conversation: ConversationKey, seq: Seq) {
        if let Some(local) = self.conversations.get_mut(&conversation) {
            local.applied = local.applied.max(seq);
            if self.subscription_changes.is_some() {
                self.obstacle_changes.add_conversation(conversation);
            }
        }
    }

    /// Makes [`Registry::take_subscription_changes`] return changes from now on.
    pub(super) fn record_subscription_changes(&mut self) {
        self.subscription_changes.get_or_insert_default();
    }

    /// Removes and returns the changes of subscriptions since the last call, oldest first.
    pub(super) fn take_subscription_changes(&mut self) -> Vec<SubscriptionChange> {
        self.subscription_changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Removes and returns the changes since the last call that attaching sessions may wait for.
    pub(super) fn take_obstacle_changes(&mut self) -> ObstacleChanges {
        std::mem::take(&mut self.obstacle_changes)
    }

    fn record_subscription_change(&mut self, change: SubscriptionChange) {
        if let Some(subscription_changes) = &mut self.subscription_changes {
            subscription_changes.push(change);
        }
    }

    /// How many members of a conversation are connected to this node.
    pub(super) fn count_connected_members(&self, conversation: ConversationKey) -> usize {
        self.conversations.get(&conversation).map_or(0, |local| local.connected_members.len())
    }

    /// Advances the head of a conversation, if this node hosts it.
    pub(super) fn set_head(&mut self, conversation: ConversationKey, head: Seq) {
        if let Some(local) = self.conversations.get_mut(&conversation) {
            local.head = local.head.max(head);
        }
    }

    /// Adds a user to the members of a conversation. If this node did not host it, `head` is its last published event.
    pub(super) fn add_member(&mut self, user: UserSlot, conversation: ConversationKey, head: Seq) {
        let Some(local) = self.users.get_mut(user.0) else { return };
        if let Err(place) = local.conversations.binary_search(&conversation) {
            local.conversations.insert(place, conversation);
            local.recorded_leaves.remove(&conversation);
            let here = self.conversations.entry(conversation).or_default();
            let first = here.connected_members.is_empty();
            here.head = here.head.max(head);
            here.applied = here.applied.max(head);
            here.connected_members.insert(user);
            if !local.blocks.list().users.is_empty() {
                here.blockers.insert(user);
            }
            if first {
                self.subscription_epoch += 1;
                here.hosted_since = self.subscription_epoch;
                self.record_subscription_change(SubscriptionChange::SubscribeConversation(conversation));
            }
            if self.subscription_changes.is_some() {
                self.obstacle_changes.add_user(user);
                self.obstacle_changes.add_conversation(conversation);
            }
        }
    }

    /// Removes a user from the members of a conversation, by the event `seq`.
    pub(super) fn remove_member(&mut self, user: UserSlot, conversation: ConversationKey, seq: Seq) {
        self.record_leave(user, conversation, seq);
        if self.is_member(user, conversation) && self.subscription_changes.is_some() {
            for session in self.user(user).map_or_else(Vec::new, |local| local.sessions.to_vec()) {
                if let Some(session) = self.session_mut(session).filter(|session| session.is_live) {
                    session.record_received(conversation, seq);
                }
            }
        }
        let Some(local) = self.users.get_mut(user.0) else { return };
        // The leave counts even if this node did not know the membership, because a pending answer of the store may still contain
        // the membership.
        local.leave_count += 1;
        if let Ok(place) = local.conversations.binary_search(&conversation) {
            local.conversations.remove(place);
            self.remove_online(conversation, user);
        }
        if self.subscription_changes.is_some() {
            self.obstacle_changes.add_user(user);
            self.obstacle_changes.add_conversation(conversation);
        }
    }

    /// Removes all members of a conversation, by the event `seq`. Notes the end for all users with an attaching session, whose pages may
    /// have the conversation.
    pub(super) fn end_conversation(&mut self, conversation: ConversationKey, seq: Seq) {
        let end = MembershipChange { conversation, seq, join_or_leave: JoinOrLeave::Leave };
        for user in self.users.values_mut().filter(|user| user.attaching_sessions > 0) {
            user.changes_while_attaching.push(end);
        }
        let members = self.conversations.get(&conversation).map(|here| here.connected_members.to_vec());
        for user in members.unwrap_or_default() {
            self.remove_member(user, conversation, seq);
        }
    }

    fn remove_online(&mut self, conversation: ConversationKey, user: UserSlot) {
        if let Some(here) = self.conversations.get_mut(&conversation) {
            here.connected_members.remove(user);
            here.blockers.remove(user);
            if here.connected_members.is_empty() {
                self.conversations.remove(&conversation);
                self.record_subscription_change(SubscriptionChange::UnsubscribeConversation(conversation));
                if self.subscription_changes.is_some() {
                    self.obstacle_changes.add_conversation(conversation);
                }
            }
        }
    }

    /// The live sessions of the members of a conversation.
    pub(super) fn sessions_in(&self, conversation: ConversationKey) -> impl Iterator<Item = &Arc<Outbox>> {
        let online =
            self.conversations.get(&conversation).map_or(&[][..], |here| &here.connected_members[..]);
        online.iter().flat_map(|user| self.live_sessions(*user))
    }

    /// The live sessions of a user.
    pub(super) fn sessions_of(&self, user: &UserId) -> impl Iterator<Item = &Arc<Outbox>> {
        self.find_user(user).into_iter().flat_map(|user| self.live_sessions(user))
    }

    /// All sessions of a user, including those that are attaching.
    pub(super) fn all_sessions_of(&self, user: &UserId) -> impl Iterator<Item = &Arc<Outbox>> {
        let local = self.find_user(user).and_then(|user| self.user(user));
        let sessions = local.map_or(&[][..], |local| &local.sessions[..]);
        sessions.iter().filter_map(|session| self.session(*session)).map(|s| &s.outbox)
    }

    pub(super) fn live_sessions(&self, user: UserSlot) -> impl Iterator<Item = &Arc<Outbox>> {
        let sessions = self.user(user).map_or(&[][..], |local| &local.sessions[..]);
        sessions.iter().filter_map(|session| self.session(*session)).filter(|s| s.is_live).map(|s| &s.outbox)
    }

    /// Whether a user is a member of one of `conversations`, which must be sorted.
    pub(crate) fn shares_conversation(&self, conversations: &[ConversationKey], other: UserSlot) -> bool {
        let Some(other) = self.user(other) else { return false };
        let (few, many) = if conversations.len() < other.conversations.len() {
            (conversations, &other.conversations[..])
        } else {
            (&other.conversations[..], conversations)
        };
        few.iter().any(|one| many.binary_search(one).is_ok())
    }
}
