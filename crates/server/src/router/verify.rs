//! Comparing what is here with the store: whatever other nodes did, and the bus did not tell.
//!
//! Only the log moves anybody in or out. What the comparison finds is how far a conversation's log goes; that is then read
//! from where this node stands, in its order. So an answer that has become old meanwhile does no harm.

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{CloseCode, Seq, Timestamp, UserId};

use super::Router;
use super::peers::{Found, Peers};
use super::registry::UserSlot;
use crate::metrics::Drop;
use crate::record::{ConversationKey, Effect, Passage};
use crate::refusal::Refusal;
use crate::store::{CommittedEvent, Excerpt, Person, Place, Seqs};

/// Users whom one question is about at most: their answer has some thousand rows.
const USERS: usize = 500;

/// Conversations that one question is about at most.
const CONVERSATIONS: usize = 2_000;

/// A user whom the store is asked about.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    user: UserSlot,
    name: UserId,
    /// Which question it was.
    question: u64,
    /// How often they had left a conversation by then.
    departures: u64,
    /// How many conversations had come to be hosted by then.
    hostings: u64,
}

/// Somebody who is in a conversation, and this node did not know.
#[derive(Debug)]
pub(super) struct Newcomer {
    asked: Asked,
    place: Place,
}

impl Router {
    /// Everybody who is here is compared with the store, unless that is still being done.
    pub(super) fn sweep(&mut self) {
        if self.peers.as_ref().is_some_and(Peers::awaits_nothing) {
            self.registry.prune_gone(self.recent.oldest());
        }
        if self.peers.as_ref().is_some_and(|peers| peers.to_sweep.is_empty()) {
            self.sweep_anew();
        }
    }

    /// Everybody who is here is compared with the store from now on; where that is being done, once more behind it, so that
    /// everybody's turn comes.
    pub(super) fn sweep_anew(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        peers.sweep_again = !peers.to_sweep.is_empty();
        if !peers.sweep_again {
            peers.to_sweep = self.registry.users();
        }
    }

    /// Conversations that are here are compared with the store: something was stored there that nobody could be told of.
    pub(super) fn check(&mut self, conversations: Vec<ConversationKey>) {
        let registry = &self.registry;
        if let Some(peers) = &mut self.peers {
            let here = |conversation: &ConversationKey| registry.placed(*conversation).is_some();
            peers.unchecked.extend(conversations.into_iter().filter(here));
        }
    }

    /// Asks the store, unless it has not answered the last question.
    pub(super) fn ask(&mut self) {
        self.ask_about_users();
        self.ask_about_lost();
        let Some(peers) = &mut self.peers else { return };
        if !peers.checking && !peers.unchecked.is_empty() {
            let asked: Vec<_> = peers.unchecked.iter().take(CONVERSATIONS).copied().collect();
            for conversation in &asked {
                peers.unchecked.remove(conversation);
            }
            peers.checking = true;
            let answer = peers.store.heads(asked.clone());
            peers.find(answer, move |result| Found::Heads { asked, result });
        }
    }

    /// Asks in which conversations users are whom a node had that is gone: whoever shares none with them is not told.
    fn ask_about_lost(&mut self) {
        let Some(peers) = self.peers.as_mut().filter(|peers| !peers.seeking_lost) else { return };
        let asked = self.presence.take_lost(USERS);
        if !asked.is_empty() {
            peers.seeking_lost = true;
            let answer = peers.store.people(asked.iter().map(|(user, _)| user.clone()).collect());
            peers.find(answer, move |result| Found::Lost { asked, result });
        }
    }

