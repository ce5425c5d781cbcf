//! The rooms that somebody is in by their own choice: those they made or joined, for as long as they stay.

use rusqlite::{Result, params};

use super::Rows;
use crate::store::{ConversationKey, UserKey};

impl Rows {
    /// How many there are, counted no further than `most`: this reads a row for each.
    pub(in crate::store) fn count_rooms_by_choice(&self, user: UserKey, most: u32) -> Result<u32> {
        let mut select = self.db.prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM rooms_by_choice WHERE user = ?1 LIMIT ?2)",
        )?;
        select.query_row(params![user.0, most], |row| row.get(0))
    }

    pub(in crate::store) fn insert_room_by_choice(
        &self,
        user: UserKey,
        conversation: ConversationKey,
    ) -> Result<()> {
        let mut insert = self
            .db
            .prepare_cached("INSERT OR IGNORE INTO rooms_by_choice (user, conversation) VALUES (?1, ?2)")?;
        insert.execute(params![user.0, conversation.0]).map(drop)
    }

    /// Nothing happens if somebody else had brought the user in.
    pub(in crate::store) fn delete_room_by_choice(
        &self,
        user: UserKey,
        conversation: ConversationKey,
    ) -> Result<()> {
        let mut delete =
            self.db.prepare_cached("DELETE FROM rooms_by_choice WHERE user = ?1 AND conversation = ?2")?;
        delete.execute(params![user.0, conversation.0]).map(drop)
    }
}
