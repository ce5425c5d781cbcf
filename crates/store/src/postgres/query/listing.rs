//! The lookups of the lists of all users and rooms.

use super::row::{conversation_key, get, maybe_time, time, user_id, user_key};
use super::{Result, Session, profiles, reports};
use crate::ban::{Ban, NewBan};
use crate::read::listing::{BanRow, ListLookups, UserListRow};
use crate::read::row::skip_damaged;
use crate::record::{Conversation, ConversationKey, UserKey};
use crate::report::{Field, Fields};
use crate::table::{columns, conversations};

const USERS_AFTER: &str = "SELECT id, name, last_seen FROM users WHERE id > $1 ORDER BY id LIMIT $2";

const BANS_AFTER: &str = r#"SELECT b."user", u.name, b.until, b.reason, b.note, b.at, b.shadow
    FROM (SELECT * FROM bans WHERE conversation = 0 AND "user" > $1 ORDER BY "user" LIMIT $2) b
    LEFT JOIN users u ON u.id = b."user" ORDER BY b."user""#;

const CONVERSATIONS_AFTER: &str = concat!(
    "SELECT c.id, ",
    conversations!(columns),
    " FROM conversations c WHERE c.id > $1 ORDER BY c.id LIMIT $2"
);

impl ListLookups for Session {
    fn users_after(&self, after: UserKey, most: usize) -> Result<Vec<UserListRow>> {
        let rows = self.query_rows(USERS_AFTER, &[&after.0, &(most as i64)])?;
        let keys = rows.iter().map(|row| Ok(user_key(row, 0)?)).collect::<Result<Vec<_>>>()?;
        let mut profiles = profiles::find_all(self, &keys)?;
        let mut users = Vec::with_capacity(rows.len());
        for (row, key) in rows.iter().zip(keys) {
            let name = skip_damaged(user_id(row, 1), || format!("user number {}", key.0))?;
            users.push(UserListRow {
                key,
                name,
                last_seen: maybe_time(row, 2)?,
                profile: profiles.remove(&key),
            });
        }
        Ok(users)
    }

    fn bans_after(&self, after: UserKey, most: usize) -> Result<Vec<BanRow>> {
        let rows = self.query_rows(BANS_AFTER, &[&after.0, &(most as i64)])?;
        let bans = rows.iter().map(|row| {
            let user = user_key(row, 0)?;
            let name = skip_damaged(user_id(row, 1), || format!("user number {}", user.0))?;
            let new =
                NewBan { ban: Ban::stored(get(row, 2)?, get(row, 3)?, get(row, 6)?), note: get(row, 4)? };
            Ok(BanRow { user, name, new, at: time(row, 5)? })
        });
        bans.collect()
    }

    fn report_rows(&self, sql: &'static str, values: &[Field]) -> Result<Vec<Fields>> {
        let rows = self.query_rows(sql, &reports::parameters(values))?;
        Ok(rows.iter().map(reports::read).collect::<std::result::Result<_, _>>()?)
    }

    fn conversations_after(
        &self,
        after: ConversationKey,
        most: usize,
    ) -> Result<Vec<(ConversationKey, Option<Conversation>)>> {
        let rows = self.query_rows(CONVERSATIONS_AFTER, &[&after.0, &(most as i64)])?;
        let found = rows.iter().map(|row| {
            let key = conversation_key(row, 0)?;
            let read = Conversation::from_postgres(row, 1);
            Ok((key, skip_damaged(read, || format!("conversation {}", key.0))?))
        });
        found.collect()
    }
}
