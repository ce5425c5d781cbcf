//! Which users are online on other nodes. A node keeps this in memory, and only for users whom one of its sessions watches.
//!
//! When a user comes online or goes offline on a node, that node publishes this to the nodes on which a session watches the user,
//! and to no other. Each node sends heartbeats. A node without a heartbeat for a lease counts as dead, and its users as offline.

mod lost_nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::{Timestamp, UserId};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use super::lookups::Lookup;
use super::{Presence, RemoteChange};
use crate::bus::{Address, Bus, NodeId, Notice};
use crate::node_name::NodeName;
use crate::router::registry::Registry;
use crate::router::registry::SessionSlot;
use switchboard_store::record::ConversationKey;

/// How long a node waits for other nodes to answer whether a user is online there. Without an answer in this time, the watchers are
/// notified that the user is offline.
const QUERY_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the log line about a new node waits for its name.
const NAME_TIMEOUT: Duration = Duration::from_secs(1);

/// The presence of users on other nodes.
#[derive(Debug)]
pub(super) struct RemotePresence {
    pub(super) bus: Arc<dyn Bus>,
    /// The nodes that are alive.
    nodes: FxHashMap<NodeId, RemoteNode>,
    /// The nodes that were lost, with their names. If one of them sends a notice again, the log says that it is back.
    lost_nodes: FxHashMap<NodeId, Option<NodeName>>,
    users: FxHashMap<UserId, RemoteUser>,
    /// For each watched user who blocks others: those, as the user's node has named them last.
    hidden_from: FxHashMap<UserId, Vec<UserId>>,
    queries: PendingQueries,
    /// Changes that wait for the store to say which conversations the user is in.
    pub(super) lookups: BTreeMap<UserId, Lookup>,
    /// When [`RemotePresence::silent_nodes`] last ran, to notice that this process was suspended.
    last_expiry_check: Instant,
    /// The number of the last presence notice that this node published.
    notice_number: u64,
}

/// A node that is alive.
#[derive(Debug)]
struct RemoteNode {
    /// When the node last sent a notice.
    received: Instant,
    /// When this node first received a notice of it.
    joined: Instant,
    /// The node's name, once it has sent its status.
    name: Option<NodeName>,
    /// Whether the log has a line that the node joined. The line waits for the name, but not for long: a node of an earlier version
    /// sends none.
    logged: bool,
}

impl RemoteNode {
    /// Logs that the node has joined, unless the log says so already.
    fn log_joined(&mut self, id: NodeId) {
        if !std::mem::replace(&mut self.logged, true) {
            tracing::info!(node = self.name.as_ref().map(display), node_id = %id, "node joined");
        }
    }
}

/// The presence of a user on each of the other nodes.
#[derive(Debug, Default)]
struct RemoteUser {
    nodes: FxHashMap<NodeId, NodePresence>,
}

/// The last presence notice of a node about a user. A notice that the user is offline is kept, too, because an earlier notice that
/// the user is online may arrive after it.
#[derive(Debug, Default)]
struct NodePresence {
    is_online: bool,
    /// Whether a later notice may have been lost. If so, a query about the user is pending.
    is_stale: bool,
    number: u64,
}

impl RemoteUser {
    fn is_online(&self) -> bool {
        self.nodes.values().any(|state| state.is_online)
    }
}

/// The pending queries to the other nodes whether users are online there.
#[derive(Debug, Default)]
struct PendingQueries {
    pending: FxHashMap<UserId, PendingQuery>,
    timeouts: DelayQueue<UserId>,
}

impl PendingQueries {
    /// Begins a query, unless one is pending.
    fn begin_query(&mut self, user: &UserId) {
        if !self.pending.contains_key(user) {
            let timeout = self.timeouts.insert(user.clone(), QUERY_TIMEOUT);
            let query = PendingQuery { timeout, sessions: WaitingWatchers::default() };
            self.pending.insert(user.clone(), query);
        }
    }

    /// Ends a query, and returns the sessions that wait for its answer.
    fn end_query(&mut self, user: &UserId) -> WaitingWatchers {
        let Some(query) = self.pending.remove(user) else { return WaitingWatchers::default() };
        self.timeouts.try_remove(&query.timeout);
        query.sessions
    }
}

/// A pending query to the other nodes whether a user is online there.
#[derive(Debug)]
struct PendingQuery {
    timeout: delay_queue::Key,
    sessions: WaitingWatchers,
}

/// Sessions that receive the presence of a user once the other nodes have answered the query or it has timed out. For each session:
/// what the store had answered when the session began to watch the user.
pub(super) type WaitingWatchers = FxHashMap<SessionSlot, KnownPresence>;

