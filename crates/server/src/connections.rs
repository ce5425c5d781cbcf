//! The connections of this node, as an operator sees and closes them. Sessions enter and leave this table; the router's work never
//! waits for it.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use switchboard_protocol::{CloseCode, Device, Timestamp, UserId};
use uuid::Uuid;

use crate::metrics::{DropReason, Metrics};
use crate::node_name::NodeName;
use crate::outbox::Outbox;

/// The table is divided so that a list of all connections holds no lock for long.
const SHARDS: usize = 16;

/// The most connections in one answer.
pub(crate) const MAX_LISTED_CONNECTIONS: usize = 100;

/// The most bytes of a `User-Agent` that are kept. Browsers send 80 to 150.
const MAX_AGENT_BYTES: usize = 160;

/// The connections of this node that have authenticated.
#[derive(Debug)]
pub(crate) struct Connections {
    node: NodeName,
    shards: [Mutex<Shard>; SHARDS],
    /// The `User-Agent` texts of the connections, with how many connections have each. Most connections share one of a few.
    agents: Mutex<FxHashMap<Arc<str>, usize>>,
}

type Shard = BTreeMap<(UserId, Uuid), Arc<Connection>>;

/// A connection.
#[derive(Debug)]
struct Connection {
    outbox: Arc<Outbox>,
    address: IpAddr,
    device: Option<Device>,
    agent: Option<Arc<str>>,
}

/// An entry of the table, which dropping it removes.
#[derive(Debug)]
pub(crate) struct Registered {
    connections: Arc<Connections>,
    key: (UserId, Uuid),
}

/// What an operator asks of every node. Nodes pass it on to each other as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OperatorQuestion {
    /// Lists the connections of a user.
    List { user: UserId },
    /// Closes connections of a user.
    Close(Selection),
}

/// What a back end asks of every node: which of these users are connected.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OnlineQuestion {
    pub(crate) online: Vec<UserId>,
}

/// Which connections of a user to close.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Selection {
    pub(crate) user: UserId,
    pub(crate) connection: Option<Uuid>,
    pub(crate) device: Option<Device>,
    /// Why, for the log.
    pub(crate) reason: Option<String>,
    /// Only connections that began before this time, so that a question which is repeated later closes no others.
    pub(crate) before: Timestamp,
}

/// What an operator sees of a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConnectionReport {
    pub(crate) node: NodeName,
    pub(crate) connection: Uuid,
    pub(crate) user: UserId,
    pub(crate) address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_agent: Option<String>,
    /// When the connection began.
    pub(crate) since: Timestamp,
    /// How long ago the last message of the client arrived, in milliseconds.
    pub(crate) idle_ms: u64,
    /// Frames that wait in the connection's queue.
    pub(crate) waiting_frames: u64,
    /// Bytes that wait, including those that the session is writing.
    pub(crate) waiting_bytes: u64,
    /// Events that the session has still to read from the log, and of how many conversations.
    pub(crate) lag_events: u64,
    pub(crate) lag_conversations: u64,
}

/// The totals of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ConnectionTotals {
    pub(crate) connections: u64,
    pub(crate) users: u64,
    pub(crate) waiting_bytes: u64,
    pub(crate) lag_events: u64,
}

impl Connections {
    /// Makes the empty table of a node with this name.
    pub(crate) fn new(node: NodeName) -> Arc<Self> {
        Arc::new(Self { node, shards: Default::default(), agents: Mutex::default() })
    }

    /// The name of this node.
    pub(crate) fn node(&self) -> &NodeName {
        &self.node
    }

