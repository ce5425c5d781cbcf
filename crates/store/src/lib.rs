//! The log store: all durable data.
//!
//! # Contract
//! - **Writes** ([`Store::submit`]) are queued in the order of the calls. Each becomes one event in one
//!   conversation's log (or moves one cursor) together with everything folded from it, in one
//!   transaction, or leaves no trace. Many writes may share a transaction.
//! - A write's [`Outcome`] comes out of the receiver that opening the store returned, **after** the write is on stable
//!   storage (fsynced). Outcomes come in the order of commits, which within one conversation is the order of `seq`. The
//!   receiver delivers refusals too, in the same order.
//! - `seq` is 1, 2, 3, … without a gap. `at` never goes back within a conversation.
//! - A message is stored once per (sender, key). A later write with the same sender and key is a duplicate and gets the
//!   first one's `seq`.
//! - **Access** is checked in the transaction that reads or writes; see [`crate::access`].
//! - **Reads** see one consistent snapshot, at least as new as every outcome received before the call. They never wait for
//!   a write. A snapshot may contain batches whose outcomes the receiver has not delivered yet; [`Snapshot::mark`] is the
//!   last batch that it can contain.
//! - A failed commit refuses its writes as `unavailable`, and also the later queued writes of the same connections.
//! - A write with a number is stored only once the write before it is settled: stored, or refused for good. If the store is
//!   across a network, a lost connection can leave it unknown whether a commit succeeded. The store tries for a moment to
//!   find out. After that it refuses the writes; if it turns out later that they were stored, [`Batch::stored_after_all`] names their
//!   conversations. So an `ok` is never sent for a write that is not stored, but an `unavailable` may be sent for one that
//!   is.
//! - SQLite retries nothing. After a failed fsync the store writes no more until it is opened again, because it cannot know
//!   which pages the kernel dropped (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
//! - The integer keys of users and conversations are never reused.
//! - A `read` whose cursor is far from both the member's old cursor and the end of the log needs a count over the events
//!   between. The writer does not count: readers do, in the user's share of the read queue, and then the write is queued
//!   again ([`counting`]). Other writes of the same connection may be stored meanwhile.

mod absence;
pub mod absences;
mod access;
pub mod backup;
pub mod ban;
mod batch;
pub mod block;
mod body;
pub mod bucket;
mod change;
pub mod check;
pub mod clock;
mod commit_metrics;
mod committed;
mod counting;
mod ended_room;
mod fair_queue;
#[cfg(any(debug_assertions, feature = "fault-injection"))]
#[doc(hidden)]
pub mod fault;
pub mod feed;
#[cfg(test)]
mod first_schema;
pub mod grant;
pub(crate) mod held;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod in_memory;
pub mod inspect;
mod joins_and_leaves;
mod key;
pub mod keys;
mod kind;
pub mod listing;
mod memberships;
#[cfg(test)]
mod migrations;
mod new_id;
pub mod origin;
pub mod postgres;
pub mod profile;
mod read;
mod readers;
pub mod record;
pub mod refusal;
pub mod rename;
pub mod report;
pub mod request;
mod rewrite;
mod search;
mod sizes;
pub mod sqlite;
mod table;
pub mod tls_client;
mod webhook;
pub mod webhooks;
pub mod write_fault;

use std::sync::Arc;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, FEATURES, Seq, Timestamp, UserId, UserUnread};

pub use self::access::check_not_banned;
pub use self::block::CommittedBlock;
pub use self::commit_metrics::CommitMetrics;
pub use self::committed::{
    Committed, CommittedCursor, CommittedEvent, CommittedImport, CommittedProfiles, ImportedConversation,
    Outcome,
};
pub use self::memberships::{Activity, JoinedConversation, Memberships, Summaries};
pub use self::request::{
    Approved, Change, CountedRead, CursorKind, Filtered, Hold, MessageCounts, PresenceChange, Query, Request,
};
use tokio::sync::watch;

use crate::absence::{MissedPage, MissedQuery};
use crate::ban::Standing;
use crate::block::BlockList;
use crate::feed::{FeedPage, FeedQuery};
use crate::grant::KeyGrant;
use crate::listing::{BanListing, ListBans, ListRooms, ListUsers, ReportListing, RoomListing, UserListing};
use crate::origin::Origin;
use crate::profile::{ChangePlace, ChangedProfiles, Directory, LastToken, People, PeopleQuery};
use crate::record::{Answer, ConversationKey, ReadEvent, UserKey};
use crate::refusal::Refusal;
use crate::report::{ListReports, UndecidedReports};
use crate::write_fault::WriteFault;

/// The name of a store's writing thread. The server stops if it ends.
pub const WRITER_THREAD: &str = "writer";

