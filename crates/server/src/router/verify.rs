//! Comparing what is here with the store: whatever other nodes did, and the bus did not tell.
//!
//! Only the log moves anybody in or out. What the comparison finds is how far a conversation's log goes; that is then read
//! from where this node stands, in its order. So an answer that has become old meanwhile does no harm.
//!
//! There are three questions, and each waits only for its own answer. *Revocations* asks for one number for each user, and is
//! never behind the others. *Places* asks for a page of memberships for each of some users. *Newcomers* asks about single
//! conversations that users may have come into.

mod answers;
#[cfg(test)]
pub(super) mod tests;

use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::UserId;

pub(super) use self::answers::Entries;
use super::Router;
use super::peers::{Found, Peers};
use super::registry::UserSlot;
use switchboard_store::Place;
use switchboard_store::record::ConversationKey;

/// Users whom one question is about at most.
const MAX_USERS: usize = 500;

/// Memberships of one user that one question is about at most: some 10 ms of the database.
const PAGE: u32 = 2_000;

/// Memberships that one question is about, by what is known here: a question ends before the user who would exceed it.
const MAX_PLACES: usize = 20_000;

/// Memberships of one user that one sweep compares at most. A user in more is compared by portions, one a sweep, so that
/// an idle connection does not cost the database all of its user's memberships every few seconds. What the bus has lost of the
/// others is found some sweeps later.
const PORTION: usize = 10_000;

/// Conversations that one question is about at most, and those of one user that are looked up one by one: beyond, all
/// memberships of the user are compared.
const CONVERSATIONS: usize = 2_000;

/// What is to be compared with the store.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    /// Users all of whose memberships are to be compared.
    all: FxHashSet<UserSlot>,
    /// Conversations that users may have come into, and this node does not know.
    newcomers: FxHashMap<UserSlot, FxHashSet<ConversationKey>>,
    /// Users whose tokens may have been revoked.
    revoked: FxHashSet<UserSlot>,
    /// Users who are to be compared in this sweep still, and to be asked about revocations.
    to_sweep: Vec<UserSlot>,
    to_ask: Vec<UserSlot>,
    /// Whether all are to be compared once more when this sweep is done.
    sweep_again: bool,
    /// Comparisons that go on with another page.
    pages: VecDeque<Asked>,
    /// Parts of questions that could not be answered.
    parts: Vec<Vec<Asked>>,
    /// Users who could not be compared even alone. The next sweep tries again.
    failed: FxHashSet<UserSlot>,
    /// How often the store was asked about users.
    pub(super) questions: u64,
    asking_places: bool,
    asking_newcomers: bool,
    asking_revocations: bool,
}

/// How much of a user's memberships is compared.
#[derive(Debug, Clone)]
enum Scope {
    /// All of them.
    All,
    /// So many, from where the last sweep ended.
    Portion(usize),
    /// These.
    Some(Arc<[ConversationKey]>),
}

