//! Who reacted to what.

use rusqlite::{OptionalExtension, Result, params};
use switchboard_protocol::Seq;

use super::{Rows, seq};
use crate::store::{ConversationKey, UserKey};

/// Reactions to one message that were taken back and are kept: for those who left while one of them stood, and for the
/// retry that takes one back once more. Beyond, the oldest are forgotten. Without an end, whoever sets one and takes it
/// back all day would make each later read of the message longer.
const PAST: u64 = 200;

impl Rows {
    /// The event that set a reaction or took it back last, and whether it is on.
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

    /// Sets a reaction by the event `by`.
    pub(in crate::store) fn set_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
        by: Seq,
    ) -> Result<()> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO reactions (conversation, target, emoji, user, since) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        insert.execute(params![conversation.0, target.0, emoji, user.0, by.0]).map(drop)
    }

    /// Takes back the reaction that the event `since` set, by the event `by`.
    pub(in crate::store) fn take_reaction_back(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
        since: Seq,
        by: Seq,
    ) -> Result<()> {
        let mut update = self.db.prepare_cached(
            "UPDATE reactions SET until = ?6
             WHERE conversation = ?1 AND target = ?2 AND emoji = ?3 AND user = ?4 AND since = ?5",
        )?;
        update.execute(params![conversation.0, target.0, emoji, user.0, since.0, by.0])?;
        self.forget_past_reactions(conversation, target)
    }

    /// Keeps to [`PAST`]. Half of them go at once, so that they need to be sorted only now and then.
    fn forget_past_reactions(&self, conversation: ConversationKey, target: Seq) -> Result<()> {
        let most = self.count_reactions(conversation, target)? + PAST + 1;
        let mut count = self.db.prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM reactions WHERE conversation = ?1 AND target = ?2 LIMIT ?3)",
        )?;
        let rows: u64 = count.query_row(params![conversation.0, target.0, most], |row| row.get(0))?;
        if rows < most {
            return Ok(());
        }
        let mut delete = self.db.prepare_cached(
            "DELETE FROM reactions WHERE conversation = ?1 AND target = ?2 AND until <= (
                SELECT until FROM reactions WHERE conversation = ?1 AND target = ?2 AND until IS NOT NULL
                ORDER BY until DESC LIMIT 1 OFFSET ?3)",
        )?;
        delete.execute(params![conversation.0, target.0, PAST / 2]).map(drop)
    }

    pub(in crate::store) fn count_reactions(
        &self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<u64> {
        // By itself SQLite prefers the primary key, in which the past is too.
        let mut select = self.db.prepare_cached(
            "SELECT count(*) FROM reactions INDEXED BY reactions_that_stand
             WHERE conversation = ?1 AND target = ?2 AND until IS NULL",
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
