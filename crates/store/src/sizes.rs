//! What an operator learns of a database: the rooms, and the sizes.

use serde::Serialize;
use switchboard_protocol::{ConversationId, Seq, Timestamp};
use tokio::time::Duration;

use crate::key::ConversationKey;

/// The time-out of the queries for one answer.
pub(crate) const INSPECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How many conversations [`Inspector::sizes`] names.
pub(crate) const LARGEST_CONVERSATIONS: u32 = 10;

/// The order of a list of rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomOrder {
    /// The rooms with the most members first.
    Members,
    /// The rooms with the most events first.
    Events,
    /// The rooms with the latest event first.
    Recent,
    /// By name. Only this order has further pages.
    Name,
}

/// A room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Room {
    /// The room's key in the database.
    #[serde(skip)]
    pub key: ConversationKey,
    /// The room's id.
    pub name: ConversationId,
    /// The room's title.
    pub title: Option<String>,
    /// Whether any user may join.
    pub public: bool,
    /// How many members it has.
    pub members: u64,
    /// How many messages it has, deleted ones included.
    pub messages: u64,
    /// The number of its last event.
    pub last_seq: Seq,
    /// When its last event was stored.
    pub last_event: Timestamp,
}

/// The sizes of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// The size of the database, in bytes.
    pub database_bytes: u64,
    /// The size of SQLite's write-ahead log, in bytes.
    pub wal_bytes: Option<u64>,
    /// The tables.
    pub tables: Vec<TableSize>,
    /// The conversations with the most events, the largest first.
    pub largest_conversations: Vec<ConversationSize>,
}

/// The size of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableSize {
    /// The table's name.
    pub name: &'static str,
    /// How many rows it has. In PostgreSQL this is the planner's estimate. `None` if counting took too long, or if there is no
    /// estimate yet.
    pub rows: Option<u64>,
    /// Its size with its indexes, in bytes. SQLite does not keep this.
    pub bytes: Option<u64>,
}

/// The size of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConversationSize {
    /// The conversation's id.
    pub name: ConversationId,
    /// How many events it has.
    pub events: u64,
    /// How many messages it has, deleted ones included.
    pub messages: u64,
}

impl RoomOrder {
    /// The end of the query of rooms: the same text for both databases.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::Members => "members DESC, name",
            Self::Events => "head DESC, name",
            Self::Recent => "at DESC, name",
            Self::Name => "name",
        }
    }
}

/// The error of a query that exceeds the time-out.
pub(crate) fn took_too_long() -> anyhow::Error {
    anyhow::anyhow!(
        "the query took longer than {INSPECTION_TIMEOUT:?}; the database is too large or too busy for it"
    )
}
