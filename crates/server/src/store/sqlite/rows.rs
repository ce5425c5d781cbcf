//! The writer's rows: read once, kept for the batches that follow, written back once a batch.
//!
//! The process is the database's only writer, so what it wrote last is what stands there. A batch of
//! a hundred messages to one room updates the room's row once.

mod log;
mod reactions;
mod rooms;

use rusqlite::{Connection, OptionalExtension, Result, ffi, named_params, params};
use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, EventKind, Role, Seq, Timestamp, UserId};

use crate::access::{Conversation, Membership};
use crate::store::{ConversationKey, LogEvent, UserKey};

/// Most rows kept of each kind between batches: about 200 bytes each.
const KEPT: usize = 50_000;

/// The rows of one transaction.
pub(in crate::store) struct Rows {
    users: FxHashMap<UserId, UserKey>,
    conversations: FxHashMap<ConversationId, Conversation>,
    members: FxHashMap<(ConversationKey, UserKey), Membership>,
    dirty_conversations: FxHashSet<ConversationId>,
    /// Whether somebody came or went; if not, there is no index to change.
    dirty_members: FxHashMap<(ConversationKey, UserKey), bool>,
    erased: bool,
    db: Connection,
}

/// A message found by its idempotency key.
pub(in crate::store) struct Keyed {
    pub(in crate::store) conversation: ConversationId,
    pub(in crate::store) key: ConversationKey,
    pub(in crate::store) seq: Seq,
    pub(in crate::store) at: Timestamp,
    pub(in crate::store) body: String,
}

/// An event as a later one refers to it.
pub(in crate::store) struct Referred {
    pub(in crate::store) kind: EventKind,
    pub(in crate::store) sender: UserKey,
    pub(in crate::store) at: Timestamp,
    pub(in crate::store) body: String,
}

impl Rows {
    pub(in crate::store) fn new(db: Connection) -> Self {
        Self {
            users: FxHashMap::default(),
            conversations: FxHashMap::default(),
            members: FxHashMap::default(),
            dirty_conversations: FxHashSet::default(),
            dirty_members: FxHashMap::default(),
            erased: false,
            db,
        }
    }

    /// The database, for whoever reads between two transactions.
    pub(super) fn database(&self) -> &Connection {
        &self.db
    }

    /// Whether the database refuses whatever would change it, and whether it refuses commits.
    pub(super) fn sabotage(&self, changes: bool, commits: bool) {
        let _ = self.db.pragma_update(None, "query_only", changes);
        let _ = self.db.commit_hook(commits.then_some(|| true));
    }

