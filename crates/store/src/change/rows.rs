//! The rows that a change reads and writes in one transaction. Each store implements them.

use switchboard_protocol::{ConversationId, EventKind, Role, Seq, Timestamp, UserId};

use super::BlockRows;
use crate::MessageCounts;
use crate::ban::{Ban, NewBan};
use crate::feed::Entry;
use crate::held::HeldMessage;
use crate::profile::StoredProfile;
use crate::record::{Conversation, ConversationKey, LogEvent, Membership, RequestDigest, UserKey, Via};
use crate::report::{Field, Fields};

/// How many removed reactions the store keeps for each message. They are kept because users who left before the removal
/// still see them, and because a retry of the removal finds its event. The oldest are deleted first. Without the bound, a
/// user who toggles a reaction could make every later read of the message slower.
pub(crate) const MAX_REMOVED_REACTIONS_KEPT: u64 = 200;

/// A message found by its idempotency key.
#[derive(Debug, Clone)]
pub(crate) struct KeyedMessage {
    pub(crate) conversation: ConversationId,
    pub(crate) key: ConversationKey,
    pub(crate) seq: Seq,
    pub(crate) at: Timestamp,
    pub(crate) body: String,
    /// The digest of its request; `None` if the message is what was requested.
    pub(crate) request: Option<RequestDigest>,
}

/// The part of an event that a later event about it needs.
#[derive(Debug, Clone)]
pub(crate) struct ReferredEvent {
    pub(crate) kind: EventKind,
    pub(crate) sender: UserKey,
    pub(crate) at: Timestamp,
    pub(crate) body: String,
}

/// How many pages of the feed a transaction removes: more than are written between two of them.
pub(crate) const MAX_TRIMMED_PAGES: u32 = 4_000;

/// How many entries of the feed that are no events a transaction removes.
pub(crate) const MAX_TRIMMED_ENTRIES: u32 = 10_000;

/// The most events that the writer reads to count the messages up to a cursor that an import sets: some milliseconds.
pub(crate) const MAX_EVENTS_COUNTED_FOR_IMPORT: u64 = 10_000;

/// The members of a conversation who have read what was imported into it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CaughtUp {
    pub(crate) conversation: ConversationKey,
    /// The last event before the import.
    pub(crate) before: Seq,
    /// The last event now.
    pub(crate) head: Seq,
    /// The messages up to it.
    pub(crate) messages: u64,
}

impl CaughtUp {
    pub(crate) fn new(conversation: &Conversation, before: Seq) -> Self {
        let Conversation { key, head, messages, .. } = *conversation;
        Self { conversation: key, before, head, messages }
    }
}

/// How many bytes a probe writes. They fill more pages than a message changes, so if the probe fits on the disk, a message
/// does too.
pub(crate) const PROBE_BYTES: usize = 8 * 1024;

/// The statements about reports in the transaction of a write.
pub(crate) trait ReportRows {
    /// An error of the store.
    type SqlError;

    /// Runs a statement, and returns its rows.
    fn report_rows(&mut self, sql: &'static str, values: &[Field]) -> Result<Vec<Fields>, Self::SqlError>;

    /// The message of an author that is or was held, by its key. Asked about each message that is sent.
    fn held_message(&mut self, author: UserKey, key: &str) -> Result<Option<HeldMessage>, Self::SqlError>;

    /// Called when this transaction has changed what is held of a message.
    fn forget_held(&mut self, author: UserKey, key: &str);

    /// Keeps other transactions from adding reports until this one ends.
    fn lock_new_reports(&mut self) -> Result<(), Self::SqlError>;
}

/// The rows of one transaction. A read returns what the transaction has written before.
///
/// A conversation that has been read is locked until the transaction ends, so that later reads of its members and events are
/// consistent with it. After an error the transaction must be rolled back.
pub(crate) trait Rows: BlockRows + ReportRows<SqlError = <Self as BlockRows>::Error> {
    fn user(&mut self, name: &UserId) -> Result<Option<UserKey>, Self::Error>;

    fn user_or_new(&mut self, name: &UserId) -> Result<UserKey, Self::Error>;

