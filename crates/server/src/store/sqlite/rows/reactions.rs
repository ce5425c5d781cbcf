//! Who reacted to what.

use rusqlite::{OptionalExtension, Result, params};
use switchboard_protocol::Seq;

use super::{Rows, seq};
use crate::store::{ConversationKey, UserKey};

impl Rows {
    /// The event that set or took back a reaction last, and whether it is on.
    pub(in crate::store) fn reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
    ) -> Result<Option<(Seq, bool)>> {
        let mut select = self.db.prepare_cached(
            "SELECT coalesce(until, since), until IS NULL FROM reactions
             WHERE conversation = ?1 AND target = ?2 AND emoji = ?3 AND user = ?4 ORDER BY since DESC LIMIT 1",
        )?;
        select
            .query_row(params![conversation.0, target.0, emoji, user.0], |row| {
                Ok((seq(row, 0)?, row.get(1)?))
            })
            .optional()
    }

    pub(in crate::store) fn put_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
        by: Seq,
        on: bool,
    ) -> Result<()> {
        let mut change = self.db.prepare_cached(if on {
            "INSERT INTO reactions (conversation, target, emoji, user, since) VALUES (?1, ?2, ?3, ?4, ?5)"
        } else {
            "UPDATE reactions SET until = ?5
             WHERE conversation = ?1 AND target = ?2 AND emoji = ?3 AND user = ?4 AND until IS NULL"
        })?;
        change.execute(params![conversation.0, target.0, emoji, user.0, by.0]).map(drop)
    }

    pub(in crate::store) fn count_reactions(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<u64> {
        let mut select = self.db.prepare_cached(
            "SELECT count(*) FROM reactions WHERE conversation = ?1 AND target = ?2 AND until IS NULL",
        )?;
        select.query_row(params![conversation.0, target.0], |row| row.get(0))
    }

    pub(in crate::store) fn delete_reactions(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<()> {
        let mut delete =
            self.db.prepare_cached("DELETE FROM reactions WHERE conversation = ?1 AND target = ?2")?;
        delete.execute(params![conversation.0, target.0]).map(drop)
    }
}
