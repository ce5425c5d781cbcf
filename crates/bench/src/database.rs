//! Direct access to the database of a stopped server: fills it with more data than clients could send in time, and reads it.

use std::path::Path;

use rusqlite::Connection;

/// Multiplies group 0, whose users, rooms, members and events the server created, until there are `groups` groups. Users are named
/// `u` and their number, with `size` users in a group; rooms are named `#g`, the group's number, and a suffix.
///
/// # Errors
/// The file is not a database of Switchboard, or the disk is full.
pub(crate) fn copy_group(file: &Path, size: usize, groups: usize) -> anyhow::Result<()> {
    let db = Connection::open(file)?;
    let last =
        |table: &str| db.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| row.get::<_, i64>(0));
    let (users, conversations) = (last("users")?, last("conversations")?);
    // In the copies, the number at the end of a user's name and the group's number after `#g` in a room's name are replaced.
    db.execute_batch(&format!(
        "PRAGMA synchronous = OFF;
         BEGIN;
         CREATE TEMP TABLE copies AS
           WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {groups} - 1) SELECT n FROM n;
         INSERT INTO users
           SELECT id + n * {users}, 'u' || (substr(name, 2) + n * {size}), last_seen FROM copies CROSS JOIN users;
         INSERT INTO conversations
           SELECT id + n * {conversations}, '#g' || n || substr(name, 4), title, public, head, messages, last_message,
             members, admins, at
           FROM copies CROSS JOIN conversations;
         INSERT INTO members
           SELECT conversation + n * {conversations}, user + n * {users}, role, since, until, read, received, sent,
             read_messages, read_sent
           FROM copies CROSS JOIN members;
         INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
           SELECT conversation + n * {conversations}, seq, kind, sender + n * {users}, at, messages, key, body
           FROM copies CROSS JOIN events;
         COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    ))?;
    Ok(())
}

/// The conversations with these names, each with the seq of its last event.
///
/// # Errors
/// A conversation with one of the names does not exist.
pub(crate) fn read_heads(
    file: &Path,
    names: impl Iterator<Item = String>,
) -> anyhow::Result<Vec<(String, u64)>> {
    let db = Connection::open(file)?;
    let mut head = db.prepare("SELECT head FROM conversations WHERE name = ?1")?;
    let heads = names.map(|name| {
        let head: i64 = head.query_row([&name], |row| row.get(0))?;
        Ok((name, head as u64))
    });
    heads.collect()
}
