//! Everything a client may say: one closed enum. Over the socket a command is a frame with its name
//! in `type`; over HTTP it is the body of `POST /v1/<name>`.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::number::read_limit;
use crate::{ConversationId, Data, Device, Emoji, Key, Role, RoomId, Seq, Target, Text, Title, UserId};

/// Lists the commands once: the enum, its wire names, the decoder's dispatch and the schemas.
macro_rules! commands {
    ($($(#[$doc:meta])* $name:literal $variant:ident;)*) => {
        /// A command, its fields parsed.
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "type")]
        pub enum Command {
            $($(#[$doc])* #[serde(rename = $name)] $variant($variant),)*
        }

        impl Command {
            /// Every command's name on the wire.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The commands that make sense on a connection only, and not over HTTP.
            pub const SOCKET_ONLY: &'static [&'static str] = &["hello", "watch"];

            /// What HTTP has in place of them.
            pub const HTTP_ONLY: &'static [&'static str] = &["revoke"];

            /// The command's name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// Parses the fields of the command called `name`; `None` if there is no such command.
            pub(crate) fn parse_fields<'de, D: serde::Deserializer<'de>>(
                name: &str,
                fields: D,
            ) -> Option<Result<Self, D::Error>> {
                match name {
                    $($name => Some($variant::deserialize(fields).map(Self::$variant)),)*
                    _ => None,
                }
            }

            /// Shows the type of each command's fields to a visitor, in the order of the commands.
            #[cfg(feature = "typescript")]
            pub fn visit_fields(visitor: &mut impl ts_rs::TypeVisitor) {
                $(visitor.visit::<$variant>();)*
            }

            /// The JSON Schema of each command's fields, by name.
            pub fn schemas(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
                vec![$(($name, generator.subschema_for::<$variant>())),*]
            }
        }
        $(impl From<$variant> for Command {
            fn from(command: $variant) -> Self {
                Self::$variant(command)
            }
        })*
    };
}

commands! {
    /// The first frame of a connection.
    "hello" Hello;
    /// Appends a message.
    "send" Send;
    /// Replaces the content of one's own message.
    "edit" Edit;
    /// Erases a message.
    "delete" Delete;
    /// Sets or takes back a reaction.
    "react" React;
    /// Pages through the raw log.
    "sync" Sync;
    /// Pages through the messages as they stand now.
    "history" History;
    /// Pages through one's conversations.
    "conversations" Conversations;
    /// Moves one's cursor of reading.
    "read" Read;
    /// Moves one's cursor of delivery.
    "received" Received;
    /// Tells the others that one is typing.
    "typing" Typing;
    /// Names the users whose presence is on the screen.
    "watch" Watch;
    /// Makes a room.
    "create" Create;
    /// Enters a public room.
    "join" Join;
    /// Leaves a room.
    "leave" Leave;
    /// Brings somebody into a room.
    "invite" Invite;
    /// Takes somebody out of a room.
    "remove" Remove;
    /// Changes somebody's role in a room.
    "role" SetRole;
    /// Changes a room's title.
    "rename" Rename;
    /// Pages through the members of a conversation.
    "members" Members;
    /// Asks for a `pong`.
    "ping" Ping;
}

/// Declares a command's fields: every one is refused when unknown, optional ones are left out of
/// the wire form when absent.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $($(#[$doc])*
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        })*
    };
}

