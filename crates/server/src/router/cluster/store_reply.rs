//! The answers of the store to a router in a cluster, with the queries that they answer.

use std::sync::Arc;

use switchboard_protocol::{Seq, UserId};
use switchboard_store::record::ConversationKey;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Excerpt, Place, PlacesPage, Revocations, Seqs};

use crate::outbox::Outbox;
use crate::router::presence::Lookup;
use crate::router::registry::{SessionSlot, UserSlot};

/// An answer of the store.
pub(super) enum StoreReply {
    /// Missing events.
    Log { conversation: ConversationKey, result: Result<Excerpt, Refusal> },
    /// The last events of conversations of which events may have been missed.
    Heads { asked: Vec<ConversationKey>, result: Result<Seqs, Refusal> },
    /// Up to when tokens of users have been revoked.
    Revocations { asked: Vec<UserSlot>, result: Result<Revocations, Refusal> },
    /// Pages of memberships of users.
    Places { asked: Vec<UserQuery>, result: Result<Vec<PlacesPage>, Refusal> },
    /// Whether users are members of conversations that they may have joined.
    Newcomers { asked: Vec<Entries>, result: Result<Vec<Option<Place>>, Refusal> },
    /// The event by which a user joined a conversation.
    Entry { newcomer: Newcomer, result: Result<Excerpt, Refusal> },
    /// Pages of memberships of users whose presence has changed.
    Presence { asked: Vec<(UserId, Lookup)>, result: Result<Vec<PlacesPage>, Refusal> },
    /// Events among which is the leave of a session's user.
    Leave { pending: PendingLeave, result: Result<Excerpt, Refusal> },
}

impl StoreReply {
    /// The last batch of this node of which it may contain events.
    pub(super) fn mark(&self) -> u64 {
        match self {
            Self::Log { result: Ok(excerpt), .. }
            | Self::Entry { result: Ok(excerpt), .. }
            | Self::Leave { result: Ok(excerpt), .. } => excerpt.mark,
            _ => 0,
        }
    }
}

/// How much of a user's memberships is compared.
#[derive(Debug, Clone)]
pub(super) enum Scope {
    /// All of them.
    All,
    /// So many, from the end of the last sweep on.
    Portion(usize),
    /// These.
    Some(Arc<[ConversationKey]>),
}

/// A query about a user.
#[derive(Debug, Clone)]
pub(super) struct UserQuery {
    pub(super) user: UserSlot,
    pub(super) name: UserId,
    /// The number of the query with which the comparison began.
    pub(super) question: u64,
    /// How many conversations the user had left by then.
    pub(super) departures: u64,
    /// The subscription epoch at that time.
    pub(super) subscription_epoch: u64,
    pub(super) scope: Scope,
    /// The page begins after this conversation.
    pub(super) after: ConversationKey,
    /// Whether the comparison began with the first page.
    pub(super) whole: bool,
    /// Whether an earlier page left something open.
    pub(super) open: bool,
}

/// A membership in the store that this node has not applied.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) asked: UserQuery,
    pub(super) place: Place,
}

/// A user with the conversations that they may have joined.
pub(super) type Entries = (UserQuery, Vec<ConversationKey>);

/// A pending query for the first event after `after` by which the user of a session left a conversation.
pub(super) struct PendingLeave {
    pub(super) session: SessionSlot,
    /// The outbox of the session, because another session may have the slot by the time of the answer.
    pub(super) outbox: Arc<Outbox>,
    pub(super) conversation: ConversationKey,
    pub(super) after: Seq,
}