/// What the store answered when a session began to watch a user: that the two share a conversation. The watcher may have left it
/// since.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownPresence {
    /// When the user was last seen.
    pub(super) last_seen: Option<Timestamp>,
    /// How many conversations the watcher had left at that time. A higher number now means that the answer may be outdated.
    pub(super) departures: u64,
}

impl RemotePresence {
    pub(super) fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            nodes: FxHashMap::default(),
            lost_nodes: FxHashMap::default(),
            users: FxHashMap::default(),
            hidden_from: FxHashMap::default(),
            queries: PendingQueries::default(),
            lookups: BTreeMap::new(),
            last_expiry_check: Instant::now(),
            notice_number: 0,
        }
    }

    /// Whether a user is online on another node.
    pub(super) fn is_online(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(RemoteUser::is_online)
    }

    /// The users who do not get the presence of a user.
    pub(super) fn hidden_from(&self, user: &UserId) -> &[UserId] {
        self.hidden_from.get(user).map_or(&[], Vec::as_slice)
    }

    /// Returns the number for the next presence notice. Other nodes drop a notice whose number is not higher than the last one.
    pub(super) fn next_number(&mut self) -> u64 {
        self.notice_number += 1;
        self.notice_number
    }

    /// Subscribes to the presence of a user whom no session here watched before. The query is published once the subscription
    /// is active.
    pub(super) fn subscribe(&mut self, user: &UserId) {
        self.bus.subscribe(Address::Watched(user.clone()));
        self.queries.begin_query(user);
    }

    /// Unsubscribes from the presence of a user whom no session here watches any more.
    pub(super) fn unsubscribe(&mut self, user: &UserId) {
        self.bus.unsubscribe(Address::Watched(user.clone()));
        self.users.remove(user);
        self.hidden_from.remove(user);
        self.queries.end_query(user);
    }

    pub(super) fn query_timeouts(&mut self) -> &mut DelayQueue<UserId> {
        &mut self.queries.timeouts
    }

    /// Whether a query about a user is pending.
    pub(super) fn is_query_pending(&self, user: &UserId) -> bool {
        self.queries.pending.contains_key(user)
    }

    pub(super) fn wait_for_answer(&mut self, user: &UserId, session: SessionSlot, known: KnownPresence) {
        if let Some(query) = self.queries.pending.get_mut(user) {
            query.sessions.insert(session, known);
        }
    }

    pub(super) fn stop_waiting(&mut self, user: &UserId, session: SessionSlot) {
        if let Some(query) = self.queries.pending.get_mut(user) {
            query.sessions.remove(&session);
        }
    }

    /// Applies a presence notice of a node. Returns `false` if the notice is a duplicate, or older than one that was applied. Nodes
    /// of an earlier version do not number their notices: number 0 always applies.
    fn apply_notice(&mut self, node: NodeId, user: &UserId, online: bool, number: u64) -> bool {
        let state = self.users.entry(user.clone()).or_default().nodes.entry(node).or_default();
        let newer = number > state.number || number == 0;
        if newer {
            *state = NodePresence { is_online: online, is_stale: false, number };
        }
        newer
    }

    /// The nodes that have sent nothing for more than `lease`, each with the time since its last notice.
    fn silent_nodes(&mut self, lease: Duration) -> Vec<(NodeId, Duration)> {
        let late = self.last_expiry_check.elapsed() > lease;
        self.last_expiry_check = Instant::now();
        if late {
            // This process was suspended for a while, and has not read the notices of that time yet.
            self.nodes.values_mut().for_each(|node| node.received = Instant::now());
        }
        let silent = self.nodes.iter().map(|(id, node)| (*id, node.received.elapsed()));
        silent.filter(|(_, silence)| *silence > lease).collect()
    }

    /// Marks the users of a node, or of all nodes, as stale because notices may have been lost, and begins a query for each. A user
    /// whose node does not answer the query goes offline.
    fn mark_stale(&mut self, node: Option<NodeId>) {
        for (user, remote_user) in &mut self.users {
            let mut any = false;
            for (other, state) in &mut remote_user.nodes {
                if state.is_online && node.is_none_or(|node| node == *other) {
                    state.is_stale = true;
                    any = true;
                }
            }
            if any {
                self.queries.begin_query(user);
            }
        }
    }

    /// Forgets that a user is online on nodes that have not answered the query. Returns whether the user went offline by this.
    fn drop_stale(&mut self, user: &UserId) -> bool {
        let Some(remote_user) = self.users.get_mut(user) else { return false };
        let before = remote_user.is_online();
        for state in remote_user.nodes.values_mut() {
            state.is_online &= !std::mem::take(&mut state.is_stale);
        }
        before && !remote_user.is_online()
    }

    /// Logs the nodes that have joined and sent no name within [`NAME_TIMEOUT`].
    fn log_unnamed(&mut self) -> &mut Self {
        for (id, node) in &mut self.nodes {
            if node.joined.elapsed() > NAME_TIMEOUT {
                node.log_joined(*id);
            }
        }
        self
    }

    /// Removes a node. Returns the users who were online there and on no other node.
    fn remove_node(&mut self, node: NodeId) -> Vec<UserId> {
        self.nodes.remove(&node);
        let mut gone = Vec::new();
        self.users.retain(|user, remote_user| {
            let was_there = remote_user.nodes.remove(&node).is_some_and(|state| state.is_online);
            if was_there && !remote_user.is_online() {
                gone.push(user.clone());
            }
            !remote_user.nodes.is_empty()
        });
        gone
    }
}

