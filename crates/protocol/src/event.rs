//! Everything that lasts: the events of a conversation's log.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ConversationId, Data, Emoji, Key, Seq, Text, Title, UserId};

/// An event of a conversation's log, as it goes over the wire.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// What happened, with the fields of its kind.
    #[serde(flatten)]
    pub body: EventBody,
    /// Where.
    pub conversation: ConversationId,
    /// Its number in the log.
    pub seq: Seq,
    /// Who did it.
    pub from: UserId,
    /// When the server stored it; never earlier than the event before.
    pub at: Timestamp,
    /// A message's idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
}

/// Lists the events once. A stored one has its `type`, its number in the store, what it is about, what it does to
/// memberships, and its fields; numbers are never reused. One that is only told has no number and is never written.
macro_rules! events {
    (
        stored {$(
            $(#[$doc:meta])* $name:literal $variant:ident = $number:literal, $about:ident, $membership:ident {
                $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
            }
        )*}
        told {$(
            $(#[$told_doc:meta])* $told_name:literal $told:ident {
                $($(#[$told_field_doc:meta])* $told_field:ident: $told_type:ty,)*
            }
        )*}
    ) => {
        /// What happened. The tag is the frame's `type`.
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "type")]
        #[schemars(transform = one_of)]
        pub enum EventBody {
            $($(#[$doc])* #[serde(rename = $name)] $variant { $($(#[$field_doc])* $field: $type,)* },)*
            $($(#[$told_doc])* #[serde(rename = $told_name)] $told {
                $($(#[$told_field_doc])* $told_field: $told_type,)*
            },)*
            /// An event of a kind that this version does not know, or does not know like this, with its fields as
            /// they came. A newer server has it; its place in the log counts like any other's.
            #[serde(untagged)]
            #[schemars(skip)]
            #[cfg_attr(feature = "typescript", ts(skip))]
            Unknown(Map<String, Value>),
        }

        impl EventBody {
            /// Every `type` of an event that this version knows.
            pub const NAMES: &'static [&'static str] = &[$($name,)* $($told_name,)*];

            /// The kind of this event; one that this version does not store counts as [`EventKind::Unreadable`].
            pub fn kind(&self) -> EventKind {
                match self {
                    $(Self::$variant { .. } => EventKind::$variant,)*
                    $(Self::$told { .. })|* | Self::Unknown(_) => EventKind::Unreadable,
                }
            }
        }

        /// The kinds of events, with the numbers that a store keeps for them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum EventKind {
            /// A stored event that cannot be read; never written.
            Unreadable = 0,
            $(#[doc = concat!("See [`EventBody::", stringify!($variant), "`].")] $variant = $number,)*
        }

        impl EventKind {
            /// Every kind that is stored.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kind with this stored number; [`EventKind::Unreadable`] if there is none.
            pub const fn from_number(n: i64) -> Self {
                match n {
                    $($number => Self::$variant,)*
                    _ => Self::Unreadable,
                }
            }

            /// The frame's `type`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Unreadable => "unreadable",
                    $(Self::$variant => $name,)*
                }
            }

            /// What an event of this kind is about.
            pub const fn about(self) -> About {
                match self {
                    Self::Unreadable => About::Nothing,
                    $(Self::$variant => About::$about,)*
                }
            }

            /// What an event of this kind does to memberships.
            pub const fn membership(self) -> MembershipEffect {
                match self {
                    Self::Unreadable => MembershipEffect::None,
                    $(Self::$variant => MembershipEffect::$membership,)*
                }
            }
        }

        /// The number of a kind of event as a literal text, for statements that are put together at compile time:
        /// a database uses a partial index only where a statement names the number itself.
        #[macro_export]
        macro_rules! kind_number {
            $(($variant) => { stringify!($number) };)*
        }
    };
}

events! {
    stored {
        /// Somebody wrote.
        "message" Message = 1, Message, None {
            /// What a person reads.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            text: Option<Text>,
            /// What an application reads.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            data: Option<Data>,
            /// The message that this one answers.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            reply_to: Option<Seq>,
            /// True once the message was deleted; its content is gone from the store.
            #[serde(default, skip_serializing_if = "is_false")]
            #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
            deleted: bool,
        }
        /// The author replaced a message's content.
        "edit" Edit = 2, Target, None {
            /// The message.
            target: Seq,
            /// The new text.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            text: Option<Text>,
            /// The new data.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            data: Option<Data>,
            /// True once the message was deleted; the edit's content is gone with it.
            #[serde(default, skip_serializing_if = "is_false")]
            #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
            deleted: bool,
        }
        /// The author or an admin erased a message.
        "delete" Delete = 3, Target, None {
            /// The message.
            target: Seq,
        }
        /// Somebody set or took back a reaction.
        "react" React = 4, Target, None {
            /// The message.
            target: Seq,
            /// The reaction.
            emoji: Emoji,
            /// Set, or taken back.
            on: bool,
        }
        /// The room was made; `from` is its first admin.
        "create" Create = 5, Room, Begins {
            /// The room's title.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            title: Option<Title>,
            /// Whether anyone may join.
            public: bool,
            /// The first members besides the creator.
            members: Vec<UserId>,
        }
        /// `from` entered the room.
        "join" Join = 6, Room, SenderEnters {
            /// In which role, where that is not `member`: the first in an empty room is its admin, and a reader who comes
            /// back is a reader.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            role: Option<Role>,
        }
        /// `from` left the room.
        "leave" Leave = 7, Room, SenderLeaves {}
        /// `from` brought `user` into the room.
        "invite" Invite = 8, Room, UserEnters {
            /// Who came in.
            user: UserId,
            /// In which role.
            role: Role,
        }
        /// `from` took `user` out of the room.
        "remove" Remove = 9, Room, UserLeaves {
            /// Who went.
            user: UserId,
        }
        /// `from` changed the role of `user`.
        "role" Role = 10, Room, None {
            /// Whose role.
            user: UserId,
            /// The new role.
            role: Role,
        }
        /// `from` changed the room's title.
        "rename" Rename = 11, Room, None {
            /// The new title.
            title: Title,
        }
    }
    told {
        /// The stored event cannot be read. Its place in the log is kept, so that nobody's sync stops
        /// here; the operator finds the report in the log.
        "unreadable" Unreadable {}
        /// An event that the reader may not see. It keeps its place in the log, without its content.
        "withheld" Withheld {
            /// The `type` of the event.
            of: String,
            /// Why, in one word: `blocked`.
            withheld: String,
        }
        /// Everything that `from` wrote up to here is erased. A client drops what it has and starts again from `history`.
        "erase" Erase {}
    }
}

/// Kinds exclude each other by their `type`; that there is one without is this crate's own affair.
fn one_of(schema: &mut schemars::Schema) {
    if let Some(kinds) = schema.remove("anyOf") {
        schema.insert("oneOf".to_owned(), kinds);
    }
}

impl EventKind {
    /// The number that a store keeps for it.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// It is a message.
    Message,
    /// The message in `target`, into which it is folded.
    Target,
    /// A room and its members: a direct conversation has no such events.
    Room,
    /// Nothing is known about it.
    Nothing,
}

/// What an event does to memberships. Who is a member follows from this, also when a log is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipEffect {
    /// Nobody enters or leaves. The first message of a direct conversation makes its two users members.
    None,
    /// `from` and `members` enter a new room.
    Begins,
    /// `from` enters.
    SenderEnters,
    /// `user` enters.
    UserEnters,
    /// `from` leaves.
    SenderLeaves,
    /// `user` leaves.
    UserLeaves,
}

/// What a member may do.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything a member may, and: delete anyone's message, invite, remove, change roles, rename.
    Admin,
    /// Read and write.
    #[default]
    Member,
    /// Read only.
    Reader,
}

/// A time: RFC 3339, UTC, milliseconds. Serialised as `2026-11-23T12:00:00.000Z`.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch; what lies outside the years -9999 to 9999 is moved to
    /// the nearest end.
    pub fn from_millis(millis: i64) -> Self {
        let (min, max) = (jiff::Timestamp::MIN.as_millisecond(), jiff::Timestamp::MAX.as_millisecond());
        Self(millis.clamp(min, max))
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{time:.3}")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(time.as_millisecond()))
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC, milliseconds.",
            "examples": ["2026-11-23T12:00:00.000Z"],
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
pub(crate) fn is_false(b: &bool) -> bool {
    !b
}
