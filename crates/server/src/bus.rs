//! The way to the other nodes: what is news there, told once per node that has somebody to tell.
//!
//! # Contract
//! - **Correctness never depends on it.** A notice may be lost, come twice, late, or before an earlier one. Whoever hears sorts by
//!   `seq`, reads the store where something is missing, and compares with the store now and then.
//! - **To other nodes only**: a node does not hear what it told itself.
//! - **To those who listen**: a notice goes to the nodes that listen at its [`Address`], once to each, however many users
//!   they have.
//! - **From other nodes only**: a notice of a sender that does not have the installation's [`NoticeKey`] is dropped.
//! - Telling never waits: what cannot be sent at once is lost, and the other nodes find out by themselves.
//! - [`Heard::Listening`] comes once the bus has it that this node listens; what is told from then on is heard here.
//! - [`Heard::Gap`] comes whenever something may have been missed: after a connection was lost and is there again, or when a
//!   queue was full.

pub(crate) mod nats;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::{ConversationId, Seq, Timestamp, UserId};

use crate::record::{Answer, ConversationKey, Effect};

/// A node: a number that it draws when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct NodeId(pub(crate) u64);

impl NodeId {
    /// Draws one.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        Ok(Self(u64::from_ne_bytes(random)))
    }
}

/// The key that notices are authenticated with: random bytes in the database that the nodes share.
#[derive(Clone)]
pub(crate) struct NoticeKey([u8; 32]);

impl NoticeKey {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The bytes themselves, for the MAC.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Debug for NoticeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoticeKey")
    }
}

/// Where nodes listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// Nodes on which members of a conversation are connected.
    Conversation(ConversationKey),
    /// Nodes on which a user is connected.
    User(UserId),
    /// Nodes on which somebody is told a user's presence.
    Watched(UserId),
    /// Every node.
    Nodes,
}

/// What a node tells others. (With a tag inside, serde could not read the frames as they stand.)
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// An event is on stable storage.
    Event {
        /// Where.
        conversation: ConversationKey,
        /// Where, by name.
        name: ConversationId,
        /// Its number.
        seq: Seq,
        /// Its frame, as clients get it.
        frame: Box<RawValue>,
        /// Who came in or went by it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        effects: Vec<Effect>,
    },
    /// Something that does not last: typing, a cursor.
    Signal {
        /// Where.
        conversation: ConversationKey,
        /// Nobody but the user's own devices is told: it is a large room.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        own: bool,
        /// Of whom it tells.
        user: UserId,
        /// Its frame, as clients get it.
        frame: Box<RawValue>,
    },
    /// A user's tokens were revoked: their connections are to be closed.
    Revoke {
        /// Whose.
        user: UserId,
    },
    /// A user came online on the node that tells, or went offline there.
    Presence {
        /// Who.
        user: UserId,
        /// When they went; none while they are online.
        last_seen: Option<Timestamp>,
        /// Some of the conversations that they are in: whoever is told shares one of them.
        conversations: Vec<ConversationKey>,
    },
    /// Whoever has this user online is to say so.
    Who {
        /// Whom.
        user: UserId,
    },
    /// The node lives.
    Alive,
    /// The node could not be heard for a while: whom it has online is to be asked again.
    Anew,
    /// The node stops; nobody is online there any more.
    Gone,
}

/// What the bus tells this node.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Another node's notice.
    Notice(NodeId, Notice),
    /// What is told at these addresses is heard from now on.
    Listening(Vec<Address>),
    /// Something may have been missed.
    Gap,
}

/// The bus. See the module for its contract.
pub(crate) trait Bus: Debug + Send + Sync + 'static {
    /// Tells those who listen at an address.
    fn tell(&self, address: &Address, notice: &Notice);

    /// Begins to listen; the answer is [`Heard::Listening`].
    fn listen(&self, address: Address);

    /// Ends to listen.
    fn ignore(&self, address: Address);

    /// Sends a notice to this node itself, the way that those of others come. The answer is there when it has come back.
    fn probe(&self) -> Answer<()>;
}

/// No other nodes, or none that can be reached: what they do is found in the store.
#[derive(Debug)]
pub(crate) struct Alone;

impl Bus for Alone {
    fn tell(&self, _: &Address, _: &Notice) {}

    fn listen(&self, _: Address) {}

    fn ignore(&self, _: Address) {}

    fn probe(&self) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
