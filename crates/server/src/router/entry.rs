//! Coming in where other nodes write to the same log: what a snapshot says of its user has to fit what is placed here.
//!
//! A snapshot, like every answer of the store, is of a moment. For a conversation that nobody else here is in, it is the
//! beginning: the node reads the log on from there. In one that has been placed further meanwhile, the user may have been
//! removed; whether by an event that was placed here is known only if all of them were, since the snapshot was asked for.

use std::collections::hash_map;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;

use super::attach::changed;
use super::parked::{Obstacle, Parked};
use super::peers::Found;
use super::registry::{MembershipChange, UserSlot};
use super::{Router, Subscribe};
use crate::outbox::Outbox;
use crate::router::registry::SessionSlot;
use switchboard_store::record::{ConversationKey, Passage};
use switchboard_store::refusal::Refusal;
use switchboard_store::{CommittedEvent, Excerpt, Memberships};

/// A session that is to know by which event its user went from a conversation: one after an event by which they were a member.
pub(super) struct Going {
    session: SessionSlot,
    /// Another one may have its place by now.
    outbox: Arc<Outbox>,
    conversation: ConversationKey,
    after: Seq,
}

/// A page of memberships on its way in.
pub(super) struct Entry {
    pub(super) page: Memberships,
    /// Up to which events conversations are to be placed here besides, if they are.
    bounds: Vec<(ConversationKey, Seq)>,
    /// The conversations of the summaries, which are read after all pages or with the only one.
    listed: Vec<ConversationKey>,
    /// Conversations that no page has, in which the user was a member at an event when cursors were checked, before the page was
    /// read, or when summaries were, after it.
    beside: FxHashMap<ConversationKey, Seq>,
    /// What is to be placed first: conversations up to an event,
    behind: Vec<(ConversationKey, Seq)>,
    /// and every event that took the user from conversations in which they still count as a member.
    stays: Vec<ConversationKey>,
    /// Memberships of which the store has to say whether they last, and with which question it does. `None` until the page has
    /// been compared with what is placed.
    open: Option<Open>,
    /// Conversations that the user has gone from by an event after the page, and which, once it is found.
    pub(super) goings: FxHashMap<ConversationKey, Option<Seq>>,
}

/// Memberships that a question is about.
struct Open {
    /// Each by an event after which it was so.
    memberships: Vec<(ConversationKey, Seq)>,
    /// The last question before.
    question: u64,
}

impl Entry {
    pub(super) fn new(page: Memberships) -> Self {
        let (listed, beside) = (Vec::new(), FxHashMap::default());
        let (behind, stays, goings) = (Vec::new(), Vec::new(), FxHashMap::default());
        Self { page, bounds: Vec::new(), listed, beside, behind, stays, open: None, goings }
    }

    /// The last page of a session. What else the session has read for it is of other moments than the pages.
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

/// Whether a user joined or left a conversation by a newer event than the known one.
fn came(
    changes: &[MembershipChange],
    known: &[(ConversationKey, Seq)],
    conversation: ConversationKey,
) -> bool {
    let until = known.iter().find(|bound| bound.0 == conversation).map_or(Seq(0), |bound| bound.1);
    changes.iter().any(|change| change.conversation == conversation && change.seq > until)
}

impl Router {
    /// What this node lacks to have come as far as a page, and to know which of its memberships last. It sees to that.
    pub(super) fn obstacle_here(&mut self, parked: &mut Parked) -> Option<Obstacle> {
        let entry = &mut parked.entry;
        let session = self.registry.session(parked.session)?;
        let (user, hostings) = (session.user, session.hostings);
        if entry.open.is_none() {
            // What was found to wait for comes first; while it was waited for, there may have come more.
            if self.waits(user, entry) || self.look(user, entry) {
                let event = entry.behind.first();
                return Some(event.map_or(Obstacle::User(user), |(conversation, seq)| {
                    Obstacle::Event(*conversation, *seq)
                }));
            }
            self.enter_page(user, hostings, entry);
        }
        // The page may have begun conversations here from where they ended in it, and more of them is known.
        if let Some((conversation, seq)) = self.not_placed(&entry.bounds) {
            return Some(Obstacle::Event(conversation, seq));
        }
        let Open { memberships, question } =
            entry.open.as_ref().filter(|open| !open.memberships.is_empty())?;
        let local = self.registry.user(user)?;
        // An answer says nothing of conversations that its question did not name.
        let entries = &local.answered_entries;
        let answered = local.answered > *question
            || memberships.iter().all(|(conversation, _)| entries.get(conversation) > Some(question));
        let known = answered && self.knows_goings(parked.session, user, memberships, &mut entry.goings);
        if !known {
            return Some(Obstacle::User(user));
        }
        // An older answer than the page may have begun the conversation here, at an earlier event than the page knows.
        let (conversation, seq) = self.not_placed(memberships)?;
        Some(Obstacle::Event(conversation, seq))
    }

