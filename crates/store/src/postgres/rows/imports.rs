//! Counts and cursors of what is imported.

use switchboard_protocol::{EventKind, Seq};

use super::PostgresRows;
use crate::MessageCounts;
use crate::change::rows::{CaughtUp, MAX_EVENTS_COUNTED_FOR_IMPORT};
use crate::postgres::connect::{Error, Pipelined};
use crate::postgres::query::row::{count, number};
use crate::postgres::table::to_signed;
use crate::record::{Conversation, Membership, UserKey};

/// The messages up to an event, and how many of the events after it are messages of one sender.
const COUNT_FROM_END: &str = "SELECT coalesce((
        SELECT t.messages FROM events t WHERE t.conversation = $1 AND t.seq = $2), 0), (
        SELECT count(*) FROM events e WHERE e.conversation = $1 AND e.seq > $2 AND e.seq <= $3 AND e.sender = $4 AND e.kind = $5)";

/// Moves the cursors of those who have read what is imported. `OFFSET 0` forces index lookups, as in the statements that read.
pub(super) const CATCH_UP: &str = r#"UPDATE members m
    SET read = t.head, received = greatest(m.received, t.head), read_messages = t.messages, read_sent = m.sent
    FROM (
        SELECT w.conversation, w.head, w.messages, r."user"
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS w(conversation, before, head, messages)
        CROSS JOIN LATERAL (SELECT * FROM members r WHERE r.conversation = w.conversation OFFSET 0) AS r
        WHERE r.until IS NULL AND r.read >= w.before AND r.read < w.head AND NOT r.read_imported OFFSET 0
    ) AS t WHERE m.conversation = t.conversation AND m."user" = t."user""#;

/// What is caught up with, as one array per column.
pub(super) struct CaughtUpArrays {
    conversation: Vec<i64>,
    before: Vec<i64>,
    pub(super) head: Vec<i64>,
    messages: Vec<i64>,
}

impl CaughtUpArrays {
    pub(super) fn new(rows: &[CaughtUp]) -> Self {
        let column = |value: fn(&CaughtUp) -> i64| rows.iter().map(value).collect();
        Self {
            conversation: column(|row| row.conversation.0),
            before: column(|row| number(row.before)),
            head: column(|row| number(row.head)),
            messages: column(|row| to_signed(row.messages)),
        }
    }

    pub(super) fn update(&self) -> Pipelined<'_> {
        let Self { conversation, before, head, messages } = self;
        Pipelined::new(CATCH_UP, &[conversation, before, head, messages])
    }
}

impl PostgresRows<'_> {
    /// The message counts up to a cursor, as far as this transaction knows them. It never queries the database.
    pub(super) fn known_counts(
        &self,
        conversation: &Conversation,
        user: UserKey,
        member: &Membership,
        upto: Seq,
    ) -> Option<MessageCounts> {
        if upto == conversation.head {
            return Some(MessageCounts { messages: conversation.messages, sent: member.sent });
        }
        if let Some(counts) = self.counts.get(&(conversation.key, user, upto)) {
            return Some(*counts);
        }
        // An event of this transaction is at the end of the log, and has its message count.
        let messages = self.new_event((conversation.key, upto))?.messages;
        let later = (upto.0 + 1..=conversation.head.0).filter(|seq| {
            self.new_event((conversation.key, Seq(*seq)))
                .is_some_and(|event| event.sender == user && event.kind == EventKind::Message)
        });
        let sent = member.sent.saturating_sub(later.count() as u64);
        Some(MessageCounts { messages, sent })
    }

    /// The message counts up to a cursor, counted from the end of the log.
    pub(super) fn count_from_end(
        &self,
        conversation: &Conversation,
        user: UserKey,
        member: &Membership,
        upto: Seq,
    ) -> Result<Option<MessageCounts>, Error> {
        if let Some(counts) = self.known_counts(conversation, user, member, upto) {
            return Ok(Some(counts));
        }
        if member.sent > 0 && conversation.head.0.saturating_sub(upto.0) > MAX_EVENTS_COUNTED_FOR_IMPORT {
            return Ok(None);
        }
        let (message, head) = (i16::from(EventKind::Message.number()), number(conversation.head));
        let (key, upto) = (conversation.key.0, number(upto));
        // A member who has sent nothing needs no count.
        let end = if member.sent > 0 { head } else { upto };
        let rows = self.link.run(self.link.rows(COUNT_FROM_END, &[&key, &upto, &end, &user.0, &message]))?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (messages, stored) = (count(row, 0)?, count(row, 1)?);
        let new = self.new_events.iter().filter(|event| {
            event.conversation == conversation.key && event.sender == user && event.kind == EventKind::Message
        });
        let sent = member.sent.saturating_sub(stored + new.count() as u64);
        Ok(Some(MessageCounts { messages, sent }))
    }
}
