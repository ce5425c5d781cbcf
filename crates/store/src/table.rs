//! The columns of each table, defined once. The record types, both stores' statements, `migrate-store` and the check of
//! members are generated from these lists. Only the migrations repeat them.

use switchboard_protocol::{ConversationId, Role, Seq};

use crate::key::{ConversationKey, UserKey};

/// Passes the columns of `conversations` to a macro: field, type, column, and when the column is written.
macro_rules! conversations {
    ($each:ident) => {
        $each! {
            /// A row of the table of conversations.
            #[derive(Debug, Clone)]
            Conversation of "conversations" as "c", extra {} {
                /// The conversation's key.
                key: ConversationKey = "id", Key;
                /// The conversation's id.
                name: ConversationId = "name", OnInsert;
                /// A room's title.
                title: Option<String> = "title", OnUpdate;
                /// Whether any user may join.
                public: bool = "public", OnInsert;
                /// The number of the last event.
                head: Seq = "head", OnUpdate;
                /// How many of the events are messages, deleted ones included.
                messages: u64 = "messages", OnUpdate;
                /// The number of the last message.
                last_message: Seq = "last_message", OnUpdate;
                /// How many members there are.
                members: u64 = "members", OnUpdate;
                /// How many of the members are admins.
                admins: u64 = "admins", OnUpdate;
                /// The time of the last event, in milliseconds since the Unix epoch.
                at: i64 = "at", OnUpdate;
                /// Whether the room was deleted. Then its last event is the one that says so, and nothing else of it is read.
                ended: bool = "ended", OnUpdate;
                /// How many milliseconds there are between two messages of a member at least; 0 for no bound.
                slow: u64 = "slow", OnUpdate;
                /// Whether a user who was removed may join again.
                rejoin: bool = "rejoin", OnUpdate;
            }
        }
    };
}

/// Passes the columns of `members` to a macro. The primary key is the two extra columns, which are not in the record: conversation and user.
macro_rules! members {
    ($each:ident) => {
        $each! {
            /// A row of the table of members: a membership, present or past.
            #[derive(Debug, Clone, Copy)]
            Membership of "members" as "m",
            extra { conversation: ConversationKey = "conversation", Key; user: UserKey = "user", Key; } {
                /// The member's role.
                role: Role = "role", OnUpdate;
                /// The event by which the user joined.
                since: Seq = "since", IfChanged;
                /// The event by which the user left; `None` for a present member.
                until: Option<Seq> = "until", IfChanged;
                /// The read cursor: the last event that the member has read.
                read: Seq = "read", OnUpdate;
                /// The received cursor: the last event that a device of the member has received.
                received: Seq = "received", OnUpdate;
                /// How many messages of the conversation the member has sent.
                sent: u64 = "sent", OnUpdate;
                /// How many messages there are up to `read`.
                read_messages: u64 = "read_messages", OnUpdate;
                /// How many messages up to `read` the member has sent.
                read_sent: u64 = "read_sent", OnUpdate;
                /// Whether an import has said how far the member has read. Then imports leave the read cursor where it is.
                read_imported: bool = "read_imported", OnUpdate;
                /// Until when the member is a reader in any role, in milliseconds since the Unix epoch; 0 if the member is not
                /// silenced.
                silenced: i64 = "silenced", OnUpdate;
                /// When the member's last message was stored while the room was in slow mode, in milliseconds since the Unix epoch.
                sent_at: i64 = "sent_at", OnUpdate;
            }
        }
    };
}

