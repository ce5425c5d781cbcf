//! The bus: publishes this node's notices to the other nodes of a cluster, and receives theirs.
//!
//! # Contract
//! The tests in `contract.rs` check the contract. The bus over NATS and the simulated bus both pass them.
//! - **Correctness never depends on the bus.** A notice may be lost, duplicated, delayed or reordered. Receivers sort events by
//!   `seq`, read gaps from the store, and compare their state with the store at an interval. While nothing is broken, the notices
//!   of one node to one address arrive once, and in their order.
//! - **No echo**: a node does not receive its own notices.
//! - **By address**: a notice is sent to the nodes that subscribed to its [`Address`], once per node, however many users the node
//!   has. After the end of a subscription no notice of that address arrives.
//! - **Authenticated**: a notice whose sender does not have the installation's [`NoticeKey`](switchboard_store::record::NoticeKey)
//!   is dropped.
//! - [`Bus::publish`] never waits: a notice that cannot be sent at once is dropped, and the other nodes find the change in
//!   the store. When the value of the bus is dropped, the notices that it has accepted are still sent.
//! - [`BusEvent::Subscribed`] follows each subscription once the bus has confirmed it, after an outage if there is one: from then
//!   on this node receives every notice published to the address. The confirmation arrives even if the queue of bus events is full.
//! - [`BusEvent::Gap`] follows whenever notices for this node may have been lost: after a reconnect, or when a queue was full.
//!   Notices that were published during an outage do not arrive after the gap.

#[cfg(test)]
pub(crate) mod contract;
pub(crate) mod nats;

use std::fmt::{self, Debug};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::reply::Profile;
use switchboard_protocol::{ConversationId, Seq, Timestamp, UserId};

use crate::node_name::NodeName;
use switchboard_store::record::{Answer, ConversationKey, Effect};

/// Identifies a running node: a random number drawn at each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct NodeId(pub(crate) u64);

impl NodeId {
    /// Draws a random id.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        Ok(Self(u64::from_ne_bytes(random)))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The address of a notice, to which nodes subscribe and publish.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// Nodes with a connected member of this conversation.
    Conversation(ConversationKey),
    /// Nodes with a connected session of this user.
    User(UserId),
    /// Nodes with a session that watches this user's presence.
    Watched(UserId),
    /// Every node.
    Nodes,
    /// Every node whose version knows [`Notice::Status`]. An earlier version would count such a notice as damaged.
    Status,
    /// Every node whose version knows [`Notice::Profile`].
    Profiles,
}

/// A message from one node to others. (The enum is externally tagged because serde cannot pass a `RawValue` through an
/// internally tagged one.)
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// An event has been committed to stable storage.
    Event {
        /// The event's conversation.
        conversation: ConversationKey,
        /// The conversation's name.
        name: ConversationId,
        /// The event's number in its conversation.
        seq: Seq,
        /// The event's frame, as clients receive it.
        frame: Box<RawValue>,
        /// The membership changes that the event makes.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        effects: Vec<Effect>,
        /// Whether the event ends the conversation for all of its members.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ends: bool,
    },
    /// A signal, which is not stored: typing, or a cursor.
    Signal {
        /// The signal's conversation.
        conversation: ConversationKey,
        /// True if only the user's own devices receive the signal, because the room is large.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        own: bool,
        /// The user who sent the signal.
        user: UserId,
        /// The signal's frame, as clients receive it.
        frame: Box<RawValue>,
        /// Users who do not receive it, because one of the two blocks the other.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hidden_from: Vec<UserId>,
    },
    /// A signal for the connections of one user.
    Private {
        /// The user.
        user: UserId,
        /// The signal's frame, as clients receive it.
        frame: Box<RawValue>,
    },
    /// A user's tokens were revoked, or the user was banned: receivers ask the store, and close the user's connections.
    Revoke {
        /// The user.
        user: UserId,
    },
    /// Direct conversations have other ids, because a user has: receivers tell their members.
    Renamed {
        /// The conversations, with their earlier ids.
        conversations: Vec<(ConversationKey, ConversationId)>,
        /// The user's earlier id and the new one. Other users may block the user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<(UserId, UserId)>,
    },
    /// The list of users whom a user blocks has changed: receivers read it.
    Blocks {
        /// The user.
        user: UserId,
    },
    /// A user went online or offline on the sending node.
    Presence {
        /// The user.
        user: UserId,
        /// When the user went offline; `None` while online.
        last_seen: Option<Timestamp>,
        /// Some of the user's conversations: only watchers who share one of them receive the change.
        conversations: Vec<ConversationKey>,
        /// Grows with each presence notice of a node, so that receivers recognize an older notice that arrives late. It is 0 in
        /// notices of an earlier version, which have no number.
        #[serde(default)]
        number: u64,
        /// Users who do not receive it, because one of the two blocks the other.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hidden_from: Vec<UserId>,
    },
    /// Asks the nodes on which this user is online to answer with [`Notice::Presence`].
    #[serde(rename = "who")]
    PresenceQuery {
        /// The user.
        user: UserId,
    },
    /// The sending node is alive.
    #[serde(rename = "alive")]
    Heartbeat,
    /// The sending node may have lost notices in both directions: receivers query the presence of its users again.
    #[serde(rename = "anew")]
    Resync,
    /// The sending node stops: none of its users is online there any more.
    #[serde(rename = "gone")]
    Stopped,
    /// What the sending node says of itself.
    Status {
        /// The node's name.
        name: NodeName,
        /// The version of the node's program.
        version: String,
        /// The time on the node's clock.
        time: Timestamp,
    },
    /// A user's profile has changed.
    Profile {
        /// The profile.
        profile: Box<Profile>,
        /// Users who do not receive it, because one of the two blocks the other.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hidden_from: Vec<UserId>,
    },
    /// What an operator asks of every node.
    Question {
        /// A random number, which the answers repeat.
        number: u64,
        /// The question as JSON, which the bus does not read.
        question: Box<RawValue>,
    },
    /// A node's answer to [`Notice::Question`].
    Answer {
        /// The number of the question.
        number: u64,
        /// The answer as JSON, which the bus does not read.
        answer: Box<RawValue>,
    },
}

/// What the bus reports to this node's router.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// Another node published this notice.
    Notice(NodeId, Notice),
    /// The bus has confirmed the subscriptions to these addresses.
    Subscribed(Vec<Address>),
    /// Notices may have been lost.
    Gap,
}

/// The bus. The documentation of the module has its contract.
pub(crate) trait Bus: Debug + Send + Sync + 'static {
    /// Publishes a notice to the nodes that subscribed to the address.
    fn publish(&self, address: &Address, notice: &Notice);

    /// Starts a subscription; [`BusEvent::Subscribed`] confirms it.
    fn subscribe(&self, address: Address);

    /// Ends a subscription.
    fn unsubscribe(&self, address: Address);

    /// Sends a message from this node to itself along the path of other nodes' notices. Resolves once it has arrived.
    fn probe(&self) -> Answer<()>;
}

/// The bus of a node that is alone, or that cannot reach the other nodes and so reads their events from the store.
#[derive(Debug)]
pub(crate) struct NoBus;

impl Bus for NoBus {
    fn publish(&self, _: &Address, _: &Notice) {}

    fn subscribe(&self, _: Address) {}

    fn unsubscribe(&self, _: Address) {}

    fn probe(&self) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
