//! The log store: all durable data.
//!
//! # Contract
//! - **Writes** ([`Store::submit`]) are queued in the order of the calls. Each becomes one event in one
//!   conversation's log (or moves one cursor) together with everything folded from it, in one
//!   transaction, or leaves no trace. Many writes may share a transaction.
//! - A write's [`Outcome`] comes out of the receiver that opening the store gave, **after** it is on
//!   stable storage (fsynced), in the order of commits; within one conversation that is the order of
//!   `seq`. Refusals come out there too, in their place in the order.
//! - `seq` is 1, 2, 3, … without a gap. `at` never goes back within a conversation.
//! - A message is stored once per (sender, key); later ones get the first one's `seq` as duplicates.
//! - **Access** is checked in the transaction that reads or writes; see [`crate::access`].
//! - **Reads** see one consistent snapshot, at least as new as every outcome received before the call.
//!   They never wait for a write. What they saw may be newer than what has come out of the receiver;
//!   [`Snapshot::mark`] tells by how much at most.
//! - A failed commit refuses its writes as `unavailable`, and with them what the same connections had queued behind them.
//! - A write with a number is stored only once the write that it follows is settled: stored, or refused for good.
//!   Where a store is across a network, it may not be known whether a commit has failed. It tries for a moment to find
//!   out. After that its writes are refused, and if they turn out to be stored, [`Batch::check`] says where: there is
//!   never an `ok` for what is not stored, but there may be an `unavailable` for what is.
//! - SQLite retries nothing. After a failed fsync the store writes no more until it is opened again: what the kernel dropped
//!   cannot be known (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
//! - The integer keys of users and conversations are never reused.
//! - A `read` far from both the member's cursor and the end of the log needs a count over the events between. The writer does
//!   not count: readers do, in the user's own turn, and then the write is queued again ([`counting`]). Other writes of the
//!   same connection may be stored meanwhile.

mod access;
pub mod backup;
mod batch;
mod body;
pub mod bucket;
mod change;
pub mod check;
pub mod clock;
mod commit_metrics;
mod counting;
#[cfg(any(debug_assertions, feature = "fault-injection"))]
#[doc(hidden)]
pub mod fault;
#[cfg(test)]
mod first_schema;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod in_memory;
mod key;
pub mod keys;
mod kind;
mod memberships;
#[cfg(test)]
mod migrations;
pub mod origin;
mod passages;
pub mod postgres;
mod read;
mod readers;
pub mod record;
pub mod refusal;
pub mod request;
mod rewrite;
pub mod sqlite;
mod table;
mod turns;
pub mod write_fault;

use std::sync::Arc;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, FEATURES, Seq, Timestamp, UserId};

pub use self::commit_metrics::CommitMetrics;
pub use self::memberships::{Activity, Joined, Memberships, Summaries};
pub use self::request::{Change, CountedRead, Counts, CursorOf, Query, Request};
use crate::origin::Origin;
use crate::record::{Answer, ConversationKey, Effect, LogEvent, UserKey};
use crate::refusal::Refusal;
use crate::write_fault::WriteFault;

/// The name of a store's writing thread. A server cannot go on without it.
pub const WRITER_THREAD: &str = "writer";

