//! Applies the answers of the store to the registry.

use rustc_hash::FxHashSet;
use switchboard_protocol::{CloseCode, Seq, Timestamp};

use super::has_not_left_since;
use crate::metrics::DropReason;
use crate::router::LocalNode;
use crate::router::cluster::Cluster;
use crate::router::cluster::store_reply::{
    CompareScope, EntryQuery, StoreReply, UnknownMembership, UserQuery,
};
use crate::router::registry::UserSlot;
use switchboard_store::ban::Standing;
use switchboard_store::record::{ConversationKey, Effect, JoinOrLeave};
use switchboard_store::refusal::Refusal;
use switchboard_store::{CommittedEvent, CurrentMembership, LogExcerpt, MembershipsPage, Revocations, Seqs};

impl Cluster {
    pub(in crate::router::cluster) fn apply_heads(
        &mut self,
        node: &mut LocalNode,
        asked: &[ConversationKey],
        result: Result<Seqs, Refusal>,
    ) {
        self.querying_heads = false;
        match result {
            Ok(heads) => {
                for (conversation, head) in heads {
                    self.expect_event(node, conversation, head);
                }
            }
            Err(_) => {
                let registry = &node.registry;
                self.heads_to_query
                    .extend(asked.iter().filter(|asked| registry.applied_seq(**asked).is_some()));
            }
        }
    }

    /// Closes the connections that attached before a revocation, and those of banned users.
    pub(in crate::router::cluster) fn apply_revocations(
        &mut self,
        node: &mut LocalNode,
        asked: Vec<UserSlot>,
        result: Result<Revocations, Refusal>,
    ) {
        self.comparisons.querying_revocations = false;
        let Ok(revocations) = result else {
            self.comparisons.revocations_to_query.extend(asked);
            return;
        };
        for (name, Standing { not_before, ban }) in revocations {
            let Some(user) = node.registry.find_user(&name) else { continue };
            if let Some(not_before) = not_before {
                close_revoked(node, user, not_before);
            }
            if let Some(ban) = ban {
                node.close_banned(&name, &ban);
            }
        }
    }

    pub(in crate::router::cluster) fn apply_missing_memberships(
        &mut self,
        node: &mut LocalNode,
        asked: Vec<EntryQuery>,
        result: Result<Vec<Option<CurrentMembership>>, Refusal>,
    ) {
        self.comparisons.querying_missing = false;
        let Ok(places) = result else {
            for (asked, conversations) in asked {
                self.query_memberships(node, asked.user, &conversations);
            }
            return;
        };
        let mut places = places.into_iter();
        for (asked, conversations) in asked {
            let places: Vec<_> = places.by_ref().take(conversations.len()).flatten().collect();
            match has_not_left_since(node, &asked) {
                Some(true) => {}
                Some(false) => {
                    self.query_memberships(node, asked.user, &conversations);
                    continue;
                }
                None => continue,
            }
            let open = self.compare_memberships(node, &asked, &places);
            record_joins(node, &asked, &places);
            node.parked.wake_for_user(asked.user);
            self.expect_leaves(node, &asked, &conversations, &places);
            let local =
                node.registry.user_mut(asked.user).filter(|local| !open && local.attaching_sessions > 0);
            if let Some(local) = local {
                let answered = conversations.iter().map(|conversation| (*conversation, asked.query_number));
                local.last_answers.extend(answered);
            }
        }
    }

    pub(in crate::router::cluster) fn apply_memberships(
        &mut self,
        node: &mut LocalNode,
        mut asked: Vec<UserQuery>,
        result: Result<Vec<MembershipsPage>, Refusal>,
    ) {
        self.comparisons.querying_memberships = false;
        let Ok(pages) = result else {
            if asked.len() > 1 {
                // The rows of one user may cause the failure, so each half is queried alone.
                let second = asked.split_off(asked.len() / 2);
                self.comparisons.split_queries.extend([second, asked]);
            } else {
                self.postpone_to_next_sweep(asked);
            }
            return;
        };
        for (asked, page) in asked.into_iter().zip(pages) {
            match has_not_left_since(node, &asked) {
                Some(true) => self.apply_page(node, asked, &page),
                Some(false) => self.continue_query(asked),
                None => {}
            }
        }
    }

