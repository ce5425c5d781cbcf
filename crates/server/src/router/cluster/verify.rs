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
use super::store_reply::{CompareScope, StoreReply, UserQuery};
use crate::router::LocalNode;
use crate::router::registry::UserSlot;
use switchboard_store::record::ConversationKey;

/// The most users in one query.
const MAX_USERS_PER_QUERY: usize = 500;

/// The most memberships of one user that one query reads. They take the database some 10 ms.
const PAGE_SIZE: u32 = 2_000;

/// The number of memberships that one query is meant to read. No further user is added to a query once its users have this many
/// memberships, as far as this node knows.
const MAX_MEMBERSHIPS_PER_QUERY: usize = 20_000;

/// The most memberships of one user that one sweep compares. For a user with more, each sweep compares a portion, so that the
/// database does not have to read all memberships of an idle user every few seconds. Lost notices about the other memberships are
/// found some sweeps later.
const MEMBERSHIPS_PER_SWEEP: usize = 10_000;

/// The most conversations in a query of heads, and the most single memberships of one user that are looked up. For a user with more
/// of them, all memberships are compared instead.
const MAX_CONVERSATIONS_PER_USER: usize = 2_000;

/// The users and memberships that are still to be compared with the store.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    /// Users for whom all memberships are to be compared.
    users_to_compare: FxHashSet<UserSlot>,
    /// Conversations that users may have joined by an event that this node has not applied.
    memberships_to_query: FxHashMap<UserSlot, FxHashSet<ConversationKey>>,
    /// Users whose tokens may have been revoked.
    revocations_to_query: FxHashSet<UserSlot>,
    /// The users whose memberships the current sweep still has to compare.
    users_to_sweep: Vec<UserSlot>,
    /// The users whose revocations the current sweep still has to query.
    users_to_query_revocation: Vec<UserSlot>,
    /// Whether another sweep follows the current one at once.
    must_sweep_again: bool,
    /// Comparisons that continue with another page.
    next_pages: VecDeque<UserQuery>,
    /// Halves of queries that failed. Each half is sent alone, to find the user whose rows cause the failure.
    split_queries: Vec<Vec<UserQuery>>,
    /// Users whose query failed even without other users. The next sweep retries.
    failed: FxHashSet<UserSlot>,
    /// The number of the last query.
    pub(super) last_query_number: u64,
    querying_memberships: bool,
    querying_missing: bool,
    querying_revocations: bool,
}

impl Cluster {
    /// Begins to compare all users of this node with the store, unless the previous sweep is still running.
    pub(super) fn sweep(&mut self, node: &mut LocalNode) {
        if self.has_no_query() {
            node.registry.prune_leaves(node.recent.oldest_generation());
        }
        let comparisons = &mut self.comparisons;
        let failed = take(&mut comparisons.failed);
        comparisons.users_to_compare.extend(failed);
        if comparisons.users_to_query_revocation.is_empty() {
            comparisons.users_to_query_revocation = node.registry.users();
        }
        let portions =
            comparisons.next_pages.iter().any(|asked| matches!(asked.scope, CompareScope::NextPortion(_)));
        if comparisons.users_to_sweep.is_empty() && !portions {
            self.restart_sweep(node);
        }
    }

    /// Begins a sweep. If one is running, another follows it, so that every user is compared after this call.
    fn restart_sweep(&mut self, node: &LocalNode) {
        let comparisons = &mut self.comparisons;
        comparisons.must_sweep_again = !comparisons.users_to_sweep.is_empty();
        if !comparisons.must_sweep_again {
            comparisons.users_to_sweep = node.registry.users();
        }
    }

    /// Compares all memberships of all users because notices were lost.
    pub(super) fn compare_all_users(&mut self, node: &LocalNode) {
        let users = node.registry.users();
        self.comparisons.users_to_query_revocation.clone_from(&users);
        self.sweep_blocks(node);
        for user in users {
            // For a user with fewer conversations, the sweep compares all memberships anyway.
            if node.registry.user(user).is_some_and(|local| local.conversations.len() > MEMBERSHIPS_PER_SWEEP)
            {
                self.comparisons.users_to_compare.insert(user);
            }
        }
        self.restart_sweep(node);
    }

    /// Queries the heads of hosted conversations, because events may have been stored in them whose outcome this node did not
    /// learn.
    pub(super) fn query_heads_of(&mut self, node: &LocalNode, conversations: Vec<ConversationKey>) {
        let here = |conversation: &ConversationKey| node.registry.applied_seq(*conversation).is_some();
        self.heads_to_query.extend(conversations.into_iter().filter(here));
    }

