//! The lookups of the lists of all users and rooms.

use rusqlite::{Connection, params};
use switchboard_protocol::Timestamp;

use super::Result;
use super::rows::{profiles, reports};
use crate::ban::{Ban, NewBan};
use crate::read::listing::{BanRow, ListLookups, UserListRow};
use crate::read::row::skip_damaged;
use crate::record::{Conversation, ConversationKey, UserKey};
use crate::report::{Field, Fields};
use crate::sqlite::rows::user_id;
use crate::table::{columns, conversations};

impl ListLookups for Connection {
    fn users_after(&self, after: UserKey, most: usize) -> Result<Vec<UserListRow>> {
        let mut select = self.prepare_cached(
            "SELECT u.id, u.name, u.last_seen FROM users u WHERE u.id > ?1 ORDER BY u.id LIMIT ?2",
        )?;
        let mut rows = select.query(params![after.0, most])?;
        let mut users = Vec::new();
        while let Some(row) = rows.next()? {
            let key = UserKey(row.get(0)?);
            let name = skip_damaged(user_id(row, 1), || format!("user number {}", key.0))?;
            let last_seen = row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis);
            users.push(UserListRow { key, name, last_seen, profile: profiles::find(self, key)? });
        }
        Ok(users)
    }

    fn bans_after(&self, after: UserKey, most: usize) -> Result<Vec<BanRow>> {
        let mut select = self.prepare_cached(
            "SELECT b.user, u.name, b.until, b.reason, b.note, b.at, b.shadow FROM bans b LEFT JOIN users u ON u.id = b.user
             WHERE b.conversation = 0 AND b.user > ?1 ORDER BY b.user LIMIT ?2",
        )?;
        let mut rows = select.query(params![after.0, most])?;
        let mut bans = Vec::new();
        while let Some(row) = rows.next()? {
            let user = UserKey(row.get(0)?);
            let name = skip_damaged(user_id(row, 1), || format!("user number {}", user.0))?;
            let new = NewBan { ban: Ban::stored(row.get(2)?, row.get(3)?, row.get(6)?), note: row.get(4)? };
            bans.push(BanRow { user, name, new, at: Timestamp::from_millis(row.get(5)?) });
        }
        Ok(bans)
    }

    fn report_rows(&self, sql: &'static str, values: &[Field]) -> Result<Vec<Fields>> {
        Ok(reports::run(self, sql, values)?)
    }

    fn conversations_after(
        &self,
        after: ConversationKey,
        most: usize,
    ) -> Result<Vec<(ConversationKey, Option<Conversation>)>> {
        let mut select = self.prepare_cached(concat!(
            "SELECT c.id, ",
            conversations!(columns),
            " FROM conversations c WHERE c.id > ?1 ORDER BY c.id LIMIT ?2"
        ))?;
        let mut rows = select.query(params![after.0, most])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let key = ConversationKey(row.get(0)?);
            let read = Conversation::from_sqlite(row, 1);
            found.push((key, skip_damaged(read, || format!("conversation {}", key.0))?));
        }
        Ok(found)
    }
}
