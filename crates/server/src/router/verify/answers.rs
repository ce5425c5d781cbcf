//! What the store's answers mean for those who are here.

use rustc_hash::FxHashSet;
use switchboard_protocol::{CloseCode, Seq, Timestamp};

use super::{Asked, Newcomer, Scope};
use crate::metrics::Drop;
use crate::router::Router;
use crate::router::peers::Found;
use crate::router::registry::UserSlot;
use switchboard_store::record::{ConversationKey, Effect, Passage};
use switchboard_store::refusal::Refusal;
use switchboard_store::{CommittedEvent, Excerpt, Place, PlacesPage, Revocations, Seqs};

/// A user with the conversations that they may have come into.
pub(in crate::router) type Entries = (Asked, Vec<ConversationKey>);

impl Router {
    pub(in crate::router) fn checked(&mut self, asked: &[ConversationKey], result: Result<Seqs, Refusal>) {
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

    /// Closes the connections that came in before a revocation.
    pub(in crate::router) fn found_revocations(
        &mut self,
        asked: Vec<UserSlot>,
        result: Result<Revocations, Refusal>,
    ) {
        let Some(peers) = &mut self.peers else { return };
        peers.comparisons.asking_revocations = false;
        let Ok(revocations) = result else {
            peers.comparisons.revoked.extend(asked);
            return;
        };
        for (user, not_before) in revocations {
            if let Some(user) = self.registry.find(&user) {
                self.close_revoked(user, not_before);
            }
        }
    }

    fn close_revoked(&self, user: UserSlot, not_before: Timestamp) {
        let sessions = self.registry.user(user).map_or(&[][..], |local| &local.sessions);
        for session in sessions.iter().filter_map(|session| self.registry.session(*session)) {
            if session.live && session.not_before < Some(not_before) {
                self.metrics.dropped(Drop::Revoked);
                session.outbox.close(CloseCode::Revoked);
            }
        }
    }

    pub(in crate::router) fn found_newcomers(
        &mut self,
        asked: Vec<Entries>,
        result: Result<Vec<Option<Place>>, Refusal>,
    ) {
        if let Some(peers) = &mut self.peers {
            peers.comparisons.asking_newcomers = false;
        }
        let Ok(places) = result else {
            for (asked, conversations) in asked {
                self.verify_entry(asked.user, &conversations);
            }
            return;
        };
        let mut places = places.into_iter();
        for (asked, conversations) in asked {
            let places: Vec<_> = places.by_ref().take(conversations.len()).flatten().collect();
            match self.is_current(&asked) {
                Some(true) => {}
                Some(false) => {
                    self.verify_entry(asked.user, &conversations);
                    continue;
                }
                None => continue,
            }
            let open = self.compare(&asked, &places);
            self.note_entries(&asked, &places);
            self.parked.changed(asked.user);
            self.check_missing(&asked, &conversations, &places);
            let local = self.registry.user_mut(asked.user).filter(|local| !open && local.entering > 0);
            if let Some(local) = local {
                let answered = conversations.iter().map(|conversation| (*conversation, asked.question));
                local.answered_entries.extend(answered);
            }
        }
    }

    pub(in crate::router) fn found_places(
        &mut self,
        mut asked: Vec<Asked>,
        result: Result<Vec<PlacesPage>, Refusal>,
    ) {
        let Some(peers) = &mut self.peers else { return };
        peers.comparisons.asking_places = false;
        let Ok(pages) = result else {
            if asked.len() > 1 {
                // One of them may be what it fails for.
                let second = asked.split_off(asked.len() / 2);
                peers.comparisons.parts.extend([second, asked]);
            } else {
                self.skip(asked);
            }
            return;
        };
        for (asked, page) in asked.into_iter().zip(pages) {
            match self.is_current(&asked) {
                Some(true) => self.take_places(asked, &page),
                Some(false) => self.go_on(asked),
                None => {}
            }
        }
    }

    /// Leaves a user to the next sweep, who could not be compared even alone.
    fn skip(&mut self, asked: Vec<Asked>) {
        let Some(peers) = &mut self.peers else { return };
        for asked in asked {
            if peers.comparisons.failed.is_empty() {
                tracing::warn!(user = %asked.name, "memberships cannot be compared with the store; the next sweep tries again");
            }
            peers.comparisons.failed.insert(asked.user);
        }
    }

    fn go_on(&mut self, asked: Asked) {
        if let Some(peers) = &mut self.peers {
            peers.comparisons.pages.push_back(asked);
        }
    }

    /// Compares a page, and goes on with the next one.
    fn take_places(&mut self, mut asked: Asked, page: &PlacesPage) {
        asked.open |= self.compare(&asked, &page.places);
        let here = self.registry.user(asked.user).map_or(&[][..], |local| &local.conversations);
        let first = here.partition_point(|here| *here <= asked.after);
        let end = page.next.map_or(here.len(), |next| here.partition_point(|here| *here <= next));
        let here = here.get(first..end).unwrap_or_default().to_vec();
        self.check_missing(&asked, &here, &page.places);
        let Some(local) = self.registry.user_mut(asked.user) else { return };
        match (page.next, &mut asked.scope) {
            (Some(next), Scope::Portion(left)) => {
                local.swept = next;
                *left = left.saturating_sub(page.places.len().max(1));
                if *left > 0 {
                    self.go_on(Asked { after: next, ..asked });
                }
            }
            (Some(next), _) => self.go_on(Asked { after: next, ..asked }),
            (None, _) => {
                local.swept = ConversationKey::MIN;
                if asked.whole && !asked.open {
                    local.answered = local.answered.max(asked.question);
                    self.parked.changed(asked.user);
                }
            }
        }
    }

    /// Compares where a user stands with what is known here; whether something is open still.
    fn compare(&mut self, asked: &Asked, joined: &[Place]) -> bool {
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
        open
    }

    /// Tells sessions on their way in since when their user is a member: the page of one may be older.
    fn note_entries(&mut self, asked: &Asked, places: &[Place]) {
        for place in places {
            let (conversation, since) = (place.conversation, place.since.max(Seq(1)));
            let placed = self.registry.placed(conversation);
            let known = self.registry.user(asked.user).is_none_or(|local| {
                local.changes.iter().any(|change| change.conversation == conversation && change.seq >= since)
            });
            if self.registry.is_member(asked.user, conversation) && placed >= Some(since) && !known {
                let seen = Seq(since.0 - 1);
                let effect = Effect { user: asked.name.clone(), passage: Passage::In { seen } };
                self.note_changes(conversation, since, &[effect]);
            }
        }
    }

    /// The user has left those of the conversations that are not among the places, or was removed, by an event that has not come
    /// here: how far the log goes is looked up.
    fn check_missing(&mut self, asked: &Asked, conversations: &[ConversationKey], places: &[Place]) {
        let places: FxHashSet<_> = places.iter().map(|place| place.conversation).collect();
        let registry = &self.registry;
        let missing = conversations
            .iter()
            .filter(|here| !places.contains(here) && registry.is_member(asked.user, **here));
        if let Some(peers) = &mut self.peers {
            peers.unchecked.extend(missing);
        }
    }

    /// Reads the event by which a user joined a conversation.
    fn look_up_entry(&mut self, asked: &Asked, place: Place) {
        let Some(peers) = &mut self.peers else { return };
        let entry = place.since.max(Seq(1));
        let answer = peers.store.log(place.conversation, Seq(entry.0 - 1), entry);
        let newcomer = Newcomer { asked: asked.clone(), place };
        peers.find(answer, move |result| Found::Entry { newcomer, result });
    }

    pub(in crate::router) fn found_entry(&mut self, newcomer: Newcomer, result: Result<Excerpt, Refusal>) {
        let Newcomer { asked, place } = newcomer;
        let Some(current) = self.is_current(&asked) else { return };
        let entry = result.map(|excerpt| excerpt.events.into_iter().next());
        if matches!(entry, Ok(None)) {
            tracing::error!(?place, "the log does not have the event by which a member came in");
            return;
        }
        // In each case: a session that waits for an answer that leaves nothing open gets one.
        match &asked.scope {
            Scope::All => self.verify(asked.user),
            Scope::Portion(_) => self.verify_entry(asked.user, &[place.conversation]),
            Scope::Some(conversations) => self.verify_entry(asked.user, &conversations.clone()),
        }
        if let (Ok(Some(entry)), true) = (entry, current) {
            self.bring_in(&asked, place, &entry);
        }
    }

    /// Adds a user to a conversation's members who came in by an event that this node has not placed, or not for them.
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
