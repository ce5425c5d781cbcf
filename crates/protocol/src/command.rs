//! The commands of clients, as one closed enum. On a WebSocket a command is a frame with its name in `type`; over HTTP it
//! is the body of `POST /v1/<name>`.

mod cursors;

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use self::cursors::unique_cursors;
use crate::number::read_limit;
use crate::reply::Answer;
use crate::{
    Avatar, ConversationId, Data, Device, Emoji, Key, PersonName, ReportReason, Role, RoomId, Seq, Target,
    Text, Timestamp, Title, UserId,
};

/// Lists the commands once, and generates from them the enum, the wire names, the answers, the decoder's dispatch and the
/// schemas.
macro_rules! commands {
    ($($(#[$doc:meta])* $name:literal $variant:ident => $answer:ident;)*) => {
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

            /// The commands that exist on a WebSocket only.
            pub const SOCKET_ONLY: &'static [&'static str] = &["hello", "token", "watch"];

            /// The commands that append to a log, and may carry a [`WriteNumber`](crate::WriteNumber) on a connection.
            pub const ORDERED: &'static [&'static str] = &[
                "send", "edit", "delete", "react", "create", "join", "leave", "invite", "remove", "role", "rename",
                "settings",
            ];

            /// The requests that exist over HTTP only.
            pub const HTTP_ONLY: &'static [&'static str] = &[
                "feed",
                "import",
                "profiles",
                "revoke",
                "ban",
                "bans",
                "reports",
                "resolve",
                "moderate/history",
                "list_users",
                "list_rooms",
                "unread",
                "send_many",
                "rename_user",
                "delete_room",
                "add_webhook",
                "list_webhooks",
                "pause_webhook",
                "resume_webhook",
                "rotate_webhook",
                "replay_webhook",
                "test_webhook",
                "remove_webhook",
            ];

            /// The command's name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// The feature that a server must have for the command; `None` if every server has it.
            pub fn feature(&self) -> Option<&'static str> {
                match self {
                    Self::RenewToken(_) => Some(crate::TOKEN),
                    Self::SetRole(SetRole { until: Some(_), .. }) | Self::Remove(Remove { ban: true, .. }) => {
                        Some(crate::BANS)
                    }
                    Self::ChangeSettings(_) => Some(crate::SLOW),
                    Self::Report(_) => Some(crate::REPORT),
                    Self::SetProfile(_) | Self::Users(_) | Self::FindUsers(_) => Some(crate::PROFILES),
                    Self::SetBlock(_) | Self::Blocks(_) => Some(crate::BLOCK),
                    _ => None,
                }
            }

            /// The kind of answer that the command gets if it succeeds.
            pub fn answer(&self) -> Answer {
                match self { $(Self::$variant(_) => Answer::$answer,)* }
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

            /// Passes the type of each command's fields to a visitor, in the order of the commands.
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
    "hello" Hello => Welcome;
    /// Replaces the token of the connection by a newer one of the same user.
    "token" RenewToken => Token;
    /// Appends a message.
    "send" Send => Stored;
    /// Replaces the content of the user's own message.
    "edit" Edit => Stored;
    /// Erases a message.
    "delete" Delete => Stored;
    /// Adds or removes a reaction.
    "react" React => Stored;
    /// Pages through the raw log.
    "sync" Sync => Log;
    /// Pages through the messages in their current state.
    "history" History => History;
    /// Pages through the user's conversations.
    "conversations" Conversations => Conversations;
    /// Moves the user's read cursor.
    "read" Read => Cursor;
    /// Moves the user's received cursor.
    "received" Received => Cursor;
    /// Shows the other members that the user is typing.
    "typing" Typing => Done;
    /// Subscribes to the presence of these users.
    "watch" Watch => Done;
    /// Creates a room.
    "create" Create => Stored;
    /// Joins a public room.
    "join" Join => Stored;
    /// Leaves a room.
    "leave" Leave => Stored;
    /// Adds a user to a room.
    "invite" Invite => Stored;
    /// Removes a user from a room.
    "remove" Remove => Stored;
    /// Changes a member's role in a room.
    "role" SetRole => Stored;
    /// Changes a room's title.
    "rename" Rename => Stored;
    /// Changes a room's settings.
    "settings" ChangeSettings => Stored;
    /// Pages through the members of a conversation.
    "members" Members => Members;
    /// Changes the user's own profile.
    "profile" SetProfile => Profile;
    /// Returns the profiles of these users, and sends their changes from then on.
    "users" Users => Users;
    /// Finds users by the beginning of a word of their name, or of their id.
    "find_users" FindUsers => Users;
    /// Hides another user, or shows them again.
    "block" SetBlock => Done;
    /// Pages through the users whom the user blocks.
    "blocks" Blocks => Blocks;
    /// Reports a message or a user to the moderators.
    "report" Report => Reported;
    /// Asks for a `pong`.
    "ping" Ping => Done;
}