/// Defines the record type of a table.
macro_rules! record {
    ($(#[$meta:meta])* $record:ident of $table:literal as $alias:literal, extra { $($extra:tt)* } {
        $($(#[$doc:meta])* $field:ident: $type:ty = $column:literal, $written:ident;)*
    }) => {
        $(#[$meta])*
        pub struct $record {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl $record {
            /// The number of columns of a row.
            pub(crate) const COLUMNS: usize = [$($column),*].len();
        }
    };
}

/// The columns of a record as a literal for SQL, each with the table's alias.
macro_rules! columns {
    ($(#[$meta:meta])* $record:ident of $table:literal as $alias:literal, extra { $($extra:tt)* } {
        $(#[$first_doc:meta])* $first:ident: $first_type:ty = $first_column:literal, $first_written:ident;
        $($(#[$doc:meta])* $field:ident: $type:ty = $column:literal, $written:ident;)*
    }) => {
        concat!($alias, ".", $first_column $(, ", ", $alias, ".", $column)*)
    };
}

/// Defines the [`Table`] of a record.
macro_rules! table {
    ($(#[$meta:meta])* $record:ident of $table:literal as $alias:literal, extra {
        $($extra:ident: $extra_type:ty = $extra_column:literal, $extra_written:ident;)*
    } {
        $($(#[$doc:meta])* $field:ident: $type:ty = $column:literal, $written:ident;)*
    }) => {
        Table {
            name: $table,
            columns: &[
                $(Column::new($extra_column, <$extra_type as ColumnValue>::TYPE, WriteTime::$extra_written),)*
                $(Column::new($column, <$type as ColumnValue>::TYPE, WriteTime::$written),)*
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

/// A column of a table.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: ColumnType,
    pub(crate) written: WriteTime,
}

/// When a column is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteTime {
    /// The column is part of the primary key. Both databases sort by the key in the same order, names by their bytes.
    Key,
    /// The column is written only when the row is inserted.
    OnInsert,
    /// The column is in an index. It is written only if it changes, so that other changes of the row leave the index alone.
    IfChanged,
    /// The column is written with each change of the row.
    OnUpdate,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnType {
    Number,
    Int,
    Small,
    Bool,
    Text,
    Bytes,
}

use ColumnType::{Bool, Bytes, Int, Number, Small, Text};
use WriteTime::{Key, OnInsert, OnUpdate};

/// A Rust type that can be the type of a column.
trait ColumnValue {
    const TYPE: ColumnType;
}

macro_rules! impl_column_value {
    ($($type:ty: $kind:ident,)*) => { $(impl ColumnValue for $type { const TYPE: ColumnType = $kind; })* };
}

impl_column_value! {
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
    const fn new(name: &'static str, kind: ColumnType, written: WriteTime) -> Self {
        Self { name, kind, written }
    }
}

/// Defines a table that has no record type.
macro_rules! table_without_record {
    ($table:literal: $($column:literal $kind:ident $written:ident),*) => {
        Table { name: $table, columns: &[$(Column::new($column, $kind, $written)),*] }
    };
}

pub(crate) const USERS: Table = table_without_record!("users": "id" Number Key, "name" Text OnInsert,
    "last_seen" Number OnUpdate, "not_before" Number OnUpdate, "block_changes" Number OnUpdate);
pub(crate) const CONVERSATIONS: Table = conversations!(table);
pub(crate) const MEMBERS: Table = members!(table);
pub(crate) const EVENTS: Table = table_without_record!("events": "conversation" Number Key, "seq" Number Key,
    "kind" Small OnInsert, "sender" Number OnInsert, "at" Number OnInsert, "messages" Number OnInsert, "key" Text OnInsert, "body" Text OnUpdate,
    "via" Int OnInsert);
pub(crate) const AMENDMENTS: Table =
    table_without_record!("amendments": "conversation" Number Key, "target" Number Key, "seq" Number Key);
pub(crate) const REPLACED_REQUESTS: Table = table_without_record!("replaced_requests": "conversation" Number Key, "seq" Number Key, "request" Bytes OnInsert);
pub(crate) const REACTIONS: Table = table_without_record!("reactions": "conversation" Number Key,
    "target" Number Key, "emoji" Text Key, "user" Number Key, "since" Number Key, "until" Number OnUpdate);
pub(crate) const ROOMS_BY_CHOICE: Table =
    table_without_record!("rooms_by_choice": "user" Number Key, "conversation" Number Key);
pub(crate) const API_KEYS: Table = table_without_record!("api_keys": "name" Text Key, "hash" Bytes OnUpdate,
    "created" Number OnInsert, "revoked" Number OnUpdate, "number" Number OnInsert, "scopes" Text OnInsert,
    "acts_as" Text OnInsert, "expires" Number OnInsert, "rate" Number OnInsert, "addresses" Text OnInsert,
    "no_text" Bool OnInsert, "unasked" Bool OnInsert, "parent" Number OnInsert, "used" Number OnUpdate,
    "old_hash" Bytes OnUpdate, "old_until" Number OnUpdate);
pub(crate) const FEED_PAGES: Table = table_without_record!("feed_pages": "first" Number Key, "last" Number OnInsert,
    "at" Number OnInsert, "runs" Bytes OnInsert);
pub(crate) const FEED_ENTRIES: Table = table_without_record!("feed_entries": "number" Number Key, "type" Text OnInsert,
    "at" Number OnInsert, "user" Number OnInsert, "via" Int OnInsert, "address" Text OnInsert, "body" Text OnInsert);
pub(crate) const CONSUMERS: Table = table_without_record!("consumers": "name" Text Key, "epoch" Text OnUpdate,
    "position" Number OnUpdate, "at" Number OnUpdate, "node" Text OnUpdate, "until" Number OnUpdate,
    "generation" Number OnUpdate, "state" Text OnUpdate);
pub(crate) const WEBHOOKS: Table = table_without_record!("webhooks": "name" Text Key, "created" Number OnInsert,
    "settings" Text OnInsert, "version" Int OnUpdate, "old_until" Number OnUpdate, "paused" Text OnUpdate,
    "parent" Number OnInsert);

pub(crate) const PROFILES: Table = table_without_record!("profiles": "user" Number Key, "name" Text OnUpdate,
    "avatar" Text OnUpdate, "data" Text OnUpdate, "version" Number OnUpdate, "active" Bool OnUpdate,
    "changed" Number OnUpdate, "issued" Number OnUpdate, "claims" Text OnUpdate);
pub(crate) const PROFILE_WORDS: Table =
    table_without_record!("profile_words": "word" Text Key, "user" Number Key);

pub(crate) const RETIRED_IDS: Table =
    table_without_record!("retired_ids": "name" Text Key, "user" Number OnInsert, "at" Number OnInsert);

pub(crate) const BLOCKS: Table =
    table_without_record!("blocks": "user" Number Key, "blocked" Number Key, "at" Number OnInsert);

/// The deleted rooms of which content is left.
pub(crate) const ENDED_ROOMS: Table =
    table_without_record!("ended_rooms": "conversation" Number Key, "member" Number OnUpdate);

/// Who is kept out of a room, or of the installation.
pub(crate) const BANS: Table = table_without_record!("bans": "conversation" Number Key, "user" Number Key,
    "until" Number OnUpdate, "at" Number OnUpdate, "reason" Text OnUpdate, "note" Text OnUpdate, "shadow" Bool OnUpdate);

/// What users have reported.
pub(crate) const REPORTS: Table = table_without_record!("reports": "id" Number Key, "conversation" Number OnInsert,
    "target" Number OnInsert, "user" Number OnInsert, "at" Number OnInsert, "snapshot" Text OnUpdate, "state" Number OnUpdate,
    "moderator" Number OnUpdate, "claimed" Number OnUpdate, "decided" Number OnUpdate, "action" Text OnUpdate, "note" Text OnUpdate);

/// Who has reported it.
pub(crate) const REPORTERS: Table = table_without_record!("reporters": "report" Number Key, "user" Number Key,
    "at" Number OnInsert, "reason" Text OnInsert, "text" Text OnInsert);

/// Messages that wait for a moderator, or have.
pub(crate) const HELD: Table = table_without_record!("held": "report" Number Key, "user" Number OnInsert, "key" Text OnInsert,
    "peer" Number OnInsert, "via" Number OnInsert, "request" Text OnInsert, "state" Number OnUpdate);

pub(crate) const MISSED: Table = table_without_record!("missed": "user" Number Key, "conversation" Number Key,
    "absence" Number OnUpdate, "seq" Number OnUpdate);

/// All tables that `migrate-store` copies, in the order of copying.
pub(crate) const TABLES: [Table; 23] = [
    USERS,
    RETIRED_IDS,
    PROFILES,
    PROFILE_WORDS,
    BLOCKS,
    CONVERSATIONS,
    MEMBERS,
    EVENTS,
    AMENDMENTS,
    REPLACED_REQUESTS,
    REACTIONS,
    ROOMS_BY_CHOICE,
    ENDED_ROOMS,
    BANS,
    REPORTS,
    REPORTERS,
    HELD,
    API_KEYS,
    FEED_PAGES,
    FEED_ENTRIES,
    CONSUMERS,
    WEBHOOKS,
    MISSED,
];

/// The names of columns, quoted as both databases accept them.
pub(crate) fn quoted_names<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    columns.into_iter().map(|column| format!("\"{}\"", column.name)).collect::<Vec<_>>().join(", ")
}

impl Table {
    /// The columns of the primary key.
    pub(crate) fn key(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.written == Key)
    }
}
