//! Rewrites one portion of old bodies in SQLite; see [`crate::rewrite`].

use rusqlite::{OptionalExtension as _, Result, params};

use super::checksum::Columns;
use super::rows::SqliteRows;
use crate::body;
use crate::change::StoreError as _;
use crate::change::rows::Rows as _;
use crate::record::Kind;
use crate::rewrite::{Candidate, EventRange, KINDS, MAX_CONVERSATIONS_PER_PORTION, Position, next_portion};

#[cfg(test)]
mod tests;

impl SqliteRows {
    /// Whether there are old bodies to rewrite: bodies that may name users by id.
    pub(super) fn has_rewrite(&self) -> Result<bool> {
        Ok(self.position()?.is_some())
    }

    /// Rewrites a portion of at most `events` events in one transaction. Returns `false` if it was the last portion.
    ///
    /// # Errors
    /// The transaction failed, and nothing has changed.
    pub(super) fn rewrite(&mut self, events: u64) -> Result<bool> {
        self.begin()?;
        let rewritten = self.rewrite_portion(events).and_then(|next| {
            self.set_position(next)?;
            self.commit()?;
            Ok(next.is_some())
        });
        if rewritten.is_err() {
            self.roll_back();
        }
        rewritten
    }

    fn rewrite_portion(&mut self, events: u64) -> Result<Option<Position>> {
        let Some(from) = self.position()? else { return Ok(None) };
        let candidates = self.candidates(from)?;
        let (sections, next) = next_portion(from, &candidates, events);
        for section in sections {
            for seq in self.events_to_rewrite(section)? {
                self.rewrite_event(section.conversation, seq)?;
            }
        }
        // If the position no longer advances, the rewrite has reached the end of the log.
        Ok(next.filter(|next| *next != from))
    }

    fn position(&self) -> Result<Option<Position>> {
        let mut select = self.database().prepare_cached("SELECT conversation, seq FROM rewrite")?;
        let position =
            select.query_row([], |row| Ok(Position { conversation: row.get(0)?, seq: row.get(1)? }));
        position.optional()
    }

    fn set_position(&self, position: Option<Position>) -> Result<()> {
        let Some(Position { conversation, seq }) = position else {
            return self.database().prepare_cached("DELETE FROM rewrite")?.execute([]).map(drop);
        };
        let mut update = self.database().prepare_cached("UPDATE rewrite SET conversation = ?1, seq = ?2")?;
        update.execute(params![conversation, seq]).map(drop)
    }

    fn candidates(&self, from: Position) -> Result<Vec<Candidate>> {
        let mut select = self.database().prepare_cached(
            "SELECT id, substr(name, 1, 1) = '#', max(head, 0) FROM conversations WHERE id >= ?1 ORDER BY id LIMIT ?2",
        )?;
        let candidates = select
            .query_map(params![from.conversation, MAX_CONVERSATIONS_PER_PORTION], |row| {
                Ok(Candidate { conversation: row.get(0)?, is_room: row.get(1)?, head: row.get(2)? })
            })?;
        candidates.collect()
    }

    fn events_to_rewrite(&self, section: EventRange) -> Result<Vec<u64>> {
        let EventRange { conversation, after, upto } = section;
        let mut select = self.database().prepare_cached(
            "SELECT seq FROM events WHERE conversation = ?1 AND seq > ?2 AND seq <= ?3 AND kind IN (?4, ?5, ?6, ?7)",
        )?;
        let [a, b, c, d] = KINDS.map(|kind| kind.number());
        select.query_map(params![conversation, after, upto, a, b, c, d], |row| row.get(0))?.collect()
    }

    /// Rewrites the body of an event and its checksum. A damaged event stays as it is, so that `check` still finds it.
    fn rewrite_event(&mut self, conversation: i64, seq: u64) -> Result<()> {
        let mut select = self.database().prepare_cached(
            "SELECT kind, sender, at, key, body, checksum FROM events WHERE conversation = ?1 AND seq = ?2",
        )?;
        let read = select.query_row(params![conversation, seq], |row| {
            let (kind, sender, at): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let key = row.get_ref(3)?.as_str_or_null()?.map(ToOwned::to_owned);
            let (body, checksum): (String, Option<i32>) = (row.get(4)?, row.get(5)?);
            let columns = Columns { conversation, seq, kind, sender, at, key: key.as_deref(), body: &body };
            let is_sound = checksum.is_none_or(|checksum| checksum == columns.checksum());
            Ok((is_sound, kind, sender, at, key, body))
        });
        drop(select);
        let (kind, sender, at, key, body) = match read {
            Ok((true, kind, sender, at, key, body)) => (kind, sender, at, key, body),
            Ok(_) => return Ok(()),
            Err(error) if error.is_damaged_row() => return Ok(()),
            Err(error) => return Err(error),
        };
        let stored = body::to_stored(&Kind::from_number(kind), &body, |user| self.user(user))?;
        let Some(stored) = stored.filter(|stored| *stored != body) else { return Ok(()) };
        let columns = Columns { conversation, seq, kind, sender, at, key: key.as_deref(), body: &stored };
        let mut update = self.database().prepare_cached(
            "UPDATE events SET body = ?3, checksum = ?4 WHERE conversation = ?1 AND seq = ?2",
        )?;
        update.execute(params![conversation, seq, stored, columns.checksum()]).map(drop)
    }
}