    /// A conversation that is here and has not been placed up to an event, if there is one. It sees to that.
    fn not_placed(&mut self, bounds: &[(ConversationKey, Seq)]) -> Option<(ConversationKey, Seq)> {
        let registry = &self.registry;
        let is_behind = |(conversation, seq): &(ConversationKey, Seq)| {
            registry.placed(*conversation).is_some_and(|placed| placed < *seq)
        };
        let (conversation, seq) = bounds.iter().copied().find(is_behind)?;
        self.expect(conversation, seq);
        Some((conversation, seq))
    }

    /// Whether something of what was found to wait for is still missing.
    fn waits(&self, user: UserSlot, entry: &mut Entry) -> bool {
        let registry = &self.registry;
        let is_behind = |(conversation, seq): &(ConversationKey, Seq)| {
            registry.placed(*conversation).is_some_and(|placed| placed < *seq)
        };
        entry.behind.retain(is_behind);
        let (changes, bounds) = (registry.user(user).map_or(&[][..], |local| &local.changes), &entry.bounds);
        entry.stays.retain(|here| registry.is_member(user, *here) && !came(changes, bounds, *here));
        !entry.behind.is_empty() || !entry.stays.is_empty()
    }

    /// Looks for what a page has to wait for; whether there is anything.
    fn look(&mut self, user: UserSlot, entry: &mut Entry) -> bool {
        let joined = entry.page.joined.iter().map(|joined| (joined.conversation, joined.head));
        let registry = &self.registry;
        let is_behind = |(conversation, seq): &(ConversationKey, Seq)| {
            registry.placed(*conversation).is_some_and(|placed| placed < *seq)
        };
        entry.behind = joined.chain(entry.bounds.iter().copied()).filter(is_behind).collect();
        entry.stays = self.stays(user, entry);
        for (conversation, seq) in &entry.behind {
            self.expect(*conversation, *seq);
        }
        if !entry.stays.is_empty() {
            // Either the event by which they went is looked up, or another session's page is newer, and the store says since when
            // they are a member.
            self.verify_entry(user, &entry.stays);
            if let Some(peers) = &mut self.peers {
                peers.unchecked.extend(&entry.stays);
            }
        }
        !entry.behind.is_empty() || !entry.stays.is_empty()
    }

    /// Conversations where a user counts as a member and a page says that they left: the event by which they did is yet to be placed. Or they
    /// came in after it was read, and another page or the summaries have told of it.
    fn stays(&self, user: UserSlot, entry: &Entry) -> Vec<ConversationKey> {
        let Some(local) = self.registry.user(user) else { return Vec::new() };
        let here = &local.conversations;
        let first = here.partition_point(|here| *here <= entry.page.after);
        let end = entry.page.next.map_or(here.len(), |next| here.partition_point(|here| *here <= next));
        let here = here.get(first..end).unwrap_or_default();
        let joined = |here: &ConversationKey| {
            entry.page.joined.binary_search_by_key(here, |joined| joined.conversation).is_ok()
        };
        let came = |here: &ConversationKey| {
            entry.listed.contains(here) || came(&local.changes, &entry.bounds, *here)
        };
        here.iter().filter(|here| !joined(here) && !came(here)).copied().collect()
    }

    /// Sees to it that what a page knows is placed here.
    pub(super) fn catch_up_with(&mut self, parked: &mut Parked) {
        if let (Some(user), true) = (self.user_of(parked.session), self.peers.is_some()) {
            self.look(user, &mut parked.entry);
        }
    }

