//! Implements the rows of changes for SQLite.

use rusqlite::{OptionalExtension, Result, ffi, params};
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

use super::insert::{INSERT_CONVERSATION, INSERT_EVENT, is_not_key};
use super::{
    SqliteRows, conversation_id, count_messages, count_sent, find_conversation, find_member, is_retired,
    profiles, seq,
};
use crate::MessageCounts;
use crate::ban::{Ban, NewBan};
use crate::change::rows::{
    CaughtUp, KeyedMessage, MAX_EVENTS_COUNTED_FOR_IMPORT, MAX_REMOVED_REACTIONS_KEPT, PROBE_BYTES,
    ReferredEvent, Rows,
};
use crate::change::{MAX_COMPARED_ROOMS, own_messages_upto, shorter_count_range};
use crate::feed::Entry;
use crate::profile::StoredProfile;
use crate::record::{Conversation, ConversationKey, LogEvent, Membership, RequestDigest, UserKey, Via};
use crate::sqlite::checksum::Columns;
use crate::sqlite::{feed, table};

impl Rows for SqliteRows {
    fn user(&mut self, name: &UserId) -> Result<Option<UserKey>> {
        if let Some(key) = self.users.get(name) {
            return Ok(Some(*key));
        }
        let mut select = self.db.prepare_cached("SELECT id FROM users WHERE name = ?1")?;
        let key = select.query_row([name.as_str()], |row| Ok(UserKey(row.get(0)?))).optional()?;
        if let Some(key) = key {
            self.users.insert(name.clone(), key);
        }
        Ok(key)
    }

    fn user_or_new(&mut self, name: &UserId) -> Result<UserKey> {
        if let Some(key) = self.user(name)? {
            return Ok(key);
        }
        self.db.prepare_cached("INSERT INTO users (name) VALUES (?1)")?.execute([name.as_str()])?;
        let key = UserKey(self.db.last_insert_rowid());
        self.users.insert(name.clone(), key);
        Ok(key)
    }

    fn is_retired(&mut self, name: &UserId) -> Result<bool> {
        is_retired(&self.db, name)
    }

    fn hold_ids(&mut self, _: &[&UserId]) -> Result<bool> {
        // No other connection writes during this transaction.
        Ok(true)
    }

    fn set_last_seen(&mut self, user: UserKey, at: Timestamp) -> Result<()> {
        let mut update = self
            .db
            .prepare_cached("UPDATE users SET last_seen = max(coalesce(last_seen, 0), ?2) WHERE id = ?1")?;
        update.execute(params![user.0, at.as_millis()]).map(drop)
    }

    fn set_connected_at_stop(&mut self, user: UserKey) -> Result<()> {
        let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO connected (user) VALUES (?1)")?;
        insert.execute([user.0]).map(drop)
    }

    fn set_not_before(&mut self, user: UserKey, at: Timestamp, replace: bool) -> Result<()> {
        let mut update = self.db.prepare_cached(if replace {
            "UPDATE users SET not_before = ?2 WHERE id = ?1"
        } else {
            "UPDATE users SET not_before = max(coalesce(not_before, 0), ?2) WHERE id = ?1"
        })?;
        update.execute(params![user.0, at.as_millis()]).map(drop)
    }

    fn ban(&mut self, conversation: ConversationKey, user: UserKey) -> Result<Option<Ban>> {
        self.find_ban(conversation, user)
    }

    fn put_ban(
        &mut self,
        conversation: ConversationKey,
        user: UserKey,
        ban: Option<(NewBan, Timestamp)>,
    ) -> Result<()> {
        self.store_ban(conversation, user, ban)
    }

    fn profile(&mut self, user: UserKey) -> Result<Option<StoredProfile>> {
        profiles::find(&self.db, user)
    }

    fn put_profile(
        &mut self,
        user: UserKey,
        profile: StoredProfile,
        removed: Vec<String>,
        added: Vec<String>,
    ) -> Result<()> {
        profiles::put(&self.db, user, &profile, &removed, &added)
    }

    fn set_key_used(&mut self, key: Via, hour: Timestamp) -> Result<()> {
        let mut update = self
            .db
            .prepare_cached("UPDATE api_keys SET used = max(coalesce(used, 0), ?2) WHERE number = ?1")?;
        update.execute(params![key.0, hour.as_millis()]).map(drop)
    }

