//! The lookups of who blocks whom.

use rusqlite::{Connection, OptionalExtension as _, params};
use rustc_hash::FxHashSet;
use switchboard_protocol::{EventKind, Timestamp, UserId};

use super::Result;
use crate::read::row::skip_damaged;
use crate::read::{BlockLookups, BlockRow, CountedRange};
use crate::record::{ConversationKey, UserKey};
use crate::sqlite::rows::{members_apart, user_id};

impl BlockLookups for Connection {
    type Error = rusqlite::Error;

    fn blocked_after(&self, user: UserKey, after: UserKey, most: usize) -> Result<Vec<BlockRow>> {
        let mut select = self.prepare_cached(
            "SELECT b.blocked, u.name, b.at FROM blocks b LEFT JOIN users u ON u.id = b.blocked
             WHERE b.user = ?1 AND b.blocked > ?2 ORDER BY b.blocked LIMIT ?3",
        )?;
        let mut rows = select.query(params![user.0, after.0, most])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let key = UserKey(row.get(0)?);
            let read =
                || Ok(BlockRow { key, name: user_id(row, 1)?, at: Timestamp::from_millis(row.get(2)?) });
            found.extend(skip_damaged(read(), || format!("user number {}", key.0))?);
        }
        Ok(found)
    }

    fn either_blocks(&self, user: UserKey, others: &[UserKey]) -> Result<FxHashSet<UserKey>> {
        let mut select = self.prepare_cached(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM blocks WHERE user = ?1 AND blocked = ?2)
                OR EXISTS (SELECT 1 FROM blocks WHERE user = ?2 AND blocked = ?1)",
        )?;
        let mut apart = FxHashSet::default();
        for other in others {
            if select.exists(params![user.0, other.0])? {
                apart.insert(*other);
            }
        }
        Ok(apart)
    }

    fn members_apart(&self, conversation: ConversationKey, user: UserKey) -> Result<Vec<UserId>> {
        Ok(members_apart(self, conversation, user)?)
    }

    fn count_blocked(&self, user: UserKey, ranges: &[CountedRange]) -> Result<Vec<u64>> {
        // The second condition is evaluated once: mostly no blocked user has ever written in the conversation.
        let mut count = self.prepare_cached(
            "SELECT count(*) FROM events e WHERE e.conversation = ?1 AND e.seq > ?2 AND e.seq <= ?3 AND e.kind = ?4
             AND EXISTS (SELECT 1 FROM blocks b CROSS JOIN members m ON m.conversation = ?1 AND m.user = b.blocked
                 WHERE b.user = ?5 AND m.sent > 0)
             AND EXISTS (SELECT 1 FROM blocks b WHERE b.user = ?5 AND b.blocked = e.sender)",
        )?;
        let message = EventKind::Message.number();
        let counts = ranges.iter().map(|CountedRange { conversation, after, upto }| {
            count.query_row(params![conversation.0, after.0, upto.0, message, user.0], |row| row.get(0))
        });
        Ok(counts.collect::<rusqlite::Result<_>>()?)
    }

    fn hidden_conversations(&self, user: UserKey) -> Result<FxHashSet<ConversationKey>> {
        let mut select = self.prepare_cached(
            "SELECT c.id FROM blocks b CROSS JOIN users u ON u.id = b.user CROSS JOIN users o ON o.id = b.blocked
             CROSS JOIN conversations c ON c.name = '@' || min(u.name, o.name) || ':' || max(u.name, o.name)
             WHERE b.user = ?1",
        )?;
        let keys = select.query_map([user.0], |row| row.get(0).map(ConversationKey))?;
        Ok(keys.collect::<rusqlite::Result<_>>()?)
    }

    fn block_changes(&self, user: UserKey) -> Result<u64> {
        let mut select = self.prepare_cached("SELECT block_changes FROM users WHERE id = ?1")?;
        Ok(select.query_row([user.0], |row| row.get(0)).optional()?.unwrap_or(0))
    }
}
