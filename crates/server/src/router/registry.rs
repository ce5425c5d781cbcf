//! Who is here, with which sessions, in which conversations.

mod changes;
mod slots;
mod vec_set;

use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::{CloseCode, Seq, Timestamp, UserId};

pub(super) use self::changes::Changes;
pub(crate) use self::changes::Interest;
use self::slots::{Slot, Slots};
pub(crate) use self::vec_set::VecSet;
use crate::outbox::Outbox;
use switchboard_store::record::{ConversationKey, Passage};

/// Conversations that a session's user has left, of which it is known how far the session was told. A session with more is closed
/// with 1013 and resumes by its cursors, which say the same.
const MAX_TOLD: usize = 4_096;

/// A session's place in the registry. That of a session which has left finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionSlot(Slot);

impl SessionSlot {
    /// The bounds of all slots, for ranges.
    pub(super) const MIN: Self = Self(Slot::MIN);
    pub(super) const MAX: Self = Self(Slot::MAX);
}

/// A user's place in the registry. That of a user who has gone finds nothing, also when they are back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UserSlot(Slot);

/// A connection that has said who it is.
#[derive(Debug)]
pub(crate) struct LocalSession {
    pub(crate) user: UserSlot,
    pub(crate) outbox: Arc<Outbox>,
    /// Whether it gets live events yet.
    pub(crate) live: bool,
    /// How many conversations had come to be hosted when it entered.
    pub(crate) hostings: u64,
    /// Up to when the user's tokens had been revoked when it came in.
    pub(crate) not_before: Option<Timestamp>,
    /// How far it has been told of conversations that its user has gone from, where other nodes write to the log: they may have
    /// been in again and gone again, and this node did not know.
    pub(crate) told: FxHashMap<ConversationKey, Seq>,
    /// Whose presence it is told.
    pub(crate) watching: Box<[UserId]>,
}

impl LocalSession {
    /// It is told of a conversation up to here, and not of what follows.
    pub(super) fn note_told(&mut self, conversation: ConversationKey, upto: Seq) {
        if self.told.len() >= MAX_TOLD && !self.told.contains_key(&conversation) {
            return self.outbox.close_slow_consumer();
        }
        let told = self.told.entry(conversation).or_default();
        *told = (*told).max(upto);
    }

    /// It is told of a conversation again: from which event on, if that is known.
    pub(super) fn take_told(&mut self, conversation: ConversationKey) -> Option<Seq> {
        self.told.remove(&conversation)
    }
}

/// A user with a session here, or without one since a short while.
#[derive(Debug)]
pub(crate) struct LocalUser {
    pub(crate) name: UserId,
    pub(crate) sessions: VecSet<SessionSlot>,
    /// Whether a session has told the conversations.
    pub(crate) loaded: bool,
    /// Sorted.
    pub(crate) conversations: Vec<ConversationKey>,
    /// Comings and goings published while a session was on its way in.
    pub(crate) changes: Vec<MembershipChange>,
    /// How many sessions are on their way in.
    pub(crate) entering: u32,
    /// Conversations that they have gone from, by which event. Only where other nodes write to the log: it may be read again here
    /// from before that event on. [`Registry::prune_gone`] forgets what no longer matters.
    pub(crate) gone: FxHashMap<ConversationKey, Going>,
    /// How often they left a conversation, or were removed: an answer of the store that says they are in one may be older.
    pub(crate) departures: u64,
    /// Something may have been missed about them while they were on their way in.
    pub(crate) suspect: bool,
    /// The last question to the store that was about them, and the last whose answer left nothing open.
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    /// For each conversation, the last question about it alone or with others whose answer left nothing open, while a session
    /// is attaching.
    pub(crate) answered_entries: FxHashMap<ConversationKey, u64>,
    /// The last conversation that a sweep has compared: where it does not compare all of them, the next one goes on behind it.
    pub(crate) swept: ConversationKey,
}

