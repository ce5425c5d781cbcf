//! Compares the memberships on this node with the store, because the bus may lose notices of other nodes.
//!
//! The comparison only finds how far the log of a conversation goes. The router then reads the log in its order, from the last
//! applied event on, and the events change the memberships. So an outdated answer does no harm.
//!
//! There are three kinds of queries. At most one query of each kind is pending, and none waits for another kind. *Revocations*
//! reads for each user the time up to which issued tokens are revoked. *Places* reads a page of memberships for each of some users.
//! *Newcomers* looks up single memberships (user, conversation) that this node does not know, although a notice or a page of
//! another session names them.

mod answers;

use std::collections::VecDeque;
use std::mem::take;

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::UserId;

use super::Cluster;
use super::store_reply::{Scope, StoreReply, UserQuery};
use crate::router::LocalNode;
use crate::router::registry::UserSlot;
use switchboard_store::record::ConversationKey;

/// The most users in one query.
const MAX_USERS: usize = 500;

/// The most memberships of one user that one query reads. They take the database some 10 ms.
const PAGE: u32 = 2_000;

/// The number of memberships that one query is meant to read. No further user is added to a query once its users have this many
/// memberships, as far as this node knows.
const MAX_PLACES: usize = 20_000;

/// The most memberships of one user that one sweep compares. For a user with more, each sweep compares a portion, so that the
/// database does not have to read all memberships of an idle user every few seconds. Lost notices about the other memberships are
/// found some sweeps later.
const PORTION: usize = 10_000;

/// The most conversations in a query of heads, and the most single memberships of one user that are looked up. For a user with more
/// of them, all memberships are compared instead.
const CONVERSATIONS: usize = 2_000;

/// The users and memberships that are still to be compared with the store.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    /// Users for whom all memberships are to be compared.
    all: FxHashSet<UserSlot>,
    /// Conversations that users may have joined by an event that this node has not applied.
    newcomers: FxHashMap<UserSlot, FxHashSet<ConversationKey>>,
    /// Users whose tokens may have been revoked.
    revoked: FxHashSet<UserSlot>,
    /// The users whose memberships the current sweep still has to compare.
    to_sweep: Vec<UserSlot>,
    /// The users whose revocations the current sweep still has to query.
    to_ask: Vec<UserSlot>,
    /// Whether another sweep follows the current one at once.
    sweep_again: bool,
    /// Comparisons that continue with another page.
    pages: VecDeque<UserQuery>,
    /// Halves of queries that failed. Each half is sent alone, to find the user whose rows cause the failure.
    parts: Vec<Vec<UserQuery>>,
    /// Users whose query failed even without other users. The next sweep retries.
    failed: FxHashSet<UserSlot>,
    /// The number of the last query.
    pub(super) questions: u64,
    querying_places: bool,
    querying_newcomers: bool,
    querying_revocations: bool,
}

impl Cluster {
    /// Begins to compare all users of this node with the store, unless the previous sweep is still running.
    pub(super) fn sweep(&mut self, node: &mut LocalNode) {
        if self.awaits_nothing() {
            node.registry.prune_gone(node.recent.oldest());
        }
        let comparisons = &mut self.comparisons;
        let failed = take(&mut comparisons.failed);
        comparisons.all.extend(failed);
        if comparisons.to_ask.is_empty() {
            comparisons.to_ask = node.registry.users();
        }
        let portions = comparisons.pages.iter().any(|asked| matches!(asked.scope, Scope::Portion(_)));
        if comparisons.to_sweep.is_empty() && !portions {
            self.sweep_anew(node);
        }
    }

    /// Begins a sweep. If one is running, another follows it, so that every user is compared after this call.
    fn sweep_anew(&mut self, node: &LocalNode) {
        let comparisons = &mut self.comparisons;
        comparisons.sweep_again = !comparisons.to_sweep.is_empty();
        if !comparisons.sweep_again {
            comparisons.to_sweep = node.registry.users();
        }
    }

    /// Compares all memberships of all users because notices were lost.
    pub(super) fn verify_all(&mut self, node: &LocalNode) {
        let users = node.registry.users();
        self.comparisons.to_ask.clone_from(&users);
        for user in users {
            // For a user with fewer conversations, the sweep compares all memberships anyway.
            if node.registry.user(user).is_some_and(|local| local.conversations.len() > PORTION) {
                self.comparisons.all.insert(user);
            }
        }
        self.sweep_anew(node);
    }