    /// Compares a user with the store, because notices may have been missed. For a user whose sessions are all attaching, this
    /// waits until one of them is live.
    pub(super) fn compare_user_when_loaded(&mut self, node: &mut LocalNode, user: &UserId) {
        let Some(slot) = node.registry.find_user(user) else { return };
        let Some(local) = node.registry.user_mut(slot) else { return };
        local.must_compare |= local.attaching_sessions > 0 || !local.is_loaded;
        if local.is_loaded {
            self.compare_user(slot);
        }
    }

    /// Queries whether a user is a member of a conversation that this node does not host, because a notice says so.
    pub(super) fn query_membership_when_loaded(
        &mut self,
        node: &mut LocalNode,
        user: &UserId,
        conversation: ConversationKey,
    ) {
        let Some(slot) = node.registry.find_user(user) else { return };
        let Some(local) = node.registry.user_mut(slot) else { return };
        local.must_compare |= local.attaching_sessions > 0 || !local.is_loaded;
        if local.is_loaded {
            self.query_memberships(node, slot, &[conversation]);
        }
    }

    /// Queries whether the tokens of a user were revoked.
    pub(super) fn query_revocation_of(&mut self, node: &mut LocalNode, user: &UserId) {
        let Some(slot) = node.registry.find_user(user) else { return };
        let Some(local) = node.registry.user_mut(slot) else { return };
        local.must_compare |= local.attaching_sessions > 0;
        self.comparisons.revocations_to_query.insert(slot);
    }

    /// Compares all memberships of a user with the store, and queries whether their tokens were revoked.
    pub(super) fn compare_user(&mut self, user: UserSlot) {
        self.comparisons.users_to_compare.insert(user);
        self.comparisons.revocations_to_query.insert(user);
    }

    /// Queries whether a user is a member of conversations.
    pub(super) fn query_memberships(
        &mut self,
        node: &LocalNode,
        user: UserSlot,
        conversations: &[ConversationKey],
    ) {
        let entries = self.comparisons.memberships_to_query.entry(user).or_default();
        entries.extend(conversations);
        // For an attaching user the number is bounded, too: at most a page for each session.
        let loaded = node.registry.user(user).is_some_and(|local| local.is_loaded);
        if entries.len() > MAX_CONVERSATIONS_PER_USER && loaded {
            self.comparisons.memberships_to_query.remove(&user);
            self.compare_user(user);
        }
    }

    /// Sends all queries to the store that are due.
    pub(super) fn query_store(&mut self, node: &mut LocalNode) {
        self.query_presence(node);
        self.query_revocations(node);
        self.send_membership_queries(node);
        self.send_comparison_queries(node);
        self.query_heads();
        self.query_blocks(node);
    }

    fn query_heads(&mut self) {
        if self.querying_heads || self.heads_to_query.is_empty() {
            return;
        }
        let asked: Vec<_> =
            std::iter::from_fn(|| self.heads_to_query.pop_first()).take(MAX_CONVERSATIONS_PER_USER).collect();
        self.querying_heads = true;
        let answer = self.store.heads(asked.clone());
        self.query(answer, move |result| StoreReply::Heads { asked, result });
    }