/// A user whom the store is asked about.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    user: UserSlot,
    name: UserId,
    /// With which question the comparison began.
    question: u64,
    /// How often they had left a conversation by then.
    departures: u64,
    /// How many conversations had come to be hosted by then.
    hostings: u64,
    scope: Scope,
    /// The page begins after this conversation.
    after: ConversationKey,
    /// Whether the comparison began with the first page.
    whole: bool,
    /// Whether an earlier page left something open.
    open: bool,
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
        let Some(peers) = &mut self.peers else { return };
        let comparisons = &mut peers.comparisons;
        let failed = take(&mut comparisons.failed);
        comparisons.all.extend(failed);
        if comparisons.to_ask.is_empty() {
            comparisons.to_ask = self.registry.users();
        }
        let portions = comparisons.pages.iter().any(|asked| matches!(asked.scope, Scope::Portion(_)));
        if comparisons.to_sweep.is_empty() && !portions {
            self.sweep_anew();
        }
    }

    /// Everybody who is here is compared with the store from now on; where that is being done, once more behind it, so that
    /// everybody's turn comes.
    fn sweep_anew(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        let comparisons = &mut peers.comparisons;
        comparisons.sweep_again = !comparisons.to_sweep.is_empty();
        if !comparisons.sweep_again {
            comparisons.to_sweep = self.registry.users();
        }
    }

    /// Notices were lost: everybody is compared, and with all of their memberships.
    pub(super) fn doubt_all(&mut self) {
        let users = self.registry.users();
        let Some(peers) = &mut self.peers else { return };
        peers.comparisons.to_ask.clone_from(&users);
        for user in users {
            // A sweep compares the others wholly anyway.
            if self.registry.user(user).is_some_and(|local| local.conversations.len() > PORTION) {
                peers.comparisons.all.insert(user);
            }
        }
        self.sweep_anew();
    }

    /// Conversations that are here are compared with the store: something was stored there that nobody could be told of.
    pub(super) fn check(&mut self, conversations: Vec<ConversationKey>) {
        let registry = &self.registry;
        if let Some(peers) = &mut self.peers {
            let here = |conversation: &ConversationKey| registry.placed(*conversation).is_some();
            peers.unchecked.extend(conversations.into_iter().filter(here));
        }
    }

    /// Something may have been missed about a user who is here: they are compared with the store, once they are in.
    pub(super) fn suspect(&mut self, user: &UserId) {
        let Some(slot) = self.registry.find(user) else { return };
        let Some(local) = self.registry.user_mut(slot) else { return };
        local.suspect |= local.entering > 0 || !local.loaded;
        if local.loaded {
            self.verify(slot);
        }
    }

    /// A user may have come into a conversation that nobody was in here.
    pub(super) fn suspect_entry(&mut self, user: &UserId, conversation: ConversationKey) {
        let Some(slot) = self.registry.find(user) else { return };
        let Some(local) = self.registry.user_mut(slot) else { return };
        local.suspect |= local.entering > 0 || !local.loaded;
        if local.loaded {
            self.verify_entry(slot, &[conversation]);
        }
    }

    /// A user's tokens may have been revoked.
    pub(super) fn suspect_revoked(&mut self, user: &UserId) {
        let Some(slot) = self.registry.find(user) else { return };
        let Some(local) = self.registry.user_mut(slot) else { return };
        local.suspect |= local.entering > 0;
        if let Some(peers) = &mut self.peers {
            peers.comparisons.revoked.insert(slot);
        }
    }

    /// All memberships of a user are compared with the store, and whether their tokens were revoked.
    pub(super) fn verify(&mut self, user: UserSlot) {
        if let Some(peers) = &mut self.peers {
            peers.comparisons.all.insert(user);
            peers.comparisons.revoked.insert(user);
        }
    }

    /// The store is asked whether a user is a member of conversations.
    pub(super) fn verify_entry(&mut self, user: UserSlot, conversations: &[ConversationKey]) {
        let Some(peers) = &mut self.peers else { return };
        let entries = peers.comparisons.newcomers.entry(user).or_default();
        entries.extend(conversations);
        // A user whose session attaches asks about a page for each session at most.
        let loaded = self.registry.user(user).is_some_and(|local| local.loaded);
        if entries.len() > CONVERSATIONS && loaded {
            peers.comparisons.newcomers.remove(&user);
            self.verify(user);
        }
    }

    /// Asks the store all open questions and waits for no answer.
    pub(super) fn ask(&mut self) {
        self.ask_about_presence();
        self.ask_revocations();
        self.ask_newcomers();
        self.ask_places();
        let Some(peers) = &mut self.peers else { return };
        if !peers.checking && !peers.unchecked.is_empty() {
            let asked: Vec<_> =
                std::iter::from_fn(|| peers.unchecked.pop_first()).take(CONVERSATIONS).collect();
            peers.checking = true;
            let answer = peers.store.heads(asked.clone());
            peers.find(answer, move |result| Found::Heads { asked, result });
        }
    }

    fn ask_revocations(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        let comparisons = &mut peers.comparisons;
        if comparisons.asking_revocations || comparisons.revoked.is_empty() && comparisons.to_ask.is_empty() {
            return;
        }
        let mut users: Vec<_> = comparisons.revoked.iter().take(MAX_USERS).copied().collect();
        for user in &users {
            comparisons.revoked.remove(user);
        }
        let rest = comparisons.to_ask.len().saturating_sub(MAX_USERS - users.len());
        users.extend(comparisons.to_ask.drain(rest..));
        let names: Vec<_> = users
            .iter()
            .filter_map(|user| self.registry.user(*user))
            .filter(|local| !local.sessions.is_empty())
            .map(|local| local.name.clone())
            .collect();
        if names.is_empty() {
            return;
        }
        comparisons.asking_revocations = true;
        let answer = peers.store.revocations(names);
        peers.find(answer, move |result| Found::Revocations { asked: users, result });
    }

    fn ask_newcomers(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        if peers.comparisons.asking_newcomers || peers.comparisons.newcomers.is_empty() {
            return;
        }
        let users: Vec<_> = peers.comparisons.newcomers.keys().take(MAX_USERS).copied().collect();
        let question = self.begin_question();
        let (mut asked, mut pairs) = (Vec::new(), Vec::new());
        for user in users {
            if pairs.len() >= CONVERSATIONS {
                break;
            }
            let Some(peers) = &mut self.peers else { return };
            let Some(conversations) = peers.comparisons.newcomers.remove(&user) else { continue };
            let scope = Scope::Some(conversations.iter().copied().collect());
            let Some(ask) = self.asked_of(user, question, scope, ConversationKey::MIN) else { continue };
            pairs.extend(conversations.iter().map(|conversation| (ask.name.clone(), *conversation)));
            asked.push((ask, conversations.into_iter().collect()));
        }
        let Some(peers) = self.peers.as_mut().filter(|_| !asked.is_empty()) else { return };
        peers.comparisons.asking_newcomers = true;
        let answer = peers.store.places_in(pairs);
        peers.find(answer, move |result| Found::Newcomers { asked, result });
    }

    fn ask_places(&mut self) {
        if self.peers.as_ref().is_none_or(|peers| peers.comparisons.asking_places) {
            return;
        }
        let asked = self.next_question();
        let Some(peers) = self.peers.as_mut().filter(|_| !asked.is_empty()) else { return };
        peers.comparisons.asking_places = true;
        let users = asked.iter().map(|asked| (asked.name.clone(), asked.after)).collect();
        let answer = peers.store.places(users, PAGE);
        peers.find(answer, move |result| Found::Places { asked, result });
    }

    fn begin_question(&mut self) -> u64 {
        let Some(peers) = &mut self.peers else { return 0 };
        peers.comparisons.questions += 1;
        peers.comparisons.questions
    }

    /// Whom the next question about memberships is about. Those who are suspected, those whose comparison goes on and those of
    /// the sweep take turns, so that none of them waits for all of another.
    fn next_question(&mut self) -> Vec<Asked> {
        let Some(peers) = &mut self.peers else { return Vec::new() };
        let comparisons = &mut peers.comparisons;
        if let Some(part) = comparisons.parts.pop() {
            return part.into_iter().filter_map(|asked| self.asked_again(asked)).collect();
        }
        if comparisons.to_sweep.is_empty() && take(&mut comparisons.sweep_again) {
            comparisons.to_sweep = self.registry.users();
        }
        let question = self.begin_question();
        let (mut asked, mut places, mut without) = (Vec::new(), 0, 0);
        for turn in 0.. {
            if asked.len() >= MAX_USERS || places >= MAX_PLACES || without == 3 {
                break;
            }
            let Some((user, next)) = self.next_asked(turn % 3, question) else {
                without += 1;
                continue;
            };
            without = 0;
            let known = self.registry.user(user).map_or(0, |local| local.conversations.len());
            if let Some(next) = next {
                places += known.min(PAGE as usize);
                asked.push(next);
            }
        }
        asked
    }

    /// The next of one of three queues, and what is to be asked about them, if they are here.
    fn next_asked(&mut self, queue: usize, question: u64) -> Option<(UserSlot, Option<Asked>)> {
        let comparisons = &mut self.peers.as_mut()?.comparisons;
        match queue {
            0 => {
                let user = comparisons.all.iter().next().copied()?;
                comparisons.all.remove(&user);
                let asked = self.asked(user, question, Scope::All, ConversationKey::MIN);
                if let Some(local) = self.registry.user_mut(user).filter(|_| asked.is_some()) {
                    local.asked = question;
                }
                Some((user, asked))
            }
            1 => {
                let asked = comparisons.pages.pop_front()?;
                Some((asked.user, self.asked_again(asked)))
            }
            _ => {
                let user = comparisons.to_sweep.pop()?;
                let after = self.registry.user(user).map_or(ConversationKey::MIN, |local| local.swept);
                Some((user, self.asked(user, question, Scope::Portion(PORTION), after)))
            }
        }
    }

    /// A connected user whose conversations are known.
    fn asked(&self, user: UserSlot, question: u64, scope: Scope, after: ConversationKey) -> Option<Asked> {
        self.registry.user(user).filter(|local| local.loaded)?;
        self.asked_of(user, question, scope, after)
    }

    fn asked_of(&self, user: UserSlot, question: u64, scope: Scope, after: ConversationKey) -> Option<Asked> {
        let local = self.registry.user(user)?;
        let (name, departures, hostings) = (local.name.clone(), local.departures, self.registry.hostings());
        let whole = after == ConversationKey::MIN;
        Some(Asked { user, name, question, departures, hostings, scope, after, whole, open: false })
    }

    /// The same question, asked now.
    fn asked_again(&self, asked: Asked) -> Option<Asked> {
        let local =
            self.registry.user(asked.user).filter(|local| local.name == asked.name && local.loaded)?;
        Some(Asked { departures: local.departures, hostings: self.registry.hostings(), ..asked })
    }

    /// Whether the user has left nothing since it was asked; `None` if they are gone.
    fn is_current(&self, asked: &Asked) -> Option<bool> {
        let local = self.registry.user(asked.user).filter(|local| local.name == asked.name)?;
        Some(local.departures == asked.departures)
    }
}
