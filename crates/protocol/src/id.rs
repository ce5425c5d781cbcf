//! The types of ids. Ids are parsed when they enter the program, so code that has one need not check it again.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::number::{MAX_SAFE_INTEGER, read_whole, whole_number};

/// The longest user or room id, in bytes (ids are ASCII). A conversation id has up to two of them, and must fit a bus
/// subject, an index entry and a log line.
pub(crate) const MAX_ID_BYTES: usize = 64;

impl UserId {
    /// The longest user id, in bytes.
    pub const MAX_BYTES: usize = MAX_ID_BYTES;
}

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The id is empty, is longer than 64 characters, or has a character that is not allowed.
    #[error(
        "an id has 1 to 64 characters of A-Z a-z 0-9 . _ ~ + = | @ - and starts with a letter or a digit"
    )]
    InvalidCharacters,
    /// The conversation id has neither the form `#room` nor the form `@a:b`.
    #[error("a conversation id is `#room` or `@a:b`")]
    MissingMark,
    /// The conversation is named like `bob`, which may mean a user or a room.
    #[error("write `@{0}` for the user or `#{0}` for the room")]
    MissingRoomMark(Arc<str>),
    /// A user id is written with an `@`, like `@bob`.
    #[error("a user's id is written without the `@` here")]
    UserWithMark,
    /// The two users of a direct conversation are not in byte order, as in `@bob:alice`.
    #[error("the two users of a direct conversation are written in byte order, as `@alice:bob`")]
    PeersNotSorted,
}

fn check_name(s: &str) -> Result<(), InvalidId> {
    let bytes = s.as_bytes();
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"._~+=|@-".contains(b);
    let starts_well = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
    if starts_well && bytes.len() <= MAX_ID_BYTES && bytes.iter().all(legal) {
        Ok(())
    } else {
        Err(InvalidId::InvalidCharacters)
    }
}

/// Implements display, parsing, serde and JSON Schema for an id type.
macro_rules! string_id {
    ($name:ident, $pattern:expr, $description:expr) => {
        impl $name {
            /// The id in its wire form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                Self::parse(s)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = Cow::<str>::deserialize(d)?;
                Self::parse(&s).map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

/// A user: 1–64 characters of `A–Z a–z 0-9 . _ ~ + = | @ -`, the first a letter or a digit.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Parses an id. [`InvalidId`] lists what is refused.
    pub fn parse(s: &str) -> Result<Self, InvalidId> {
        match check_name(s) {
            Ok(()) => Ok(Self(s.into())),
            Err(_) if s.strip_prefix('@').is_some_and(|name| check_name(name).is_ok()) => {
                Err(InvalidId::UserWithMark)
            }
            Err(error) => Err(error),
        }
    }
}
string_id!(UserId, r"^[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}$", "A user id.");

/// A room's name without its `#`: the same alphabet as a [`UserId`].
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(Arc<str>);

impl RoomId {
    /// Parses a room name, with or without the leading `#`.
    pub fn parse(s: &str) -> Result<Self, InvalidId> {
        let name = s.strip_prefix('#').unwrap_or(s);
        check_name(name)?;
        Ok(Self(name.into()))
    }
}
string_id!(RoomId, r"^#?[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}$", "A room id; the leading # may be left out.");

/// A conversation: a room `#general`, or the direct conversation `@alice:bob` of two users in byte
/// order. `@alice:alice` is a note to self.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(Arc<str>);

impl ConversationId {
    /// Parses a conversation id in its canonical form.
    pub fn parse(s: &str) -> Result<Self, InvalidId> {
        match s.as_bytes().first() {
            Some(b'#') => check_name(&s[1..])?,
            Some(b'@') => {
                let (a, b) = s[1..].split_once(':').ok_or(InvalidId::MissingMark)?;
                check_name(a)?;
                check_name(b)?;
                if a > b {
                    return Err(InvalidId::PeersNotSorted);
                }
            }
            _ => return Err(InvalidId::MissingMark),
        }
        Ok(Self(s.into()))
    }

    /// The id of a room's conversation.
    pub fn room(room: &RoomId) -> Self {
        Self(format!("#{room}").into())
    }

    /// The id of the direct conversation of two users, in either order.
    pub fn direct(a: &UserId, b: &UserId) -> Self {
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        Self(format!("@{a}:{b}").into())
    }

    /// The two users of a direct conversation (the same one twice in a note to self); `None` for a room.
    pub fn peers(&self) -> Option<(UserId, UserId)> {
        let (a, b) = self.0.strip_prefix('@')?.split_once(':')?;
        Some((UserId(a.into()), UserId(b.into())))
    }

    /// Whether this is a room.
    pub fn is_room(&self) -> bool {
        self.0.starts_with('#')
    }
}
string_id!(
    ConversationId,
    r"^(#[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}|@[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}:[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63})$",
    "A conversation id: #room, or @alice:bob with the two users in byte order."
);

/// The name of a conversation in a command: `@bob` (the sender's direct conversation with bob), or a [`ConversationId`].
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `@bob`: the direct conversation of the sender with bob.
    User(UserId),
    /// `#general` or `@alice:bob`: a conversation by its id.
    Conversation(ConversationId),
}

impl Target {
    /// Parses `@bob`, `#general` or `@alice:bob`.
    pub fn parse(s: &str) -> Result<Self, InvalidId> {
        match s.strip_prefix('@') {
            Some(name) if !name.contains(':') => UserId::parse(name).map(Self::User),
            None if check_name(s).is_ok() => Err(InvalidId::MissingRoomMark(s.into())),
            _ => ConversationId::parse(s).map(Self::Conversation),
        }
    }

    /// The conversation that this target means in a command of `sender`.
    pub fn resolve(&self, sender: &UserId) -> ConversationId {
        match self {
            Self::User(other) => ConversationId::direct(sender, other),
            Self::Conversation(id) => id.clone(),
        }
    }
}

impl From<ConversationId> for Target {
    fn from(id: ConversationId) -> Self {
        Self::Conversation(id)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::User(user) => s.collect_str(&format_args!("@{user}")),
            Self::Conversation(id) => id.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = Cow::<str>::deserialize(d)?;
        Self::parse(&s).map_err(de::Error::custom)
    }
}

impl JsonSchema for Target {
    fn schema_name() -> Cow<'static, str> {
        "Target".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "@bob (the sender's direct conversation with bob), #room, or a conversation id.",
            "examples": ["@bob", "#general", "@alice:bob"],
        })
    }
}

