//! The lookup of what users have missed.

use rusqlite::{Connection, params};
use switchboard_protocol::EventKind;

use super::Result;
use crate::absence::MissedMessage;
use crate::read::missed::{MissedLookups, MissedRange};
use crate::read::row::skip_damaged;
use crate::record::{UserKey, Via};
use crate::sqlite::rows::{seq, user_id};

impl MissedLookups for Connection {
    fn missed_in(
        &self,
        ranges: &[MissedRange],
        most_members: u32,
        most_counted: u32,
    ) -> Result<Vec<MissedMessage>> {
        let mut select = self.prepare_cached(
            "SELECT m.user, u.name, coalesce(u.last_seen, 0), c.messages - m.read_messages - (m.sent - m.read_sent)
                - CASE WHEN u.block_changes > 0 AND c.messages - m.read_messages <= ?7 THEN (
                    SELECT count(*) FROM events b WHERE b.conversation = c.id AND b.seq > m.read AND b.kind = ?5
                    AND EXISTS (SELECT 1 FROM blocks x WHERE x.user = m.user AND x.blocked = b.sender)) ELSE 0 END AS unread,
                l.seq, l.at
             FROM conversations c CROSS JOIN members m ON m.conversation = c.id CROSS JOIN users u ON u.id = m.user
             LEFT JOIN missed t ON t.user = m.user AND t.conversation = c.id
             LEFT JOIN profiles p ON p.user = m.user
             CROSS JOIN events l ON l.conversation = c.id AND l.seq = (
                SELECT e.seq FROM events e WHERE e.conversation = c.id AND e.seq > max(m.read, ?3) AND e.seq <= ?4
                AND e.kind = ?5 AND e.sender <> m.user AND e.via < ?6
                AND NOT EXISTS (SELECT 1 FROM blocks x WHERE x.user = m.user AND x.blocked = e.sender)
                AND NOT (json_valid(e.body) AND json_extract(e.body, '$.deleted') IS 1) ORDER BY e.seq DESC LIMIT 1)
             WHERE c.id = ?1 AND NOT c.ended AND c.members <= ?2 AND m.until IS NULL AND m.read < ?4 AND unread > 0
             AND (t.user IS NULL OR t.absence <> coalesce(u.last_seen, 0) OR m.read >= t.seq) AND p.active IS NOT 0",
        )?;
        let mut found = Vec::new();
        for MissedRange { conversation, after, upto } in ranges {
            let mut rows = select.query(params![
                conversation.0,
                most_members,
                after.0,
                upto.0,
                EventKind::Message.number(),
                Via::FIRST_IMPORTED,
                most_counted
            ])?;
            while let Some(row) = rows.next()? {
                let user = UserKey(row.get(0)?);
                let name = skip_damaged(user_id(row, 1), || format!("user number {}", user.0))?;
                let Some(name) = name else { continue };
                found.push(MissedMessage {
                    user,
                    name,
                    absence: row.get(2)?,
                    conversation: *conversation,
                    unread: row.get(3)?,
                    seq: seq(row, 4)?,
                    at: row.get(5)?,
                });
            }
        }
        Ok(found)
    }
}