fields! {
    /// `hello`: who one is, and what one has. A token, or in `dev` mode a bare `user`.
    Hello {
        /// A JWT whose `sub` is the user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// In `dev` mode on a loopback address only: the user, on trust.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// The client's own stable name for itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<Device>,
        /// The last event that the client has, by conversation; what follows is replayed.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "each_once")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        cursors: BTreeMap<ConversationId, Seq>,
    }
    /// `send`: a message with `text`, `data` or both.
    Send {
        /// Where to: `@bob`, `#general` or a conversation id.
        to: Target,
        /// What a person reads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<Text>,
        /// What an application reads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Data>,
        /// The idempotency key; without one the server makes one, and a retry is a new message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Key>,
        /// The message that this one answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<Seq>,
    }
    /// `edit`: new content for one's own message; what is left out is gone.
    Edit {
        /// The conversation.
        conversation: Target,
        /// The message.
        target: Seq,
        /// The new text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<Text>,
        /// The new data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Data>,
    }
    /// `delete`: the author's, or in a room an admin's, erasure of a message.
    Delete {
        /// The conversation.
        conversation: Target,
        /// The message.
        target: Seq,
    }
    /// `react`: one's reaction to a message.
    React {
        /// The conversation.
        conversation: Target,
        /// The message.
        target: Seq,
        /// The reaction.
        emoji: Emoji,
        /// Whether it is set (the default) or taken back.
        #[serde(default = "yes")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        on: bool,
    }
    /// `sync`: events of the raw log, oldest first.
    Sync {
        /// The conversation.
        conversation: Target,
        /// The last event that one has; 0 (the default) for none.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        after: Seq,
        /// At most so many events.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `history`: messages as they stand now, ascending.
    History {
        /// The conversation.
        conversation: Target,
        /// Messages before this one; without it the latest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Seq>,
        /// In place of `before`: messages on both sides of this event.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        around: Option<Seq>,
        /// At most so many messages.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `conversations`: one's conversations, latest activity first.
    Conversations {
        /// Conversations after this one in that order; without it the first page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<ConversationId>,
        /// At most so many conversations.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `read`: one has read up to here.
    Read {
        /// The conversation.
        conversation: Target,
        /// The last event read.
        upto: Seq,
    }
    /// `received`: one's device has everything up to here.
    Received {
        /// The conversation.
        conversation: Target,
        /// The last event received.
        upto: Seq,
    }
    /// `typing`: one is typing; it lasts 5 s.
    Typing {
        /// The conversation.
        conversation: Target,
    }
    /// `watch`: the users on one's screen; replaces the earlier list.
    Watch {
        /// The users. Those who share no conversation with the watcher are passed over in silence.
        users: Vec<UserId>,
    }
    /// `create`: a room, with its creator as admin.
    Create {
        /// The room's id; without one the server makes one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        room: Option<RoomId>,
        /// The room's title.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<Title>,
        /// Whether anyone may join.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        public: bool,
        /// The first members besides the creator.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        members: Vec<UserId>,
    }
    /// `join`: enter a public room.
    Join {
        /// The room.
        conversation: Target,
    }
    /// `leave`: leave a room.
    Leave {
        /// The room.
        conversation: Target,
    }
    /// `invite`: an admin brings a user in; in a public room any member may, as `member`.
    Invite {
        /// The room.
        conversation: Target,
        /// Who comes in.
        user: UserId,
        /// In which role; `member` unless told.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        role: Role,
    }
    /// `remove`: an admin takes a user out.
    Remove {
        /// The room.
        conversation: Target,
        /// Who goes.
        user: UserId,
    }
    /// `role`: an admin changes a member's role.
    SetRole {
        /// The room.
        conversation: Target,
        /// Whose role.
        user: UserId,
        /// The new role.
        role: Role,
    }
    /// `rename`: an admin changes the room's title.
    Rename {
        /// The room.
        conversation: Target,
        /// The new title.
        title: Title,
    }
    /// `members`: the members, their roles and cursors, by user id.
    Members {
        /// The conversation.
        conversation: Target,
        /// Members after this one in the order of ids; without it the first page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<UserId>,
        /// At most so many members.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `ping`: are you there?
    Ping {}
}

/// Reads `cursors`: an object that names nothing twice, because nobody can know which of the two was meant (RFC 7493
/// section 2.3). An empty list is an empty object: PHP encodes an empty array as `[]`.
fn each_once<'de, D: serde::Deserializer<'de>>(d: D) -> Result<BTreeMap<ConversationId, Seq>, D::Error> {
    struct Cursors;
    impl<'de> serde::de::Visitor<'de> for Cursors {
        type Value = BTreeMap<ConversationId, Seq>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object `{…}` of cursors by conversation")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut cursors = BTreeMap::new();
            while let Some((conversation, cursor)) = map.next_entry::<ConversationId, Seq>()? {
                if let Some(_twice) = cursors.insert(conversation.clone(), cursor) {
                    return Err(serde::de::Error::custom(format_args!("{conversation} is there twice")));
                }
            }
            Ok(cursors)
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            match list.next_element::<serde::de::IgnoredAny>()? {
                None => Ok(BTreeMap::new()),
                Some(_) => Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, &self)),
            }
        }
    }
    // Not `deserialize_map`, which refuses a list before the visitor sees it.
    d.deserialize_any(Cursors)
}

fn yes() -> bool {
    true
}