    /// Whether an id is never given again. A retired id has no user.
    fn is_retired(&mut self, name: &UserId) -> Result<bool, Self::Error>;

    /// Keeps these users from getting another id until the transaction ends. `false` if one has got another id since this
    /// transaction looked them up.
    fn hold_ids(&mut self, users: &[&UserId]) -> Result<bool, Self::Error>;

    /// Stores the time at which a user's last device disconnected, unless a later time is stored.
    fn set_last_seen(&mut self, user: UserKey, at: Timestamp) -> Result<(), Self::Error>;

    /// Notes that the user was connected when the server stopped. PostgreSQL needs it not: its nodes have rows for their users.
    fn set_connected_at_stop(&mut self, user: UserKey) -> Result<(), Self::Error>;

    /// Stores the time up to which a user's tokens are revoked. A later stored time stays, unless `replace` is set.
    fn set_not_before(&mut self, user: UserKey, at: Timestamp, replace: bool) -> Result<(), Self::Error>;

    /// The ban of a user from a conversation, or from the installation. It may have ended.
    fn ban(&mut self, conversation: ConversationKey, user: UserKey) -> Result<Option<Ban>, Self::Error>;

    /// Stores a ban with the time at which it was made, or removes it.
    fn put_ban(
        &mut self,
        conversation: ConversationKey,
        user: UserKey,
        ban: Option<(NewBan, Timestamp)>,
    ) -> Result<(), Self::Error>;

    /// A user's profile. No other transaction can change it until this one ends.
    fn profile(&mut self, user: UserKey) -> Result<Option<StoredProfile>, Self::Error>;

    /// Stores a user's profile, and adds and removes words by which it is found.
    fn put_profile(
        &mut self,
        user: UserKey,
        profile: StoredProfile,
        removed: Vec<String>,
        added: Vec<String>,
    ) -> Result<(), Self::Error>;

    /// Stores the hour of a key's last use, unless a later one is stored.
    fn set_key_used(&mut self, key: Via, hour: Timestamp) -> Result<(), Self::Error>;

    /// Writes as much as a message does, to a row that is never read.
    fn probe(&mut self) -> Result<(), Self::Error>;

    fn conversation(&mut self, name: &ConversationId) -> Result<Option<Conversation>, Self::Error>;

    /// Creates a conversation without members and events. The caller has checked that the name is not in use.
    fn new_conversation(
        &mut self,
        name: &ConversationId,
        title: Option<String>,
        public: bool,
    ) -> Result<Conversation, Self::Error>;

    fn put_conversation(&mut self, conversation: Conversation);

    /// Whether rooms may be deleted: whether all nodes that write to the log know rooms that were.
    fn may_end_rooms(&self) -> bool;

    /// Adds a room to those of which content is left to remove.
    fn insert_ended_room(&mut self, room: ConversationKey) -> Result<(), Self::Error>;

    /// A membership, present or past.
    fn member(
        &mut self,
        conversation: ConversationKey,
        user: UserKey,
    ) -> Result<Option<Membership>, Self::Error>;

    fn put_member(&mut self, conversation: ConversationKey, user: UserKey, member: Membership);

    /// Whether two users share a room, or their direct conversation exists. Of each user, some of the oldest rooms are compared.
    fn share_a_conversation(
        &mut self,
        a: UserKey,
        b: UserKey,
        direct: &ConversationId,
    ) -> Result<bool, Self::Error>;

    /// The message that a sender has sent with an idempotency key.
    fn message_by_key(&mut self, sender: UserKey, key: &str) -> Result<Option<KeyedMessage>, Self::Error>;

