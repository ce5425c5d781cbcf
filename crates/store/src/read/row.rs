//! The rows that lookups return.

use std::fmt::Display;

use rustc_hash::FxHashSet;
use switchboard_protocol::reply::Edited;
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

use super::ReaderRow;
use crate::Activity;
use crate::ban::Standing;
use crate::change::{OperationError, StoreError};
use crate::record::{Conversation, ConversationKey, Kind, LogEvent, Membership, UserKey};

/// A user whom the server has seen before.
#[derive(Debug, Clone)]
pub(crate) struct UserRow {
    pub(crate) key: UserKey,
    pub(crate) standing: Standing,
    /// How often the list of users whom the user blocks has changed.
    pub(crate) block_changes: u64,
}

impl UserRow {
    pub(crate) fn reader(&self) -> ReaderRow {
        ReaderRow { key: self.key, block_changes: self.block_changes }
    }
}

/// The data of a user that other users may see.
#[derive(Debug, Clone)]
pub(crate) struct PresencePeerRow {
    pub(crate) key: UserKey,
    pub(crate) name: UserId,
    /// When the user's last device disconnected.
    pub(crate) last_seen: Option<Timestamp>,
}

/// A conversation as one user sees it.
#[derive(Debug)]
pub(crate) struct ConversationAccess {
    pub(crate) conversation: Conversation,
    /// The user's membership, present or past.
    pub(crate) membership: Option<Membership>,
    /// The user.
    pub(crate) reader: ReaderRow,
}

/// A conversation in a user's list, with the user's membership.
#[derive(Debug)]
pub(crate) struct ListedConversation {
    pub(crate) conversation: Conversation,
    pub(crate) member: Membership,
}

/// The rows that a connection starts from, without its summaries.
#[derive(Debug)]
pub(crate) struct ConnectionStart {
    pub(crate) user: UserRow,
    /// The first page of memberships.
    pub(crate) joined: Vec<MembershipRow>,
    /// The conversations named by the connection, in its order.
    pub(crate) named: Vec<NamedConversation>,
}

/// A conversation that a user is a member of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MembershipRow {
    pub(crate) conversation: ConversationKey,
    /// The conversation's last event, and the time of that event; `None` if the row cannot be read, or the room was deleted.
    pub(crate) last_event: Option<(Seq, i64)>,
}

impl MembershipRow {
    /// A row with the conversation's last event, the time of that event, and whether the room was deleted; `None` if it cannot be
    /// read.
    pub(crate) fn new(conversation: ConversationKey, read: Option<((Seq, i64), bool)>) -> Self {
        let last_event = read.filter(|(_, ended)| !ended).map(|(last, _)| last);
        Self { conversation, last_event }
    }

    pub(crate) fn activity(&self) -> Option<Activity> {
        Some(Activity { at: self.last_event?.1, conversation: self.conversation })
    }

    /// The activity, unless the conversation is among the `hidden` ones.
    pub(crate) fn visible_activity(&self, hidden: &FxHashSet<ConversationKey>) -> Option<Activity> {
        self.activity().filter(|activity| !hidden.contains(&activity.conversation))
    }
}

/// A conversation that was requested by name.
#[derive(Debug)]
pub(crate) enum NamedConversation {
    Found(Box<ConversationAccess>),
    NotFound,
    /// The row cannot be read.
    Damaged,
}

/// A message to look up, for a user who sees the log up to `visible`. No message has the number 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WantedMessage<'a> {
    pub(crate) conversation: &'a Conversation,
    pub(crate) target: Seq,
    pub(crate) visible: Seq,
}

impl<'a> WantedMessage<'a> {
    /// A message of a conversation, for a user who sees the whole log.
    pub(crate) fn in_whole_log(conversation: &'a Conversation, target: Seq) -> Self {
        Self { conversation, target, visible: conversation.head }
    }

    /// Whether the user sees the whole log. If so, removed reactions need not be read.
    pub(crate) fn sees_whole_log(&self) -> bool {
        self.visible == self.conversation.head
    }
}

/// A message with its last edit and its reactions.
#[derive(Debug)]
pub(crate) struct StoredMessage {
    /// The sender; `None` if it cannot be read.
    pub(crate) from: Option<UserId>,
    pub(crate) at: Timestamp,
    pub(crate) key: Option<String>,
    /// The body; empty if it cannot be read.
    pub(crate) body: String,
    /// The last edit that the user sees, and its body.
    pub(crate) edit: Option<(Edited, String)>,
    /// The reactions that the user sees as set, in the order in which they were set.
    pub(crate) reactions: Vec<(String, UserId)>,
}

/// The value of a row, or `None` if it is damaged. The damage is logged and does not hide other rows.
pub(crate) fn skip_damaged<T, E: StoreError>(
    read: Result<T, E>,
    row: impl FnOnce() -> String,
) -> Result<Option<T>, OperationError<E>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_damaged_row() => {
            tracing::error!(row = row(), %error, "skipping a damaged row");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The sender of an unreadable event.
pub(crate) fn unknown_user() -> UserId {
    UserId::parse("unknown").unwrap_or_else(|_| unreachable!("a user id"))
}

/// Whether an event of this kind and body can be forwarded without decoding it.
pub(crate) fn is_readable(kind: &Kind, body: &str) -> bool {
    *kind != Kind::Number(0) && serde_json::from_str::<serde_json::Map<_, _>>(body).is_ok()
}

/// The replacement for an unreadable event, so that it does not block clients that sync the log.
pub(crate) fn unreadable_event(
    conversation: &ConversationId,
    seq: Seq,
    from: Option<UserId>,
    at: Timestamp,
    error: impl Display,
) -> LogEvent {
    tracing::error!(%conversation, %seq, %error, "an event cannot be read; sending it as `unreadable`");
    LogEvent {
        conversation: conversation.clone(),
        seq,
        kind: EventKind::Unreadable.into(),
        from: from.unwrap_or_else(unknown_user),
        at,
        key: None,
        body: "{}".into(),
    }
}
