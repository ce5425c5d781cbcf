//! The events of a conversation's log, which the server stores.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ConversationId, Data, Emoji, Key, Seq, Text, Title, UserId};

/// An event of a conversation's log, in its wire form.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// What happened, with the fields of its kind.
    #[serde(flatten)]
    pub body: EventBody,
    /// The conversation.
    pub conversation: ConversationId,
    /// Its number in the log.
    pub seq: Seq,
    /// The user who did it.
    pub from: UserId,
    /// The time at which the server stored it; never earlier than the event before.
    pub at: Timestamp,
    /// A message's idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
}

/// Lists the events once. A stored event has its `type`, its number in the store, what it is about, its effect on
/// memberships, and its fields. Numbers are never reused. An unstored event has no number, because the server sends it but
/// never writes it.
macro_rules! events {
    (
        stored {$(
            $(#[$doc:meta])* $name:literal $variant:ident = $number:literal, $about:ident, $membership:ident {
                $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
            }
        )*}
        unstored {$(
            $(#[$unstored_doc:meta])* $unstored_name:literal $unstored:ident {
                $($(#[$unstored_field_doc:meta])* $unstored_field:ident: $unstored_type:ty,)*
            }
        )*}
    ) => {
        /// What happened. The tag is the frame's `type`.
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "type")]
        #[schemars(transform = describe_as_one_of)]
        pub enum EventBody {
            $($(#[$doc])* #[serde(rename = $name)] $variant { $($(#[$field_doc])* $field: $type,)* },)*
            $($(#[$unstored_doc])* #[serde(rename = $unstored_name)] $unstored {
                $($(#[$unstored_field_doc])* $unstored_field: $unstored_type,)*
            },)*
            /// An event of a newer server, with its fields unchanged. This version does not know its type, or does not
            /// accept its fields. It takes its position in the log like any other event.
            #[serde(untagged)]
            #[schemars(skip)]
            #[cfg_attr(feature = "typescript", ts(skip))]
            Unknown(Map<String, Value>),
        }

        impl EventBody {
            /// Every `type` of an event that this version knows.
            pub const NAMES: &'static [&'static str] = &[$($name,)* $($unstored_name,)*];

            /// The kind of this event; [`EventKind::Unreadable`] for events that this version never stores.
            pub fn kind(&self) -> EventKind {
                match self {
                    $(Self::$variant { .. } => EventKind::$variant,)*
                    $(Self::$unstored { .. })|* | Self::Unknown(_) => EventKind::Unreadable,
                }
            }
        }

        /// The kinds of events, with their numbers in the store.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum EventKind {
            /// Stands for a stored event that cannot be read. It is never written.
            Unreadable = 0,
            $(#[doc = concat!("See [`EventBody::", stringify!($variant), "`].")] $variant = $number,)*
        }

        impl EventKind {
            /// Every kind of stored event.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kind with this number in the store; [`EventKind::Unreadable`] for an unknown number.
            pub const fn from_number(n: i64) -> Self {
                match n {
                    $($number => Self::$variant,)*
                    _ => Self::Unreadable,
                }
            }

            /// The `type` of a frame with this event.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Unreadable => "unreadable",
                    $(Self::$variant => $name,)*
                }
            }

            /// Whether an event of this kind is a message, is about a message, or is about a room.
            pub const fn scope(self) -> EventScope {
                match self {
                    Self::Unreadable => EventScope::Nothing,
                    $(Self::$variant => EventScope::$about,)*
                }
            }

            /// The names of the event's fields that hold user ids, derived from the types of the fields.
            pub const fn user_fields(self) -> &'static [&'static str] {
                match self {
                    Self::Unreadable => &[],
                    $(Self::$variant => {
                        const FIELDS: &[(&str, bool)] =
                            &[$((stringify!($field), <$type as FieldType>::HOLDS_USERS),)*];
                        const USERS: [&str; count_user_fields(FIELDS)] = pick_user_fields(FIELDS);
                        &USERS
                    })*
                }
            }

            /// The effect of an event of this kind on memberships.
            pub const fn membership(self) -> MembershipEffect {
                match self {
                    Self::Unreadable => MembershipEffect::None,
                    $(Self::$variant => MembershipEffect::$membership,)*
                }
            }
        }

        /// The number of a kind as a literal, for SQL that is concatenated at compile time. The number must be in the SQL
        /// itself, because a database uses a partial index only then.
        #[macro_export]
        macro_rules! kind_number {
            $(($variant) => { stringify!($number) };)*
        }
    };
}