/// The log store. See the module for its contract.
pub trait Store: std::marker::Send + std::marker::Sync + 'static {
    /// Queues a write; its outcome comes out of the store's receiver. When the queue is full the
    /// submission is rejected.
    fn submit(&self, submission: Submission) -> Result<(), Box<Submission>>;

    /// Answers a page for `user`, who must be allowed to see it.
    fn query(&self, user: &UserId, query: Query) -> Answer<OkBody<Box<RawValue>>>;

    /// The snapshot that a connection of `user` starts from; `None` for an unknown user. `named` are the conversations for
    /// which the connection has a cursor: the snapshot has them even if the user has left.
    fn attach(&self, user: &UserId, named: Vec<ConversationId>) -> Answer<Option<Snapshot>>;

    /// The page of memberships behind the conversation `after`. Each page is a read of its own, which takes its turn.
    fn memberships(&self, user: &UserId, key: UserKey, after: ConversationKey) -> Answer<Memberships>;

    /// Summaries of conversations of a user, in the order given, as far as they fit on a page.
    fn summaries(&self, user: &UserId, key: UserKey, of: Vec<ConversationKey>) -> Answer<Summaries>;

    /// Events after `after` up to `upto` of a conversation that `user` sees or saw, oldest first: at
    /// most a page. Less than asked for, or nothing, only where there is no more.
    fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Answer<Vec<LogEvent>>;

    /// Whether `user` may write in a conversation, and how many members it has.
    fn standing(&self, user: &UserId, conversation: ConversationId) -> Answer<Standing>;

    /// Those of `others` that share a conversation with `user`.
    fn acquaintances(&self, user: &UserId, others: Vec<UserId>) -> Answer<Vec<Acquaintance>>;

    /// Up to when the tokens of `user` have been revoked.
    fn not_before(&self, user: &UserId) -> Answer<Option<Timestamp>>;

    /// The name of the API key with this hash, unless it was revoked.
    fn api_key(&self, hash: [u8; 32]) -> Answer<Option<String>>;

    /// Probes whether the store can be read, ahead of all queued reads.
    fn probe(&self) -> Answer<()>;

    /// Why every write is refused now; `None` while they are stored.
    fn write_fault(&self) -> Option<WriteFault>;

    /// What a client may use: the features that every process knows which serves this log.
    fn features(&self) -> Vec<&'static str> {
        FEATURES.to_vec()
    }

    /// Whether writes are stored.
    fn is_writable(&self) -> bool {
        self.write_fault().is_none()
    }
}

/// An event of each of some conversations.
pub type Seqs = Vec<(ConversationKey, Seq)>;

/// Queries of the router in a cluster, where other nodes write to the same log. They check no access.
pub trait SharedLog: Store {
    /// The last events of conversations; those that do not exist are left out.
    fn heads(&self, conversations: Vec<ConversationKey>) -> Answer<Seqs>;

    /// Up to when the tokens of users have been revoked; users without a revocation are left out. It waits for no other
    /// question.
    fn revocations(&self, users: Vec<UserId>) -> Answer<Revocations>;

    /// For each user a page of their memberships: at most `most` conversations with a number above the given one. An unknown
    /// user has none.
    fn places(&self, users: Vec<(UserId, ConversationKey)>, most: u32) -> Answer<Vec<PlacesPage>>;

    /// The membership of each user in the conversation given with them; `None` if they are not a member.
    fn places_in(&self, pairs: Vec<(UserId, ConversationKey)>) -> Answer<Vec<Option<Place>>>;

    /// Events after `after` up to `upto`, oldest first, with the membership changes that they carry: at most one page. Empty
    /// only at the end of the range.
    fn log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Answer<Excerpt>;
}

/// A range of a conversation's log.
#[derive(Debug)]
pub struct Excerpt {
    /// No batch of this store after this one is in it; earlier ones may not have come out of the receiver yet.
    pub mark: u64,
    /// Oldest first.
    pub events: Vec<CommittedEvent>,
}

/// Up to when the tokens of users have been revoked.
pub type Revocations = Vec<(UserId, Timestamp)>;

/// A page of the conversations that a user is a member of, in the order of their numbers.
#[derive(Debug, Clone, Default)]
pub struct PlacesPage {
    /// The conversations.
    pub places: Vec<Place>,
    /// The page behind this one begins after this number; `None` if there is none.
    pub next: Option<ConversationKey>,
}

impl PlacesPage {
    /// Adds a row; one that is damaged, `None`, only counts. `most` rows are a whole page.
    pub fn add(&mut self, conversation: ConversationKey, place: Option<Place>, rows: usize, most: u32) {
        self.places.extend(place);
        self.next = (rows >= most as usize).then_some(conversation);
    }
}