    fn shard(&self, user: &UserId) -> MutexGuard<'_, Shard> {
        let hash = FxBuildHasher.hash_one(user.as_str());
        lock(&self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or_default()])
    }

    /// Enters a connection of a user.
    pub(crate) fn register(
        self: &Arc<Self>,
        user: &UserId,
        outbox: &Arc<Outbox>,
        address: IpAddr,
        device: Option<Device>,
        agent: Option<&str>,
    ) -> Registered {
        let agent = agent.map(|agent| self.intern_agent(agent));
        let key = (user.clone(), outbox.id());
        let connection = Connection { outbox: outbox.clone(), address, device, agent };
        self.shard(user).insert(key.clone(), Arc::new(connection));
        Registered { connections: self.clone(), key }
    }

    fn intern_agent(&self, agent: &str) -> Arc<str> {
        let agent = (0..=MAX_AGENT_BYTES).rev().find_map(|end| agent.get(..end)).unwrap_or(agent);
        let mut agents = lock(&self.agents);
        let known = agents.get_key_value(agent).map(|(known, _)| known.clone());
        let agent = known.unwrap_or_else(|| agent.into());
        *agents.entry(agent.clone()).or_default() += 1;
        agent
    }

    fn release_agent(&self, agent: &str) {
        let mut agents = lock(&self.agents);
        if let Some(connections) = agents.get_mut(agent) {
            *connections -= 1;
            if *connections == 0 {
                agents.remove(agent);
            }
        }
    }

    fn unregister(&self, key: &(UserId, Uuid)) {
        let removed = self.shard(&key.0).remove(key);
        if let Some(agent) = removed.as_ref().and_then(|connection| connection.agent.as_deref()) {
            self.release_agent(agent);
        }
    }

    fn connections_of(&self, user: &UserId) -> Vec<Arc<Connection>> {
        let all = (user.clone(), Uuid::nil())..=(user.clone(), Uuid::max());
        self.shard(user).range(all).map(|(_, connection)| connection.clone()).collect()
    }

    /// Answers a question about a user: at most [`MAX_LISTED_CONNECTIONS`] connections, those that were closed if the question says so.
    pub(crate) fn answer(&self, question: &OperatorQuestion, metrics: &Metrics) -> Vec<ConnectionReport> {
        match question {
            OperatorQuestion::List { user } => {
                let of_user = self.connections_of(user).into_iter().take(MAX_LISTED_CONNECTIONS);
                of_user.map(|connection| self.report(user, &connection)).collect()
            }
            OperatorQuestion::Close(selection) => self.close_selected(selection, metrics),
        }
    }

    /// The users among `users` who are connected to this node.
    pub(crate) fn online_users(&self, users: &[UserId]) -> Vec<UserId> {
        users.iter().filter(|user| !self.connections_of(user).is_empty()).cloned().collect()
    }

    /// Answers a question of another node; `None` if it comes from a later version.
    pub(crate) fn answer_as_json(&self, question: &RawValue, metrics: &Metrics) -> Option<Box<RawValue>> {
        if let Ok(OnlineQuestion { online }) = serde_json::from_str(question.get()) {
            return to_raw_value(&self.online_users(&online)).ok();
        }
        let question = serde_json::from_str(question.get()).ok()?;
        to_raw_value(&self.answer(&question, metrics)).ok()
    }

    fn close_selected(&self, selection: &Selection, metrics: &Metrics) -> Vec<ConnectionReport> {
        let Selection { user, connection, device, reason, before } = selection;
        let mut all = self.connections_of(user);
        all.retain(|one| {
            connection.is_none_or(|id| id == one.outbox.id())
                && (device.is_none() || *device == one.device)
                && time_of_connection_id(one.outbox.id()) <= *before
        });
        for one in &all {
            metrics.count_dropped(DropReason::Kicked);
            one.outbox.close(CloseCode::Kicked);
        }
        if !all.is_empty() {
            let (connections, why) = (all.len(), reason.as_deref().unwrap_or_default());
            tracing::warn!(node = %self.node, %user, connections, why, "an operator closed connections");
        }
        all.iter().take(MAX_LISTED_CONNECTIONS).map(|connection| self.report(user, connection)).collect()
    }

    /// The totals of this node, and its connections with the most waiting bytes and missed events.
    pub(crate) fn slowest_connections(&self, most: usize) -> (ConnectionTotals, Vec<ConnectionReport>) {
        let mut totals = ConnectionTotals { connections: 0, users: 0, waiting_bytes: 0, lag_events: 0 };
        let mut slow = Vec::new();
        for shard in &self.shards {
            let all: Vec<_> =
                lock(shard).iter().map(|((user, _), one)| (user.clone(), one.clone())).collect();
            totals.users += all.chunk_by(|(one, _), (next, _)| one == next).count() as u64;
            for (user, one) in all {
                let backlog = one.outbox.backlog();
                totals.connections += 1;
                totals.waiting_bytes += backlog.bytes;
                totals.lag_events += backlog.lag_events;
                slow.push(((backlog.lag_events, backlog.bytes), user, one));
            }
            // Only the slowest are kept, so that the list stays short.
            slow.sort_unstable_by(|(one, ..), (other, ..)| other.cmp(one));
            slow.truncate(most);
        }
        (totals, slow.iter().map(|(_, user, one)| self.report(user, one)).collect())
    }

    fn report(&self, user: &UserId, connection: &Connection) -> ConnectionReport {
        let Connection { outbox, address, device, agent } = connection;
        let backlog = outbox.backlog();
        ConnectionReport {
            node: self.node.clone(),
            connection: outbox.id(),
            user: user.clone(),
            address: address.to_canonical(),
            device: device.clone(),
            user_agent: agent.as_deref().map(str::to_owned),
            since: time_of_connection_id(outbox.id()),
            idle_ms: outbox.idle_ms(),
            waiting_frames: backlog.frames,
            waiting_bytes: backlog.bytes,
            lag_events: backlog.lag_events,
            lag_conversations: backlog.lag_conversations,
        }
    }
}

/// When a connection began, by the time in its id.
fn time_of_connection_id(connection: Uuid) -> Timestamp {
    let (seconds, nanos) = connection.get_timestamp().map_or((0, 0), |timestamp| timestamp.to_unix());
    let ms = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    Timestamp::from_millis(ms.saturating_add(i64::from(nanos / 1_000_000)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.unregister(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use switchboard_protocol::Limits;

    use super::*;

    #[test]
    fn a_user_agent_stays_as_long_as_a_connection_has_it() {
        let connections = Connections::new(NodeName::of_host());
        let alice = UserId::parse("alice").expect("a user id");
        let register = || {
            let outbox = Arc::new(Outbox::new(&Limits::default(), Arc::new(Metrics::new())));
            connections.register(&alice, &outbox, Ipv4Addr::LOCALHOST.into(), None, Some("Browser/1.0"))
        };
        let (first, second) = (register(), register());
        // A report of an operator holds the connections while they end.
        let reported = connections.connections_of(&alice);
        assert_eq!(lock(&connections.agents).get("Browser/1.0"), Some(&2));
        drop(first);
        assert_eq!(lock(&connections.agents).get("Browser/1.0"), Some(&1));
        drop(second);
        assert!(lock(&connections.agents).is_empty());
        drop(reported);
    }
}