/// Declares the fields of each command. The decoder refuses unknown fields; the encoder leaves out absent ones.
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
    /// `hello`: names the user, by a token or in `dev` mode by `user`, and the events that the client has.
    Hello {
        /// A JWT whose `sub` is the user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// The user, without proof; in `dev` mode on a loopback address only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// A stable name that the client chose for this device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<Device>,
        /// The last event that the client has, by conversation. The server replays the events after it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "unique_cursors")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        cursors: BTreeMap<ConversationId, Seq>,
    }
    /// `token`: replaces the token of the connection, so that it does not close when the first one expires.
    RenewToken {
        /// A JWT of the same user.
        token: String,
    }
    /// `send`: appends a message with `text`, `data` or both.
    Send {
        /// The recipient: `@bob`, `#general` or a conversation id.
        to: Target,
        /// The text for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<Text>,
        /// The JSON object for the application.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Data>,
        /// The idempotency key. Without one the server generates one, and a retry is a new message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Key>,
        /// The `seq` of the message that this one answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<Seq>,
    }
    /// `edit`: replaces the content of the user's own message. An absent field is removed from the message.
    Edit {
        /// The conversation.
        conversation: Target,
        /// The `seq` of the message.
        target: Seq,
        /// The new text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<Text>,
        /// The new data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Data>,
    }
    /// `delete`: erases a message. Its author may, and in a room an admin.
    Delete {
        /// The conversation.
        conversation: Target,
        /// The `seq` of the message.
        target: Seq,
    }
    /// `react`: adds or removes the user's reaction to a message.
    React {
        /// The conversation.
        conversation: Target,
        /// The `seq` of the message.
        target: Seq,
        /// The reaction.
        emoji: Emoji,
        /// True (the default) adds the reaction, false removes it.
        #[serde(default = "default_true")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        on: bool,
    }
    /// `sync`: returns events of the raw log, oldest first.
    Sync {
        /// The conversation.
        conversation: Target,
        /// The last event that the client has; 0 (the default) for none.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        after: Seq,
        /// The most events to return.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `history`: returns messages in their current state, by ascending `seq`.
    History {
        /// The conversation.
        conversation: Target,
        /// Return the messages before this `seq`; without it the latest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Seq>,
        /// In place of `before`: return the messages on both sides of this event.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        around: Option<Seq>,
        /// The most messages to return.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `conversations`: returns the user's conversations, latest activity first.
    Conversations {
        /// Return the conversations that follow this one in that order; without it the first page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<ConversationId>,
        /// The most conversations to return.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `read`: moves the user's read cursor.
    Read {
        /// The conversation.
        conversation: Target,
        /// The last event read.
        upto: Seq,
    }
    /// `received`: moves the user's received cursor.
    Received {
        /// The conversation.
        conversation: Target,
        /// The last event received.
        upto: Seq,
    }
    /// `typing`: shows the other members for 5 s that the user is typing.
    Typing {
        /// The conversation.
        conversation: Target,
    }
    /// `watch`: subscribes to the presence of these users, in place of the earlier list.
    Watch {
        /// The users. The server silently ignores those who share no conversation with the watcher.
        users: Vec<UserId>,
    }
    /// `create`: creates a room. Its creator is its admin.
    Create {
        /// The room's id; without one the server generates one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        room: Option<RoomId>,
        /// The room's title.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<Title>,
        /// Whether any user may join.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        public: bool,
        /// The first members besides the creator.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        members: Vec<UserId>,
    }
    /// `join`: adds the user to a public room.
    Join {
        /// The room.
        conversation: Target,
    }
    /// `leave`: takes the user out of a room.
    Leave {
        /// The room.
        conversation: Target,
    }
    /// `invite`: adds a user. An admin may; in a public room any member may, with the role `member`.
    Invite {
        /// The room.
        conversation: Target,
        /// The user to add.
        user: UserId,
        /// The user's role; `member` by default.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        role: Role,
    }
    /// `remove`: removes a user. An admin may.
    Remove {
        /// The room.
        conversation: Target,
        /// The user to remove.
        user: UserId,
        /// True also bans the user from the room, who need not be a member.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        ban: bool,
        /// With `ban`: when the ban ends; without it, it has no end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    }
    /// `role`: changes a member's role. An admin may.
    SetRole {
        /// The room.
        conversation: Target,
        /// The member.
        user: UserId,
        /// The new role.
        role: Role,
        /// With the role `reader`: until when the member only reads. Then the member has the role of before again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    }
    /// `rename`: changes the room's title. An admin may.
    Rename {
        /// The room.
        conversation: Target,
        /// The new title.
        title: Title,
    }
    /// `settings`: changes the settings of a room that are named. An admin may.
    ChangeSettings {
        /// The room.
        conversation: Target,
        /// How many milliseconds there are between two messages of a member at least; 0 for no bound.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        slow: Option<u32>,
        /// Whether a user who was removed may join again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rejoin: Option<bool>,
    }
    /// `members`: returns the members with their roles and cursors, by user id.
    Members {
        /// The conversation.
        conversation: Target,
        /// Return the members after this one in the order of ids; without it the first page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<UserId>,
        /// The most members to return.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `profile`: changes the user's own profile. An absent field stays as it is; `null` removes it.
    #[derive(Default)]
    SetProfile {
        /// The name for people.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "deserialize_nullable")]
        name: Option<Option<PersonName>>,
        /// The picture.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "deserialize_nullable")]
        avatar: Option<Option<Avatar>>,
        /// The JSON object for the application. It is as public as the name.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "deserialize_nullable")]
        data: Option<Option<Data>>,
    }
    /// `users`: returns the profiles of these users in this order, and sends `profile` when one of them changes.
    Users {
        /// The users. The server leaves out those whom the user may not see.
        users: Vec<UserId>,
    }
    /// `find_users`: finds users by the beginning of a word of their name, or of their id.
    FindUsers {
        /// What to look for, at least two bytes. Case and accents make no difference.
        query: String,
        /// The most users to return.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `block`: hides everything that another user writes, or shows it again.
    SetBlock {
        /// The other user.
        user: UserId,
        /// True (the default) blocks the user, false ends the block.
        #[serde(default = "default_true")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        on: bool,
    }
    /// `blocks`: returns the users whom the user blocks.
    Blocks {
        /// Return the users after this one, the last of a page; without it the first page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<UserId>,
        /// The most users to return.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_limit")]
        limit: Option<u32>,
    }
    /// `report`: a message by `conversation` and `target`, or a `user`.
    Report {
        /// The conversation of the message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conversation: Option<Target>,
        /// The message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<Seq>,
        /// The user, in place of a message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// Why.
        reason: ReportReason,
        /// In the user's own words: at most 500 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    }
    /// `ping`: asks for a `pong`.
    Ping {}
}

/// Reads a field that is there: `null` becomes `Some(None)`, and only an absent field `None`.
fn deserialize_nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

fn default_true() -> bool {
    true
}