/// A conversation that a user is a member of, since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which.
    pub conversation: ConversationKey,
    /// The event by which they came in; 0 for a direct conversation, in which they have always been.
    pub since: Seq,
    /// Its last event.
    pub head: Seq,
}

/// A store shared by its users.
pub type SharedStore = Arc<dyn Store>;

/// A queued write with the session or request that waits for its outcome.
#[derive(Debug)]
pub struct Submission {
    /// The user who writes.
    pub actor: UserId,
    /// The change.
    pub change: Change,
    /// The session or request that gets the outcome.
    pub origin: Origin,
}

/// The outcomes of one transaction, in the order of the submissions.
#[derive(Debug)]
pub struct Batch {
    /// 1, 2, 3, … since the store was opened.
    pub number: u64,
    /// The outcomes.
    pub outcomes: Vec<Outcome>,
    /// Whether more writes are queued, so that the next batch follows immediately.
    pub more: bool,
    /// Conversations in which something was stored that came out as `unavailable`: its connection was lost when it was
    /// being committed. The router looks the events up.
    pub check: Vec<ConversationKey>,
}

/// The outcome of a submission.
#[derive(Debug)]
pub struct Outcome {
    /// The session or request that gets the outcome.
    pub origin: Origin,
    /// The committed change, or the reason why it was refused.
    pub result: Result<Committed, Refusal>,
}

/// A change that is on stable storage.
#[derive(Debug)]
pub enum Committed {
    /// An event, or the earlier one that this write repeats.
    Event(Box<CommittedEvent>),
    /// A cursor.
    Cursor(CommittedCursor),
    /// A change that sends nothing to any session.
    Quiet,
}

/// A stored event and what follows from it.
#[derive(Debug)]
pub struct CommittedEvent {
    /// Where.
    pub conversation: ConversationKey,
    /// Where, by name.
    pub name: ConversationId,
    /// Its number.
    pub seq: Seq,
    /// Its time.
    pub at: Timestamp,
    /// The event to deliver; `None` if it had been stored before.
    pub event: Option<LogEvent>,
    /// The membership changes that it carries.
    pub effects: Vec<Effect>,
}

/// A stored cursor.
#[derive(Debug)]
pub struct CommittedCursor {
    /// Where.
    pub conversation: ConversationKey,
    /// Where, by name.
    pub name: ConversationId,
    /// Whose.
    pub user: UserId,
    /// `read` or `received`.
    pub of: CursorOf,
    /// The new position.
    pub upto: Seq,
    /// Whether it moved.
    pub moved: bool,
    /// How many members the conversation has.
    pub members: u64,
}

/// The state that a connection starts from: one consistent snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// No batch after this one can have been seen by the snapshot; earlier ones may not have come
    /// out of the receiver yet.
    pub mark: u64,
    /// The user's number.
    pub user: UserKey,
    /// Up to when the user's tokens have been revoked.
    pub not_before: Option<Timestamp>,
    /// The first page of the conversations that the user is a member of.
    pub memberships: Memberships,
    /// The named conversations, in the order of the call, or why the user may not see it.
    pub named: Vec<Result<Seen, Refusal>>,
    /// The first page of summaries, latest activity first. Only if all memberships are on the first page: which are the latest is
    /// not known before the last.
    pub summaries: Option<Summaries>,
}

/// A conversation that a user sees, or saw before leaving.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Which.
    pub conversation: ConversationKey,
    /// The last event that the user may see.
    pub head: Seq,
    /// Whether the user is a member now.
    pub member: bool,
}

/// A conversation that a user may write to.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Which.
    pub conversation: ConversationKey,
    /// How many members it has.
    pub members: u64,
}

/// A user who shares a conversation with another.
#[derive(Debug, Clone)]
pub struct Acquaintance {
    /// Who.
    pub user: UserId,
    /// When their last device left.
    pub last_seen: Option<Timestamp>,
}
