//! What is looked up, as the rows say it.

use std::fmt::Display;

use switchboard_protocol::reply::Edited;
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

use crate::record::{Conversation, ConversationKey, LogEvent, Membership, UserKey};
use crate::store::Activity;
use crate::store::change::{Failed, StoreError};

/// A user who was seen before.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Known {
    pub(in crate::store) key: UserKey,
    /// Up to when their tokens have been revoked.
    pub(in crate::store) not_before: Option<Timestamp>,
}

/// A user as somebody else may know them.
#[derive(Debug, Clone)]
pub(in crate::store) struct Acquainted {
    pub(in crate::store) key: UserKey,
    pub(in crate::store) name: UserId,
    /// When their last device left.
    pub(in crate::store) last_seen: Option<Timestamp>,
}

/// A conversation as one user sees it.
#[derive(Debug)]
pub(in crate::store) struct View {
    pub(in crate::store) conversation: Conversation,
    /// Present or past.
    pub(in crate::store) membership: Option<Membership>,
}

/// A conversation of a list.
#[derive(Debug)]
pub(in crate::store) struct Listed {
    pub(in crate::store) conversation: Conversation,
    pub(in crate::store) member: Membership,
}

/// What a connection starts from, but for its summaries.
#[derive(Debug)]
pub(in crate::store) struct Start {
    pub(in crate::store) user: Known,
    /// The first memberships.
    pub(in crate::store) joined: Vec<Membered>,
    /// The conversations named, in their order.
    pub(in crate::store) named: Vec<Named>,
}

/// A conversation that a user is a member of.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Membered {
    pub(in crate::store) conversation: ConversationKey,
    /// Its last event and when that was stored; `None` if that cannot be read.
    pub(in crate::store) state: Option<(Seq, i64)>,
}

impl Membered {
    pub(in crate::store) fn activity(&self) -> Option<Activity> {
        Some(Activity { at: self.state?.1, conversation: self.conversation })
    }
}

/// A conversation that was asked for by name.
#[derive(Debug)]
pub(in crate::store) enum Named {
    There(View),
    Nowhere,
    /// It cannot be read.
    Damaged,
}

/// A message to be seen by somebody who sees the log up to `visible`. There is none at 0.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Wanted<'a> {
    pub(in crate::store) conversation: &'a Conversation,
    pub(in crate::store) target: Seq,
    pub(in crate::store) visible: Seq,
}

impl<'a> Wanted<'a> {
    /// The last message of a conversation for somebody who sees all of it.
    pub(in crate::store) fn last_of(conversation: &'a Conversation) -> Self {
        Self { conversation, target: conversation.last_message, visible: conversation.head }
    }

    /// Whoever sees the whole log needs no reactions that were taken back.
    pub(in crate::store) fn sees_all(&self) -> bool {
        self.visible == self.conversation.head
    }
}

/// A message with what followed it.
#[derive(Debug)]
pub(in crate::store) struct Whole {
    /// `None` if that cannot be read.
    pub(in crate::store) from: Option<UserId>,
    pub(in crate::store) at: Timestamp,
    pub(in crate::store) key: Option<String>,
    /// Empty if it cannot be read.
    pub(in crate::store) body: String,
    /// The last edit that is seen, and what it says.
    pub(in crate::store) edit: Option<(Edited, String)>,
    /// The reactions that are seen to stand, in the order in which they were set.
    pub(in crate::store) reactions: Vec<(String, UserId)>,
}

/// What was read of a row, or `None` if it is damaged: it is reported, and must not keep anybody from the others.
pub(in crate::store) fn readable<T, E: StoreError>(
    read: Result<T, E>,
    row: impl FnOnce() -> String,
) -> Result<Option<T>, Failed<E>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_damage() => {
            tracing::error!(row = row(), %error, "a damaged row is passed over");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whom an event that cannot be read is from.
pub(in crate::store) fn nobody() -> UserId {
    UserId::parse("unknown").unwrap_or_else(|_| unreachable!("a user id"))
}

/// Whether an event of this kind and body can be passed on without being understood.
pub(in crate::store) fn is_readable(kind: EventKind, body: &str) -> bool {
    kind != EventKind::Unreadable && serde_json::from_str::<serde_json::Map<_, _>>(body).is_ok()
}

/// What stands for an event that cannot be read: it must not block the log for everybody who syncs.
pub(in crate::store) fn unreadable(
    conversation: &ConversationId,
    seq: Seq,
    from: Option<UserId>,
    at: Timestamp,
    error: impl Display,
) -> LogEvent {
    tracing::error!(%conversation, %seq, %error, "an event cannot be read; it is passed on as `unreadable`");
    LogEvent {
        conversation: conversation.clone(),
        seq,
        kind: EventKind::Unreadable,
        from: from.unwrap_or_else(nobody),
        at,
        key: None,
        body: "{}".into(),
    }
}