impl Presence {
    /// Records that a node has sent a notice. If the node is new or counted as dead, publishes queries about all watched users, and
    /// returns `true`.
    pub(crate) fn record_heartbeat(&mut self, id: NodeId) -> bool {
        let Some(remote) = &mut self.remote else { return false };
        let now = Instant::now();
        if let Some(node) = remote.nodes.get_mut(&id) {
            node.received = now;
            return false;
        }
        let lost = remote.lost_nodes.remove(&id);
        if let Some(name) = &lost {
            tracing::info!(node = name.as_ref().map(display), node_id = %id, "node is back");
        }
        let logged = lost.is_some();
        let node = RemoteNode { received: now, joined: now, name: lost.flatten(), logged };
        remote.nodes.insert(id, node);
        self.query_watched_users();
        true
    }

    /// Records the name of a node.
    pub(crate) fn set_node_name(&mut self, id: NodeId, name: &NodeName) {
        if let Some(node) = self.remote.as_mut().and_then(|remote| remote.nodes.get_mut(&id)) {
            node.name.get_or_insert_with(|| name.clone());
            node.log_joined(id);
        }
    }

    /// Logs that a node has stopped.
    pub(crate) fn node_stopped(&mut self, id: NodeId) {
        let node = self.remote.as_mut().and_then(|remote| remote.nodes.get_mut(&id));
        let name = node.and_then(|node| {
            node.log_joined(id);
            node.name.clone()
        });
        tracing::info!(node = name.map(display), node_id = %id, "node stopped");
    }

    /// Publishes a presence query for each user whom a session here watches.
    fn query_watched_users(&self) {
        self.watchers.keys().for_each(|user| self.query(user));
    }

    /// Queries the presence of all watched users again, because notices of `node`, or of all nodes if it is `None`, may have been
    /// lost.
    pub(crate) fn mark_stale(&mut self, node: Option<NodeId>) {
        if let Some(remote) = &mut self.remote {
            remote.mark_stale(node);
        }
        self.query_watched_users();
    }

    /// Publishes a query to the other nodes whether a user is online there.
    pub(crate) fn query(&self, user: &UserId) {
        if let Some(remote) = &self.remote {
            remote.bus.publish(&Address::User(user.clone()), &Notice::PresenceQuery { user: user.clone() });
        }
    }

    /// Answers a presence query, if the user is online here.
    pub(crate) fn answer_query(&mut self, registry: &Registry, user: &UserId) {
        let local = registry.find_user(user).and_then(|slot| registry.user(slot));
        if let Some(local) = local.filter(|_| self.is_local(registry, user)) {
            self.publish_change(registry, user, &local.conversations, None);
        }
    }

    /// Applies the notice of another node that a user came online there (`last_seen` is `None`) or went offline.
    pub(crate) fn apply_remote_change(
        &mut self,
        registry: &Registry,
        node: NodeId,
        user: &UserId,
        change: RemoteChange,
    ) {
        let RemoteChange { last_seen, conversations, number, hidden_from } = change;
        let conversations = &conversations[..];
        let watched = self.watchers.contains_key(user);
        let local = self.is_local(registry, user);
        let Some(remote) = self.remote.as_mut().filter(|_| watched) else { return };
        let before = local || remote.is_online(user);
        if !remote.apply_notice(node, user, last_seen.is_none(), number) {
            return;
        }
        if hidden_from.is_empty() {
            remote.hidden_from.remove(user);
        } else {
            remote.hidden_from.insert(user.clone(), hidden_from);
        }
        let after = local || remote.is_online(user);
        if let Some(last_seen) = last_seen {
            self.departures.record(user, last_seen);
        }
        match (before, after) {
            (false, true) => self.send_online(registry, user, conversations),
            (true, false) => self.send_offline(registry, user, conversations, last_seen),
            _ => {}
        }
    }

