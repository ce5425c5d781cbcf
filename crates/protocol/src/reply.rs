//! The server's frames that are neither events nor signals.
//!
//! The server encodes events once and copies them into pages as raw JSON. So a page is generic over its events:
//! [`Event`] for a client, raw JSON for the server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::block::{Block, WithheldMessage};
use crate::event::is_false;
pub use crate::message::{Edited, Message, MessageTag};
pub use crate::profile::{Person, Profile};
use crate::{
    Avatar, Command, CommandId, ConversationId, ErrorCode, Event, EventBody, Limits, Permissions, PersonName,
    ReportId, Role, Seq, Signal, Timestamp, Title, UserId,
};

/// Any frame from the server.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ServerFrame {
    /// An answer, or a frame about the connection.
    Reply(Reply),
    /// A signal, which is not stored.
    Signal(Signal),
    /// A stored event.
    Event(Event),
}

impl ServerFrame {
    /// Every `type` that this version knows. A client ignores a frame of another type, because a newer server sent it.
    pub const FRAME_TYPES: [&str; REPLY_NAMES.len() + Signal::NAMES.len() + EventBody::NAMES.len()] =
        concat_names([&REPLY_NAMES, &Signal::NAMES, EventBody::NAMES]);
}

/// Every `type` of a [`Reply`].
const REPLY_NAMES: [&str; 6] = ["welcome", "ok", "error", "pong", "gap", "bye"];

/// Concatenates three lists at compile time.
const fn concat_names<const N: usize>(lists: [&[&'static str]; 3]) -> [&'static str; N] {
    let (mut all, mut list, mut from) = ([""; N], 0, 0);
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            all[from + at] = lists[list][at];
            at += 1;
        }
        (list, from) = (list + 1, from + at);
    }
    all
}

/// A frame that answers a command, or is about the connection.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields, concrete(E = Event)))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply<E = Event> {
    /// The answer to `hello`.
    Welcome(Box<Welcome>),
    /// A command succeeded.
    Ok(Ok<E>),
    /// A command failed.
    Error(Failure),
    /// The answer to `ping`.
    Pong {
        /// The command's `id`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<CommandId>,
    },
    /// Replaces a replay that would be too long: the client pages the events `after + 1` to `head` with `sync`.
    Gap {
        /// The conversation.
        conversation: ConversationId,
        /// The client's cursor.
        after: Seq,
        /// The head of the log; the server sends the events after it as they are stored.
        head: Seq,
    },
    /// The server will close the connection; the client reconnects after `retry_after`.
    Bye {
        /// The delay in milliseconds, different for every client.
        retry_after: u64,
    },
}

/// The answer to `hello`.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Welcome {
    /// The user of this connection.
    pub user: UserId,
    /// The connection's id, for support and logs. It gives no rights.
    pub connection: String,
    /// The server's name and version.
    pub server: String,
    /// What the server can do beyond the first version of the protocol: [`FEATURES`](crate::FEATURES). Older servers omit it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
    pub features: Vec<String>,
    /// The server's limits.
    pub limits: Limits,
    /// The first page of the user's conversations, latest activity first.
    pub conversations: Vec<Summary>,
    /// Whether there are more; `conversations` returns the next page.
    pub more: bool,
    /// The user's unread counts. Absent from older servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Unread>,
    /// What the user may do. Absent from older servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Box<Permissions>>,
}

/// A user's unread counts, over the conversations with the latest activity ([`Limits::MAX_UNREAD_CONVERSATIONS`]).
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Unread {
    /// Messages of others after the read cursor, as in a summary.
    pub messages: u64,
    /// Conversations with such messages.
    pub conversations: u64,
    /// Whether the user has more conversations than were counted.
    pub more: bool,
}

/// `ok`, with the command's `id` and its result.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields, concrete(E = Event)))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ok<E = Event> {
    /// The command's `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CommandId>,
    /// The command's result.
    #[serde(flatten)]
    pub body: OkBody<E>,
}

/// Lists the answers once, each with the field that only it has. An answer has no `type` of its own; a decoder takes the
/// first one in this list whose fields are present.
macro_rules! answers {
    ($(
        $(#[doc = $doc:literal])+ $own:literal $variant:ident { $($fields:tt)* }
    )*) => {
        /// The result of a command.
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields, concrete(E = Event)))]
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(untagged)]
        pub enum OkBody<E = Event> {
            $($(#[doc = $doc])+ $variant { $($fields)* },)*
        }

        impl<E> OkBody<E> {
            /// For every answer: its name, the field that only it has, and its description.
            pub const ALL: &'static [(&'static str, &'static str, &'static str)] =
                &[$((stringify!($variant), $own, concat!($($doc),+)),)*];

            /// The kind of this answer.
            pub fn answer(&self) -> Answer {
                match self {
                    $(Self::$variant { .. } => Answer::$variant,)*
                }
            }
        }

        /// The kinds of answers to commands.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Answer {
            /// The answer to `hello`.
            Welcome,
            $(#[doc = concat!("See [`OkBody::", stringify!($variant), "`].")] $variant,)*
        }
    };
}

