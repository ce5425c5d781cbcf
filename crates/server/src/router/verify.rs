//! Comparing what is here with the store: whatever other nodes did, and the bus did not tell.
//!
//! Only the log moves anybody in or out. What the comparison finds is how far a conversation's log goes; that is then read
//! from where this node stands, in its order. So an answer that has become old meanwhile does no harm.

use rustc_hash::FxHashMap;
use switchboard_protocol::{CloseCode, Seq, UserId};

use super::Router;
use super::order::Arrival;
use super::peers::Found;
use super::registry::UserSlot;
use crate::metrics::Drop;
use crate::refusal::Refusal;
use crate::store::{ConversationKey, Excerpt, Passage, Person, Place, Seqs};

/// Users whom one question is about at most: their answer has some thousand rows.
const USERS: usize = 500;

/// Conversations that one question is about at most.
const CONVERSATIONS: usize = 2_000;

/// A user whom the store is asked about.
#[derive(Debug)]
pub(super) struct Asked {
    user: UserSlot,
    name: UserId,
    /// How often they had left a conversation by then.
    departures: u64,
}

/// Somebody who is in a conversation, of which nothing is here yet.
#[derive(Debug)]
pub(super) struct Newcomer {
    asked: Asked,
    place: Place,
}

impl Router {
    /// Everybody who is here is compared with the store, unless that is still being done.
    pub(super) fn sweep(&mut self) {
        if self.peers.as_ref().is_some_and(|peers| peers.to_sweep.is_empty()) {
            self.sweep_anew();
        }
    }

    /// Everybody who is here is compared with the store from now on.
    pub(super) fn sweep_anew(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        peers.to_sweep = self.registry.users();
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

    fn ask_about_users(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        if peers.verifying {
            return;
        }
        let mut users: Vec<_> = peers.unverified.iter().take(USERS).copied().collect();
        for user in &users {
            peers.unverified.remove(user);
        }
        let rest = peers.to_sweep.len().saturating_sub(USERS - users.len());
        users.extend(peers.to_sweep.drain(rest..));
        let asked: Vec<_> = users.into_iter().filter_map(|user| self.asked(user)).collect();
        let Some(peers) = self.peers.as_mut().filter(|_| !asked.is_empty()) else { return };
        peers.verifying = true;
        let answer = peers.store.people(asked.iter().map(|asked| asked.name.clone()).collect());
        peers.find(answer, move |result| Found::People { asked, result });
    }

    /// Somebody who is here and whose conversations are known.
    fn asked(&self, user: UserSlot) -> Option<Asked> {
        let local = self.registry.user(user).filter(|local| local.loaded)?;
        Some(Asked { user, name: local.name.clone(), departures: local.departures })
    }

    /// Whether the user has left nothing since it was asked.
    fn is_current(&self, asked: &Asked) -> bool {
        let now = self.asked(asked.user);
        now.is_some_and(|now| now.name == asked.name && now.departures == asked.departures)
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
            // Somebody never seen before has not been stored yet.
            let Some(person) = people.remove(&asked.name) else { continue };
            if self.is_current(&asked) {
                self.close_revoked(&asked, &person);
                self.compare(&asked, &person.joined);
            } else if self.asked(asked.user).is_some() {
                self.verify(asked.user);
            }
        }
    }

    /// Closes the connections that came in before a revocation.
    fn close_revoked(&self, asked: &Asked, person: &Person) {
        let sessions = self.registry.user(asked.user).map_or(&[][..], |local| &local.sessions);
        for session in sessions.iter().filter_map(|session| self.registry.session(*session)) {
            if session.live && session.not_before < person.not_before {
                self.metrics.dropped(Drop::Revoked);
                session.outbox.close(CloseCode::Revoked);
            }
        }
    }

    fn compare(&mut self, asked: &Asked, joined: &[Place]) {
        let here = self.registry.user(asked.user).map_or_else(Vec::new, |local| local.conversations.clone());
        for place in joined {
            if here.binary_search(&place.conversation).is_ok()
                || self.registry.placed(place.conversation).is_some()
            {
                self.expect(place.conversation, place.head);
            } else {
                self.look_up_entry(asked, *place);
            }
        }
        // They have left, or were removed, by an event that has not come here.
        let joined: rustc_hash::FxHashSet<_> = joined.iter().map(|place| place.conversation).collect();
        if let Some(peers) = &mut self.peers {
            peers.unchecked.extend(here.into_iter().filter(|conversation| !joined.contains(conversation)));
        }
    }

    /// Reads how somebody came into a conversation that has no other members here.
    fn look_up_entry(&mut self, asked: &Asked, place: Place) {
        let Some(peers) = &mut self.peers else { return };
        let Some(entry) = Some(place.since.max(Seq(1))).filter(|entry| *entry <= place.head) else { return };
        let asked = Asked { user: asked.user, name: asked.name.clone(), departures: asked.departures };
        let newcomer = Newcomer { asked, place };
        let answer = peers.store.log(place.conversation, Seq(entry.0 - 1), entry);
        peers.find(answer, move |result| Found::Entry { newcomer, result });
    }

    pub(super) fn found_entry(&mut self, newcomer: Newcomer, result: Result<Excerpt, Refusal>) {
        let Newcomer { asked, place } = newcomer;
        let conversation = place.conversation;
        let entry = result.ok().and_then(|excerpt| Arrival::found(excerpt.events.into_iter().next()?));
        let Some(mut entry) = entry.filter(|_| self.may_enter(&asked, conversation)) else {
            if self.asked(asked.user).is_some() {
                self.verify(asked.user);
            }
            return;
        };
        // Of the others it may be old news.
        entry.effects.retain(|effect| effect.user == asked.name && effect.passage != Passage::Out);
        if entry.effects.is_empty() {
            tracing::error!(?conversation, seq = %entry.seq, "the log does not say how a member came in");
            return;
        }
        self.pass_on(conversation, entry);
        self.expect(conversation, place.head);
    }

    /// Whether what the store said is still the latest that is known.
    fn may_enter(&self, asked: &Asked, conversation: ConversationKey) -> bool {
        let known = self.registry.placed(conversation).is_some();
        !known && self.is_current(asked)
    }
}
