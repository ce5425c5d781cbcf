//! The records that the store, the router and the bus share: keys, rows and log events.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::{ConversationId, Role, Seq, Timestamp, UserId};

pub use crate::key::{ConversationKey, UserKey};
pub use crate::kind::{Kind, NewerKind};
use crate::refusal::Refusal;
use crate::table::{conversations, members, record};

/// An API key as far as it can be shown: its secret is nowhere.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it is revoked.
    pub revoked: bool,
}

/// The key that authenticates notices: random bytes in the database that all nodes share.
#[derive(Clone)]
pub struct NoticeKey([u8; 32]);

impl NoticeKey {
    /// Wraps the bytes.
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
    /// One in which nothing has happened and nobody is.
    pub fn new(key: ConversationKey, name: ConversationId, title: Option<String>, public: bool) -> Self {
        let (head, last_message) = (Seq(0), Seq(0));
        Self { key, name, title, public, head, messages: 0, last_message, members: 0, admins: 0, at: 0 }
    }
}

impl Membership {
    /// Messages of others after `read`, in a conversation that has `messages` in all.
    pub fn unread(&self, messages: u64) -> u64 {
        messages.saturating_sub(self.read_messages).saturating_sub(self.sent.saturating_sub(self.read_sent))
    }
}

/// An event as the log has it: its body is JSON, passed on without being understood.
#[derive(Debug, Clone)]
pub struct LogEvent {
    /// Where.
    pub conversation: ConversationId,
    /// Its number.
    pub seq: Seq,
    /// What happened.
    pub kind: Kind,
    /// Who did it.
    pub from: UserId,
    /// When.
    pub at: Timestamp,
    /// A message's idempotency key.
    pub key: Option<Box<str>>,
    /// The fields of its kind: a JSON object.
    pub body: Box<str>,
}

impl LogEvent {
    /// The event's frame, as the contract shows it: `type` first, then what all events have, then
    /// the fields of its kind. Ids need no escaping: their alphabet has none of JSON's characters.
    pub fn to_json(&self) -> String {
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

    /// How many bytes [`Self::to_json`] takes at most, with the comma behind it in a page.
    pub fn most_bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.len());
        let kind = match &self.kind {
            Kind::Known(_) => 0,
            newer => newer.as_str().len(),
        };
        kind + Self::most_bytes_of(self.conversation.as_str().len(), key, self.body.len())
    }

    /// The same by what it is made of, so that a database can add it up: a key at worst doubles, where every character
    /// of it is escaped.
    pub const fn most_bytes_of(conversation: usize, key: usize, body: usize) -> usize {
        // `{"type":"unreadable","conversation":"","seq":18446744073709551615,"from":"","at":"","key":"",` with a time.
        const FIXED: usize = 140;
        FIXED + conversation + UserId::MAX_BYTES + 2 * key + body
    }

    /// The event's frame as raw JSON.
    ///
    /// # Errors
    /// The body is no JSON object; it was checked when the row was read.
    pub fn to_raw(&self) -> serde_json::Result<Box<RawValue>> {
        RawValue::from_string(self.to_json())
    }
}

/// A user's membership changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Whose.
    pub user: UserId,
    /// Which way.
    pub passage: Passage,
}

/// Coming into a conversation, or going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passage {
    /// In. What the user has seen of the log already: up to leaving, for a user who comes back;
    /// otherwise up to the event before.
    In {
        /// The last event seen.
        seen: Seq,
    },
    /// Out.
    Out,
}