    /// Postpones users whose query failed even without other users to the next sweep.
    fn postpone_to_next_sweep(&mut self, asked: Vec<UserQuery>) {
        for asked in asked {
            if self.comparisons.failed.is_empty() {
                tracing::warn!(user = %asked.name, "failed to compare memberships with the database; the next sweep retries");
            }
            self.comparisons.failed.insert(asked.user);
        }
    }

    fn continue_query(&mut self, asked: UserQuery) {
        self.comparisons.next_pages.push_back(asked);
    }

    /// Compares a page of memberships with the registry, and continues with the next page.
    fn apply_page(&mut self, node: &mut LocalNode, mut asked: UserQuery, page: &MembershipsPage) {
        asked.found_unknown_membership |= self.compare_memberships(node, &asked, &page.memberships);
        let here = node.registry.user(asked.user).map_or(&[][..], |local| &local.conversations);
        let first = here.partition_point(|here| *here <= asked.after);
        let end = page.next.map_or(here.len(), |next| here.partition_point(|here| *here <= next));
        let here = here.get(first..end).unwrap_or_default().to_vec();
        self.expect_leaves(node, &asked, &here, &page.memberships);
        let Some(local) = node.registry.user_mut(asked.user) else { return };
        match (page.next, &mut asked.scope) {
            (Some(next), CompareScope::NextPortion(left)) => {
                local.last_swept = next;
                *left = left.saturating_sub(page.memberships.len().max(1));
                if *left > 0 {
                    self.continue_query(UserQuery { after: next, ..asked });
                }
            }
            (Some(next), _) => self.continue_query(UserQuery { after: next, ..asked }),
            (None, _) => {
                local.last_swept = ConversationKey::MIN;
                if asked.covers_all_memberships && !asked.found_unknown_membership {
                    local.last_full_answer = local.last_full_answer.max(asked.query_number);
                    node.parked.wake_for_user(asked.user);
                }
            }
        }
    }

    /// Compares memberships in the store with those on this node. Returns whether this node does not know some of them, and looks
    /// those up.
    fn compare_memberships(
        &mut self,
        node: &LocalNode,
        asked: &UserQuery,
        joined: &[CurrentMembership],
    ) -> bool {
        let mut open = false;
        for place in joined {
            let applied = node.registry.applied_seq(place.conversation);
            if node.registry.is_member(asked.user, place.conversation)
                // Applying the log adds the user.
                || applied.is_some_and(|applied| applied < place.since)
            {
                self.expect_event(node, place.conversation, place.head);
            } else {
                open = true;
                self.read_join_event(asked, *place);
            }
        }
        open
    }

    /// Queries the heads of conversations that are not in `places`, although the user is a member on this node: the user has left
    /// them by events that this node has not applied.
    fn expect_leaves(
        &mut self,
        node: &LocalNode,
        asked: &UserQuery,
        conversations: &[ConversationKey],
        places: &[CurrentMembership],
    ) {
        let places: FxHashSet<_> = places.iter().map(|place| place.conversation).collect();
        let registry = &node.registry;
        let missing = conversations
            .iter()
            .filter(|here| !places.contains(here) && registry.is_member(asked.user, **here));
        self.heads_to_query.extend(missing);
    }

    /// Reads the event by which a user joined a conversation.
    fn read_join_event(&mut self, asked: &UserQuery, place: CurrentMembership) {
        let entry = place.since.max(Seq(1));
        let answer = self.store.read_log(place.conversation, Seq(entry.0 - 1), entry);
        let newcomer = UnknownMembership { query: asked.clone(), membership: place };
        self.query(answer, move |result| StoreReply::Entry { newcomer, result });
    }