    /// Sends to the watchers of a user that the user is offline. For watchers that are in none of `conversations`, the store is
    /// queried, because the user's node may not have learned of all conversations.
    pub(super) fn send_offline(
        &mut self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
        last_seen: Option<Timestamp>,
    ) {
        let others =
            self.send_to_watchers(registry, user, conversations, last_seen, &WaitingWatchers::default());
        self.queue_lookup(user, false, last_seen, others);
    }

    /// Sends to the watchers of a user that the user is online, once to each, including those that wait for other nodes' answers.
    /// For watchers that are in none of `conversations`, the store is queried, because the user's node may not have learned of all
    /// conversations.
    pub(super) fn send_online(
        &mut self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
    ) {
        let waiting = self.end_query(user);
        let mut others = self.send_to_watchers(registry, user, conversations, None, &waiting);
        others.extend(self.send_to_waiting(registry, user, conversations, waiting));
        self.queue_lookup(user, true, None, others);
    }

    /// Ends the query about a user, and returns the sessions that wait for its answer.
    fn end_query(&mut self, user: &UserId) -> WaitingWatchers {
        self.remote.as_mut().map(|remote| remote.queries.end_query(user)).unwrap_or_default()
    }

    /// Handles the time-out of a query: from now on the user counts as offline on every node that has not answered.
    pub(crate) fn query_timed_out(&mut self, registry: &Registry, user: &UserId, now: Timestamp) {
        let waiting = self.end_query(user);
        let gone = self.remote.as_mut().is_some_and(|remote| remote.drop_stale(user));
        if gone && !self.is_local(registry, user) {
            self.send_offline_by_node(user, now);
        }
        let last_seen = waiting.values().filter_map(|known| known.last_seen).max();
        let online = self.is_online(registry, user);
        let others = self.send_to_waiting(registry, user, &[], waiting);
        self.queue_lookup(user, online, last_seen, others);
    }

    /// Sends the presence of a user to sessions that have just begun to watch the user. The store has answered that each of them
    /// shares a conversation with the user. If a watcher has left any conversation since, that answer may be outdated, and the
    /// watcher must be in one of `conversations`. Returns the sessions whose answer is outdated and that are in none of them.
    fn send_to_waiting(
        &self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
        waiting: WaitingWatchers,
    ) -> BTreeSet<SessionSlot> {
        let mut others = BTreeSet::new();
        for (session, known) in waiting {
            let Some(watcher) = registry.session(session).map(|local| local.user) else { continue };
            let departures = registry.user(watcher).map(|local| local.leave_count);
            if departures == Some(known.departures) || registry.shares_conversation(conversations, watcher) {
                self.send_state(registry, session, user.clone(), known.last_seen);
            } else {
                others.insert(session);
            }
        }
        others
    }

    /// Removes the nodes that have sent nothing for a lease, and returns them. Their users go offline.
    pub(crate) fn expire_nodes(
        &mut self,
        registry: &Registry,
        lease: Duration,
        now: Timestamp,
        bus_connected: bool,
    ) -> Vec<NodeId> {
        let silent = self.remote.as_mut().map(RemotePresence::log_unnamed);
        let silent = silent.map(|remote| remote.silent_nodes(lease)).unwrap_or_default();
        for &(node, silence) in &silent {
            let silence = crate::timers::millis(silence);
            let last_received = Timestamp::from_millis(now.as_millis().saturating_sub(silence));
            self.remote.iter_mut().for_each(|remote| remote.remember_lost(node, bus_connected));
            self.remove_lost_node(registry, node, last_received);
        }
        silent.into_iter().map(|(node, _)| node).collect()
    }

    /// Sets the users of a node offline, last seen at `at`.
    pub(crate) fn remove_lost_node(&mut self, registry: &Registry, node: NodeId, at: Timestamp) {
        let users = self.remote.as_mut().map(|remote| remote.remove_node(node)).unwrap_or_default();
        for user in users {
            if !self.is_local(registry, &user) {
                self.send_offline_by_node(&user, at);
            }
        }
    }

    /// Sets a user offline whose node was lost or did not answer. Only that node knew which conversations the user is in, so the
    /// store is queried before watchers are notified.
    fn send_offline_by_node(&mut self, user: &UserId, at: Timestamp) {
        self.departures.record(user, at);
        let watchers = self.watchers.get(user).into_iter().flat_map(|watchers| watchers.iter().copied());
        self.queue_lookup(user, false, Some(at), watchers.collect());
    }
}