    pub(super) fn into_database(self) -> Connection {
        self.db
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        if self.conversations.len() > KEPT || self.members.len() > KEPT || self.users.len() > KEPT {
            self.forget();
        }
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    pub(super) fn commit(&mut self) -> Result<()> {
        self.write_back()?;
        self.db.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    /// Undoes the transaction; what was kept of it is no longer true.
    pub(super) fn roll_back(&mut self) {
        self.forget();
        // It fails only where SQLite has rolled back already (sqlite.org/lang_transaction.html section 3).
        let _ = self.db.execute_batch("ROLLBACK");
    }

    /// Whether content was erased since the last call: its bytes are still in the write-ahead log.
    pub(super) fn take_erased(&mut self) -> bool {
        std::mem::take(&mut self.erased)
    }

    /// Gives the page cache's memory back.
    pub(super) fn shrink(&self) {
        super::shrink(&self.db);
    }

    fn forget(&mut self) {
        self.users.clear();
        self.conversations.clear();
        self.members.clear();
        self.dirty_conversations.clear();
        self.dirty_members.clear();
    }

    fn write_back(&mut self) -> Result<()> {
        let mut update = self.db.prepare_cached(
            "UPDATE conversations SET title = :title, head = :head, messages = :messages,
             last_message = :last_message, members = :members, admins = :admins, at = :at WHERE id = :id",
        )?;
        for name in self.dirty_conversations.drain() {
            if let Some(c) = self.conversations.get(&name) {
                update.execute(named_params! {
                    ":id": c.key.0, ":title": c.title, ":head": c.head.0, ":messages": c.messages,
                    ":last_message": c.last_message.0, ":members": c.members, ":admins": c.admins, ":at": c.at,
                })?;
            }
        }
        let mut upsert = self.db.prepare_cached(
            "INSERT OR REPLACE INTO members (conversation, user, role, since, read, received, sent, read_messages,
             read_sent, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        // It leaves `since` and `until` alone, and with them the indexes of who is where.
        let mut update = self.db.prepare_cached(
            "UPDATE members SET role = ?3, read = ?4, received = ?5, sent = ?6, read_messages = ?7, read_sent = ?8
             WHERE conversation = ?1 AND user = ?2",
        )?;
        for (at, passed) in self.dirty_members.drain() {
            let Some(m) = self.members.get(&at) else { continue };
            let (role, until) = (role_number(m.role), m.until.map(|seq| seq.0));
            let (since, read, received) = (m.since.0, m.read.0, m.received.0);
            let (sent, messages, own) = (m.sent, m.read_messages, m.read_sent);
            if passed {
                upsert.execute(params![
                    at.0.0, at.1.0, role, since, read, received, sent, messages, own, until
                ])?;
            } else {
                update.execute(params![at.0.0, at.1.0, role, read, received, sent, messages, own])?;
            }
        }
        Ok(())
    }

    pub(in crate::store) fn user(&mut self, name: &UserId) -> Result<Option<UserKey>> {
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

    pub(in crate::store) fn user_or_new(&mut self, name: &UserId) -> Result<UserKey> {
        if let Some(key) = self.user(name)? {
            return Ok(key);
        }
        self.db.prepare_cached("INSERT INTO users (name) VALUES (?1)")?.execute([name.as_str()])?;
        let key = UserKey(self.db.last_insert_rowid());
        self.users.insert(name.clone(), key);
        Ok(key)
    }

    pub(in crate::store) fn set_last_seen(&mut self, user: UserKey, at: Timestamp) -> Result<()> {
        let mut update = self
            .db
            .prepare_cached("UPDATE users SET last_seen = max(coalesce(last_seen, 0), ?2) WHERE id = ?1")?;
        update.execute(params![user.0, at.as_millis()]).map(drop)
    }

    /// Notes a revocation; a later one stays, unless it is to be replaced.
    pub(in crate::store) fn set_not_before(
        &mut self,
        user: UserKey,
        at: Timestamp,
        replace: bool,
    ) -> Result<()> {
        let mut update = self.db.prepare_cached(if replace {
            "UPDATE users SET not_before = ?2 WHERE id = ?1"
        } else {
            "UPDATE users SET not_before = max(coalesce(not_before, 0), ?2) WHERE id = ?1"
        })?;
        update.execute(params![user.0, at.as_millis()]).map(drop)
    }

    pub(in crate::store) fn conversation(&mut self, name: &ConversationId) -> Result<Option<Conversation>> {
        if let Some(conversation) = self.conversations.get(name) {
            return Ok(Some(conversation.clone()));
        }
        let found = find_conversation(&self.db, name)?;
        if let Some(conversation) = &found {
            self.conversations.insert(name.clone(), conversation.clone());
        }
        Ok(found)
    }

    pub(in crate::store) fn new_conversation(
        &mut self,
        name: &ConversationId,
        title: Option<String>,
        public: bool,
    ) -> Result<Conversation> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO conversations (name, title, public, head, messages, last_message, members, admins, at)
             VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0)",
        )?;
        insert.execute(params![name.as_str(), title, public])?;
        Ok(Conversation {
            key: ConversationKey(self.db.last_insert_rowid()),
            name: name.clone(),
            title,
            public,
            head: Seq(0),
            messages: 0,
            last_message: Seq(0),
            members: 0,
            admins: 0,
            at: 0,
        })
    }

    pub(in crate::store) fn put_conversation(&mut self, conversation: Conversation) {
        self.dirty_conversations.insert(conversation.name.clone());
        self.conversations.insert(conversation.name.clone(), conversation);
    }

    pub(in crate::store) fn member(
        &mut self,
        conversation: ConversationKey,
        user: UserKey,
    ) -> Result<Option<Membership>> {
        if let Some(member) = self.members.get(&(conversation, user)) {
            return Ok(Some(*member));
        }
        let found = find_member(&self.db, conversation, user)?;
        if let Some(member) = found {
            self.members.insert((conversation, user), member);
        }
        Ok(found)
    }

    pub(in crate::store) fn put_member(
        &mut self,
        conversation: ConversationKey,
        user: UserKey,
        member: Membership,
    ) {
        let before = self.members.insert((conversation, user), member);
        let passed = before.is_none_or(|before| before.until != member.until);
        *self.dirty_members.entry((conversation, user)).or_default() |= passed;
    }

    pub(in crate::store) fn keyed(&mut self, sender: UserKey, key: &str) -> Result<Option<Keyed>> {
        let mut select = self.db.prepare_cached(
            "SELECT c.name, e.conversation, e.seq, e.at, e.body FROM events e JOIN conversations c ON c.id = e.conversation
             WHERE e.sender = ?1 AND e.key = ?2",
        )?;
        select
            .query_row(params![sender.0, key], |row| {
                Ok(Keyed {
                    conversation: conversation_id(row, 0)?,
                    key: ConversationKey(row.get(1)?),
                    seq: seq(row, 2)?,
                    at: Timestamp::from_millis(row.get(3)?),
                    body: row.get(4)?,
                })
            })
            .optional()
    }

    pub(in crate::store) fn event(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<Option<Referred>> {
        let mut select = self.db.prepare_cached(
            "SELECT kind, sender, at, body FROM events WHERE conversation = ?1 AND seq = ?2",
        )?;
        select
            .query_row(params![conversation.0, target.0], |row| {
                Ok(Referred {
                    kind: EventKind::from_number(row.get(0)?),
                    sender: UserKey(row.get(1)?),
                    at: Timestamp::from_millis(row.get(2)?),
                    body: row.get(3)?,
                })
            })
            .optional()
    }

    /// Adds an event; `false`, and nothing happens, if the sender has used its key before.
    pub(in crate::store) fn insert_event(
        &mut self,
        event: &LogEvent,
        conversation: &Conversation,
        sender: UserKey,
    ) -> Result<bool> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let inserted = insert.execute(params![
            conversation.key.0,
            event.seq.0,
            event.kind as u8,
            sender.0,
            event.at.as_millis(),
            conversation.messages,
            event.key,
            event.body
        ]);
        match inserted {
            // The index of keys is the only one besides the primary key, which has a code of its own.
            Err(error) if error.sqlite_extended_error_code() == Some(ffi::SQLITE_CONSTRAINT_UNIQUE) => {
                Ok(false)
            }
            inserted => inserted.map(|_| true),
        }
    }

    /// Replaces what an event says.
    pub(in crate::store) fn erase_event(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        body: &str,
    ) -> Result<()> {
        self.erased = true;
        let mut update =
            self.db.prepare_cached("UPDATE events SET body = ?3 WHERE conversation = ?1 AND seq = ?2")?;
        update.execute(params![conversation.0, target.0, body]).map(drop)
    }

    pub(in crate::store) fn insert_amendment(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        by: Seq,
    ) -> Result<()> {
        let mut insert = self
            .db
            .prepare_cached("INSERT INTO amendments (conversation, target, seq) VALUES (?1, ?2, ?3)")?;
        insert.execute(params![conversation.0, target.0, by.0]).map(drop)
    }

    pub(in crate::store) fn count_amendments(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<u64> {
        let mut select = self
            .db
            .prepare_cached("SELECT count(*) FROM amendments WHERE conversation = ?1 AND target = ?2")?;
        select.query_row(params![conversation.0, target.0], |row| row.get(0))
    }

    pub(in crate::store) fn amendments(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<Vec<Seq>> {
        let mut select = self.db.prepare_cached(
            "SELECT seq FROM amendments WHERE conversation = ?1 AND target = ?2 ORDER BY seq",
        )?;
        let seqs = select.query_map(params![conversation.0, target.0], |row| seq(row, 0))?;
        seqs.collect()
    }

    /// Messages of anybody up to `upto`.
    pub(in crate::store) fn messages_upto(
        &mut self,
        conversation: ConversationKey,
        upto: Seq,
    ) -> Result<u64> {
        let mut select =
            self.db.prepare_cached("SELECT messages FROM events WHERE conversation = ?1 AND seq = ?2")?;
        let count = select.query_row(params![conversation.0, upto.0], |row| row.get(0)).optional()?;
        Ok(count.unwrap_or(0))
    }

    /// Messages of one sender after `after`, up to `upto`. It reads every event between.
    pub(in crate::store) fn sent_between(
        &mut self,
        conversation: ConversationKey,
        sender: UserKey,
        after: Seq,
        upto: Seq,
    ) -> Result<u64> {
        let mut select = self.db.prepare_cached(
            "SELECT count(*) FROM events WHERE conversation = ?1 AND seq > ?2 AND seq <= ?3 AND sender = ?4 AND kind = ?5",
        )?;
        select
            .query_row(params![conversation.0, after.0, upto.0, sender.0, EventKind::Message as u8], |row| {
                row.get(0)
            })
    }
}

/// A conversation's row by its name.
pub(super) fn find_conversation(db: &Connection, name: &ConversationId) -> Result<Option<Conversation>> {
    let mut select = db.prepare_cached(
        "SELECT id, title, public, head, messages, last_message, members, admins, at FROM conversations WHERE name = ?1",
    )?;
    select
        .query_row([name.as_str()], |row| {
            Ok(Conversation {
                key: ConversationKey(row.get(0)?),
                name: name.clone(),
                title: row.get(1)?,
                public: row.get(2)?,
                head: seq(row, 3)?,
                messages: row.get(4)?,
                last_message: seq(row, 5)?,
                members: row.get(6)?,
                admins: row.get(7)?,
                at: row.get(8)?,
            })
        })
        .optional()
}

/// A membership's row, present or past.
pub(super) fn find_member(
    db: &Connection,
    conversation: ConversationKey,
    user: UserKey,
) -> Result<Option<Membership>> {
    let mut select = db.prepare_cached(
        "SELECT role, since, until, read, received, sent, read_messages, read_sent FROM members
         WHERE conversation = ?1 AND user = ?2",
    )?;
    select.query_row(params![conversation.0, user.0], |row| membership(row, 0)).optional()
}

/// A membership whose columns start at `first`, in the order of [`find_member`].
pub(super) fn membership(row: &rusqlite::Row<'_>, first: usize) -> Result<Membership> {
    Ok(Membership {
        role: role(row.get(first)?),
        since: seq(row, first + 1)?,
        until: row.get::<_, Option<u64>>(first + 2)?.map(Seq),
        read: seq(row, first + 3)?,
        received: seq(row, first + 4)?,
        sent: row.get(first + 5)?,
        read_messages: row.get(first + 6)?,
        read_sent: row.get(first + 7)?,
    })
}

pub(super) fn seq(row: &rusqlite::Row<'_>, column: usize) -> Result<Seq> {
    row.get(column).map(Seq)
}

fn id_error(column: usize, error: switchboard_protocol::InvalidId) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

pub(super) fn conversation_id(row: &rusqlite::Row<'_>, column: usize) -> Result<ConversationId> {
    let name = row.get_ref(column)?.as_str()?;
    ConversationId::parse(name).map_err(|e| id_error(column, e))
}

pub(super) fn user_id(row: &rusqlite::Row<'_>, column: usize) -> Result<UserId> {
    let name = row.get_ref(column)?.as_str()?;
    UserId::parse(name).map_err(|e| id_error(column, e))
}

pub(in crate::store) fn role_number(role: Role) -> i64 {
    match role {
        Role::Reader => 0,
        Role::Member => 1,
        Role::Admin => 2,
    }
}

/// The role with this stored number; what is unknown may do the least.
fn role(number: i64) -> Role {
    match number {
        2 => Role::Admin,
        1 => Role::Member,
        _ => Role::Reader,
    }
}
