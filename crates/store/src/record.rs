//! The records that the store, the router and the bus share: keys, rows and log events.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::{ConversationId, Role, Seq, Timestamp, UserId};

use crate::block::{EventHead, View};
use crate::grant::{Scope, Scopes};
pub use crate::key::{ConversationKey, UserKey, Via};
pub use crate::kind::{Kind, NewerKind};
use crate::refusal::Refusal;
use crate::table::{conversations, members, record};

/// The SHA-256 of a request.
pub(crate) type RequestDigest = [u8; 32];

/// An API key without its secret, which the store does not keep.
#[derive(Debug, Clone)]
pub struct ApiKeyInfo {
    /// The key's name.
    pub name: String,
    /// When the key was made.
    pub created: Timestamp,
    /// Whether the key is revoked.
    pub revoked: bool,
    /// What it may do.
    pub scopes: Scopes,
    /// The pattern of the users whom it acts for; `None` for all.
    pub acts_as: Option<String>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// How many writes a second; `None` for the server's limit.
    pub rate: Option<u32>,
    /// The networks from which it may be used; `None` for all.
    pub addresses: Option<String>,
    /// Whether events come without their content.
    pub no_text: bool,
    /// Whether hooks are not asked about its writes.
    pub unasked: bool,
    /// The key that made it; `None` for the command line.
    pub parent: Option<String>,
    /// The hour of its last use.
    pub used: Option<Timestamp>,
    /// How long the secret before the last rotation is good.
    pub old_until: Option<Timestamp>,
}

impl ApiKeyInfo {
    /// A key in a database of an earlier version, which has neither scopes nor limits.
    pub(crate) fn from_earlier_version(name: String, created: Timestamp, revoked: bool) -> Self {
        Self {
            name,
            created,
            revoked,
            scopes: Scopes::new([Scope::Act, Scope::Revoke]),
            acts_as: None,
            expires: None,
            rate: None,
            addresses: None,
            no_text: false,
            unasked: false,
            parent: None,
            used: None,
            old_until: None,
        }
    }
}

/// The key that authenticates notices: random bytes in the database that all nodes share.
#[derive(Clone)]
pub struct NoticeKey([u8; 32]);

impl NoticeKey {
    /// A key of these bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The key's bytes, for computing a MAC.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for NoticeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoticeKey")
    }
}

/// A future answer of a store.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + std::marker::Send>>;

conversations!(record);
members!(record);

impl Conversation {
    /// A conversation without events and members.
    pub fn new(key: ConversationKey, name: ConversationId, title: Option<String>, public: bool) -> Self {
        let (head, last_message) = (Seq(0), Seq(0));
        let (messages, members, admins, at) = (0, 0, 0, 0);
        let (ended, slow, rejoin) = (false, 0, true);
        Self {
            key,
            name,
            title,
            public,
            head,
            messages,
            last_message,
            members,
            admins,
            at,
            ended,
            slow,
            rejoin,
        }
    }
}

impl Conversation {
    /// The settings that differ from those of a new room, as clients see them: `slow` and `rejoin`.
    pub(crate) fn shown_settings(&self) -> (Option<u32>, Option<bool>) {
        let slow = u32::try_from(self.slow).ok().filter(|slow| *slow > 0);
        (slow, (!self.rejoin).then_some(false))
    }
}

impl Membership {
    /// The role at a time: a silenced member is a reader.
    pub fn role_at(&self, now: Timestamp) -> Role {
        if self.silenced_until(now).is_some() { Role::Reader } else { self.role }
    }

    /// When the silence ends that holds at this time, if one does.
    pub fn silenced_until(&self, now: Timestamp) -> Option<Timestamp> {
        (self.silenced > now.as_millis()).then(|| Timestamp::from_millis(self.silenced))
    }

    /// How many messages of other users come after `read`, in a conversation with `messages` messages in all.
    pub fn unread(&self, messages: u64) -> u64 {
        messages.saturating_sub(self.read_messages).saturating_sub(self.sent.saturating_sub(self.read_sent))
    }
}

