//! What readers ask about people: members, standing, acquaintances, API keys.

use rusqlite::{OptionalExtension, params};
use switchboard_protocol::reply::{Member, OkBody};
use switchboard_protocol::{ConversationId, Members, Timestamp, UserId};

use super::{Page, Reader, View, readable};
use crate::access;
use crate::store::change::Failed;
use crate::store::sqlite::rows::{membership, user_id};
use crate::store::{Acquaintance, Standing};

impl Reader<'_> {
    /// `members`. Somebody who left learns nothing here: who came later is not theirs to see, and who
    /// was there before is in the log.
    pub(in crate::store::sqlite) fn members(&self, user: &UserId, command: &Members) -> Page {
        let View { conversation, membership: own } = self.view(user, &command.conversation.resolve(user))?;
        access::check_member(own.as_ref())?;
        let limit = self.limits.page_size(command.limit) as usize;
        let mut select = self.db.prepare_cached(
            "SELECT m.role, m.since, m.until, m.read, m.received, m.sent, m.read_messages, m.read_sent, u.name
             FROM members m CROSS JOIN users u ON u.id = m.user
             WHERE m.conversation = ?1 AND m.until IS NULL AND u.name > ?2 ORDER BY u.name LIMIT ?3 OFFSET ?4",
        )?;
        let after = command.after.as_ref().map_or("", UserId::as_str);
        let most = limit + 1;
        let (mut members, mut passed, mut more) = (Vec::new(), 0, false);
        loop {
            let mut rows = select.query(params![conversation.key.0, after, most, passed])?;
            let before = passed;
            while let Some(row) = rows.next()? {
                passed += 1;
                let read = || Ok((user_id(row, 8)?, membership(row, 0)?));
                let Some((user, m)) = readable(read(), || format!("a member of {}", conversation.name))?
                else {
                    continue;
                };
                more = members.len() == limit;
                if more {
                    break;
                }
                members.push(Member { user, role: m.role, read: m.read, received: m.received });
            }
            // Among those were damaged ones, or there are no more.
            if more || passed - before < most {
                return Ok(OkBody::Members { conversation: conversation.name, members, more });
            }
        }
    }

    /// Whether `user` may write there.
    pub(in crate::store::sqlite) fn standing(
        &self,
        user: &UserId,
        name: &ConversationId,
    ) -> Result<Standing, Failed> {
        let View { conversation, membership } = self.view(user, name)?;
        access::check_writer(membership.as_ref())?;
        Ok(Standing { conversation: conversation.key, members: conversation.members })
    }

    /// Those of `others` that share a conversation with `user`, who counts among them.
    pub(in crate::store::sqlite) fn acquaintances(
        &self,
        user: &UserId,
        others: &[UserId],
    ) -> Result<Vec<Acquaintance>, Failed> {
        let Some(own) = self.user(user)? else { return Ok(Vec::new()) };
        let mut select = self.db.prepare_cached(
            "SELECT u.last_seen FROM users u WHERE u.name = ?1 AND (u.id = ?2 OR EXISTS (
                SELECT 1 FROM members a JOIN members b ON b.conversation = a.conversation AND b.user = u.id
                WHERE a.user = ?2 AND a.until IS NULL AND b.until IS NULL))",
        )?;
        let mut found = Vec::new();
        for other in others {
            let known = select
                .query_row(params![other.as_str(), own.0], |row| {
                    let last_seen: Option<i64> = row.get(0)?;
                    Ok(Acquaintance { user: other.clone(), last_seen: last_seen.map(Timestamp::from_millis) })
                })
                .optional()?;
            found.extend(known);
        }
        Ok(found)
    }

    /// The name of the API key with this hash.
    pub(in crate::store::sqlite) fn api_key(&self, hash: &[u8]) -> Result<Option<String>, Failed> {
        let mut select =
            self.db.prepare_cached("SELECT name FROM api_keys WHERE hash = ?1 AND revoked IS NULL")?;
        Ok(select.query_row([hash], |row| row.get(0)).optional()?)
    }
}