    fn query_revocations(&mut self, node: &mut LocalNode) {
        let comparisons = &mut self.comparisons;
        if comparisons.querying_revocations
            || comparisons.revocations_to_query.is_empty() && comparisons.users_to_query_revocation.is_empty()
        {
            return;
        }
        let mut users: Vec<_> =
            comparisons.revocations_to_query.iter().take(MAX_USERS_PER_QUERY).copied().collect();
        for user in &users {
            comparisons.revocations_to_query.remove(user);
        }
        let rest =
            comparisons.users_to_query_revocation.len().saturating_sub(MAX_USERS_PER_QUERY - users.len());
        users.extend(comparisons.users_to_query_revocation.drain(rest..));
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

    fn send_membership_queries(&mut self, node: &mut LocalNode) {
        if self.comparisons.querying_missing || self.comparisons.memberships_to_query.is_empty() {
            return;
        }
        let users: Vec<_> =
            self.comparisons.memberships_to_query.keys().take(MAX_USERS_PER_QUERY).copied().collect();
        let question = self.next_query_number();
        let (mut asked, mut pairs) = (Vec::new(), Vec::new());
        for user in users {
            if pairs.len() >= MAX_CONVERSATIONS_PER_USER {
                break;
            }
            let Some(conversations) = self.comparisons.memberships_to_query.remove(&user) else { continue };
            let scope = CompareScope::Conversations(conversations.iter().copied().collect());
            let Some(ask) = new_query(node, user, question, scope, ConversationKey::MIN) else { continue };
            pairs.extend(conversations.iter().map(|conversation| (ask.name.clone(), *conversation)));
            asked.push((ask, conversations.into_iter().collect()));
        }
        if asked.is_empty() {
            return;
        }
        self.comparisons.querying_missing = true;
        let answer = self.store.current_memberships(pairs);
        self.query(answer, move |result| StoreReply::MissingMemberships { asked, result });
    }

    fn send_comparison_queries(&mut self, node: &mut LocalNode) {
        if self.comparisons.querying_memberships {
            return;
        }
        let asked = self.next_users(node);
        if asked.is_empty() {
            return;
        }
        self.comparisons.querying_memberships = true;
        let users = asked.iter().map(|asked| (asked.name.clone(), asked.after)).collect();
        let answer = self.store.membership_pages(users, PAGE_SIZE);
        self.query(answer, move |result| StoreReply::Memberships { asked, result });
    }

    fn next_query_number(&mut self) -> u64 {
        self.comparisons.last_query_number += 1;
        self.comparisons.last_query_number
    }

    /// Chooses the users of the next query of memberships, in turn from three queues: users with possibly missed notices,
    /// comparisons that continue with another page, and users of the sweep. So no queue has to wait until another is empty.
    fn next_users(&mut self, node: &mut LocalNode) -> Vec<UserQuery> {
        let comparisons = &mut self.comparisons;
        if let Some(part) = comparisons.split_queries.pop() {
            return part.into_iter().filter_map(|asked| refresh_query(node, asked)).collect();
        }
        if comparisons.users_to_sweep.is_empty() && take(&mut comparisons.must_sweep_again) {
            comparisons.users_to_sweep = node.registry.users();
        }
        let question = self.next_query_number();
        let (mut asked, mut places, mut without) = (Vec::new(), 0, 0);
        for turn in 0.. {
            if asked.len() >= MAX_USERS_PER_QUERY || places >= MAX_MEMBERSHIPS_PER_QUERY || without == 3 {
                break;
            }
            let Some((user, next)) = self.next_user(node, turn % 3, question) else {
                without += 1;
                continue;
            };
            without = 0;
            let known = node.registry.user(user).map_or(0, |local| local.conversations.len());
            if let Some(next) = next {
                places += known.min(PAGE_SIZE as usize);
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
                let user = comparisons.users_to_compare.iter().next().copied()?;
                comparisons.users_to_compare.remove(&user);
                let asked = query_if_loaded(node, user, question, CompareScope::All, ConversationKey::MIN);
                if let Some(local) = node.registry.user_mut(user).filter(|_| asked.is_some()) {
                    local.last_query = question;
                }
                Some((user, asked))
            }
            1 => {
                let asked = comparisons.next_pages.pop_front()?;
                Some((asked.user, refresh_query(node, asked)))
            }
            _ => {
                let user = comparisons.users_to_sweep.pop()?;
                let after = node.registry.user(user).map_or(ConversationKey::MIN, |local| local.last_swept);
                Some((
                    user,
                    query_if_loaded(
                        node,
                        user,
                        question,
                        CompareScope::NextPortion(MEMBERSHIPS_PER_SWEEP),
                        after,
                    ),
                ))
            }
        }
    }
}

/// A query about a user; `None` unless the user is connected and their conversations are loaded.
fn query_if_loaded(
    node: &LocalNode,
    user: UserSlot,
    question: u64,
    scope: CompareScope,
    after: ConversationKey,
) -> Option<UserQuery> {
    node.registry.user(user).filter(|local| local.is_loaded)?;
    new_query(node, user, question, scope, after)
}

fn new_query(
    node: &LocalNode,
    user: UserSlot,
    question: u64,
    scope: CompareScope,
    after: ConversationKey,
) -> Option<UserQuery> {
    let local = node.registry.user(user)?;
    let (name, departures, subscription_epoch) =
        (local.name.clone(), local.leave_count, node.registry.subscription_epoch());
    let whole = after == ConversationKey::MIN;
    Some(UserQuery {
        user,
        name,
        query_number: question,
        departures,
        subscription_epoch,
        scope,
        after,
        covers_all_memberships: whole,
        found_unknown_membership: false,
    })
}

/// The same query, updated to the current state of the user because it is sent again.
fn refresh_query(node: &LocalNode, asked: UserQuery) -> Option<UserQuery> {
    let local = node.registry.user(asked.user).filter(|local| local.name == asked.name && local.is_loaded)?;
    Some(UserQuery {
        departures: local.leave_count,
        subscription_epoch: node.registry.subscription_epoch(),
        ..asked
    })
}

/// Whether the user has left no conversation since the query was sent; `None` if the user is no longer connected to this node.
fn has_not_left_since(node: &LocalNode, asked: &UserQuery) -> Option<bool> {
    let local = node.registry.user(asked.user).filter(|local| local.name == asked.name)?;
    Some(local.leave_count == asked.departures)
}

#[cfg(test)]
mod tests;