/// An event's number in its conversation: 1, 2, 3, … without a gap. As a cursor, 0 means "nothing yet".
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "number"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Seq(#[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))] pub u64);

impl Seq {
    /// The largest number that a JavaScript client reads exactly: 2^53 - 1 (ECMA-262 section 21.1.2.6).
    pub const MAX: Self = Self(MAX_SAFE_INTEGER as u64);

    /// The number of the following event.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Seq {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        read_whole(d, Self::MAX.0).map(Self)
    }
}

/// The id that a client gives a command, which the reply repeats: a string of at most 64 bytes, or an integer from
/// -(2^53 - 1) to 2^53 - 1.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum CommandId {
    /// An integer.
    Number(i64),
    /// A string.
    Text(#[schemars(length(max = 64))] String),
}

impl<'de> Deserialize<'de> for CommandId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = CommandId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string of at most 64 bytes or a whole number of at most 2^53 - 1")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<CommandId, E> {
                if (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&n) {
                    Ok(CommandId::Number(n))
                } else {
                    Err(E::invalid_value(de::Unexpected::Signed(n), &self))
                }
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<CommandId, E> {
                i64::try_from(n)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))
                    .and_then(|n| self.visit_i64(n))
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<CommandId, E> {
                whole_number(n)
                    .map(CommandId::Number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(n), &self))
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<CommandId, E> {
                if s.len() <= 64 {
                    Ok(CommandId::Text(s.to_owned()))
                } else {
                    Err(E::custom(format_args!("a string has at most 64 bytes here, not {}", s.len())))
                }
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl From<i64> for CommandId {
    fn from(n: i64) -> Self {
        Self::Number(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_outside_the_alphabet_are_refused() {
        for bad in ["", "-a", ".a", "a b", "a:b", "é", "a*", "a>", "a/b", "a\n", &"x".repeat(65)] {
            assert_eq!(UserId::parse(bad), Err(InvalidId::InvalidCharacters), "{bad:?}");
        }
        for good in ["a", "0", "alice@example.com", "A.b_c~d+e=f|g-h", &"x".repeat(64)] {
            assert!(UserId::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_direct_conversation_has_one_spelling() {
        assert_eq!(ConversationId::parse("@bob:alice"), Err(InvalidId::PeersNotSorted));
        assert_eq!(ConversationId::parse("@bob"), Err(InvalidId::MissingMark));
        assert_eq!(ConversationId::parse("general"), Err(InvalidId::MissingMark));
        assert!(ConversationId::parse("@alice:alice").is_ok());
        let alice = UserId::parse("alice").expect("id");
        let to = Target::parse("@bob").expect("target");
        assert_eq!(to.resolve(&alice).as_str(), "@alice:bob");
    }

    proptest! {
        #[test]
        fn a_direct_conversation_names_its_peers(a in "[a-z0-9][a-z0-9._~+=|@-]{0,63}", b in "[A-Z][a-z@|]{0,9}") {
            let (a, b) = (UserId::parse(&a).expect("id"), UserId::parse(&b).expect("id"));
            let id = ConversationId::direct(&a, &b);
            prop_assert_eq!(&id, &ConversationId::direct(&b, &a));
            prop_assert_eq!(&ConversationId::parse(id.as_str()).expect("canonical"), &id);
            let (x, y) = id.peers().expect("direct");
            prop_assert!((x == a && y == b) || (x == b && y == a));
        }
    }
}