    pub(in crate::router::cluster) fn apply_join_events(
        &mut self,
        node: &mut LocalNode,
        newcomer: UnknownMembership,
        result: Result<LogExcerpt, Refusal>,
    ) {
        let UnknownMembership { query: asked, membership: place } = newcomer;
        let Some(current) = has_not_left_since(node, &asked) else { return };
        let entry = result.map(|excerpt| excerpt.events.into_iter().next());
        if matches!(entry, Ok(None)) {
            tracing::error!(?place, "the event by which a member joined is missing from the database");
            return;
        }
        // The query is repeated in each case, because a session may wait for an answer in which this node knows all memberships.
        match &asked.scope {
            CompareScope::All => self.compare_user(asked.user),
            CompareScope::NextPortion(_) => self.query_memberships(node, asked.user, &[place.conversation]),
            CompareScope::Conversations(conversations) => {
                self.query_memberships(node, asked.user, &conversations.clone());
            }
        }
        if let (Ok(Some(entry)), true) = (entry, current) {
            self.add_member(node, &asked, place, &entry);
        }
    }

    /// Adds a user to the members of a conversation, although this node has not applied the event by which the user joined, or
    /// applied it before it knew the user.
    fn add_member(
        &mut self,
        node: &mut LocalNode,
        asked: &UserQuery,
        place: CurrentMembership,
        entry: &CommittedEvent,
    ) {
        let conversation = place.conversation;
        let applied = node.registry.applied_seq(conversation);
        if node.registry.is_member(asked.user, conversation)
            || applied.is_some_and(|applied| applied < entry.seq)
            || node.registry.recorded_leave_of(asked.user, conversation).is_some_and(|gone| gone >= entry.seq)
        {
            return;
        }
        // The user is a member at the head in the store. This checks that they are also a member at the last applied event.
        let covers = applied.is_some_and(|applied| applied <= place.head)
            || node.registry.is_membership_current(conversation, place.head, asked.subscription_epoch);
        if !covers {
            return;
        }
        let before = Seq(entry.seq.0 - 1);
        let effect = entry.effects.iter().find(|effect| effect.user == asked.name);
        let seen = match effect.map(|effect| effect.join_or_leave) {
            Some(JoinOrLeave::Join { seen }) => seen,
            // The event does not contain the join, because it could not be decoded.
            Some(JoinOrLeave::Leave) | None => before,
        };
        node.flush_coalesced();
        node.registry.add_member(asked.user, conversation, applied.unwrap_or(place.head));
        node.record_changes(
            conversation,
            entry.seq,
            &[Effect { user: asked.name.clone(), join_or_leave: JoinOrLeave::Join { seen } }],
        );
        let head = node.registry.head(conversation).unwrap_or(place.head);
        if entry.is_imported {
            // No session receives what was imported, before a live event follows it.
            return self.expect_event(node, conversation, place.head);
        }
        node.queue_missed_events(asked.user, conversation, &entry.name, seen, before);
        for outbox in node.registry.sessions_of(&asked.name) {
            outbox.push_lag(conversation, before, head);
        }
        self.expect_event(node, conversation, place.head);
    }
}

fn close_revoked(node: &LocalNode, user: UserSlot, not_before: Timestamp) {
    let sessions = node.registry.user(user).map_or(&[][..], |local| &local.sessions);
    for session in sessions.iter().filter_map(|session| node.registry.session(*session)) {
        if session.is_live && session.not_before < Some(not_before) {
            node.metrics.count_dropped(DropReason::Revoked);
            session.outbox.close(CloseCode::Revoked);
        }
    }
}

/// Records for attaching sessions by which events their user joined, because the page of a session may be older than these events.
fn record_joins(node: &mut LocalNode, asked: &UserQuery, places: &[CurrentMembership]) {
    for place in places {
        let (conversation, since) = (place.conversation, place.since.max(Seq(1)));
        let applied = node.registry.applied_seq(conversation);
        let known = node.registry.user(asked.user).is_none_or(|local| {
            local
                .changes_while_attaching
                .iter()
                .any(|change| change.conversation == conversation && change.seq >= since)
        });
        if node.registry.is_member(asked.user, conversation) && applied >= Some(since) && !known {
            let seen = Seq(since.0 - 1);
            let effect = Effect { user: asked.name.clone(), join_or_leave: JoinOrLeave::Join { seen } };
            node.record_changes(conversation, since, &[effect]);
        }
    }
}