    fn probe(&mut self) -> Result<()> {
        // The bytes are random, because SQLite would not write a page whose contents do not change.
        let mut put =
            self.db.prepare_cached("INSERT OR REPLACE INTO probe (id, filler) VALUES (1, randomblob(?1))")?;
        put.execute([PROBE_BYTES]).map(drop)
    }

    fn conversation(&mut self, name: &ConversationId) -> Result<Option<Conversation>> {
        if let Some(conversation) = self.conversations.get(name) {
            return Ok(Some(conversation.clone()));
        }
        let found = find_conversation(&self.db, name)?;
        if let Some(conversation) = &found {
            self.conversations.insert(name.clone(), conversation.clone());
        }
        Ok(found)
    }

    fn new_conversation(
        &mut self,
        name: &ConversationId,
        title: Option<String>,
        public: bool,
    ) -> Result<Conversation> {
        let mut conversation = Conversation::new(ConversationKey(0), name.clone(), title, public);
        let mut insert = self.db.prepare_cached(&INSERT_CONVERSATION)?;
        conversation.with_sqlite(|row| insert.execute(table::wanted_values(row, is_not_key)))?;
        conversation.key = ConversationKey(self.db.last_insert_rowid());
        Ok(conversation)
    }

    fn put_conversation(&mut self, conversation: Conversation) {
        self.dirty_conversations.insert(conversation.name.clone());
        self.conversations.insert(conversation.name.clone(), conversation);
    }

    fn may_end_rooms(&self) -> bool {
        true
    }

    fn insert_ended_room(&mut self, room: ConversationKey) -> Result<()> {
        self.has_ended_room = true;
        let mut insert = self.db.prepare_cached("INSERT INTO ended_rooms (conversation) VALUES (?1)")?;
        insert.execute([room.0]).map(drop)
    }

    fn member(&mut self, conversation: ConversationKey, user: UserKey) -> Result<Option<Membership>> {
        if let Some(member) = self.members.get(&(conversation, user)) {
            return Ok(Some(*member));
        }
        let found = find_member(&self.db, conversation, user)?;
        if let Some(member) = found {
            self.members.insert((conversation, user), member);
        }
        Ok(found)
    }

    fn put_member(&mut self, conversation: ConversationKey, user: UserKey, member: Membership) {
        let before = self.members.insert((conversation, user), member);
        let passed = before.is_none_or(|before| before.until != member.until);
        *self.dirty_members.entry((conversation, user)).or_default() |= passed;
    }

    fn share_a_conversation(&mut self, a: UserKey, b: UserKey, direct: &ConversationId) -> Result<bool> {
        if self.conversation(direct)?.is_some() {
            return Ok(true);
        }
        let mut select = self.db.prepare_cached(super::SELECT_SHARED_ROOM)?;
        Ok(select.exists(params![a.0, b.0, MAX_COMPARED_ROOMS])?
            || select.exists(params![b.0, a.0, MAX_COMPARED_ROOMS])?)
    }

    fn message_by_key(&mut self, sender: UserKey, key: &str) -> Result<Option<KeyedMessage>> {
        let mut select = self.db.prepare_cached(
            "SELECT c.name, e.conversation, e.seq, e.at, e.body, r.request FROM events e
             JOIN conversations c ON c.id = e.conversation
             LEFT JOIN replaced_requests r ON r.conversation = e.conversation AND r.seq = e.seq WHERE e.sender = ?1 AND e.key = ?2",
        )?;
        select
            .query_row(params![sender.0, key], |row| {
                Ok(KeyedMessage {
                    conversation: conversation_id(row, 0)?,
                    key: ConversationKey(row.get(1)?),
                    seq: seq(row, 2)?,
                    at: Timestamp::from_millis(row.get(3)?),
                    body: row.get(4)?,
                    request: row.get(5)?,
                })
            })
            .optional()
    }

    fn event(&mut self, conversation: ConversationKey, target: Seq) -> Result<Option<ReferredEvent>> {
        let mut select = self.db.prepare_cached(
            "SELECT kind, sender, at, body FROM events WHERE conversation = ?1 AND seq = ?2",
        )?;
        select
            .query_row(params![conversation.0, target.0], |row| {
                Ok(ReferredEvent {
                    kind: EventKind::from_number(row.get(0)?),
                    sender: UserKey(row.get(1)?),
                    at: Timestamp::from_millis(row.get(2)?),
                    body: row.get(3)?,
                })
            })
            .optional()
    }