/// The log store. See the module for its contract.
pub trait Store: std::marker::Send + std::marker::Sync + 'static {
    /// Queues a write; its outcome comes out of the store's receiver. If the queue is full, the submission is returned
    /// unqueued.
    fn submit(&self, submission: Submission) -> Result<(), Box<Submission>>;

    /// Answers a page for `user`, who must be allowed to see it.
    fn query(&self, user: &UserId, query: Query) -> Answer<OkBody<Box<RawValue>>>;

    /// The snapshot that a connection of `user` starts from; `None` for an unknown user. `named` are the conversations for
    /// which the connection has a cursor: the snapshot contains them even if the user has left.
    fn attach(&self, user: &UserId, named: Vec<ConversationId>) -> Answer<Option<Snapshot>>;

    /// The page of memberships after the conversation `after`, in the order of keys. Each page is a separate read in the
    /// queue.
    fn memberships(&self, user: &UserId, key: UserKey, after: ConversationKey) -> Answer<Memberships>;

    /// Summaries of the conversations `of`, of which `user` is a member, in the order given, as many as fit on a page.
    fn summaries(&self, user: &UserId, key: UserKey, of: Vec<ConversationKey>) -> Answer<Summaries>;

    /// Events after `after` up to `upto` of a conversation that `user` sees or saw, as the user sees them, oldest first: at most a page. A page
    /// has fewer events than requested only if the next would exceed its size or there are no more; it is empty only if
    /// there are no more.
    fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Answer<Vec<ReadEvent>>;

    /// Checks that `user` may write in a conversation, and returns how many members it has.
    fn check_write_access(&self, user: &UserId, conversation: ConversationId) -> Answer<WriteAccess>;

    /// The users among `others` who share a conversation with `user`.
    fn presence_peers(&self, user: &UserId, others: Vec<UserId>) -> Answer<Vec<PresencePeer>>;

    /// Profiles that `user` may see.
    fn people(&self, user: &UserId, query: PeopleQuery, directory: Directory) -> Answer<People>;

    /// The token that the profile of `user` was last read from.
    fn last_token(&self, user: &UserId) -> Answer<Option<LastToken>>;

    /// Whether the tokens of `user` are revoked, and whether the user is banned.
    fn standing(&self, user: &UserId) -> Answer<Standing>;

    /// What the API key with this hash may do, unless it was revoked. The caller checks when it expires.
    fn api_key(&self, hash: [u8; 32]) -> Answer<Option<KeyGrant>>;

    /// A page of all users, by number.
    fn list_users(&self, query: ListUsers) -> Answer<UserListing>;

    /// A page of the bans from the installation, by the users' numbers.
    fn list_bans(&self, query: ListBans) -> Answer<BanListing>;

    /// A page of reports, by number.
    fn list_reports(&self, query: ListReports) -> Answer<ReportListing>;

    /// How many reports wait for a decision.
    fn undecided_reports(&self) -> Answer<UndecidedReports>;

    /// The messages around an event, as a moderator reads them. The caller has stored that.
    fn moderator_history(&self, conversation: ConversationId, around: Seq) -> Answer<OkBody<Box<RawValue>>>;

    /// A page of all rooms, by number.
    fn list_rooms(&self, query: ListRooms) -> Answer<RoomListing>;

    /// What each of the users has not read, in the order given. A user who is not known has nothing. `online` is always false,
    /// because the store does not know it.
    fn unread(&self, users: Vec<UserId>) -> Answer<Vec<UserUnread>>;

    /// A page of the feed.
    fn feed(&self, query: FeedQuery) -> Answer<FeedPage>;

    /// The number of the last entry of the feed, whenever it changes.
    fn feed_news(&self) -> watch::Receiver<u64>;

    /// What users have missed, from a place in the feed on. The store of several nodes leaves out users who are connected.
    fn missed(&self, query: MissedQuery) -> Answer<MissedPage>;

    /// Probes whether the store can be read, ahead of all queued reads.
    fn probe(&self) -> Answer<()>;

    /// Why the store refuses every write at present; `None` while it stores writes.
    fn write_fault(&self) -> Option<WriteFault>;

    /// Queues a change of the server itself, whose outcome nothing needs. If the queue is full, nothing happens.
    fn submit_unanswered(&self, change: Change) {
        let Ok(actor) = UserId::parse("feed") else { return };
        let origin = Origin::Call(tokio::sync::oneshot::channel().0);
        let _ = self.submit(Submission { actor, change, origin });
    }

    /// How many writes wait for the writer.
    fn queued_writes(&self) -> usize {
        0
    }

    /// The features that clients may use: those that every process serving this log supports.
    fn features(&self) -> Vec<&'static str> {
        FEATURES.to_vec()
    }

    /// Whether the store accepts writes at present.
    fn is_writable(&self) -> bool {
        self.write_fault().is_none()
    }
}

/// Conversations, each with the number of one event in it, usually its last.
pub type Seqs = Vec<(ConversationKey, Seq)>;

/// Queries of the router in a cluster, where other nodes write to the same log. They check no access.
pub trait SharedLog: Store {
    /// The number of each conversation's last event; conversations that do not exist are left out.
    fn heads(&self, conversations: Vec<ConversationKey>) -> Answer<Seqs>;

    /// The users among these whose tokens are revoked or who are banned. This query does not wait for other reads.
    fn revocations(&self, users: Vec<UserId>) -> Answer<Revocations>;

