//! The statements that insert conversations and events.

use std::sync::LazyLock;

use crate::sqlite::table;
use crate::table::{CONVERSATIONS, EVENTS, WriteTime, quoted_names};

/// Inserts a conversation without a key, because SQLite assigns the key.
pub(super) static INSERT_CONVERSATION: LazyLock<String> =
    LazyLock::new(|| table::insert_sql("INSERT", &CONVERSATIONS, is_not_key));

/// Inserts an event. The last two columns, the checksum and the number in the feed, only SQLite's table has.
pub(super) static INSERT_EVENT: LazyLock<String> = LazyLock::new(|| {
    let columns = EVENTS.columns.len();
    let places: String = (1..=columns).map(|place| format!("?{place}, ")).collect();
    format!(
        "INSERT INTO events ({}, checksum, feed) VALUES ({places}?{}, ?{})",
        quoted_names(EVENTS.columns),
        columns + 1,
        columns + 2
    )
});

pub(super) fn is_not_key(written: WriteTime) -> bool {
    written != WriteTime::Key
}
