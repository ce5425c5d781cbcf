//! The lookups in an SQLite database. The data is local, so rows are read one by one, and only as many as the caller
//! consumes.

mod blocks;
mod feed;
mod history;
mod listing;
mod message;
mod missed;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, params};
use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Limits, Seq, Timestamp, UserId};

use super::rows::profiles;
use super::rows::{self, conversation_id, find_conversation, find_member, seq, user_id};
use crate::ban::{Ban, Standing};
use crate::batch::WriterState;
use crate::change::OperationError;
use crate::grant::{KeyGrant, KeyRow, key_columns};
use crate::profile::StoredProfile;
use crate::profile::{ban_columns, join_bans, not_before};
use crate::read::row::{
    ConnectionStart, ConversationAccess, ListedConversation, MembershipRow, NamedConversation,
    PresencePeerRow, StoredMessage, UserRow, WantedMessage, is_readable, skip_damaged, unreadable_event,
};
use crate::read::{self, BlockLookups as _, LogRange, Lookups, MEMBERSHIPS_PER_READ, NamedPerson, ReaderRow};
use crate::record::{Conversation, Membership};
use crate::record::{ConversationKey, Kind, LogEvent, NewerKind, UserKey};
use crate::table::{columns, conversations, members};

/// A read transaction in SQLite.
pub(crate) type Reader<'a> = read::Reader<'a, Connection>;

type Result<T> = std::result::Result<T, OperationError>;

pub(crate) fn reader<'a>(db: &'a Connection, limits: &'a Limits, state: &'a WriterState) -> Reader<'a> {
    let now = state.clock.now();
    Reader { rows: db, limits, mark: &state.mark, memberships_per_step: MEMBERSHIPS_PER_READ, now }
}