    /// Always true, because only this process writes to the database, and it can read bodies with keys.
    fn stores_user_keys(&self) -> bool {
        true
    }

    fn insert_event(
        &mut self,
        event: &LogEvent,
        stored: &str,
        conversation: &Conversation,
        (sender, via): (UserKey, Via),
    ) -> Result<bool> {
        let mut insert = self.db.prepare_cached(&INSERT_EVENT)?;
        let columns = Columns {
            conversation: conversation.key.0,
            seq: event.seq.0,
            kind: event.kind.number(),
            sender: sender.0,
            at: event.at.as_millis(),
            key: event.key.as_deref(),
            body: stored,
        };
        let inserted = insert.execute(params![
            conversation.key.0,
            event.seq.0,
            event.kind.number(),
            sender.0,
            event.at.as_millis(),
            conversation.messages,
            event.key,
            stored,
            via.0,
            columns.checksum(),
            self.feed.next()
        ]);
        match inserted {
            // Besides the primary key, which has its own error code, only the index of idempotency keys is unique.
            Err(error) if error.sqlite_extended_error_code() == Some(ffi::SQLITE_CONSTRAINT_UNIQUE) => {
                Ok(false)
            }
            Err(error) => Err(error),
            Ok(_) => {
                self.numbered.insert(conversation.name.clone(), self.feed.next());
                self.feed.add(conversation.key, event.seq, event.at);
                Ok(true)
            }
        }
    }

    fn trim_feed(&mut self, before: Timestamp) -> Result<()> {
        feed::trim(&self.db, before)
    }

    fn insert_entry(&mut self, entry: Entry) -> Result<()> {
        self.feed.insert(&self.db, &entry)
    }

    fn erase_event(&mut self, conversation: ConversationKey, target: Seq, body: &str) -> Result<()> {
        self.has_erased = true;
        let mut select = self.db.prepare_cached(
            "SELECT kind, sender, at, key FROM events WHERE conversation = ?1 AND seq = ?2",
        )?;
        let checksum = select
            .query_row(params![conversation.0, target.0], |row| {
                let key = row.get_ref(3)?.as_str_or_null()?;
                let (kind, sender, at) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let (conversation, seq) = (conversation.0, target.0);
                Ok(Columns { conversation, seq, kind, sender, at, key, body }.checksum())
            })
            .optional()?;
        let mut update = self.db.prepare_cached(
            "UPDATE events SET body = ?3, checksum = ?4 WHERE conversation = ?1 AND seq = ?2",
        )?;
        update.execute(params![conversation.0, target.0, body, checksum]).map(drop)
    }

