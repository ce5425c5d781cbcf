//! Deleted rooms: of their log the last event is left, and until all else is removed a part of what was before.

use rusqlite::{Result, Row};
use switchboard_protocol::EventKind;

use super::{Log, StoredEvent};
use crate::check::Report;

impl Log<'_> {
    /// Whether the room was deleted.
    pub(super) fn is_ended(&self) -> bool {
        self.stored_row.as_ref().is_some_and(|row| row.ended)
    }

    /// Checks an event of a deleted room. Earlier ones may be missing.
    pub(super) fn check_event_of_ended_room(&mut self, row: &Row<'_>, report: &mut Report) -> Result<()> {
        let event = StoredEvent::read_from(row)?;
        if !event.matches_checksum(self.number) {
            self.add_problem(report, Some(event.seq), "its checksum is not that of what it says");
        }
        self.events += 1;
        (self.head, self.at, self.last_kind) = (event.seq, event.at, event.kind);
        Ok(())
    }

    /// Called after the last event of a deleted room: checks that only what may be is left of it.
    pub(super) fn check_ended_room(&self, report: &mut Report) -> Result<()> {
        let Some(row) = &self.stored_row else { return Ok(()) };
        if self.last_kind != EventKind::End || row.head != self.head || row.at != self.at {
            self.add_problem(report, None, "it was deleted, and its last event does not say so");
        }
        if row.title.is_some() || row.messages + row.last_message + row.members + row.admins > 0 {
            self.add_problem(report, None, "it was deleted, and its row has more than its id");
        }
        let mut select = self.db.prepare_cached("SELECT 1 FROM ended_rooms WHERE conversation = ?1")?;
        if select.exists([self.number])? {
            // The server removes the rest.
            return Ok(());
        }
        if self.events > 1 {
            let what = format!("it was deleted, and {} earlier events are there", self.events - 1);
            self.add_problem(report, None, what);
        }
        let mut select = self
            .db
            .prepare_cached("SELECT 1 FROM members WHERE conversation = ?1 AND until IS NOT ?2 LIMIT 1")?;
        if select.exists([self.number, self.head.cast_signed()])? {
            self.add_problem(report, None, "it was deleted, and not all memberships have ended by that");
        }
        Ok(())
    }
}
