//! The rows that the writer uses. A row is read once, cached for the batches that follow, and written once in each batch.
//!
//! The cache is valid because this process is the database's only writer. A batch of a hundred messages to one room updates
//! the room's row once.

mod bans;
mod blocks;
mod change;
mod insert;
mod log;
pub(in crate::sqlite) mod profiles;
pub(in crate::sqlite) mod reports;

use std::sync::{Arc, LazyLock};

use rusqlite::{Connection, OptionalExtension, Result, params};
use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

pub(super) use self::blocks::members_apart;
use super::feed::{FeedWriter, Tail};
use super::table;
use crate::ban::Ban;
use crate::change::rows::CaughtUp;
use crate::record::{Conversation, Membership};
use crate::record::{ConversationKey, UserKey};
use crate::table::{CONVERSATIONS, MEMBERS, WriteTime, columns, conversations, members};

/// Whether a user (2) is in one of the oldest rooms of another (1).
pub(super) const SELECT_SHARED_ROOM: &str =
    "SELECT 1 FROM (SELECT conversation FROM members INDEXED BY rooms_of_user
        WHERE user = ?1 AND until IS NULL AND since > 0 ORDER BY conversation LIMIT ?3) room
    CROSS JOIN members m ON m.conversation = room.conversation AND m.user = ?2 AND m.until IS NULL";

/// How many rows of each kind the cache keeps between batches: about 200 bytes each.
const MAX_CACHED_ROWS: usize = 50_000;

/// The rows of one transaction.
pub(crate) struct SqliteRows {
    users: FxHashMap<UserId, UserKey>,
    conversations: FxHashMap<ConversationId, Conversation>,
    members: FxHashMap<(ConversationKey, UserKey), Membership>,
    /// Bans that were read; `None` for users without one.
    bans: FxHashMap<(ConversationKey, UserKey), Option<Ban>>,
    dirty_conversations: FxHashSet<ConversationId>,
    /// The members whose rows changed. The value is `true` if they joined or left, because only then an index changes.
    dirty_members: FxHashMap<(ConversationKey, UserKey), bool>,
    has_erased: bool,
    pub(super) feed: FeedWriter,
    /// The number in the feed of the last event of each conversation that this transaction has written to.
    numbered: FxHashMap<ConversationId, u64>,
    /// The conversations whose readers have read what this transaction imports.
    caught_up: Vec<CaughtUp>,
    /// Whether nothing of this transaction is stored.
    is_abandoned: bool,
    /// Whether a room was deleted since this was asked for last.
    has_ended_room: bool,
    /// Whether any user blocks another; `None` until it is needed.
    has_blocks: Option<bool>,
    /// Whether any message was held.
    has_held: Option<bool>,
    db: Connection,
}

impl SqliteRows {
    pub(crate) fn new(db: Connection) -> Self {
        Self {
            users: FxHashMap::default(),
            conversations: FxHashMap::default(),
            members: FxHashMap::default(),
            bans: FxHashMap::default(),
            dirty_conversations: FxHashSet::default(),
            dirty_members: FxHashMap::default(),
            has_erased: false,
            feed: FeedWriter::new(),
            numbered: FxHashMap::default(),
            caught_up: Vec::new(),
            is_abandoned: false,
            has_ended_room: false,
            has_blocks: None,
            has_held: None,
            db,
        }
    }

    /// The connection, for reads between two transactions.
    pub(crate) fn database(&self) -> &Connection {
        &self.db
    }