    fn insert_replaced_request(
        &mut self,
        conversation: ConversationKey,
        message: Seq,
        request: RequestDigest,
    ) -> Result<()> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO replaced_requests (conversation, seq, request) VALUES (?1, ?2, ?3)",
        )?;
        insert.execute(params![conversation.0, message.0, request]).map(drop)
    }

    fn delete_replaced_request(&mut self, conversation: ConversationKey, message: Seq) -> Result<()> {
        let mut delete =
            self.db.prepare_cached("DELETE FROM replaced_requests WHERE conversation = ?1 AND seq = ?2")?;
        delete.execute(params![conversation.0, message.0]).map(drop)
    }

    fn insert_amendment(&mut self, conversation: ConversationKey, target: Seq, by: Seq) -> Result<()> {
        let mut insert = self
            .db
            .prepare_cached("INSERT INTO amendments (conversation, target, seq) VALUES (?1, ?2, ?3)")?;
        insert.execute(params![conversation.0, target.0, by.0]).map(drop)
    }

    fn count_amendments(&mut self, conversation: ConversationKey, target: Seq) -> Result<u64> {
        let mut select = self
            .db
            .prepare_cached("SELECT count(*) FROM amendments WHERE conversation = ?1 AND target = ?2")?;
        select.query_row(params![conversation.0, target.0], |row| row.get(0))
    }

    fn amendments(&mut self, conversation: ConversationKey, target: Seq) -> Result<Vec<Seq>> {
        let mut select = self.db.prepare_cached(
            "SELECT seq FROM amendments WHERE conversation = ?1 AND target = ?2 ORDER BY seq",
        )?;
        let seqs = select.query_map(params![conversation.0, target.0], |row| seq(row, 0))?;
        seqs.collect()
    }

    fn message_counts(
        &mut self,
        conversation: &Conversation,
        user: UserKey,
        member: &Membership,
        upto: Seq,
        near: u64,
    ) -> Result<Option<MessageCounts>> {
        let head = conversation.head;
        if upto == head {
            return Ok(Some(MessageCounts { messages: conversation.messages, sent: member.sent }));
        }
        let (after, end) = shorter_count_range(member, head, upto);
        if end.0.saturating_sub(after.0) > near {
            return Ok(None);
        }
        let own = count_sent(&self.db, conversation.key, user, after, end)?;
        let messages = count_messages(&self.db, conversation.key, upto)?;
        Ok(Some(MessageCounts { messages, sent: own_messages_upto(member, head, upto, own) }))
    }

    fn counts_from_end(
        &mut self,
        conversation: &Conversation,
        user: UserKey,
        member: &Membership,
        upto: Seq,
    ) -> Result<Option<MessageCounts>> {
        let head = conversation.head;
        if member.sent > 0 && head.0.saturating_sub(upto.0) > MAX_EVENTS_COUNTED_FOR_IMPORT {
            return Ok(None);
        }
        let later =
            if member.sent > 0 { count_sent(&self.db, conversation.key, user, upto, head)? } else { 0 };
        let messages = count_messages(&self.db, conversation.key, upto)?;
        Ok(Some(MessageCounts { messages, sent: member.sent.saturating_sub(later) }))
    }

    fn catch_up_readers(&mut self, conversation: &Conversation, before: Seq) {
        self.caught_up.push(CaughtUp::new(conversation, before));
    }

    fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    fn latest_reaction(
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

    fn set_reaction(
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

    fn remove_reaction(
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
        drop(update);
        self.trim_removed_reactions(conversation, target)
    }

    fn count_reactions(&mut self, conversation: ConversationKey, target: Seq) -> Result<u64> {
        // Without this hint SQLite prefers the primary key, which also has the removed reactions.
        let mut select = self.db.prepare_cached(
            "SELECT count(*) FROM reactions INDEXED BY reactions_that_stand
             WHERE conversation = ?1 AND target = ?2 AND until IS NULL",
        )?;
        select.query_row(params![conversation.0, target.0], |row| row.get(0))
    }

    fn delete_reactions(&mut self, conversation: ConversationKey, target: Seq) -> Result<()> {
        let mut delete =
            self.db.prepare_cached("DELETE FROM reactions WHERE conversation = ?1 AND target = ?2")?;
        delete.execute(params![conversation.0, target.0]).map(drop)
    }

    fn count_self_joined_rooms(&mut self, user: UserKey, most: u32) -> Result<u32> {
        let mut select = self.db.prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM rooms_by_choice WHERE user = ?1 LIMIT ?2)",
        )?;
        select.query_row(params![user.0, most], |row| row.get(0))
    }

    fn insert_self_joined_room(&mut self, user: UserKey, conversation: ConversationKey) -> Result<()> {
        let mut insert = self
            .db
            .prepare_cached("INSERT OR IGNORE INTO rooms_by_choice (user, conversation) VALUES (?1, ?2)")?;
        insert.execute(params![user.0, conversation.0]).map(drop)
    }

    fn delete_self_joined_room(&mut self, user: UserKey, conversation: ConversationKey) -> Result<()> {
        let mut delete =
            self.db.prepare_cached("DELETE FROM rooms_by_choice WHERE user = ?1 AND conversation = ?2")?;
        delete.execute(params![user.0, conversation.0]).map(drop)
    }
}

impl SqliteRows {
    /// Deletes the oldest removed reactions if there are more than [`MAX_REMOVED_REACTIONS_KEPT`]. Half of them are deleted at once, so
    /// that they are sorted only now and then.
    fn trim_removed_reactions(&mut self, conversation: ConversationKey, target: Seq) -> Result<()> {
        let most = self.count_reactions(conversation, target)? + MAX_REMOVED_REACTIONS_KEPT + 1;
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
        delete.execute(params![conversation.0, target.0, MAX_REMOVED_REACTIONS_KEPT / 2]).map(drop)
    }
}