/// A user has left a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Going {
    /// By which event.
    seq: Seq,
    /// The generation of sessions on their way in when this became known.
    generation: u64,
}

/// A published coming or going.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MembershipChange {
    pub(crate) conversation: ConversationKey,
    pub(crate) seq: Seq,
    pub(crate) passage: Passage,
}

impl MembershipChange {
    /// What somebody who came in had seen.
    pub(super) fn seen(&self) -> Option<Seq> {
        match self.passage {
            Passage::In { seen } => Some(seen),
            Passage::Out => None,
        }
    }
}

/// A conversation with members here.
#[derive(Debug, Default)]
struct LocalConversation {
    /// The last event that was queued for the sessions.
    head: Seq,
    /// The last event that was put in its place in the order; it may still wait to be queued.
    placed: Seq,
    /// Which hosting this is: everything that was placed since has been placed here.
    hosting: u64,
    online: VecSet<UserSlot>,
}

/// A user who is no longer here.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) name: UserId,
    pub(crate) conversations: Vec<ConversationKey>,
}

/// The registry.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: Slots<LocalSession>,
    users: Slots<LocalUser>,
    by_name: FxHashMap<UserId, UserSlot>,
    /// How many users have come here.
    lives: u64,
    conversations: FxHashMap<ConversationKey, LocalConversation>,
    /// How many conversations have come to be hosted.
    hostings: u64,
    /// The generation of sessions on their way in.
    generation: u64,
    /// What has changed since it was asked for last; none where nobody asks.
    interests: Option<Vec<Interest>>,
    /// What has changed since it was asked for last; nothing where nobody asks.
    changes: Changes,
}

impl Drop for Registry {
    /// The router has ended. Sessions that are still here, because it has panicked or its time was over, get nothing more.
    fn drop(&mut self) {
        for (_, session) in self.sessions.iter() {
            session.outbox.abandon(CloseCode::TryLater);
        }
    }
}

impl Registry {
    /// The place of a user; made if there is none.
    pub(super) fn user_or_new(&mut self, name: &UserId) -> UserSlot {
        if let Some(user) = self.by_name.get(name) {
            return *user;
        }
        // Two lives of a user in the same place never have the same number of departures.
        self.lives += 1;
        let user = UserSlot(self.users.insert(LocalUser {
            name: name.clone(),
            sessions: VecSet::default(),
            loaded: false,
            conversations: Vec::new(),
            changes: Vec::new(),
            entering: 0,
            gone: FxHashMap::default(),
            departures: self.lives << 32,
            suspect: false,
            asked: 0,
            answered: 0,
            answered_entries: FxHashMap::default(),
            swept: ConversationKey::MIN,
        }));
        self.by_name.insert(name.clone(), user);
        self.note(Interest::Has(name.clone()));
        user
    }

    pub(crate) fn find(&self, name: &UserId) -> Option<UserSlot> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn user(&self, user: UserSlot) -> Option<&LocalUser> {
        self.users.get(user.0)
    }

    pub(super) fn user_mut(&mut self, user: UserSlot) -> Option<&mut LocalUser> {
        self.users.get_mut(user.0)
    }

    /// Every user who is here.
    pub(super) fn users(&self) -> Vec<UserSlot> {
        self.users.iter().map(|(slot, _)| UserSlot(slot)).collect()
    }

    /// A user who has no session begins to go: [`Registry::unload`] does the rest.
    pub(super) fn begin_unload(&mut self, user: UserSlot) -> Option<Gone> {
        let local = self.user_mut(user)?;
        // Should they come back meanwhile, their conversations are loaded again.
        local.loaded = false;
        Some(Gone { name: local.name.clone(), conversations: local.conversations.clone() })
    }