    fn event(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<Option<ReferredEvent>, Self::Error>;

    /// Whether the bodies of new events name users by key instead of by id. They do once all nodes that write to the log can
    /// read such bodies.
    fn stores_user_keys(&self) -> bool;

    /// Adds an event with the stored form of its body, and with its sender and its maker. Returns `false`, and stores nothing, if the sender has used its key
    /// before.
    fn insert_event(
        &mut self,
        event: &LogEvent,
        stored: &str,
        conversation: &Conversation,
        made_by: (UserKey, Via),
    ) -> Result<bool, Self::Error>;

    /// Removes pages of the feed that are older than this, and their entries. The newest page stays.
    fn trim_feed(&mut self, before: Timestamp) -> Result<(), Self::Error>;

    /// Adds an entry to the feed that is no event.
    fn insert_entry(&mut self, entry: Entry) -> Result<(), Self::Error>;

    /// Replaces the body of an event.
    fn erase_event(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        body: &str,
    ) -> Result<(), Self::Error>;

    /// Stores the digest of the request for a message whose content the application has replaced.
    fn insert_replaced_request(
        &mut self,
        conversation: ConversationKey,
        message: Seq,
        request: RequestDigest,
    ) -> Result<(), Self::Error>;

    /// Deletes the digest of the request for a message, if there is one.
    fn delete_replaced_request(
        &mut self,
        conversation: ConversationKey,
        message: Seq,
    ) -> Result<(), Self::Error>;

    fn insert_amendment(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        by: Seq,
    ) -> Result<(), Self::Error>;

    fn count_amendments(&mut self, conversation: ConversationKey, target: Seq) -> Result<u64, Self::Error>;

    /// Reads the edits and the deletion of a message, oldest first.
    fn amendments(&mut self, conversation: ConversationKey, target: Seq) -> Result<Vec<Seq>, Self::Error>;

    /// The number of messages up to an event of the log, and the number of the member's own among them. `None` if more than
    /// `near` events would have to be read.
    fn message_counts(
        &mut self,
        conversation: &Conversation,
        user: UserKey,
        member: &Membership,
        upto: Seq,
        near: u64,
    ) -> Result<Option<MessageCounts>, Self::Error>;

    /// The same for an import, counted from the end of the log. `None` if more than [`MAX_EVENTS_COUNTED_FOR_IMPORT`] events would
    /// have to be read.
    fn counts_from_end(
        &mut self,
        conversation: &Conversation,
        user: UserKey,
        member: &Membership,
        upto: Seq,
    ) -> Result<Option<MessageCounts>, Self::Error>;

    /// Moves the cursors of all present members who had read up to `before` or further to the end of the log, at the end of the
    /// transaction. Members whose cursor an import has set stay where they are.
    fn catch_up_readers(&mut self, conversation: &Conversation, before: Seq);

    /// Makes the end of the transaction store nothing of it, because a change that is alone in it was refused half-way.
    fn abandon(&mut self);

    /// The event that last set or removed a reaction, and whether the reaction is set.
    fn latest_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
    ) -> Result<Option<(Seq, bool)>, Self::Error>;

    /// Sets a reaction; `by` is the event that sets it.
    fn set_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
        by: Seq,
    ) -> Result<(), Self::Error>;

    /// Removes the reaction that the event `since` set; `by` is the event that removes it.
    fn remove_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
        since: Seq,
        by: Seq,
    ) -> Result<(), Self::Error>;

    /// Counts the reactions to a message that have not been removed.
    fn count_reactions(&mut self, conversation: ConversationKey, target: Seq) -> Result<u64, Self::Error>;

    fn delete_reactions(&mut self, conversation: ConversationKey, target: Seq) -> Result<(), Self::Error>;

    /// Counts the rooms that the user created or joined, up to `most`. No other transaction can add one until this one
    /// ends.
    fn count_self_joined_rooms(&mut self, user: UserKey, most: u32) -> Result<u32, Self::Error>;

    fn insert_self_joined_room(
        &mut self,
        user: UserKey,
        conversation: ConversationKey,
    ) -> Result<(), Self::Error>;

    /// Removes a room that the user created or joined. Has no effect if another user had added the user to it.
    fn delete_self_joined_room(
        &mut self,
        user: UserKey,
        conversation: ConversationKey,
    ) -> Result<(), Self::Error>;
}

/// The stored number of a role.
pub(crate) fn role_number(role: Role) -> i64 {
    match role {
        Role::Reader => 0,
        Role::Member => 1,
        Role::Admin => 2,
    }
}

/// The role with this stored number; an unknown number becomes the role with the fewest rights.
pub(crate) fn role_from_number(number: i64) -> Role {
    match number {
        2 => Role::Admin,
        1 => Role::Member,
        _ => Role::Reader,
    }
}