    /// For each user a page of memberships: at most `most` conversations whose key is above the given one. An unknown user
    /// has none.
    fn membership_pages(
        &self,
        users: Vec<(UserId, ConversationKey)>,
        most: u32,
    ) -> Answer<Vec<MembershipsPage>>;

    /// The membership of each user in the conversation given with them; `None` if they are not a member.
    fn current_memberships(
        &self,
        pairs: Vec<(UserId, ConversationKey)>,
    ) -> Answer<Vec<Option<CurrentMembership>>>;

    /// The lists of blocked users that have changed since a version. With the version 0 a list that is not empty is returned in any
    /// case, with the present ids of the users.
    fn changed_blocks(&self, users: Vec<(UserId, u64)>) -> Answer<Vec<(UserId, BlockList)>>;

    /// Profiles that have changed after a place, in the order of their changes: at most `most`.
    fn changed_profiles(&self, after: ChangePlace, most: u32) -> Answer<ChangedProfiles>;

    /// Events after `after` up to `upto`, oldest first, with the membership changes that they carry: at most one page. The
    /// page is empty only at the end of the range.
    fn read_log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Answer<LogExcerpt>;
}

/// A range of a conversation's log.
#[derive(Debug)]
pub struct LogExcerpt {
    /// The number of the last write batch of this store from which `events` can contain an event. The receiver may not have
    /// delivered that batch's outcomes yet.
    pub mark: u64,
    /// The events, oldest first.
    pub events: Vec<CommittedEvent>,
}

/// Users whose tokens are revoked or who are banned.
pub type Revocations = Vec<(UserId, Standing)>;

/// A page of the conversations that a user is a member of, in the order of their keys.
#[derive(Debug, Clone, Default)]
pub struct MembershipsPage {
    /// The conversations.
    pub memberships: Vec<CurrentMembership>,
    /// The last conversation of this page, after which the next page begins; `None` if this is the last page.
    pub next: Option<ConversationKey>,
}

impl MembershipsPage {
    /// Adds a row. A damaged row has no `place`, but still advances the page. `rows` are the rows read, and `most` the rows
    /// of a full page.
    pub fn add(
        &mut self,
        conversation: ConversationKey,
        place: Option<CurrentMembership>,
        rows: usize,
        most: u32,
    ) {
        self.memberships.extend(place);
        self.next = (rows >= most as usize).then_some(conversation);
    }
}

/// A user's current membership in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentMembership {
    /// The conversation.
    pub conversation: ConversationKey,
    /// The event by which the user joined; 0 for a direct conversation, in which both users always are members.
    pub since: Seq,
    /// The conversation's last event.
    pub head: Seq,
}

/// A shared handle to the store.
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
    /// The batch's number: 1, 2, 3, …, counted from the opening of the store.
    pub number: u64,
    /// The outcomes.
    pub outcomes: Vec<Outcome>,
    /// Whether more writes are queued, so that the next batch follows immediately.
    pub has_more: bool,
    /// Conversations in which a write that came out as `unavailable` is stored after all, because the connection to the
    /// database was lost during the commit. The router reads these events from the store.
    pub stored_after_all: Vec<ConversationKey>,
}

/// The state that a connection starts from: one consistent snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// The number of the last write batch that this snapshot can reflect. The receiver may not have delivered that batch's
    /// outcomes yet.
    pub mark: u64,
    /// The user's key in the store.
    pub user: UserKey,
    /// Whether the user's tokens are revoked, and whether the user is banned.
    pub standing: Standing,
    /// The users whom the user blocks.
    pub blocks: BlockList,
    /// The first page of the conversations that the user is a member of.
    pub memberships: Memberships,
    /// For each conversation named in the call, in that order: the conversation, or why the user may not see it.
    pub named: Vec<Result<VisibleConversation, Refusal>>,
    /// The first page of summaries, latest activity first. `None` if there are more memberships than the first page has,
    /// because the latest conversations may be among the others.
    pub summaries: Option<Summaries>,
}

/// A conversation that a user sees, or saw before leaving.
#[derive(Debug, Clone, Copy)]
pub struct VisibleConversation {
    /// The conversation.
    pub conversation: ConversationKey,
    /// The event before the first that there is: 0, but of a deleted room only the last event is left.
    pub first: Seq,
    /// The last event that the user may see.
    pub head: Seq,
    /// Whether the user is a member now.
    pub is_member: bool,
    /// Whether the user sees nothing of it without asking for it: a direct conversation with a user whom they block.
    pub is_hidden: bool,
}

/// A conversation that a user may write to.
#[derive(Debug, Clone)]
pub struct WriteAccess {
    /// The conversation.
    pub conversation: ConversationKey,
    /// How many members it has.
    pub members: u64,
    /// Members who get no signal of the user, because one of the two blocks the other. Empty in a large room, where no other member
    /// gets signals.
    pub hidden_from: Vec<UserId>,
}

/// A user who shares a conversation with the requesting user.
#[derive(Debug, Clone)]
pub struct PresencePeer {
    /// The user.
    pub user: UserId,
    /// When the user's last device disconnected.
    pub last_seen: Option<Timestamp>,
}
