//! Blocks in an SQLite database, for the writer.

use rusqlite::{Connection, OptionalExtension as _, Result, params};
use switchboard_protocol::UserId;

use super::{SqliteRows, user_id};
use crate::change::BlockRows;
use crate::record::{Conversation, ConversationKey, UserKey};

/// The members of a conversation who block a user or whom the user blocks. The members are looked up one by one, because very many
/// users may block one.
pub(in crate::sqlite) fn members_apart(
    db: &Connection,
    conversation: ConversationKey,
    user: UserKey,
) -> Result<Vec<UserId>> {
    let mut involved = db.prepare_cached(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM blocks WHERE user = ?1)
            OR EXISTS (SELECT 1 FROM blocks INDEXED BY blocks_of_blocked WHERE blocked = ?1)",
    )?;
    if !involved.exists([user.0])? {
        return Ok(Vec::new());
    }
    let mut select = db.prepare_cached(
        "SELECT u.name FROM members m CROSS JOIN users u ON u.id = m.user
         WHERE m.conversation = ?1 AND m.until IS NULL
         AND (EXISTS (SELECT 1 FROM blocks b WHERE b.user = m.user AND b.blocked = ?2)
             OR EXISTS (SELECT 1 FROM blocks b WHERE b.user = ?2 AND b.blocked = m.user))",
    )?;
    let rows = select.query_map(params![conversation.0, user.0], |row| user_id(row, 0))?;
    rows.collect()
}

impl SqliteRows {
    /// Whether any user blocks another. The writer is the only one that changes it, so it is read once; it may be `true` for longer.
    fn has_blocks(&mut self) -> Result<bool> {
        if let Some(known) = self.has_blocks {
            return Ok(known);
        }
        let any = self.db.prepare_cached("SELECT 1 FROM blocks")?.exists([])?;
        self.has_blocks = Some(any);
        Ok(any)
    }
}

impl BlockRows for SqliteRows {
    type Error = rusqlite::Error;

    fn block_changes(&mut self, user: UserKey) -> Result<u64> {
        let mut select = self.db.prepare_cached("SELECT block_changes FROM users WHERE id = ?1")?;
        Ok(select.query_row([user.0], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    fn does_block(&mut self, user: UserKey, other: UserKey) -> Result<bool> {
        if !self.has_blocks()? {
            return Ok(false);
        }
        let mut select = self.db.prepare_cached("SELECT 1 FROM blocks WHERE user = ?1 AND blocked = ?2")?;
        select.exists(params![user.0, other.0])
    }

    fn count_blocks(&mut self, user: UserKey) -> Result<u64> {
        let mut count = self.db.prepare_cached("SELECT count(*) FROM blocks WHERE user = ?1")?;
        count.query_row([user.0], |row| row.get(0))
    }

    fn put_block(&mut self, user: UserKey, other: UserKey, at: Option<i64>, changes: u64) -> Result<()> {
        self.has_blocks = Some(true);
        match at {
            Some(at) => self
                .db
                .prepare_cached("INSERT OR REPLACE INTO blocks (user, blocked, at) VALUES (?1, ?2, ?3)")?
                .execute(params![user.0, other.0, at])?,
            None => self
                .db
                .prepare_cached("DELETE FROM blocks WHERE user = ?1 AND blocked = ?2")?
                .execute(params![user.0, other.0])?,
        };
        let mut update = self.db.prepare_cached("UPDATE users SET block_changes = ?2 WHERE id = ?1")?;
        update.execute(params![user.0, changes]).map(drop)
    }

    fn members_apart(&mut self, conversation: &Conversation, user: UserKey) -> Result<Vec<UserId>> {
        if !self.has_blocks()? {
            return Ok(Vec::new());
        }
        let mut apart = members_apart(&self.db, conversation.key, user)?;
        // Who came or went in this transaction is written at its end.
        let passed: Vec<_> = self
            .dirty_members
            .iter()
            .filter(|((key, member), passed)| **passed && *key == conversation.key && *member != user)
            .map(|(at, _)| *at)
            .collect();
        for at in passed {
            let mut select = self.db.prepare_cached("SELECT name FROM users WHERE id = ?1")?;
            let name = select.query_row([at.1.0], |row| user_id(row, 0))?;
            drop(select);
            apart.retain(|other| *other != name);
            let is_present = self.members.get(&at).is_some_and(|member| member.until.is_none());
            if is_present && (self.does_block(user, at.1)? || self.does_block(at.1, user)?) {
                apart.push(name);
            }
        }
        Ok(apart)
    }

    fn blocked_users(&mut self, user: UserKey) -> Result<Vec<UserId>> {
        if !self.has_blocks()? {
            return Ok(Vec::new());
        }
        let mut select = self.db.prepare_cached(
            "SELECT u.name FROM blocks b CROSS JOIN users u ON u.id = b.blocked WHERE b.user = ?1",
        )?;
        let rows = select.query_map([user.0], |row| user_id(row, 0))?;
        rows.collect()
    }
}
