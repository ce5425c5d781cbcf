//! The answers of the store to a router in a cluster, with the queries that they answer.

use std::sync::Arc;

use switchboard_protocol::{Seq, UserId};
use switchboard_store::block::BlockList;
use switchboard_store::profile::{ChangePlace, ChangedProfiles};
use switchboard_store::record::ConversationKey;
use switchboard_store::refusal::Refusal;
use switchboard_store::{CurrentMembership, LogExcerpt, MembershipsPage, Revocations, Seqs};

use crate::outbox::Outbox;
use crate::router::presence::Lookup;
use crate::router::registry::{SessionSlot, UserSlot};

/// An answer of the store.
pub(super) enum StoreReply {
    /// Events of a conversation that this node had missed.
    Log { conversation: ConversationKey, result: Result<LogExcerpt, Refusal> },
    /// The heads of conversations in which this node may have missed events.
    Heads { asked: Vec<ConversationKey>, result: Result<Seqs, Refusal> },
    /// For each user, the time up to which issued tokens are revoked.
    Revocations { asked: Vec<UserSlot>, result: Result<Revocations, Refusal> },
    /// Pages of memberships of users.
    Memberships { asked: Vec<UserQuery>, result: Result<Vec<MembershipsPage>, Refusal> },
    /// Whether users are members of conversations that they may have joined.
    MissingMemberships { asked: Vec<EntryQuery>, result: Result<Vec<Option<CurrentMembership>>, Refusal> },
    /// The event by which a user joined a conversation.
    Entry { newcomer: UnknownMembership, result: Result<LogExcerpt, Refusal> },
    /// Pages of memberships of users whose presence has changed.
    Presence { asked: Vec<(UserId, Lookup)>, result: Result<Vec<MembershipsPage>, Refusal> },
    /// Profiles that have changed.
    Profiles { asked: ChangePlace, result: Result<ChangedProfiles, Refusal> },
    /// Lists of blocked users that have changed.
    Blocks { asked: Vec<(UserId, u64)>, result: Result<Vec<(UserId, BlockList)>, Refusal> },
    /// A range of events in which to find the leave of a session's user.
    Leave { pending: PendingLeave, result: Result<LogExcerpt, Refusal> },
}

impl StoreReply {
    /// The number of the last batch of this node from which the answer may contain events.
    pub(super) fn mark(&self) -> u64 {
        match self {
            Self::Log { result: Ok(excerpt), .. }
            | Self::Entry { result: Ok(excerpt), .. }
            | Self::Leave { result: Ok(excerpt), .. } => excerpt.mark,
            _ => 0,
        }
    }
}

/// Which memberships of a user this node compares with the store.
#[derive(Debug, Clone)]
pub(super) enum CompareScope {
    /// All memberships.
    All,
    /// At most this number of memberships, after the last one that the previous sweep has compared.
    NextPortion(usize),
    /// The memberships in these conversations.
    Conversations(Arc<[ConversationKey]>),
}

/// A query about the memberships of a user.
#[derive(Debug, Clone)]
pub(super) struct UserQuery {
    pub(super) user: UserSlot,
    pub(super) name: UserId,
    /// The number of the query with which the comparison began.
    pub(super) query_number: u64,
    /// The count of the user's departures when the query was sent. If it has changed, the answer is outdated.
    pub(super) departures: u64,
    /// The subscription epoch when the query was sent.
    pub(super) subscription_epoch: u64,
    pub(super) scope: CompareScope,
    /// The page begins after this conversation.
    pub(super) after: ConversationKey,
    /// Whether the comparison began with the first page, so that in the end it covers all memberships of the user.
    pub(super) covers_all_memberships: bool,
    /// Whether an earlier page had a membership that this node did not know.
    pub(super) found_unknown_membership: bool,
}

/// A membership that is in the store, and that this node does not know.
#[derive(Debug)]
pub(super) struct UnknownMembership {
    pub(super) query: UserQuery,
    pub(super) membership: CurrentMembership,
}

/// A query about a user, and the conversations that the user may have joined.
pub(super) type EntryQuery = (UserQuery, Vec<ConversationKey>);

/// A pending query for the first event after `after` by which the user of a session left a conversation.
pub(super) struct PendingLeave {
    pub(super) session: SessionSlot,
    /// The outbox of the session. Slots are reused, so it tells whether the slot still belongs to that session when the answer
    /// arrives.
    pub(super) outbox: Arc<Outbox>,
    pub(super) conversation: ConversationKey,
    pub(super) after: Seq,
}
