//! What the router does with the answers of the store.

use rustc_hash::FxHashSet;
use switchboard_protocol::{CloseCode, Seq, Timestamp};

use crate::metrics::Drop;
use crate::router::Router;
use crate::router::registry::UserSlot;
use crate::router::store_reply::{Entries, Newcomer, Scope, StoreReply, UserQuery};
use switchboard_store::record::{ConversationKey, Effect, Passage};
use switchboard_store::refusal::Refusal;
use switchboard_store::{CommittedEvent, Excerpt, Place, PlacesPage, Revocations, Seqs};

impl Router {
    pub(in crate::router) fn apply_heads(
        &mut self,
        asked: &[ConversationKey],
        result: Result<Seqs, Refusal>,
    ) {
        let Some(peers) = &mut self.peers else { return };
        peers.checking = false;
        match result {
            Ok(heads) => heads.into_iter().for_each(|(conversation, head)| self.expect(conversation, head)),
            Err(_) => {
                let registry = &self.registry;
                peers.unchecked.extend(asked.iter().filter(|asked| registry.applied(**asked).is_some()));
            }
        }
    }

    /// Closes the connections that attached before a revocation.
    pub(in crate::router) fn apply_revocations(
        &mut self,
        asked: Vec<UserSlot>,
        result: Result<Revocations, Refusal>,
    ) {
        let Some(peers) = &mut self.peers else { return };
        peers.comparisons.querying_revocations = false;
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

    pub(in crate::router) fn apply_newcomers(
        &mut self,
        asked: Vec<Entries>,
        result: Result<Vec<Option<Place>>, Refusal>,
    ) {
        if let Some(peers) = &mut self.peers {
            peers.comparisons.querying_newcomers = false;
        }
        let Ok(places) = result else {
            for (asked, conversations) in asked {
                self.verify_membership(asked.user, &conversations);
            }
            return;
        };
        let mut places = places.into_iter();
        for (asked, conversations) in asked {
            let places: Vec<_> = places.by_ref().take(conversations.len()).flatten().collect();
            match self.is_current(&asked) {
                Some(true) => {}
                Some(false) => {
                    self.verify_membership(asked.user, &conversations);
                    continue;
                }
                None => continue,
            }
            let open = self.compare(&asked, &places);
            self.record_joins(&asked, &places);
            self.parked.changed(asked.user);
            self.check_missing(&asked, &conversations, &places);
            let local = self.registry.user_mut(asked.user).filter(|local| !open && local.entering > 0);
            if let Some(local) = local {
                let answered = conversations.iter().map(|conversation| (*conversation, asked.question));
                local.answered_entries.extend(answered);
            }
        }
    }

    pub(in crate::router) fn apply_places(
        &mut self,
        mut asked: Vec<UserQuery>,
        result: Result<Vec<PlacesPage>, Refusal>,
    ) {
        let Some(peers) = &mut self.peers else { return };
        peers.comparisons.querying_places = false;
        let Ok(pages) = result else {
            if asked.len() > 1 {
                // One of the users may be the reason.
                let second = asked.split_off(asked.len() / 2);
                peers.comparisons.parts.extend([second, asked]);
            } else {
                self.skip(asked);
            }
            return;
        };
        for (asked, page) in asked.into_iter().zip(pages) {
            match self.is_current(&asked) {
                Some(true) => self.apply_page(asked, &page),
                Some(false) => self.continue_query(asked),
                None => {}
            }
        }
    }

    /// Leaves a user whose query failed even alone to the next sweep.
    fn skip(&mut self, asked: Vec<UserQuery>) {
        let Some(peers) = &mut self.peers else { return };
        for asked in asked {
            if peers.comparisons.failed.is_empty() {
                tracing::warn!(user = %asked.name, "failed to compare memberships with the database; the next sweep retries");
            }
            peers.comparisons.failed.insert(asked.user);
        }
    }

    fn continue_query(&mut self, asked: UserQuery) {
        if let Some(peers) = &mut self.peers {
            peers.comparisons.pages.push_back(asked);
        }
    }

    /// Compares a page, and continues with the next one.
    fn apply_page(&mut self, mut asked: UserQuery, page: &PlacesPage) {
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
                    self.continue_query(UserQuery { after: next, ..asked });
                }
            }
            (Some(next), _) => self.continue_query(UserQuery { after: next, ..asked }),
            (None, _) => {
                local.swept = ConversationKey::MIN;
                if asked.whole && !asked.open {
                    local.answered = local.answered.max(asked.question);
                    self.parked.changed(asked.user);
                }
            }
        }
    }

    /// Compares memberships in the store with those on this node. Whether some of them are still open.
    fn compare(&mut self, asked: &UserQuery, joined: &[Place]) -> bool {
        let mut open = false;
        for place in joined {
            let applied = self.registry.applied(place.conversation);
            if self.registry.is_member(asked.user, place.conversation)
                // Applying the log adds the user.
                || applied.is_some_and(|applied| applied < place.since)
            {
                self.expect(place.conversation, place.head);
            } else {
                open = true;
                self.look_up_entry(asked, *place);
            }
        }
        open
    }

    /// Records for attaching sessions since when their user is a member: the page of a session may be older.
    fn record_joins(&mut self, asked: &UserQuery, places: &[Place]) {
        for place in places {
            let (conversation, since) = (place.conversation, place.since.max(Seq(1)));
            let applied = self.registry.applied(conversation);
            let known = self.registry.user(asked.user).is_none_or(|local| {
                local.changes.iter().any(|change| change.conversation == conversation && change.seq >= since)
            });
            if self.registry.is_member(asked.user, conversation) && applied >= Some(since) && !known {
                let seen = Seq(since.0 - 1);
                let effect = Effect { user: asked.name.clone(), passage: Passage::In { seen } };
                self.note_changes(conversation, since, &[effect]);
            }
        }
    }

    /// The user has left the conversations that are not among the places, by events that this node has not applied: queries how far
    /// their logs go.
    fn check_missing(&mut self, asked: &UserQuery, conversations: &[ConversationKey], places: &[Place]) {
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
    fn look_up_entry(&mut self, asked: &UserQuery, place: Place) {
        let Some(peers) = &mut self.peers else { return };
        let entry = place.since.max(Seq(1));
        let answer = peers.store.log(place.conversation, Seq(entry.0 - 1), entry);
        let newcomer = Newcomer { asked: asked.clone(), place };
        peers.query(answer, move |result| StoreReply::Entry { newcomer, result });
    }

    pub(in crate::router) fn apply_entry(&mut self, newcomer: Newcomer, result: Result<Excerpt, Refusal>) {
        let Newcomer { asked, place } = newcomer;
        let Some(current) = self.is_current(&asked) else { return };
        let entry = result.map(|excerpt| excerpt.events.into_iter().next());
        if matches!(entry, Ok(None)) {
            tracing::error!(?place, "the event by which a member joined is missing from the database");
            return;
        }
        // In each case, because a session may wait for an answer that leaves nothing open.
        match &asked.scope {
            Scope::All => self.verify(asked.user),
            Scope::Portion(_) => self.verify_membership(asked.user, &[place.conversation]),
            Scope::Some(conversations) => self.verify_membership(asked.user, &conversations.clone()),
        }
        if let (Ok(Some(entry)), true) = (entry, current) {
            self.add_member(&asked, place, &entry);
        }
    }

    /// Adds a user to the members of a conversation who joined by an event that this node has not applied, or not for this user.
    fn add_member(&mut self, asked: &UserQuery, place: Place, entry: &CommittedEvent) {
        let conversation = place.conversation;
        let applied = self.registry.applied(conversation);
        if self.registry.is_member(asked.user, conversation)
            || applied.is_some_and(|applied| applied < entry.seq)
            || self.registry.gone(asked.user, conversation).is_some_and(|gone| gone >= entry.seq)
        {
            return;
        }
        // The user is a member at the head in the store. Are they one at the last applied event?
        let covers = applied.is_some_and(|applied| applied <= place.head)
            || self.registry.covers(conversation, place.head, asked.subscription_epoch);
        if !covers {
            return;
        }
        let before = Seq(entry.seq.0 - 1);
        let effect = entry.effects.iter().find(|effect| effect.user == asked.name);
        let seen = match effect.map(|effect| effect.passage) {
            Some(Passage::In { seen }) => seen,
            // The event cannot be read.
            Some(Passage::Out) | None => before,
        };
        self.release();
        self.registry.join(asked.user, conversation, applied.unwrap_or(place.head));
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
