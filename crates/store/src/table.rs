//! The columns of each table, once. The records, both stores' statements, `migrate-store` and the check of members are made
//! of these lists; only the migrations repeat them.

use switchboard_protocol::{ConversationId, Role, Seq};

use crate::key::{ConversationKey, UserKey};

/// Hands the columns of `conversations` to a macro: field, type, column, and when it is written.
macro_rules! conversations {
    ($each:ident) => {
        $each! {
            /// A conversation as its row says.
            #[derive(Debug, Clone)]
            Conversation of "conversations" as "c", beside {} {
                /// Its number.
                key: ConversationKey = "id", Key;
                /// Its id.
                name: ConversationId = "name", Once;
                /// A room's title.
                title: Option<String> = "title", Always;
                /// Whether anyone may join.
                public: bool = "public", Once;
                /// The last event.
                head: Seq = "head", Always;
                /// How many of the events are messages.
                messages: u64 = "messages", Always;
                /// The last message.
                last_message: Seq = "last_message", Always;
                /// How many members there are.
                members: u64 = "members", Always;
                /// How many of them are admins.
                admins: u64 = "admins", Always;
                /// The time of the last event, in milliseconds since the Unix epoch.
                at: i64 = "at", Always;
            }
        }
    };
}

/// Hands the columns of `members` to a macro. A member is known by the two numbers beside the record.
macro_rules! members {
    ($each:ident) => {
        $each! {
            /// A membership as its row says, present or past.
            #[derive(Debug, Clone, Copy)]
            Membership of "members" as "m",
            beside { conversation: ConversationKey = "conversation", Key; user: UserKey = "user", Key; } {
                /// What the member may do.
                role: Role = "role", Always;
                /// The event of joining.
                since: Seq = "since", Seldom;
                /// The event of leaving, for a former member.
                until: Option<Seq> = "until", Seldom;
                /// The cursor of reading.
                read: Seq = "read", Always;
                /// The cursor of delivery.
                received: Seq = "received", Always;
                /// Own messages in the conversation.
                sent: u64 = "sent", Always;
                /// Messages up to `read`.
                read_messages: u64 = "read_messages", Always;
                /// Own messages up to `read`.
                read_sent: u64 = "read_sent", Always;
            }
        }
    };
}

/// The record of a table.
macro_rules! record {
    ($(#[$meta:meta])* $record:ident of $table:literal as $alias:literal, beside { $($beside:tt)* } {
        $($(#[$doc:meta])* $field:ident: $type:ty = $column:literal, $written:ident;)*
    }) => {
        $(#[$meta])*
        pub struct $record {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl $record {
            /// How many columns its row has.
            pub(crate) const COLUMNS: usize = [$($column),*].len();
        }
    };
}

/// The columns of a record as a literal text, each with the table's alias.
macro_rules! columns {
    ($(#[$meta:meta])* $record:ident of $table:literal as $alias:literal, beside { $($beside:tt)* } {
        $(#[$first_doc:meta])* $first:ident: $first_type:ty = $first_column:literal, $first_written:ident;
        $($(#[$doc:meta])* $field:ident: $type:ty = $column:literal, $written:ident;)*
    }) => {
        concat!($alias, ".", $first_column $(, ", ", $alias, ".", $column)*)
    };
}

/// The [`Table`] of a record.
macro_rules! table {
    ($(#[$meta:meta])* $record:ident of $table:literal as $alias:literal, beside {
        $($beside:ident: $beside_type:ty = $beside_column:literal, $beside_written:ident;)*
    } {
        $($(#[$doc:meta])* $field:ident: $type:ty = $column:literal, $written:ident;)*
    }) => {
        Table {
            name: $table,
            columns: &[
                $(Column::new($beside_column, <$beside_type as Kept>::TYPE, Written::$beside_written),)*
                $(Column::new($column, <$type as Kept>::TYPE, Written::$written),)*
            ],
        }
    };
}

pub(crate) use {columns, conversations, members, record};

/// A table with its columns.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [Column],
}

/// A column.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: ColumnType,
    pub(crate) written: Written,
}

/// When a column is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is of the primary key. Both databases sort by the key in the same order, names by their bytes.
    Key,
    /// When the row is made.
    Once,
    /// It is in an index: a row that changes otherwise leaves it alone.
    Seldom,
    /// With each change of the row.
    Always,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnType {
    Number,
    Small,
    Bool,
    Text,
    Bytes,
}

use ColumnType::{Bool, Bytes, Number, Small, Text};
use Written::{Always, Key, Once};

/// A type that a column keeps.
trait Kept {
    const TYPE: ColumnType;
}

macro_rules! kept {
    ($($type:ty: $kind:ident,)*) => { $(impl Kept for $type { const TYPE: ColumnType = $kind; })* };
}

kept! {
    ConversationKey: Number,
    UserKey: Number,
    Seq: Number,
    Option<Seq>: Number,
    u64: Number,
    i64: Number,
    Role: Small,
    bool: Bool,
    ConversationId: Text,
    Option<String>: Text,
}

impl Column {
    const fn new(name: &'static str, kind: ColumnType, written: Written) -> Self {
        Self { name, kind, written }
    }
}

/// A table of which there is no record.
macro_rules! plain {
    ($table:literal: $($column:literal $kind:ident $written:ident),*) => {
        Table { name: $table, columns: &[$(Column::new($column, $kind, $written)),*] }
    };
}

pub(crate) const USERS: Table =
    plain!("users": "id" Number Key, "name" Text Once, "last_seen" Number Always, "not_before" Number Always);
pub(crate) const CONVERSATIONS: Table = conversations!(table);
pub(crate) const MEMBERS: Table = members!(table);
pub(crate) const EVENTS: Table = plain!("events": "conversation" Number Key, "seq" Number Key, "kind" Small Once,
    "sender" Number Once, "at" Number Once, "messages" Number Once, "key" Text Once, "body" Text Always);
pub(crate) const AMENDMENTS: Table =
    plain!("amendments": "conversation" Number Key, "target" Number Key, "seq" Number Key);
pub(crate) const REACTIONS: Table = plain!("reactions": "conversation" Number Key, "target" Number Key,
    "emoji" Text Key, "user" Number Key, "since" Number Key, "until" Number Always);
pub(crate) const ROOMS_BY_CHOICE: Table =
    plain!("rooms_by_choice": "user" Number Key, "conversation" Number Key);
pub(crate) const API_KEYS: Table =
    plain!("api_keys": "name" Text Key, "hash" Bytes Once, "created" Number Once, "revoked" Number Always);

/// All tables that `migrate-store` copies, in its order.
pub(crate) const TABLES: [Table; 8] =
    [USERS, CONVERSATIONS, MEMBERS, EVENTS, AMENDMENTS, REACTIONS, ROOMS_BY_CHOICE, API_KEYS];

/// Names of columns, as both databases quote them.
pub(crate) fn quoted<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    columns.into_iter().map(|column| format!("\"{}\"", column.name)).collect::<Vec<_>>().join(", ")
}

impl Table {
    /// The columns of the primary key.
    pub(crate) fn key(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.written == Key)
    }
}