    /// Takes a user who has no session from at most so many conversations, and forgets them after the last; whether there is
    /// nothing left to do.
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
            self.note(Interest::Lacks(local.name));
        }
        true
    }

    /// Gives back what a crowd needed that has left; told whether there was reason to try: at each halving of the number
    /// of users, so that the work stays in proportion.
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
            live: false,
            hostings: self.hostings,
            not_before: None,
            told: FxHashMap::default(),
            watching: Box::default(),
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

    /// Every session that is here.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &LocalSession> {
        self.sessions.iter().map(|(_, session)| session)
    }

    /// The last published event of a conversation with members here.
    pub(super) fn head(&self, conversation: ConversationKey) -> Option<Seq> {
        self.conversations.get(&conversation).map(|local| local.head)
    }

    /// The last event that was put in its place, of a conversation with members here.
    pub(super) fn placed(&self, conversation: ConversationKey) -> Option<Seq> {
        self.conversations.get(&conversation).map(|local| local.placed)
    }

    /// How many conversations have come to be hosted.
    pub(super) fn hostings(&self) -> u64 {
        self.hostings
    }

    /// Whether whoever is a member after the event `seq`, by what was known when there had been so many hostings, is one after
    /// what is placed, unless a going was placed since.
    pub(super) fn reaches(&self, conversation: ConversationKey, seq: Seq, hostings: u64) -> bool {
        let here = self.conversations.get(&conversation);
        here.is_none_or(|here| here.placed == seq || here.hosting <= hostings)
    }

    /// Notes by which event a user has gone from a conversation.
    pub(super) fn note_gone(&mut self, user: UserSlot, conversation: ConversationKey, seq: Seq) {
        let (shared, generation) = (self.interests.is_some(), self.generation);
        let Some(local) = self.users.get_mut(user.0).filter(|_| shared) else { return };
        let going = local.gone.entry(conversation).or_insert(Going { seq, generation });
        *going = Going { seq: going.seq.max(seq), generation };
        self.changes.user(user);
    }

    /// Sessions that come in from now on are of this generation.
    pub(super) fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Forgets who has gone from which conversation, as far as that became known before the generation `since`: no snapshot
    /// and no answer of the store is older than that, so none can say that they are members still.
    pub(super) fn prune_gone(&mut self, since: u64) {
        for user in self.users.values_mut() {
            if !user.gone.is_empty() {
                user.gone.retain(|_, going| going.generation >= since);
                user.gone.shrink_to_fit();
            }
        }
    }

    /// By which event a user has gone from a conversation, as far as is known.
    pub(super) fn gone(&self, user: UserSlot, conversation: ConversationKey) -> Option<Seq> {
        self.user(user)?.gone.get(&conversation).map(|going| going.seq)
    }

    /// Whether a user is known to be a member.
    pub(super) fn is_member(&self, user: UserSlot, conversation: ConversationKey) -> bool {
        self.user(user).is_some_and(|local| local.conversations.binary_search(&conversation).is_ok())
    }

    /// An event was put in its place.
    pub(super) fn place(&mut self, conversation: ConversationKey, seq: Seq) {
        if let Some(local) = self.conversations.get_mut(&conversation) {
            local.placed = local.placed.max(seq);
            if self.interests.is_some() {
                self.changes.conversation(conversation);
            }
        }
    }

    /// From now on [`Registry::take_interests`] tells what changes.
    pub(super) fn keep_interests(&mut self) {
        self.interests.get_or_insert_default();
    }

    /// What has changed about who and what is here since the last call, in the order in which it did.
    pub(super) fn take_interests(&mut self) -> Vec<Interest> {
        self.interests.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What has changed since the last call that sessions on their way in may wait for.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn note(&mut self, interest: Interest) {
        if let Some(interests) = &mut self.interests {
            interests.push(interest);
        }
    }

    /// How many of a conversation's members are here.
    pub(super) fn online(&self, conversation: ConversationKey) -> usize {
        self.conversations.get(&conversation).map_or(0, |local| local.online.len())
    }

    /// Moves the head on; nothing happens for a conversation without members here.
    pub(super) fn set_head(&mut self, conversation: ConversationKey, head: Seq) {
        if let Some(local) = self.conversations.get_mut(&conversation) {
            local.head = local.head.max(head);
        }
    }

    /// Puts a user among a conversation's members. `head` is what has been published, in case that
    /// nobody was here before.
    pub(super) fn join(&mut self, user: UserSlot, conversation: ConversationKey, head: Seq) {
        let Some(local) = self.users.get_mut(user.0) else { return };
        if let Err(place) = local.conversations.binary_search(&conversation) {
            local.conversations.insert(place, conversation);
            local.gone.remove(&conversation);
            let here = self.conversations.entry(conversation).or_default();
            let first = here.online.is_empty();
            here.head = here.head.max(head);
            here.placed = here.placed.max(head);
            here.online.insert(user);
            if first {
                self.hostings += 1;
                here.hosting = self.hostings;
                self.note(Interest::Hosts(conversation));
            }
            if self.interests.is_some() {
                self.changes.user(user);
                self.changes.conversation(conversation);
            }
        }
    }

    /// Takes a user from among a conversation's members, who goes by the event `seq`.
    pub(super) fn part(&mut self, user: UserSlot, conversation: ConversationKey, seq: Seq) {
        self.note_gone(user, conversation, seq);
        if self.is_member(user, conversation) && self.interests.is_some() {
            for session in self.user(user).map_or_else(Vec::new, |local| local.sessions.to_vec()) {
                if let Some(session) = self.session_mut(session).filter(|session| session.live) {
                    session.note_told(conversation, seq);
                }
            }
        }
        let Some(local) = self.users.get_mut(user.0) else { return };
        // Also if it was not known that they are one: an answer of the store may say so.
        local.departures += 1;
        if let Ok(place) = local.conversations.binary_search(&conversation) {
            local.conversations.remove(place);
            self.remove_online(conversation, user);
        }
        if self.interests.is_some() {
            self.changes.user(user);
            self.changes.conversation(conversation);
        }
    }

    fn remove_online(&mut self, conversation: ConversationKey, user: UserSlot) {
        if let Some(here) = self.conversations.get_mut(&conversation) {
            here.online.remove(user);
            if here.online.is_empty() {
                self.conversations.remove(&conversation);
                self.note(Interest::Drops(conversation));
                if self.interests.is_some() {
                    self.changes.conversation(conversation);
                }
            }
        }
    }

    /// The live sessions of a conversation's members.
    pub(super) fn sessions_in(&self, conversation: ConversationKey) -> impl Iterator<Item = &Arc<Outbox>> {
        let online = self.conversations.get(&conversation).map_or(&[][..], |here| &here.online[..]);
        online.iter().flat_map(|user| self.live_sessions(*user))
    }

    /// The live sessions of a user.
    pub(super) fn sessions_of(&self, user: &UserId) -> impl Iterator<Item = &Arc<Outbox>> {
        self.find(user).into_iter().flat_map(|user| self.live_sessions(user))
    }

    /// The same, with those that are on their way in.
    pub(super) fn all_sessions_of(&self, user: &UserId) -> impl Iterator<Item = &Arc<Outbox>> {
        let local = self.find(user).and_then(|user| self.user(user));
        let sessions = local.map_or(&[][..], |local| &local.sessions[..]);
        sessions.iter().filter_map(|session| self.session(*session)).map(|s| &s.outbox)
    }

    pub(super) fn live_sessions(&self, user: UserSlot) -> impl Iterator<Item = &Arc<Outbox>> {
        let sessions = self.user(user).map_or(&[][..], |local| &local.sessions[..]);
        sessions.iter().filter_map(|session| self.session(*session)).filter(|s| s.live).map(|s| &s.outbox)
    }

    /// Whether two users who are here share a conversation.
    pub(crate) fn share(&self, conversations: &[ConversationKey], other: UserSlot) -> bool {
        let Some(other) = self.user(other) else { return false };
        let (few, many) = if conversations.len() < other.conversations.len() {
            (conversations, &other.conversations[..])
        } else {
            (&other.conversations[..], conversations)
        };
        few.iter().any(|one| many.binary_search(one).is_ok())
    }
}