    /// Makes the database refuse changes, commits, or both, for the simulation.
    #[cfg(feature = "simulation")]
    pub(crate) fn inject_faults(&self, changes: bool, commits: bool) {
        let _ = self.db.pragma_update(None, "query_only", changes);
        let _ = self.db.commit_hook(commits.then_some(|| true));
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn into_database(self) -> Connection {
        self.db
    }

    /// Notes the time of the next transaction, for the feed.
    pub(in crate::sqlite) fn note_time(&mut self, now: Timestamp) {
        self.feed.note_time(now);
    }

    pub(crate) fn begin(&mut self) -> Result<()> {
        if self.conversations.len() > MAX_CACHED_ROWS
            || self.members.len() > MAX_CACHED_ROWS
            || self.users.len() > MAX_CACHED_ROWS
            || self.bans.len() > MAX_CACHED_ROWS
        {
            self.clear_cache();
        }
        self.feed.load(&self.db)?;
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        if self.feed.take_pending(&self.db)? {
            // A user may have another id since.
            self.clear_cache();
        }
        Ok(())
    }

    pub(crate) fn commit(&mut self) -> Result<()> {
        if self.is_abandoned {
            self.roll_back();
            return Ok(());
        }
        self.write_dirty_rows()?;
        self.move_caught_up_readers()?;
        self.feed.write(&self.db)?;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        self.feed.committed();
        Ok(())
    }

    /// Rolls the transaction back and drops the cached rows that it changed.
    pub(crate) fn roll_back(&mut self) {
        self.clear_cache();
        self.feed.roll_back();
        // The ROLLBACK fails only if SQLite has already rolled back (sqlite.org/lang_transaction.html section 3).
        let _ = self.db.execute_batch("ROLLBACK");
    }

    /// Finds out where the feed ends.
    pub(in crate::sqlite) fn load_feed(&mut self) -> Result<Arc<Tail>> {
        self.feed.load(&self.db)?;
        Ok(self.feed.tail())
    }

    /// Writes the last page of the feed, before the database is closed.
    pub(crate) fn close_feed(&mut self) -> Result<()> {
        self.feed.close(&self.db)
    }

    /// Whether content was erased since the last call. Its bytes are then still in the write-ahead log.
    pub(crate) fn take_erased(&mut self) -> bool {
        std::mem::take(&mut self.has_erased)
    }

    /// Notes that content was erased.
    pub(in crate::sqlite) fn note_erased(&mut self) {
        self.has_erased = true;
    }

    /// Whether a room was deleted since the last call.
    pub(in crate::sqlite) fn take_ended_room(&mut self) -> bool {
        std::mem::take(&mut self.has_ended_room)
    }

    /// Frees the memory of the page cache.
    pub(crate) fn free_page_cache(&self) {
        super::free_page_cache(&self.db);
    }

    fn clear_cache(&mut self) {
        self.users.clear();
        self.conversations.clear();
        self.members.clear();
        self.bans.clear();
        self.dirty_conversations.clear();
        self.dirty_members.clear();
        self.numbered.clear();
        self.caught_up.clear();
        self.is_abandoned = false;
    }

    fn write_dirty_rows(&mut self) -> Result<()> {
        let mut update = self.db.prepare_cached(&UPDATE_CONVERSATION)?;
        for name in self.dirty_conversations.drain() {
            if let Some(conversation) = self.conversations.get(&name) {
                let number = self.numbered.get(&name);
                conversation.with_sqlite(|row| {
                    let row: Vec<_> =
                        row.iter().copied().chain([(WriteTime::OnUpdate, &number as _)]).collect();
                    update.execute(table::wanted_values(&row, is_changed))
                })?;
            }
        }
        self.numbered.clear();
        let mut upsert = self.db.prepare_cached(&PUT_MEMBER)?;
        let mut update = self.db.prepare_cached(&UPDATE_MEMBER)?;
        for (at, passed) in self.dirty_members.drain() {
            let Some(member) = self.members.get(&at) else { continue };
            member.with_sqlite(at.0, at.1, |row| {
                if passed {
                    upsert.execute(table::wanted_values(row, any_column))
                } else {
                    update.execute(table::wanted_values(row, is_changed))
                }
            })?;
        }
        Ok(())
    }
}

impl SqliteRows {
    /// Moves the cursors of those who have read what this transaction imports, in the database. Their cached rows are dropped.
    fn move_caught_up_readers(&mut self) -> Result<()> {
        if self.caught_up.is_empty() {
            return Ok(());
        }
        let mut update = self.db.prepare_cached(
            "UPDATE members SET read = ?3, received = max(received, ?3), read_messages = ?4, read_sent = sent
             WHERE conversation = ?1 AND until IS NULL AND read >= ?2 AND read < ?3 AND NOT read_imported",
        )?;
        let mut changed = FxHashSet::default();
        for CaughtUp { conversation, before, head, messages } in self.caught_up.drain(..) {
            update.execute(params![conversation.0, before.0, head.0, messages])?;
            changed.insert(conversation);
        }
        self.members.retain(|(conversation, _), _| !changed.contains(conversation));
        Ok(())
    }
}

/// The last value is the number of the last event in the feed; NULL for none. Only SQLite's table has that column.
static UPDATE_CONVERSATION: LazyLock<String> = LazyLock::new(|| {
    let update = table::update_sql(&CONVERSATIONS, is_changed);
    let place = CONVERSATIONS.columns.iter().filter(|column| is_changed(column.written)).count() + 1;
    update.replacen(" SET ", &format!(" SET feed = coalesce(?{place}, feed), "), 1)
});

static PUT_MEMBER: LazyLock<String> =
    LazyLock::new(|| table::insert_sql("INSERT OR REPLACE", &MEMBERS, any_column));

/// Does not write `since` and `until`, so that their indexes need no update.
static UPDATE_MEMBER: LazyLock<String> = LazyLock::new(|| table::update_sql(&MEMBERS, is_changed));

fn any_column(_: WriteTime) -> bool {
    true
}

fn is_changed(written: WriteTime) -> bool {
    matches!(written, WriteTime::Key | WriteTime::OnUpdate)
}

/// A conversation's row by its name.
pub(crate) fn find_conversation(db: &Connection, name: &ConversationId) -> Result<Option<Conversation>> {
    let mut select = db.prepare_cached(concat!(
        "SELECT ",
        conversations!(columns),
        " FROM conversations c WHERE c.name = ?1"
    ))?;
    select.query_row([name.as_str()], |row| Conversation::from_sqlite(row, 0)).optional()
}

/// Whether an id is never given again.
pub(crate) fn is_retired(db: &Connection, user: &UserId) -> Result<bool> {
    db.prepare_cached("SELECT 1 FROM retired_ids WHERE name = ?1")?.exists([user.as_str()])
}

/// A membership's row, present or past.
pub(crate) fn find_member(
    db: &Connection,
    conversation: ConversationKey,
    user: UserKey,
) -> Result<Option<Membership>> {
    let mut select = db.prepare_cached(concat!(
        "SELECT ",
        members!(columns),
        " FROM members m WHERE m.conversation = ?1 AND m.user = ?2"
    ))?;
    select.query_row(params![conversation.0, user.0], |row| Membership::from_sqlite(row, 0)).optional()
}

/// How many messages of all senders there are up to an event.
pub(crate) fn count_messages(db: &Connection, conversation: ConversationKey, upto: Seq) -> Result<u64> {
    let mut select = db.prepare_cached("SELECT messages FROM events WHERE conversation = ?1 AND seq = ?2")?;
    let count = select.query_row(params![conversation.0, upto.0], |row| row.get(0)).optional()?;
    Ok(count.unwrap_or(0))
}

/// How many messages of one sender there are after one event and up to another. It reads every event between.
pub(crate) fn count_sent(
    db: &Connection,
    conversation: ConversationKey,
    sender: UserKey,
    after: Seq,
    upto: Seq,
) -> Result<u64> {
    let mut select = db.prepare_cached(
        "SELECT count(*) FROM events WHERE conversation = ?1 AND seq > ?2 AND seq <= ?3 AND sender = ?4 AND kind = ?5",
    )?;
    let message = EventKind::Message.number();
    select.query_row(params![conversation.0, after.0, upto.0, sender.0, message], |row| row.get(0))
}

pub(crate) fn seq(row: &rusqlite::Row<'_>, column: usize) -> Result<Seq> {
    row.get(column).map(Seq)
}

fn id_error(column: usize, error: switchboard_protocol::InvalidId) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

pub(crate) fn conversation_id(row: &rusqlite::Row<'_>, column: usize) -> Result<ConversationId> {
    let name = row.get_ref(column)?.as_str()?;
    ConversationId::parse(name).map_err(|e| id_error(column, e))
}

pub(crate) fn user_id(row: &rusqlite::Row<'_>, column: usize) -> Result<UserId> {
    let name = row.get_ref(column)?.as_str()?;
    UserId::parse(name).map_err(|e| id_error(column, e))
}