    /// Queries the heads of hosted conversations, because events may have been stored in them whose outcome this node did not
    /// learn.
    pub(super) fn check(&mut self, node: &LocalNode, conversations: Vec<ConversationKey>) {
        let here = |conversation: &ConversationKey| node.registry.applied(*conversation).is_some();
        self.unchecked.extend(conversations.into_iter().filter(here));
    }

    /// Compares a user with the store, because notices may have been missed. For a user whose sessions are all attaching, this
    /// waits until one of them is live.
    pub(super) fn suspect(&mut self, node: &mut LocalNode, user: &UserId) {
        let Some(slot) = node.registry.find(user) else { return };
        let Some(local) = node.registry.user_mut(slot) else { return };
        local.suspect |= local.entering > 0 || !local.loaded;
        if local.loaded {
            self.verify(slot);
        }
    }

    /// Queries whether a user is a member of a conversation that this node does not host, because a notice says so.
    pub(super) fn suspect_membership(
        &mut self,
        node: &mut LocalNode,
        user: &UserId,
        conversation: ConversationKey,
    ) {
        let Some(slot) = node.registry.find(user) else { return };
        let Some(local) = node.registry.user_mut(slot) else { return };
        local.suspect |= local.entering > 0 || !local.loaded;
        if local.loaded {
            self.verify_membership(node, slot, &[conversation]);
        }
    }

    /// Queries whether the tokens of a user were revoked.
    pub(super) fn suspect_revoked(&mut self, node: &mut LocalNode, user: &UserId) {
        let Some(slot) = node.registry.find(user) else { return };
        let Some(local) = node.registry.user_mut(slot) else { return };
        local.suspect |= local.entering > 0;
        self.comparisons.revoked.insert(slot);
    }

    /// Compares all memberships of a user with the store, and queries whether their tokens were revoked.
    pub(super) fn verify(&mut self, user: UserSlot) {
        self.comparisons.all.insert(user);
        self.comparisons.revoked.insert(user);
    }

    /// Queries whether a user is a member of conversations.
    pub(super) fn verify_membership(
        &mut self,
        node: &LocalNode,
        user: UserSlot,
        conversations: &[ConversationKey],
    ) {
        let entries = self.comparisons.newcomers.entry(user).or_default();
        entries.extend(conversations);
        // For an attaching user the number is bounded, too: at most a page for each session.
        let loaded = node.registry.user(user).is_some_and(|local| local.loaded);
        if entries.len() > CONVERSATIONS && loaded {
            self.comparisons.newcomers.remove(&user);
            self.verify(user);
        }
    }

    /// Sends all queries to the store that are due.
    pub(super) fn query_store(&mut self, node: &mut LocalNode) {
        self.query_presence(node);
        self.query_revocations(node);
        self.query_newcomers(node);
        self.query_places(node);
        self.query_heads();
    }

    fn query_heads(&mut self) {
        if self.checking || self.unchecked.is_empty() {
            return;
        }
        let asked: Vec<_> = std::iter::from_fn(|| self.unchecked.pop_first()).take(CONVERSATIONS).collect();
        self.checking = true;
        let answer = self.store.heads(asked.clone());
        self.query(answer, move |result| StoreReply::Heads { asked, result });
    }

