//! What is looked up, as the rows say it.

use std::fmt::Display;

use switchboard_protocol::reply::Edited;
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

use crate::Activity;
use crate::change::{Failed, StoreError};
use crate::record::{Conversation, ConversationKey, Kind, LogEvent, Membership, UserKey};

/// A user who was seen before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) key: UserKey,
    /// Up to when their tokens have been revoked.
    pub(crate) not_before: Option<Timestamp>,
}

/// The data of a user that other users may see.
#[derive(Debug, Clone)]
pub(crate) struct Acquainted {
    pub(crate) key: UserKey,
    pub(crate) name: UserId,
    /// When their last device left.
    pub(crate) last_seen: Option<Timestamp>,
}

/// A conversation as one user sees it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) conversation: Conversation,
    /// Present or past.
    pub(crate) membership: Option<Membership>,
}

/// A conversation of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) conversation: Conversation,
    pub(crate) member: Membership,
}

/// What a connection starts from, but for its summaries.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) user: Known,
    /// The first memberships.
    pub(crate) joined: Vec<Membered>,
    /// The conversations named, in their order.
    pub(crate) named: Vec<Named>,
}

/// A conversation that a user is a member of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membered {
    pub(crate) conversation: ConversationKey,
    /// Its last event and when that was stored; `None` if that cannot be read.
    pub(crate) state: Option<(Seq, i64)>,
}

impl Membered {
    pub(crate) fn activity(&self) -> Option<Activity> {
        Some(Activity { at: self.state?.1, conversation: self.conversation })
    }
}

/// A conversation that was asked for by name.
#[derive(Debug)]
pub(crate) enum Named {
    There(View),
    Nowhere,
    /// It cannot be read.
    Damaged,
}

/// A message as a user sees it whose view of the log ends at `visible`. There is none at 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) conversation: &'a Conversation,
    pub(crate) target: Seq,
    pub(crate) visible: Seq,
}

impl<'a> Wanted<'a> {
    /// The last message of a conversation, for a user who sees the whole log.
    pub(crate) fn last_of(conversation: &'a Conversation) -> Self {
        Self { conversation, target: conversation.last_message, visible: conversation.head }
    }

    /// Whether the user sees the whole log. Then removed reactions need not be read.
    pub(crate) fn sees_all(&self) -> bool {
        self.visible == self.conversation.head
    }
}

/// A message with its last edit and its reactions.
#[derive(Debug)]
pub(crate) struct Whole {
    /// `None` if that cannot be read.
    pub(crate) from: Option<UserId>,
    pub(crate) at: Timestamp,
    pub(crate) key: Option<String>,
    /// Empty if it cannot be read.
    pub(crate) body: String,
    /// The last edit that is seen, and what it says.
    pub(crate) edit: Option<(Edited, String)>,
    /// The reactions that are seen to stand, in the order in which they were set.
    pub(crate) reactions: Vec<(String, UserId)>,
}

/// The value of a row, or `None` if it is damaged. The damage is logged and does not hide other rows.
pub(crate) fn readable<T, E: StoreError>(
    read: Result<T, E>,
    row: impl FnOnce() -> String,
) -> Result<Option<T>, Failed<E>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_damage() => {
            tracing::error!(row = row(), %error, "skipping a damaged row");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The sender of an unreadable event.
pub(crate) fn nobody() -> UserId {
    UserId::parse("unknown").unwrap_or_else(|_| unreachable!("a user id"))
}

/// Whether an event of this kind and body can be forwarded without decoding it.
pub(crate) fn is_readable(kind: &Kind, body: &str) -> bool {
    *kind != Kind::Number(0) && serde_json::from_str::<serde_json::Map<_, _>>(body).is_ok()
}

/// The replacement for an unreadable event, so that it does not block clients that sync the log.
pub(crate) fn unreadable(
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
        from: from.unwrap_or_else(nobody),
        at,
        key: None,
        body: "{}".into(),
    }
}
