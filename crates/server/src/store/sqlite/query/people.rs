//! What readers ask about people: members, standing, acquaintances, API keys.

use rusqlite::{OptionalExtension, params};
use switchboard_protocol::reply::{Member, OkBody};
use switchboard_protocol::{ConversationId, Members, Timestamp, UserId};

use super::{Page, Reader, View, readable};
use crate::access;
use crate::store::change::Failed;
use crate::store::sqlite::rows::{membership, user_id};
use crate::store::{Acquaintance, Standing, UserKey};

/// Rooms of a user that are looked at to find out whether they share one with another. It bounds what one `watch` costs to
/// this for each user it names, and twice that for somebody in more rooms.
const COMPARED: u32 = 100;

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

    /// Those of `others` that share a conversation with `user`, who counts among them. Two who both are in more than
    /// [`COMPARED`] rooms share one if one of the oldest of either is one of the other's.
    pub(in crate::store::sqlite) fn acquaintances(
        &self,
        user: &UserId,
        others: &[UserId],
    ) -> Result<Vec<Acquaintance>, Failed> {
        let Some(own) = self.user(user)? else { return Ok(Vec::new()) };
        let mut rooms = self.db.prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM members INDEXED BY rooms_of_user
                WHERE user = ?1 AND until IS NULL AND since > 0 LIMIT ?2)",
        )?;
        // All of them are compared, so there is no need to look from the other side.
        let few = rooms.query_row(params![own.0, COMPARED + 1], |row| row.get::<_, u32>(0))? <= COMPARED;
        let mut select = self.db.prepare_cached("SELECT id, last_seen FROM users WHERE name = ?1")?;
        let mut found = Vec::new();
        for other in others {
            let known = select
                .query_row([other.as_str()], |row| Ok((UserKey(row.get(0)?), row.get::<_, Option<i64>>(1)?)))
                .optional()?;
            let Some((key, last_seen)) = known else { continue };
            if key == own
                || self.write_to_each_other(user, other)?
                || self.share_a_room(own, key)?
                || !few && self.share_a_room(key, own)?
            {
                let last_seen = last_seen.map(Timestamp::from_millis);
                found.push(Acquaintance { user: other.clone(), last_seen });
            }
        }
        Ok(found)
    }

    /// Whether two users have a direct conversation. Its two members never leave it.
    fn write_to_each_other(&self, a: &UserId, b: &UserId) -> Result<bool, Failed> {
        let mut select = self.db.prepare_cached("SELECT 1 FROM conversations WHERE name = ?1")?;
        Ok(select.exists([ConversationId::direct(a, b).as_str()])?)
    }

    /// Whether one of the oldest rooms of `a` is one of `b`'s.
    fn share_a_room(&self, a: UserKey, b: UserKey) -> Result<bool, Failed> {
        let mut select = self.db.prepare_cached(
            "SELECT 1 FROM (SELECT conversation FROM members INDEXED BY rooms_of_user
                WHERE user = ?1 AND until IS NULL AND since > 0 ORDER BY conversation LIMIT ?3) room
             CROSS JOIN members m ON m.conversation = room.conversation AND m.user = ?2 AND m.until IS NULL",
        )?;
        Ok(select.exists(params![a.0, b.0, COMPARED])?)
    }

    /// Up to when the user's tokens have been revoked.
    pub(in crate::store::sqlite) fn not_before(&self, user: &UserId) -> Result<Option<Timestamp>, Failed> {
        Ok(self.known(user)?.and_then(|(_, not_before)| not_before))
    }

    /// A user, and up to when their tokens have been revoked.
    pub(super) fn known(&self, user: &UserId) -> Result<Option<(UserKey, Option<Timestamp>)>, Failed> {
        let mut select = self.db.prepare_cached("SELECT id, not_before FROM users WHERE name = ?1")?;
        let known = select.query_row([user.as_str()], |row| {
            Ok((UserKey(row.get(0)?), row.get::<_, Option<i64>>(1)?.map(Timestamp::from_millis)))
        });
        Ok(known.optional()?)
    }

    /// The name of the API key with this hash.
    pub(in crate::store::sqlite) fn api_key(&self, hash: &[u8]) -> Result<Option<String>, Failed> {
        let mut select =
            self.db.prepare_cached("SELECT name FROM api_keys WHERE hash = ?1 AND revoked IS NULL")?;
        Ok(select.query_row([hash], |row| row.get(0)).optional()?)
    }
}