/// An event as the log has it. Its body is JSON, passed on without being decoded.
#[derive(Debug, Clone)]
pub struct LogEvent {
    /// The conversation.
    pub conversation: ConversationId,
    /// The event's number in the log.
    pub seq: Seq,
    /// The kind of event.
    pub kind: Kind,
    /// The user who made the event.
    pub from: UserId,
    /// When the event was stored.
    pub at: Timestamp,
    /// A message's idempotency key.
    pub key: Option<Box<str>>,
    /// The fields of the event's kind: a JSON object.
    pub body: Box<str>,
}

impl LogEvent {
    /// The fields that a reader sees even of a withheld event.
    fn head(&self) -> EventHead {
        let Self { conversation, seq, kind, from, at, .. } = self;
        let kind = kind.as_str().to_owned();
        EventHead { kind, conversation: conversation.clone(), seq: *seq, from: from.clone(), at: *at }
    }

    /// The event's frame as a reader with this view sees it.
    pub fn to_json_for(&self, view: View) -> String {
        match view {
            View::Whole => self.whole_json(),
            View::Withheld => self.head().withheld_json(),
        }
    }

    /// The whole event: `type` first, then the fields that all events have, then the fields of its kind. Ids are not
    /// escaped, because their alphabet has no character that JSON escapes.
    fn whole_json(&self) -> String {
        use std::fmt::Write as _;
        let mut json = String::with_capacity(160 + self.body.len());
        // Writing to a String cannot fail.
        let _ = write!(
            json,
            r#"{{"type":"{}","conversation":"{}","seq":{},"from":"{}","at":"{}""#,
            self.kind.as_str(),
            self.conversation,
            self.seq,
            self.from,
            self.at
        );
        if let Some(key) = &self.key {
            json.push_str(r#","key":"#);
            json.push_str(&serde_json::Value::from(&**key).to_string());
        }
        if let Some(fields) = self.body.strip_prefix('{').filter(|fields| *fields != "}") {
            json.push(',');
            json.push_str(fields);
        } else {
            json.push('}');
        }
        json
    }

    /// The most bytes that [`Self::to_json_for`] can return, with the comma after it on a page.
    pub fn max_json_bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.len());
        let kind = match &self.kind {
            Kind::Known(_) => 0,
            newer => newer.as_str().len(),
        };
        kind + Self::most_bytes_of(self.conversation.as_str().len(), key, self.body.len())
    }

    /// The bound of [`Self::max_json_bytes`], computed from lengths, so that a database can add it up. A key takes at most
    /// twice its length, if every character of it is escaped.
    pub const fn most_bytes_of(conversation: usize, key: usize, body: usize) -> usize {
        // The length of `{"type":"withheld","conversation":"","seq":18446744073709551615,"from":"","at":"","of":"unreadable","withheld":"blocked"}`
        // with a time. A whole event has less besides its body.
        const FIXED_FRAME_BYTES: usize = 160;
        FIXED_FRAME_BYTES + conversation + UserId::MAX_BYTES + 2 * key + body
    }

    /// The event's frame as raw JSON.
    ///
    /// # Errors
    /// The body is not a JSON object. That was checked when the row was read.
    pub fn to_raw_for(&self, view: View) -> serde_json::Result<Box<RawValue>> {
        RawValue::from_string(self.to_json_for(view))
    }
}

/// An event of a page, with what its reader sees of it.
#[derive(Debug, Clone)]
pub struct ReadEvent {
    /// The event.
    pub event: LogEvent,
    /// What the reader sees.
    pub view: View,
}

impl ReadEvent {
    /// The frame for the reader.
    pub fn seen_json(&self) -> String {
        self.event.to_json_for(self.view)
    }
}

/// A change of a user's membership by an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The user whose membership changed.
    pub user: UserId,
    /// Whether the user joined or left.
    #[serde(rename = "passage")]
    pub join_or_leave: JoinOrLeave,
}

/// Joining a conversation, or leaving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinOrLeave {
    /// The user joined or was added.
    #[serde(rename = "in")]
    Join {
        /// The last event that the user has already seen: the one by which they left before, or, for a new member, the
        /// event before this one.
        seen: Seq,
    },
    /// The user left or was removed.
    #[serde(rename = "out")]
    Leave,
}