/// The standing of a user, whose columns begin at `first`.
pub(in crate::sqlite) fn read_standing(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Standing> {
    let not_before = row.get::<_, Option<i64>>(first)?.map(Timestamp::from_millis);
    let until: Option<i64> = row.get(first + 1)?;
    let reason = row.get(first + 2)?;
    Ok(Standing { not_before, ban: until.map(|until| Ban::stored(until, reason, false)) })
}

impl Lookups for Connection {
    fn find_user(&self, user: &UserId) -> Result<Option<UserRow>> {
        let mut select = self.prepare_cached(concat!(
            "SELECT u.id, ",
            not_before!(),
            ", ",
            ban_columns!(),
            ", u.block_changes FROM users u LEFT JOIN profiles p ON p.user = u.id",
            join_bans!(),
            " WHERE u.name = ?1"
        ))?;
        let known = select.query_row([user.as_str()], |row| {
            let (key, block_changes) = (UserKey(row.get(0)?), row.get(4)?);
            Ok(UserRow { key, standing: read_standing(row, 1)?, block_changes })
        });
        Ok(known.optional()?)
    }

    fn is_retired(&self, user: &UserId) -> Result<bool> {
        Ok(rows::is_retired(self, user)?)
    }

    fn find_access(&self, user: &UserId, name: &ConversationId) -> Result<Option<ConversationAccess>> {
        let Some(conversation) = find_conversation(self, name)? else { return Ok(None) };
        let mut select = self.prepare_cached("SELECT id, block_changes FROM users WHERE name = ?1")?;
        let reader = select
            .query_row([user.as_str()], |row| {
                Ok(ReaderRow { key: UserKey(row.get(0)?), block_changes: row.get(1)? })
            })
            .optional()?;
        let Some(reader) = reader else { return Ok(None) };
        let membership = find_member(self, conversation.key, reader.key)?;
        Ok(Some(ConversationAccess { conversation, membership, reader }))
    }

    fn access_by_key(
        &self,
        user: UserKey,
        conversation: ConversationKey,
    ) -> Result<Option<ConversationAccess>> {
        let mut select = self.prepare_cached("SELECT name FROM conversations WHERE id = ?1")?;
        let name = select.query_row([conversation.0], |row| conversation_id(row, 0)).optional()?;
        let found = name.map(|name| find_conversation(self, &name)).transpose()?.flatten();
        let Some(found) = found else { return Ok(None) };
        let membership = find_member(self, conversation, user)?;
        let reader = ReaderRow { key: user, block_changes: self.block_changes(user)? };
        Ok(Some(ConversationAccess { conversation: found, membership, reader }))
    }

    fn connection_start(
        &self,
        user: &UserId,
        named: &[ConversationId],
        most: usize,
    ) -> Result<Option<ConnectionStart>> {
        let Some(user) = self.find_user(user)? else { return Ok(None) };
        let joined = self.memberships(user.key, ConversationKey::MIN, most)?;
        let named = named.iter().map(|name| find_named(self, user.reader(), name)).collect::<Result<_>>()?;
        Ok(Some(ConnectionStart { user, joined, named }))
    }

    fn memberships(&self, user: UserKey, after: ConversationKey, most: usize) -> Result<Vec<MembershipRow>> {
        let mut select = self.prepare_cached(
            "SELECT m.conversation, c.head, c.at, c.ended FROM members m INDEXED BY members_of_user
             CROSS JOIN conversations c ON c.id = m.conversation
             WHERE m.user = ?1 AND m.until IS NULL AND m.conversation > ?2 ORDER BY m.conversation LIMIT ?3",
        )?;
        let mut rows = select.query(params![user.0, after.0, most])?;
        let mut memberships = Vec::new();
        while let Some(row) = rows.next()? {
            let conversation: i64 = row.get(0)?;
            let read = || Ok(((seq(row, 1)?, row.get(2)?), row.get(3)?));
            let state = skip_damaged(read(), || format!("conversation {conversation}"))?;
            memberships.push(MembershipRow::new(ConversationKey(conversation), state));
        }
        Ok(memberships)
    }

    fn listed_conversations(
        &self,
        user: UserKey,
        conversations: &[ConversationKey],
    ) -> Result<Vec<ListedConversation>> {
        let mut select = self.prepare_cached(concat!(
            "SELECT c.id, ",
            members!(columns),
            ", ",
            conversations!(columns),
            " FROM members m CROSS JOIN conversations c ON c.id = m.conversation
             WHERE m.conversation = ?1 AND m.user = ?2 AND m.until IS NULL"
        ))?;
        let mut listed = Vec::new();
        for conversation in conversations {
            let mut rows = select.query(params![conversation.0, user.0])?;
            if let Some(row) = rows.next()? {
                listed.extend(read_listed(row)?);
            }
        }
        Ok(listed)
    }

    fn time_of(&self, conversation: ConversationKey, seq: Seq) -> Result<i64> {
        let mut select = self.prepare_cached("SELECT at FROM events WHERE conversation = ?1 AND seq = ?2")?;
        Ok(select.query_row(params![conversation.0, seq.0], |row| row.get(0))?)
    }

    fn events(
        &self,
        conversation: ConversationKey,
        name: &ConversationId,
        range: &LogRange,
        mut each: impl FnMut(LogEvent) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut select = self.prepare_cached(
            "SELECT e.seq, e.kind, u.name, e.at, e.key, e.body FROM events e LEFT JOIN users u ON u.id = e.sender
             WHERE e.conversation = ?1 AND e.seq > ?2 AND e.seq <= ?3 ORDER BY e.seq LIMIT ?4",
        )?;
        let mut rows = select.query(params![conversation.0, range.after.0, range.upto.0, range.most])?;
        while let Some(row) = rows.next()? {
            if each(read_event(row, name)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn user_names(&self, users: &[UserKey]) -> Result<FxHashMap<UserKey, UserId>> {
        let mut select =
            self.prepare_cached("SELECT id, name FROM users WHERE id IN (SELECT value FROM json_each(?1))")?;
        let users = serde_json::Value::from_iter(users.iter().map(|user| user.0)).to_string();
        let mut rows = select.query([users])?;
        let mut names = FxHashMap::default();
        while let Some(row) = rows.next()? {
            let user: i64 = row.get(0)?;
            let name = skip_damaged(user_id(row, 1), || format!("user number {user}"))?;
            names.extend(name.map(|name| (UserKey(user), name)));
        }
        Ok(names)
    }

    fn kinds(&self) -> Result<Vec<NewerKind>> {
        let mut select = self.prepare_cached("SELECT number, name, users FROM kinds")?;
        let rows = select.query_map([], |row| {
            Ok(NewerKind::from_row(row.get(0)?, row.get(1)?, row.get_ref(2)?.as_str()?))
        })?;
        Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn messages_before(&self, conversation: ConversationKey, before: Seq, most: usize) -> Result<Vec<Seq>> {
        Ok(history::messages_before(self, conversation, before, most)?)
    }

    fn messages_from(
        &self,
        conversation: ConversationKey,
        from: Seq,
        upto: Seq,
        most: usize,
    ) -> Result<Vec<Seq>> {
        Ok(history::messages_from(self, conversation, from, upto, most)?)
    }

    fn count_messages(&self, conversation: ConversationKey, upto: Seq) -> Result<u64> {
        Ok(rows::count_messages(self, conversation, upto)?)
    }

    fn count_sent(
        &self,
        conversation: ConversationKey,
        sender: UserKey,
        after: Seq,
        upto: Seq,
    ) -> Result<u64> {
        Ok(rows::count_sent(self, conversation, sender, after, upto)?)
    }

    fn messages(
        &self,
        wanted: &[WantedMessage<'_>],
        _bytes: usize,
        mut each: impl FnMut(Option<StoredMessage>) -> ControlFlow<()>,
    ) -> Result<()> {
        for wanted in wanted {
            if each(message::find(self, wanted)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn members(
        &self,
        conversation: ConversationKey,
        after: UserKey,
        most: usize,
        mut each: impl FnMut(UserKey, Option<(UserId, Membership)>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut select = self.prepare_cached(concat!(
            "SELECT m.user, u.name, ",
            members!(columns),
            " FROM members m LEFT JOIN users u ON u.id = m.user
             WHERE m.conversation = ?1 AND m.until IS NULL AND m.user > ?2 ORDER BY m.user LIMIT ?3"
        ))?;
        let mut rows = select.query(params![conversation.0, after.0, most])?;
        while let Some(row) = rows.next()? {
            let read = || Ok((user_id(row, 1)?, Membership::from_sqlite(row, 2)?));
            let member = skip_damaged(read(), || format!("a member of conversation {}", conversation.0))?;
            if each(UserKey(row.get(0)?), member).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn profiles(&self, users: &[UserKey]) -> Result<FxHashMap<UserKey, StoredProfile>> {
        Ok(profiles::find_all(self, users)?)
    }

    fn named_people(&self, users: &[UserId]) -> Result<Vec<NamedPerson>> {
        Ok(profiles::find_named_people(self, users)?)
    }

    fn find_people(
        &self,
        words: (&str, &str),
        ids: (&str, &str),
        most: usize,
    ) -> Result<Vec<PresencePeerRow>> {
        Ok(profiles::search(self, words, ids, most)?)
    }

    fn presence_peer_rows(&self, users: &[UserId]) -> Result<Vec<PresencePeerRow>> {
        let mut select = self.prepare_cached("SELECT id, last_seen FROM users WHERE name = ?1")?;
        let mut found = Vec::new();
        for name in users {
            let known = select.query_row([name.as_str()], |row| {
                let last_seen = row.get::<_, Option<i64>>(1)?.map(Timestamp::from_millis);
                Ok(PresencePeerRow { key: UserKey(row.get(0)?), name: name.clone(), last_seen })
            });
            found.extend(known.optional()?);
        }
        Ok(found)
    }

    fn conversations_exist(&self, conversations: &[ConversationId]) -> Result<Vec<bool>> {
        let mut select = self.prepare_cached("SELECT 1 FROM conversations WHERE name = ?1")?;
        conversations.iter().map(|name| Ok(select.exists([name.as_str()])?)).collect()
    }

    fn are_mutual(&self, conversations: &[ConversationId]) -> Result<Vec<bool>> {
        let mut select = self.prepare_cached(
            "SELECT 1 FROM conversations c JOIN members m ON m.conversation = c.id AND m.sent > 0
             WHERE c.name = ?1 GROUP BY c.id HAVING count(*) > 1",
        )?;
        conversations.iter().map(|name| Ok(select.exists([name.as_str()])?)).collect()
    }

    fn count_rooms(&self, user: UserKey, most: u32) -> Result<u32> {
        let mut count = self.prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM members INDEXED BY rooms_of_user
                WHERE user = ?1 AND until IS NULL AND since > 0 LIMIT ?2)",
        )?;
        Ok(count.query_row(params![user.0, most], |row| row.get(0))?)
    }

    fn share_a_room(&self, pairs: &[(UserKey, UserKey)], most: u32) -> Result<Vec<bool>> {
        let mut select = self.prepare_cached(rows::SELECT_SHARED_ROOM)?;
        pairs.iter().map(|(a, b)| Ok(select.exists(params![a.0, b.0, most])?)).collect()
    }

    fn api_key(&self, hash: &[u8]) -> Result<Option<KeyGrant>> {
        let mut select = self.prepare_cached(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys WHERE (hash = ?1 OR old_hash = ?1) AND revoked IS NULL"
        ))?;
        let found = select.query_row([hash], |row| {
            Ok(KeyRow {
                number: row.get(0)?,
                name: row.get(1)?,
                scopes: row.get(2)?,
                acts_as: row.get(3)?,
                expires: row.get(4)?,
                rate: row.get(5)?,
                addresses: row.get(6)?,
                no_text: row.get(7)?,
                used: row.get(8)?,
                hash: row.get(9)?,
                old_until: row.get(10)?,
                unasked: row.get(11)?,
            })
        });
        Ok(found.optional()?.map(|row| row.grant(hash)))
    }
}

fn find_named(db: &Connection, reader: ReaderRow, name: &ConversationId) -> Result<NamedConversation> {
    let read = || -> rusqlite::Result<_> {
        let Some(conversation) = find_conversation(db, name)? else { return Ok(NamedConversation::NotFound) };
        let membership = find_member(db, conversation.key, reader.key)?;
        Ok(NamedConversation::Found(Box::new(ConversationAccess { conversation, membership, reader })))
    };
    Ok(skip_damaged(read(), || name.to_string())?.unwrap_or(NamedConversation::Damaged))
}

/// Reads a row of [`Lookups::listed_conversations`].
fn read_listed(row: &rusqlite::Row<'_>) -> Result<Option<ListedConversation>> {
    let key: i64 = row.get(0)?;
    let read = || {
        let member = Membership::from_sqlite(row, 1)?;
        Ok(ListedConversation {
            conversation: Conversation::from_sqlite(row, 1 + Membership::COLUMNS)?,
            member,
        })
    };
    skip_damaged(read(), || format!("conversation {key}, in a list"))
}

/// Reads a row of [`Lookups::events`].
fn read_event(row: &rusqlite::Row<'_>, conversation: &ConversationId) -> rusqlite::Result<LogEvent> {
    let seq = seq(row, 0)?;
    let read = || -> rusqlite::Result<LogEvent> {
        let body: Box<str> = row.get(5)?;
        let kind = Kind::from_number(row.get(1)?);
        if !is_readable(&kind, &body) {
            let column = rusqlite::types::Type::Text;
            return Err(rusqlite::Error::InvalidColumnType(5, "body".to_owned(), column));
        }
        Ok(LogEvent {
            conversation: conversation.clone(),
            seq,
            kind,
            from: user_id(row, 2)?,
            at: Timestamp::from_millis(row.get(3)?),
            key: row.get(4)?,
            body,
        })
    };
    read().or_else(|error| {
        let at = Timestamp::from_millis(row.get(3).unwrap_or_default());
        Ok(unreadable_event(conversation, seq, user_id(row, 2).ok(), at, error))
    })
}
