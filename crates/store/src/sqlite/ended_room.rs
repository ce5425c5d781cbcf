//! Removes a slice of a deleted room in SQLite; see [`crate::ended_room`].

use rusqlite::types::Value;
use rusqlite::{OptionalExtension as _, Result, params, params_from_iter};
use tokio::time::Instant;

use super::rows::SqliteRows;
use crate::ended_room::{MAX_ROWS_PER_SLICE, MAX_SLICE_TIME, ROWS_PER_STEP};

/// A deleted room of which content is left.
struct EndedRoom {
    conversation: i64,
    /// The event of the end.
    end: u64,
    /// The memberships of users up to this one have ended.
    member: i64,
}

/// How to remove rows of a table: selects the primary keys of some that are about events before the end, and deletes one of them.
struct Removal {
    select: &'static str,
    delete: &'static str,
    /// How many columns of the primary key follow the conversation.
    columns: usize,
}

/// What is removed once all memberships have ended, in this order: events last, because all of it is about them.
const REMOVALS: [Removal; 5] = [
    Removal {
        select: "SELECT user FROM bans WHERE conversation = ?1 AND ?2 > 0 LIMIT ?3",
        delete: "DELETE FROM bans WHERE conversation = ?1 AND user = ?2",
        columns: 1,
    },
    Removal {
        select: "SELECT target, emoji, user, since FROM reactions WHERE conversation = ?1 AND target < ?2 LIMIT ?3",
        delete: "DELETE FROM reactions WHERE conversation = ?1 AND target = ?2 AND emoji = ?3 AND user = ?4 AND since = ?5",
        columns: 4,
    },
    Removal {
        select: "SELECT target, seq FROM amendments WHERE conversation = ?1 AND target < ?2 LIMIT ?3",
        delete: "DELETE FROM amendments WHERE conversation = ?1 AND target = ?2 AND seq = ?3",
        columns: 2,
    },
    Removal {
        select: "SELECT seq FROM replaced_requests WHERE conversation = ?1 AND seq < ?2 LIMIT ?3",
        delete: "DELETE FROM replaced_requests WHERE conversation = ?1 AND seq = ?2",
        columns: 1,
    },
    Removal {
        select: "SELECT seq FROM events WHERE conversation = ?1 AND seq < ?2 ORDER BY seq LIMIT ?3",
        delete: "DELETE FROM events WHERE conversation = ?1 AND seq = ?2",
        columns: 1,
    },
];

impl SqliteRows {
    /// Whether there is a deleted room of which content is left.
    pub(super) fn has_ended_rooms(&self) -> Result<bool> {
        self.database().prepare_cached("SELECT 1 FROM ended_rooms")?.exists([])
    }

    /// Removes a slice of a deleted room in one transaction. Returns `false` if nothing is left of any.
    ///
    /// # Errors
    /// The transaction failed, and nothing has changed.
    pub(super) fn remove_ended(&mut self) -> Result<bool> {
        self.begin()?;
        let removed = self.remove_slice().and_then(|more| {
            self.commit()?;
            Ok(more)
        });
        match removed {
            Ok(_) => self.note_erased(),
            Err(_) => self.roll_back(),
        }
        removed
    }

    fn remove_slice(&self) -> Result<bool> {
        let began = Instant::now();
        let mut rows = 0;
        loop {
            let Some(room) = self.find_ended_room()? else { return Ok(false) };
            let removed = self.remove_step(&room)?;
            if removed == 0 {
                tracing::info!(conversation = room.conversation, "the content of a deleted room is removed");
                let mut delete =
                    self.database().prepare_cached("DELETE FROM ended_rooms WHERE conversation = ?1")?;
                delete.execute([room.conversation])?;
            }
            rows += removed;
            if rows >= MAX_ROWS_PER_SLICE || began.elapsed() >= MAX_SLICE_TIME {
                return self.has_ended_rooms();
            }
        }
    }

    fn find_ended_room(&self) -> Result<Option<EndedRoom>> {
        let mut select = self.database().prepare_cached(
            "SELECT e.conversation, c.head, e.member FROM ended_rooms e JOIN conversations c ON c.id = e.conversation
             ORDER BY e.conversation LIMIT 1",
        )?;
        let room = select.query_row([], |row| {
            Ok(EndedRoom { conversation: row.get(0)?, end: row.get(1)?, member: row.get(2)? })
        });
        room.optional()
    }

    /// Removes at most [`ROWS_PER_STEP`] rows. Returns how many; 0 if none is left.
    fn remove_step(&self, room: &EndedRoom) -> Result<u32> {
        let ended = self.end_memberships(room)?;
        if ended > 0 {
            return Ok(ended);
        }
        for removal in &REMOVALS {
            let removed = self.remove_rows(room, removal)?;
            if removed > 0 {
                return Ok(removed);
            }
        }
        Ok(0)
    }

    fn remove_rows(&self, room: &EndedRoom, removal: &Removal) -> Result<u32> {
        let mut select = self.database().prepare_cached(removal.select)?;
        let keys = select.query_map(params![room.conversation, room.end, ROWS_PER_STEP], |row| {
            (0..removal.columns).map(|column| row.get(column)).collect::<Result<Vec<Value>>>()
        })?;
        let keys: Vec<_> = keys.collect::<Result<_>>()?;
        let mut delete = self.database().prepare_cached(removal.delete)?;
        for key in &keys {
            let conversation = Value::from(room.conversation);
            delete.execute(params_from_iter(std::iter::once(&conversation).chain(key)))?;
        }
        Ok(u32::try_from(keys.len()).unwrap_or(u32::MAX))
    }

    /// Ends the memberships of the next users with the room, and removes those that had ended before. Returns how many.
    fn end_memberships(&self, room: &EndedRoom) -> Result<u32> {
        let EndedRoom { conversation, end, member } = *room;
        let db = self.database();
        let mut select = db.prepare_cached(
            "SELECT user FROM members WHERE conversation = ?1 AND user > ?2 ORDER BY user LIMIT ?3",
        )?;
        let users = select.query_map(params![conversation, member, ROWS_PER_STEP], |row| row.get(0))?;
        let users: Vec<i64> = users.collect::<Result<_>>()?;
        let Some(last) = users.last() else { return Ok(0) };
        let mut update = db.prepare_cached(
            "UPDATE members SET until = ?3 WHERE conversation = ?1 AND user = ?2 AND until IS NULL",
        )?;
        let mut delete =
            db.prepare_cached("DELETE FROM members WHERE conversation = ?1 AND user = ?2 AND until < ?3")?;
        let mut unchoose =
            db.prepare_cached("DELETE FROM rooms_by_choice WHERE user = ?2 AND conversation = ?1")?;
        for user in &users {
            update.execute(params![conversation, user, end])?;
            delete.execute(params![conversation, user, end])?;
            unchoose.execute(params![conversation, user])?;
        }
        let mut advance = db.prepare_cached("UPDATE ended_rooms SET member = ?2 WHERE conversation = ?1")?;
        advance.execute(params![conversation, last])?;
        Ok(u32::try_from(users.len()).unwrap_or(u32::MAX))
    }
}