    /// Puts a user into the conversations of a page that is not ahead of what is placed here, as far as that is known to last.
    fn enter_page(&mut self, user: UserSlot, hostings: u64, entry: &mut Entry) {
        let Some(local) = self.registry.user(user) else { return };
        let (first, changed) = (!local.loaded, changed(&local.changes));
        // What waits was placed before.
        self.release();
        let mut memberships = Vec::new();
        let page = entry.page.joined.iter().map(|joined| (joined.conversation, joined.head, first));
        // They may have gone, come in or both between what the session has read: the store knows.
        let beside = entry.beside.iter().map(|(conversation, seq)| (*conversation, *seq, false));
        for (conversation, head, first) in page.chain(beside) {
            // What was placed of them since is known here.
            if changed.get(&conversation).is_some_and(|seq| *seq > head) {
                continue;
            }
            if let Some(gone) = self.registry.gone(user, conversation).filter(|gone| *gone >= head) {
                entry.goings.insert(conversation, Some(gone));
            } else if self.registry.is_member(user, conversation) {
            } else if first && self.registry.reaches(conversation, head, hostings) {
                self.registry.join(user, conversation, head);
            } else {
                memberships.push((conversation, head));
            }
        }
        if !memberships.is_empty() {
            let conversations: Vec<_> = memberships.iter().map(|(conversation, _)| *conversation).collect();
            self.verify_entry(user, &conversations);
        }
        let question = self.peers.as_ref().map_or(0, |peers| peers.comparisons.questions);
        entry.open = Some(Open { memberships, question });
    }

    /// Looks up by which events a user has gone from conversations, where none was placed here; whether all are known.
    fn knows_goings(
        &self,
        session: SessionSlot,
        user: UserSlot,
        memberships: &[(ConversationKey, Seq)],
        goings: &mut FxHashMap<ConversationKey, Option<Seq>>,
    ) -> bool {
        let changed = changed(self.registry.user(user).map_or(&[][..], |local| &local.changes));
        for (conversation, seq) in memberships {
            if self.registry.is_member(user, *conversation)
                || changed.get(conversation).is_some_and(|changed| changed > seq)
            {
                continue;
            }
            if let hash_map::Entry::Vacant(place) = goings.entry(*conversation) {
                place.insert(None);
                self.look_up_going(session, *conversation, *seq);
            }
        }
        goings.values().all(Option::is_some)
    }

    /// Notes what a session knows of goings, but for those that are yet to be placed here.
    pub(super) fn note_gone(&mut self, subscribe: &Subscribe) {
        let Some(user) = self.user_of(subscribe.session) else { return };
        for (conversation, until) in &subscribe.gone {
            let here = self.registry.placed(*conversation).is_none_or(|placed| placed >= *until);
            if here && !self.registry.is_member(user, *conversation) {
                self.registry.note_gone(user, *conversation, *until);
            }
        }
    }

    /// Notes how far a session is told of conversations that its user has gone from.
    pub(super) fn note_told(
        &mut self,
        session: SessionSlot,
        told: impl Iterator<Item = (ConversationKey, Seq)>,
    ) {
        let Some(user) = self.user_of(session).filter(|_| self.peers.is_some()) else { return };
        for (conversation, upto) in told {
            if !self.registry.is_member(user, conversation)
                && let Some(session) = self.registry.session_mut(session)
            {
                session.note_told(conversation, upto);
            }
        }
    }

    fn look_up_going(&self, session: SessionSlot, conversation: ConversationKey, after: Seq) {
        let outbox = self.registry.session(session).map(|session| session.outbox.clone());
        if let (Some(peers), Some(outbox)) = (&self.peers, outbox) {
            let answer = peers.store.log(conversation, after, Seq::MAX);
            let going = Going { session, outbox, conversation, after };
            peers.find(answer, move |result| Found::Going { going, result });
        }
    }

    pub(super) fn found_going(&mut self, going: &Going, result: Result<Excerpt, Refusal>) {
        let Going { session, ref outbox, conversation, after } = *going;
        let local = self.registry.session(session).filter(|session| Arc::ptr_eq(&session.outbox, outbox));
        let Some(user) = local.and_then(|local| self.registry.user(local.user)) else { return };
        let Ok(Excerpt { events, .. }) = result else {
            return self.look_up_going(session, conversation, after);
        };
        let goes = |event: &&CommittedEvent| {
            event.effects.iter().any(|effect| effect.user == user.name && effect.passage == Passage::Out)
        };
        let going = events.iter().find(goes).map(|event| event.seq);
        match (going, events.last()) {
            (None, Some(last)) => self.look_up_going(session, conversation, last.seq),
            // If none is found they have not gone; then they are among the members by now.
            (going, _) => {
                if let Some(parked) = self.parked.get_mut(session) {
                    parked.entry.goings.insert(conversation, Some(going.unwrap_or(after)));
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