    pub(super) fn found_lost(
        &mut self,
        asked: Vec<(UserId, Timestamp)>,
        result: Result<Vec<Person>, Refusal>,
    ) {
        if let Some(peers) = &mut self.peers {
            peers.seeking_lost = false;
        }
        let Ok(people) = result else { return self.presence.put_back_lost(asked) };
        let people: FxHashMap<_, _> = people.iter().map(|person| (&person.user, &person.joined)).collect();
        for (user, at) in asked {
            let joined = people.get(&user).map_or(&[][..], |joined| &joined[..]);
            let mut conversations: Vec<_> = joined.iter().map(|place| place.conversation).collect();
            conversations.sort_unstable();
            self.presence.tell_lost(&self.registry, &user, &conversations, at);
        }
    }

    fn ask_about_users(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        if peers.verifying {
            return;
        }
        let mut users: Vec<_> = peers.unverified.iter().take(USERS).copied().collect();
        for user in &users {
            peers.unverified.remove(user);
        }
        if peers.to_sweep.is_empty() && std::mem::take(&mut peers.sweep_again) {
            peers.to_sweep = self.registry.users();
        }
        let rest = peers.to_sweep.len().saturating_sub(USERS - users.len());
        users.extend(peers.to_sweep.drain(rest..));
        if users.is_empty() {
            return;
        }
        users.sort_unstable();
        users.dedup();
        peers.questions += 1;
        let question = peers.questions;
        let asked: Vec<_> = users.into_iter().filter_map(|user| self.asked(user, question)).collect();
        for asked in &asked {
            if let Some(local) = self.registry.user_mut(asked.user) {
                local.asked = question;
            }
        }
        let Some(peers) = self.peers.as_mut().filter(|_| !asked.is_empty()) else { return };
        peers.verifying = true;
        let answer = peers.store.people(asked.iter().map(|asked| asked.name.clone()).collect());
        peers.find(answer, move |result| Found::People { asked, result });
    }

    /// Somebody who is here and whose conversations are known.
    fn asked(&self, user: UserSlot, question: u64) -> Option<Asked> {
        let local = self.registry.user(user).filter(|local| local.loaded)?;
        let (name, departures, hostings) = (local.name.clone(), local.departures, self.registry.hostings());
        Some(Asked { user, name, question, departures, hostings })
    }

    /// Whether the user has left nothing since it was asked; `None` if they are gone.
    fn is_current(&self, asked: &Asked) -> Option<bool> {
        let local = self.registry.user(asked.user).filter(|local| local.name == asked.name)?;
        Some(local.departures == asked.departures)
    }

    pub(super) fn checked(&mut self, asked: &[ConversationKey], result: Result<Seqs, Refusal>) {
        let Some(peers) = &mut self.peers else { return };
        peers.checking = false;
        match result {
            Ok(heads) => heads.into_iter().for_each(|(conversation, head)| self.expect(conversation, head)),
            Err(_) => {
                let registry = &self.registry;
                peers.unchecked.extend(asked.iter().filter(|asked| registry.placed(**asked).is_some()));
            }
        }
    }

    pub(super) fn verified(&mut self, asked: Vec<Asked>, result: Result<Vec<Person>, Refusal>) {
        if let Some(peers) = &mut self.peers {
            peers.verifying = false;
        }
        let Ok(people) = result else {
            asked.into_iter().for_each(|asked| self.verify(asked.user));
            return;
        };
        let mut people: FxHashMap<_, _> =
            people.into_iter().map(|person| (person.user.clone(), person)).collect();
        for asked in asked {
            let person = people.remove(&asked.name);
            match self.is_current(&asked) {
                Some(true) => {}
                Some(false) => {
                    self.verify(asked.user);
                    continue;
                }
                None => continue,
            }
            if let Some(person) = &person {
                self.close_revoked(&asked, person);
            }
            // Somebody never seen before has not been stored yet, and is nowhere.
            self.compare(&asked, person.as_ref().map_or(&[][..], |person| &person.joined));
        }
    }

