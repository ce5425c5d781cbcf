//! The lookup of what users have missed.

use switchboard_protocol::EventKind;

use super::row::{conversation_key, count, get, number, seq, user_id, user_key};
use super::{Result, Session};
use crate::absence::MissedMessage;
use crate::read::missed::{MissedLookups, MissedRange};
use crate::read::row::skip_damaged;
use crate::record::Via;

/// Users who are connected to a node are left out.
const MISSED: &str = r#"SELECT m."user", u.name, coalesce(u.last_seen, 0), w.conversation,
        c.messages - m.read_messages - (m.sent - m.read_sent)
            - CASE WHEN u.block_changes > 0 AND c.messages - m.read_messages <= $7 THEN (
                SELECT count(*) FROM events b WHERE b.conversation = c.id AND b.seq > m.read AND b.kind = $5
                AND EXISTS (SELECT FROM blocks x WHERE x."user" = m."user" AND x.blocked = b.sender)) ELSE 0 END, l.seq, l.at
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) w (conversation, after, upto)
    JOIN conversations c ON c.id = w.conversation AND NOT c.ended AND c.members <= $4
    JOIN members m ON m.conversation = c.id AND m.until IS NULL AND m.read < w.upto
        AND c.messages - m.read_messages > m.sent - m.read_sent
    JOIN users u ON u.id = m."user"
    LEFT JOIN missed t ON t."user" = m."user" AND t.conversation = c.id
    LEFT JOIN profiles p ON p."user" = m."user"
    CROSS JOIN LATERAL (
        SELECT e.seq, e.at FROM events e WHERE e.conversation = c.id AND e.seq > greatest(m.read, w.after) AND e.seq <= w.upto
        AND e.kind = $5 AND e.sender <> m."user" AND e.via < $6
        AND NOT EXISTS (SELECT FROM blocks x WHERE x."user" = m."user" AND x.blocked = e.sender)
        AND event_fields(e.body) ->> 'deleted' IS DISTINCT FROM 'true' ORDER BY e.seq DESC LIMIT 1
    ) l
    WHERE (t."user" IS NULL OR t.absence <> coalesce(u.last_seen, 0) OR m.read >= t.seq)
    AND p.active IS NOT FALSE AND NOT EXISTS (SELECT FROM connected o WHERE o."user" = m."user")"#;

impl MissedLookups for Session {
    fn missed_in(
        &self,
        ranges: &[MissedRange],
        most_members: u32,
        most_counted: u32,
    ) -> Result<Vec<MissedMessage>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let column = |of: fn(&MissedRange) -> i64| ranges.iter().map(of).collect::<Vec<_>>();
        let conversations = column(|range| range.conversation.0);
        let after = column(|range| number(range.after));
        let upto = column(|range| number(range.upto));
        let message = i16::from(EventKind::Message.number());
        let rows = self.query_rows(
            MISSED,
            &[
                &conversations,
                &after,
                &upto,
                &i64::from(most_members),
                &message,
                &Via::FIRST_IMPORTED,
                &i64::from(most_counted),
            ],
        )?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let user = user_key(row, 0)?;
            let Some(name) = skip_damaged(user_id(row, 1), || format!("user number {}", user.0))? else {
                continue;
            };
            found.push(MissedMessage {
                user,
                name,
                absence: get(row, 2)?,
                conversation: conversation_key(row, 3)?,
                unread: count(row, 4)?,
                seq: seq(row, 5)?,
                at: get(row, 6)?,
            });
        }
        Ok(found)
    }
}
