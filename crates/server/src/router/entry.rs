//! Coming in where other nodes write to the same log: what a snapshot says of its user has to fit what is placed here.
//!
//! A snapshot, like every answer of the store, is of a moment. For a conversation that nobody else here is in, it is the
//! beginning: the node reads the log on from there. In one that has been placed further meanwhile, the user may have been
//! removed; whether by an event that was placed here is known only if all of them were, since the snapshot was asked for.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::Seq;

use super::parked::{Obstacle, Parked};
use super::peers::Found;
use super::registry::{MembershipChange, UserSlot};
use super::{Router, Subscribe};
use crate::outbox::Outbox;
use crate::record::{ConversationKey, Passage};
use crate::refusal::Refusal;
use crate::router::registry::SessionSlot;
use crate::store::{CommittedEvent, Excerpt};

/// A session that is to know by which event its user went from a conversation: one after an event by which they were a member.
pub(super) struct Going {
    session: SessionSlot,
    /// Another one may have its place by now.
    outbox: Arc<Outbox>,
    conversation: ConversationKey,
    after: Seq,
}

/// By which events somebody is a member, as far as is known, and how many conversations had come to be hosted by then.
type Claims = FxHashMap<ConversationKey, (Seq, u64)>;

/// Where a snapshot says that its user is a member, as changed by what was placed since, and by what is known of goings.
fn claims(subscribe: &Subscribe, changes: &[MembershipChange], hostings: u64) -> Claims {
    let joined = subscribe.snapshot.joined.iter();
    let mut claims: Claims = joined.map(|j| (j.conversation, (j.head, hostings))).collect();
    for change in changes {
        if claims.get(&change.conversation).is_some_and(|(seq, _)| *seq >= change.seq) {
            continue;
        }
        if let Passage::In { .. } = change.passage {
            claims.insert(change.conversation, (change.seq, change.hostings));
        } else {
            claims.remove(&change.conversation);
        }
    }
    for (conversation, until) in &subscribe.gone {
        if claims.get(conversation).is_some_and(|(seq, _)| seq <= until) {
            claims.remove(conversation);
        }
    }
    claims
}

impl Router {
    /// What this node lacks to have come as far as a snapshot, and to know where its user is a member. It sees to that.
    pub(super) fn obstacle_here(&mut self, parked: &mut Parked) -> Option<Obstacle> {
        let Parked { ref subscribe, questions, .. } = *parked;
        let is_behind = |(conversation, seq): &(_, Seq)| {
            self.registry.placed(*conversation).is_some_and(|placed| placed < *seq)
        };
        if let Some((conversation, seq)) = Self::bounds(subscribe).find(is_behind) {
            return Some(Obstacle::Event(conversation, seq));
        }
        let session = self.registry.session(subscribe.session)?;
        let (user, hostings) = (session.user, session.hostings);
        if let Some(conversation) = self.stays(user, subscribe).next() {
            return Some(Obstacle::Event(conversation, Seq(0)));
        }
        let local = self.registry.user_mut(user)?;
        let first = !std::mem::replace(&mut local.loaded, true);
        let mut open = false;
        let claims = claims(subscribe, &local.changes.clone(), hostings);
        for (conversation, (seq, hostings)) in claims {
            if let Some(gone) = self.registry.gone(user, conversation).filter(|gone| *gone >= seq) {
                parked.goings.insert(conversation, Some(gone));
                continue;
            }
            let placed = self.registry.placed(conversation);
            // An event that is yet to be placed brings them in.
            if self.registry.is_member(user, conversation) || placed.is_some_and(|placed| placed < seq) {
                continue;
            }
            if first && self.registry.reaches(conversation, seq, hostings) {
                // What waits was placed before.
                self.release();
                self.registry.join(user, conversation, seq);
            } else {
                open = true;
            }
        }
        let local = self.registry.user(user).filter(|_| open)?;
        let (asked, answered) = (local.asked > questions, local.answered > questions);
        if !asked {
            self.verify(user);
        }
        let known = answered && self.knows_goings(user, parked);
        (!known).then_some(Obstacle::User(user))
    }

    /// Where somebody counts as a member whom a snapshot knows to have gone: the event by which they did is yet to be placed.
    fn stays(&self, user: UserSlot, subscribe: &Subscribe) -> impl Iterator<Item = ConversationKey> {
        let local = self.registry.user(user);
        let (here, changes) =
            local.map_or((&[][..], &[][..]), |local| (&local.conversations, &local.changes));
        let joined: FxHashSet<_> =
            subscribe.snapshot.joined.iter().map(|joined| joined.conversation).collect();
        // Those that they have come into since.
        let gone = &subscribe.gone;
        let came = move |here: &ConversationKey| {
            let until = gone.iter().find(|gone| gone.0 == *here).map_or(Seq(0), |gone| gone.1);
            changes.iter().any(|change| change.conversation == *here && change.seq > until)
        };
        here.iter().copied().filter(move |here| !joined.contains(here) && !came(here))
    }

    /// Up to which event conversations are to be placed here, if they are, for a session to come in.
    fn bounds(subscribe: &Subscribe) -> impl Iterator<Item = (ConversationKey, Seq)> {
        let joined = subscribe.snapshot.joined.iter().map(|joined| (joined.conversation, joined.head));
        joined.chain(subscribe.gone.iter().copied())
    }

    /// Sees to it that what a snapshot knows is placed here.
    pub(super) fn catch_up_with(&mut self, subscribe: &Subscribe) {
        for (conversation, seq) in Self::bounds(subscribe) {
            self.expect(conversation, seq);
        }
        let Some(user) = self.user_of(subscribe.session) else { return };
        let stays: Vec<_> = self.stays(user, subscribe).collect();
        if let Some(peers) = &mut self.peers {
            peers.unchecked.extend(stays);
        }
        self.note_gone(subscribe);
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

    /// Looks up by which events the user of a session has gone from conversations, where none was placed here; whether all are
    /// known.
    fn knows_goings(&mut self, user: UserSlot, parked: &mut Parked) -> bool {
        let session = parked.subscribe.session;
        let changes = self.registry.user(user).map_or(&[][..], |local| &local.changes);
        for (conversation, (seq, _)) in claims(&parked.subscribe, changes, 0) {
            if !self.registry.is_member(user, conversation)
                && let Entry::Vacant(place) = parked.goings.entry(conversation)
            {
                place.insert(None);
                self.look_up_going(session, conversation, seq);
            }
        }
        parked.goings.values().all(Option::is_some)
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
                    parked.goings.insert(conversation, Some(going.unwrap_or(after)));
                    self.parked.answered(session);
                }
            }
        }
    }

    fn user_of(&self, session: SessionSlot) -> Option<UserSlot> {
        self.registry.session(session).map(|session| session.user)
    }
}