    fn query_revocations(&mut self, node: &mut LocalNode) {
        let comparisons = &mut self.comparisons;
        if comparisons.querying_revocations || comparisons.revoked.is_empty() && comparisons.to_ask.is_empty()
        {
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
            .filter_map(|user| node.registry.user(*user))
            .filter(|local| !local.sessions.is_empty())
            .map(|local| local.name.clone())
            .collect();
        if names.is_empty() {
            return;
        }
        comparisons.querying_revocations = true;
        let answer = self.store.revocations(names);
        self.query(answer, move |result| StoreReply::Revocations { asked: users, result });
    }

    fn query_newcomers(&mut self, node: &mut LocalNode) {
        if self.comparisons.querying_newcomers || self.comparisons.newcomers.is_empty() {
            return;
        }
        let users: Vec<_> = self.comparisons.newcomers.keys().take(MAX_USERS).copied().collect();
        let question = self.next_query_number();
        let (mut asked, mut pairs) = (Vec::new(), Vec::new());
        for user in users {
            if pairs.len() >= CONVERSATIONS {
                break;
            }
            let Some(conversations) = self.comparisons.newcomers.remove(&user) else { continue };
            let scope = Scope::Some(conversations.iter().copied().collect());
            let Some(ask) = query_of(node, user, question, scope, ConversationKey::MIN) else { continue };
            pairs.extend(conversations.iter().map(|conversation| (ask.name.clone(), *conversation)));
            asked.push((ask, conversations.into_iter().collect()));
        }
        if asked.is_empty() {
            return;
        }
        self.comparisons.querying_newcomers = true;
        let answer = self.store.memberships_in(pairs);
        self.query(answer, move |result| StoreReply::Newcomers { asked, result });
    }

    fn query_places(&mut self, node: &mut LocalNode) {
        if self.comparisons.querying_places {
            return;
        }
        let asked = self.next_users(node);
        if asked.is_empty() {
            return;
        }
        self.comparisons.querying_places = true;
        let users = asked.iter().map(|asked| (asked.name.clone(), asked.after)).collect();
        let answer = self.store.places(users, PAGE);
        self.query(answer, move |result| StoreReply::Places { asked, result });
    }

    fn next_query_number(&mut self) -> u64 {
        self.comparisons.questions += 1;
        self.comparisons.questions
    }

    /// Chooses the users of the next query of memberships, in turn from three queues: users with possibly missed notices,
    /// comparisons that continue with another page, and users of the sweep. So no queue has to wait until another is empty.
    fn next_users(&mut self, node: &mut LocalNode) -> Vec<UserQuery> {
        let comparisons = &mut self.comparisons;
        if let Some(part) = comparisons.parts.pop() {
            return part.into_iter().filter_map(|asked| renew(node, asked)).collect();
        }
        if comparisons.to_sweep.is_empty() && take(&mut comparisons.sweep_again) {
            comparisons.to_sweep = node.registry.users();
        }
        let question = self.next_query_number();
        let (mut asked, mut places, mut without) = (Vec::new(), 0, 0);
        for turn in 0.. {
            if asked.len() >= MAX_USERS || places >= MAX_PLACES || without == 3 {
                break;
            }
            let Some((user, next)) = self.next_user(node, turn % 3, question) else {
                without += 1;
                continue;
            };
            without = 0;
            let known = node.registry.user(user).map_or(0, |local| local.conversations.len());
            if let Some(next) = next {
                places += known.min(PAGE as usize);
                asked.push(next);
            }
        }
        asked
    }

    /// Removes the next user from one of the three queues. Returns the user, and the query if the user is still connected.
    fn next_user(
        &mut self,
        node: &mut LocalNode,
        queue: usize,
        question: u64,
    ) -> Option<(UserSlot, Option<UserQuery>)> {
        let comparisons = &mut self.comparisons;
        match queue {
            0 => {
                let user = comparisons.all.iter().next().copied()?;
                comparisons.all.remove(&user);
                let asked = connected(node, user, question, Scope::All, ConversationKey::MIN);
                if let Some(local) = node.registry.user_mut(user).filter(|_| asked.is_some()) {
                    local.asked = question;
                }
                Some((user, asked))
            }
            1 => {
                let asked = comparisons.pages.pop_front()?;
                Some((asked.user, renew(node, asked)))
            }
            _ => {
                let user = comparisons.to_sweep.pop()?;
                let after = node.registry.user(user).map_or(ConversationKey::MIN, |local| local.swept);
                Some((user, connected(node, user, question, Scope::Portion(PORTION), after)))
            }
        }
    }
}

/// A query about a user; `None` unless the user is connected and their conversations are loaded.
fn connected(
    node: &LocalNode,
    user: UserSlot,
    question: u64,
    scope: Scope,
    after: ConversationKey,
) -> Option<UserQuery> {
    node.registry.user(user).filter(|local| local.loaded)?;
    query_of(node, user, question, scope, after)
}

fn query_of(
    node: &LocalNode,
    user: UserSlot,
    question: u64,
    scope: Scope,
    after: ConversationKey,
) -> Option<UserQuery> {
    let local = node.registry.user(user)?;
    let (name, departures, subscription_epoch) =
        (local.name.clone(), local.departures, node.registry.subscription_epoch());
    let whole = after == ConversationKey::MIN;
    Some(UserQuery { user, name, question, departures, subscription_epoch, scope, after, whole, open: false })
}

/// The same query, updated to the current state of the user because it is sent again.
fn renew(node: &LocalNode, asked: UserQuery) -> Option<UserQuery> {
    let local = node.registry.user(asked.user).filter(|local| local.name == asked.name && local.loaded)?;
    Some(UserQuery {
        departures: local.departures,
        subscription_epoch: node.registry.subscription_epoch(),
        ..asked
    })
}

/// Whether the user has left no conversation since the query was sent; `None` if the user is no longer connected to this node.
fn is_current(node: &LocalNode, asked: &UserQuery) -> Option<bool> {
    let local = node.registry.user(asked.user).filter(|local| local.name == asked.name)?;
    Some(local.departures == asked.departures)
}

#[cfg(test)]
mod tests;