events! {
    stored {
        /// `from` wrote a message.
        "message" Message = 1, Message, None {
            /// The text for people.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            text: Option<Text>,
            /// The JSON object for the application.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            data: Option<Data>,
            /// The `seq` of the message that this one answers.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            reply_to: Option<Seq>,
            /// True after the message was deleted: the store has erased its content.
            #[serde(default, skip_serializing_if = "is_false")]
            #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
            deleted: bool,
        }
        /// The author replaced a message's content.
        "edit" Edit = 2, Target, None {
            /// The `seq` of the message.
            target: Seq,
            /// The new text.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            text: Option<Text>,
            /// The new data.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            data: Option<Data>,
            /// True after the message was deleted: the store has erased the edit's content, too.
            #[serde(default, skip_serializing_if = "is_false")]
            #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
            deleted: bool,
        }
        /// The author or an admin erased a message.
        "delete" Delete = 3, Target, None {
            /// The `seq` of the message.
            target: Seq,
        }
        /// `from` added or removed a reaction.
        "react" React = 4, Target, None {
            /// The `seq` of the message.
            target: Seq,
            /// The reaction.
            emoji: Emoji,
            /// True if the reaction was added, false if it was removed.
            on: bool,
        }
        /// `from` created the room and is its first admin.
        "create" Create = 5, Room, Begins {
            /// The room's title.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            title: Option<Title>,
            /// Whether any user may join.
            public: bool,
            /// The first members besides the creator.
            members: Vec<UserId>,
        }
        /// `from` joined the room.
        "join" Join = 6, Room, SenderEnters {
            /// The user's role in the room. Absent means `member`. The first user who joins an empty room becomes `admin`,
            /// and a user who left as `reader` joins as `reader` again.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            role: Option<Role>,
            /// Until when the user only reads, in any role, because of a silence of before.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            until: Option<Timestamp>,
        }
        /// `from` left the room.
        "leave" Leave = 7, Room, SenderLeaves {}
        /// `from` added `user` to the room.
        "invite" Invite = 8, Room, UserEnters {
            /// The user who was added.
            user: UserId,
            /// The user's role.
            role: Role,
            /// Until when the user only reads, in any role, because of a silence of before.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            until: Option<Timestamp>,
        }
        /// `from` removed `user` from the room, banned `user` from it, or both.
        "remove" Remove = 9, Room, UserLeaves {
            /// The user who was removed.
            user: UserId,
            /// True if the user was banned from the room, too.
            #[serde(default, skip_serializing_if = "is_false")]
            #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
            ban: bool,
            /// When the ban ends; absent if it has no end.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            until: Option<Timestamp>,
            /// True if the user was no member before, so that the members did not change.
            #[serde(default, skip_serializing_if = "is_false")]
            #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
            absent: bool,
        }
        /// `from` changed the role of `user`.
        "role" Role = 10, Room, None {
            /// The member.
            user: UserId,
            /// The new role.
            role: Role,
            /// With the role `reader`: until when. Then the member has the role of before again.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            until: Option<Timestamp>,
        }
        /// `from` changed the room's title.
        "rename" Rename = 11, Room, None {
            /// The new title.
            title: Title,
        }
        /// `from` changed settings of the room.
        "settings" Settings = 12, Room, None {
            /// How many milliseconds there are between two messages of a member at least; 0 for no bound. Absent if that
            /// did not change.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            slow: Option<u32>,
            /// Whether a user who was removed may join again. Absent if that did not change.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            rejoin: Option<bool>,
        }
        /// The application deleted the room: this is its last event, and all earlier ones are gone. A client drops the room.
        "end" End = 14, Room, Ends {}
    }
    unstored {
        /// The server cannot read the stored event. The event keeps its place in the log, so that `sync` continues behind
        /// it, and the server logs an error for the operator.
        "unreadable" Unreadable {}
        /// An event that this user may not see. It keeps its place in the log, without its content.
        "withheld" Withheld {
            /// The `type` of the event.
            of: String,
            /// The reason: `blocked`.
            withheld: String,
        }
        /// The server erased all content that `from` wrote before this event. A client drops its copy of the conversation
        /// and loads `history` again.
        "erase" Erase {}
    }
}