    /// Closes the connections that came in before a revocation.
    fn close_revoked(&self, asked: &Asked, person: &Person) {
        let sessions = self.registry.user(asked.user).map_or(&[][..], |local| &local.sessions[..]);
        for session in sessions.iter().filter_map(|session| self.registry.session(*session)) {
            if session.live && session.not_before < person.not_before {
                self.metrics.dropped(Drop::Revoked);
                session.outbox.close(CloseCode::Revoked);
            }
        }
    }

    fn compare(&mut self, asked: &Asked, joined: &[Place]) {
        let mut open = false;
        for place in joined {
            let placed = self.registry.placed(place.conversation);
            if self.registry.is_member(asked.user, place.conversation)
                // The log brings them in.
                || placed.is_some_and(|placed| placed < place.since)
            {
                self.expect(place.conversation, place.head);
            } else {
                open = true;
                self.look_up_entry(asked, *place);
            }
        }
        let Some(local) = self.registry.user_mut(asked.user) else { return };
        if !open {
            local.answered = asked.question;
        }
        // They have left, or were removed, by an event that has not come here.
        let joined: FxHashSet<_> = joined.iter().map(|place| place.conversation).collect();
        let here = local.conversations.iter().filter(|here| !joined.contains(here));
        if let Some(peers) = &mut self.peers {
            peers.unchecked.extend(here);
        }
    }

    /// Reads how somebody came into a conversation.
    fn look_up_entry(&mut self, asked: &Asked, place: Place) {
        let Some(peers) = &mut self.peers else { return };
        let entry = place.since.max(Seq(1));
        let answer = peers.store.log(place.conversation, Seq(entry.0 - 1), entry);
        let newcomer = Newcomer { asked: asked.clone(), place };
        peers.find(answer, move |result| Found::Entry { newcomer, result });
    }

    pub(super) fn found_entry(&mut self, newcomer: Newcomer, result: Result<Excerpt, Refusal>) {
        let Newcomer { asked, place } = newcomer;
        let Some(current) = self.is_current(&asked) else { return };
        let entry = result.map(|excerpt| excerpt.events.into_iter().next());
        if matches!(entry, Ok(None)) {
            tracing::error!(?place, "the log does not have the event by which a member came in");
            return;
        }
        // Whatever comes of it: who waits for an answer that leaves nothing open gets one.
        self.verify(asked.user);
        if let (Ok(Some(entry)), true) = (entry, current) {
            self.bring_in(&asked, place, &entry);
        }
    }

    /// Puts somebody among a conversation's members who came in by an event that this node has not placed, or not for them.
    fn bring_in(&mut self, asked: &Asked, place: Place, entry: &CommittedEvent) {
        let conversation = place.conversation;
        let placed = self.registry.placed(conversation);
        if self.registry.is_member(asked.user, conversation)
            || placed.is_some_and(|placed| placed < entry.seq)
            || self.registry.gone(asked.user, conversation).is_some_and(|gone| gone >= entry.seq)
        {
            return;
        }
        // They are a member at the head that the store told. Are they one at what is placed here?
        let reaches = placed.is_some_and(|placed| placed <= place.head)
            || self.registry.reaches(conversation, place.head, asked.hostings);
        if !reaches {
            return;
        }
        let before = Seq(entry.seq.0 - 1);
        let effect = entry.effects.iter().find(|effect| effect.user == asked.name);
        let seen = match effect.map(|effect| effect.passage) {
            Some(Passage::In { seen }) => seen,
            // It cannot be read.
            Some(Passage::Out) | None => before,
        };
        self.release();
        self.registry.join(asked.user, conversation, placed.unwrap_or(place.head));
        self.note_changes(
            conversation,
            entry.seq,
            &[Effect { user: asked.name.clone(), passage: Passage::In { seen } }],
        );
        let head = self.registry.head(conversation).unwrap_or(place.head);
        self.give_missed(asked.user, conversation, &entry.name, seen, before);
        for outbox in self.registry.sessions_of(&asked.name) {
            outbox.push_lag(conversation, before, head);
        }
        self.expect(conversation, place.head);
    }
}
