//! The rows of bans.

use rusqlite::{Connection, OptionalExtension as _, Result, params};
use switchboard_protocol::Timestamp;

use super::SqliteRows;
use crate::ban::{Ban, NewBan};
use crate::record::{ConversationKey, UserKey};

impl SqliteRows {
    pub(super) fn find_ban(&mut self, conversation: ConversationKey, user: UserKey) -> Result<Option<Ban>> {
        if let Some(ban) = self.bans.get(&(conversation, user)) {
            return Ok(ban.clone());
        }
        let found = select(&self.db, conversation, user)?;
        self.bans.insert((conversation, user), found.clone());
        Ok(found)
    }

    pub(super) fn store_ban(
        &mut self,
        conversation: ConversationKey,
        user: UserKey,
        ban: Option<(NewBan, Timestamp)>,
    ) -> Result<()> {
        match &ban {
            Some((NewBan { ban, note }, at)) => {
                let mut put = self.db.prepare_cached(
                    "INSERT OR REPLACE INTO bans (conversation, user, until, at, reason, note, shadow) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?;
                put.execute(params![
                    conversation.0,
                    user.0,
                    ban.stored_until(),
                    at.as_millis(),
                    ban.reason,
                    note,
                    ban.shadow
                ])?;
            }
            None => {
                let mut delete =
                    self.db.prepare_cached("DELETE FROM bans WHERE conversation = ?1 AND user = ?2")?;
                delete.execute(params![conversation.0, user.0])?;
            }
        }
        self.bans.insert((conversation, user), ban.map(|(new, _)| new.ban));
        Ok(())
    }
}

fn select(db: &Connection, conversation: ConversationKey, user: UserKey) -> Result<Option<Ban>> {
    let mut select =
        db.prepare_cached("SELECT until, reason, shadow FROM bans WHERE conversation = ?1 AND user = ?2")?;
    let found = select.query_row(params![conversation.0, user.0], |row| {
        Ok(Ban::stored(row.get(0)?, row.get(1)?, row.get(2)?))
    });
    found.optional()
}