/// Makes the schema a `oneOf` with one alternative for each `type`. [`EventBody::Unknown`] is not in the schema.
fn describe_as_one_of(schema: &mut schemars::Schema) {
    if let Some(kinds) = schema.remove("anyOf") {
        schema.insert("oneOf".to_owned(), kinds);
    }
}

impl EventKind {
    /// The number of the kind in the store.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether events of this kind have a field that holds user ids.
    pub const fn names_users(self) -> bool {
        !self.user_fields().is_empty()
    }
}

/// The type of an event's field. The store writes keys in place of user ids, so each type says whether it contains user
/// ids.
trait FieldType {
    const HOLDS_USERS: bool;
}

impl FieldType for UserId {
    const HOLDS_USERS: bool = true;
}

impl<T: FieldType> FieldType for Option<T> {
    const HOLDS_USERS: bool = T::HOLDS_USERS;
}

impl<T: FieldType> FieldType for Vec<T> {
    const HOLDS_USERS: bool = T::HOLDS_USERS;
}

macro_rules! without_users {
    ($($type:ty),*) => { $(impl FieldType for $type { const HOLDS_USERS: bool = false; })* };
}

without_users!(bool, u32, Data, Emoji, Role, Seq, Text, Timestamp, Title);

const fn count_user_fields(fields: &[(&str, bool)]) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < fields.len() {
        count += fields[at].1 as usize;
        at += 1;
    }
    count
}

const fn pick_user_fields<const N: usize>(fields: &[(&'static str, bool)]) -> [&'static str; N] {
    let (mut at, mut count, mut users) = (0, 0, [""; N]);
    while at < fields.len() {
        if fields[at].1 {
            users[count] = fields[at].0;
            count += 1;
        }
        at += 1;
    }
    users
}

/// Whether an event is a message, is about a message, or is about a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventScope {
    /// The event is a message.
    Message,
    /// The event changes the message in `target`.
    Target,
    /// The event changes a room or its members; a direct conversation has no such events.
    Room,
    /// The kind is not known, so neither is what the event is about.
    Nothing,
}

/// The effect of an event on memberships. Replaying these effects over a log gives its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipEffect {
    /// No effect. (The first message of a direct conversation makes its two users members, too.)
    None,
    /// `from` and `members` are the members of a new room.
    Begins,
    /// `from` becomes a member.
    SenderEnters,
    /// `user` becomes a member.
    UserEnters,
    /// `from` is no longer a member.
    SenderLeaves,
    /// `user` is no longer a member.
    UserLeaves,
    /// All members are members no longer.
    Ends,
}

/// What a member may do.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May also delete every message, invite, remove, change roles and rename.
    Admin,
    /// May read and write.
    #[default]
    Member,
    /// May only read.
    Reader,
}

/// A time: RFC 3339, UTC, milliseconds. Serialised as `2026-11-23T12:00:00.000Z`.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time of these milliseconds since the Unix epoch, clamped to the years -9999 to 9999.
    pub fn from_millis(millis: i64) -> Self {
        let (min, max) = (jiff::Timestamp::MIN.as_millisecond(), jiff::Timestamp::MAX.as_millisecond());
        Self(millis.clamp(min, max))
    }

    /// The time in milliseconds since the Unix epoch.
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
pub(crate) fn is_false(b: &bool) -> bool {
    !b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_hold_users_follow_from_their_types() {
        let with_users = EventKind::ALL.iter().filter(|kind| kind.names_users());
        let fields: Vec<_> = with_users.map(|kind| (kind.as_str(), kind.user_fields())).collect();
        assert_eq!(
            fields,
            [
                ("create", &["members"][..]),
                ("invite", &["user"][..]),
                ("remove", &["user"][..]),
                ("role", &["user"][..])
            ]
        );
    }
}