answers! {
    /// An event is on stable storage.
    "seq" Stored {
        /// The conversation.
        conversation: ConversationId,
        /// The event's number in the log.
        seq: Seq,
        /// When it was stored.
        at: Timestamp,
        /// True if the server had stored it before, for the same key; `seq` is that of the first one.
        #[serde(default, skip_serializing_if = "is_false")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        duplicate: bool,
        /// The stored event, if the application changed the message; it replaces what the client sent.
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<Box<E>>,
    }
    /// A message is on stable storage, outside the log, and waits for the application's decision.
    "held" Held {
        /// The conversation.
        conversation: ConversationId,
        /// Always true.
        held: bool,
        /// True if the server had stored it before, for the same key.
        #[serde(default, skip_serializing_if = "is_false")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        duplicate: bool,
    }
    /// An import is on stable storage (`import`).
    "stored" Imported {
        /// How many lines are stored now.
        stored: u64,
        /// How many lines had been stored before.
        duplicates: u64,
    }
    /// A page of the raw log (`sync`).
    "events" Log {
        /// The conversation.
        conversation: ConversationId,
        /// The events, oldest first.
        events: Vec<E>,
        /// The last event of the log that the user may see.
        head: Seq,
        /// Whether there are events after these.
        more: bool,
    }
    /// A page of messages in their current state (`history`).
    "messages" History {
        /// The conversation.
        conversation: ConversationId,
        /// The messages, by ascending `seq`.
        messages: Vec<Message>,
        /// The last event that the messages include. The client applies later events to them.
        head: Seq,
        /// Whether there are messages before these.
        more: bool,
        /// With `around`: whether there are messages after these.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        more_after: Option<bool>,
        /// Messages of users whom the user blocks, among those of this page, by ascending `seq`. Absent if there are none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        withheld: Vec<WithheldMessage>,
    }
    /// A page of members (`members`).
    "members" Members {
        /// The conversation.
        conversation: ConversationId,
        /// The members, by id.
        members: Vec<Member>,
        /// Whether there are members after these.
        more: bool,
    }
    /// A page of the user's conversations (`conversations`).
    "conversations" Conversations {
        /// The conversations, latest activity first.
        conversations: Vec<Summary>,
        /// Whether there are more.
        more: bool,
    }
    /// The connection has a newer token (`token`).
    "expires" Token {
        /// When that token expires, and the connection with it.
        expires: Timestamp,
        /// What the user may do from now on. Absent from older servers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        permissions: Option<Box<Permissions>>,
    }
    /// The report is on stable storage (`report`).
    "report" Reported {
        /// The report.
        report: ReportId,
    }
    /// The user's own profile is on stable storage (`profile`).
    "version" Profile {
        /// The user.
        user: UserId,
        /// The profile's version, which grows with each change.
        version: u64,
    }
    /// Profiles (`users`, `find_users`).
    "users" Users {
        /// The profiles, in the order asked.
        users: Vec<Profile>,
        /// Whether there are more: those asked for that did not fit, or more that were found.
        more: bool,
    }
    /// A page of the users whom the user blocks (`blocks`).
    "blocks" Blocks {
        /// The users, by their number in the server.
        blocks: Vec<Block>,
        /// Whether there are more.
        more: bool,
    }
    /// The new position of a cursor (`read`, `received`).
    "upto" Cursor {
        /// The conversation.
        conversation: ConversationId,
        /// The cursor's position.
        upto: Seq,
    }
    /// The command succeeded and has no result (`typing`, `watch`, `block`).
    "" Done {}
}

impl<E> OkBody<E> {
    /// Whether this can be the answer to `command`. [`OkBody::Held`] is an answer to `send`, too.
    pub fn is_answer_to(&self, command: &Command) -> bool {
        match (self.answer(), command.answer()) {
            (Answer::Held, Answer::Stored) => true,
            (given, expected) => given == expected,
        }
    }
}

/// A command failed.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The command's `id`, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CommandId>,
    /// Why the command failed.
    pub code: ErrorCode,
    /// An explanation for people.
    pub message: String,
    /// Whether the same command may succeed later, unchanged.
    pub retryable: bool,
    /// The delay before a retry, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// With `bad_field` or `too_large`: the field of the command that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// If a cursor in `hello` was refused: the conversation of that cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationId>,
    /// With `banned`: the end of the ban. Absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// With `forbidden`: the permission that the user lacks, by its name in `welcome.permissions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
}

/// A conversation in the list of one of its members.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The conversation.
    pub conversation: ConversationId,
    /// A room's title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Title>,
    /// Whether any user may join.
    #[serde(default, skip_serializing_if = "is_false")]
    #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
    pub public: bool,
    /// How many milliseconds there are between two messages of a member at least, if the room is in slow mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow: Option<u32>,
    /// False if a user who was removed may not join again; otherwise absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoin: Option<bool>,
    /// The user's own role.
    pub role: Role,
    /// Until when the user is a `reader`, if the user is silenced. Then the user has the role of before again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The number of members.
    pub members: u64,
    /// The last event of the log.
    pub head: Seq,
    /// The time of that event. Summaries are ordered by it.
    pub at: Timestamp,
    /// The user's read cursor.
    pub read: Seq,
    /// The user's received cursor.
    pub received: Seq,
    /// Messages of others after `read`; a deleted one still counts. Those of users whom the user blocks do not count, as long
    /// as no more than `limits.unread` messages come after `read`.
    pub unread: u64,
    /// In a direct conversation: the other user, if they have a name or a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<Person>,
    /// The last message, in its current state. If it is by a user whom the user blocks, the newest of the latest 50 messages
    /// that is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Message>,
}

/// A member of a conversation.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// The user.
    pub user: UserId,
    /// The member's role.
    pub role: Role,
    /// Until when the member is a `reader`, if the member is silenced. Then the member has the role of before again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The member's read cursor.
    pub read: Seq,
    /// The member's received cursor.
    pub received: Seq,
    /// The member's name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PersonName>,
    /// The member's picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Avatar>,
}

#[cfg(test)]
mod tests;
