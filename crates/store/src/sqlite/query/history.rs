//! Finds the messages of a page. The log has other events between them, and a page must not read all of those.

use rusqlite::{Connection, OptionalExtension, Result, params};
use switchboard_protocol::{EventKind, Seq};

use crate::record::ConversationKey;

/// How many events other than messages are read one by one before a binary search looks for the previous message. The
/// search takes about twice as many lookups as the number of events has bits, and most runs are shorter than this.
const MAX_SCANNED_EVENTS: usize = 32;

/// The last `most` messages before an event, the latest first.
pub(super) fn messages_before(
    db: &Connection,
    conversation: ConversationKey,
    mut before: Seq,
    most: usize,
) -> Result<Vec<Seq>> {
    let mut found = Vec::new();
    while let Some(run) = read_messages(db, conversation, before, most, &mut found)? {
        let last = first_with_count(db, conversation, run)?;
        // The message itself is read in the next round. If its row is damaged, the search continues before it.
        before = last.next().min(run.earliest);
    }
    Ok(found)
}

/// The first `most` messages from an event on and up to another, the earliest first. Finds the last of them by a binary
/// search over the running count of messages; the others are the messages before it.
pub(super) fn messages_from(
    db: &Connection,
    conversation: ConversationKey,
    from: Seq,
    upto: Seq,
    most: usize,
) -> Result<Vec<Seq>> {
    let mut select = db.prepare_cached("SELECT messages FROM events WHERE conversation = ?1 AND seq = ?2")?;
    let mut count = |seq: u64| -> Result<Option<i64>> {
        select.query_row(params![conversation.0, seq], |row| row.get(0)).optional()
    };
    let mut earlier = from.0.saturating_sub(1);
    let goal = count(earlier)?.unwrap_or(0).saturating_add(i64::try_from(most).unwrap_or(i64::MAX));
    // If there are fewer than `most` messages, the last one is at or before `upto`.
    let mut last = upto.0;
    while last.saturating_sub(earlier) > 1 {
        let middle = earlier + (last - earlier) / 2;
        if count(middle)?.is_some_and(|messages| messages >= goal) {
            last = middle;
        } else {
            earlier = middle;
        }
    }
    let mut found = messages_before(db, conversation, Seq(last).next(), most)?;
    found.retain(|seq| *seq >= from);
    found.reverse();
    Ok(found)
}

/// Reads backwards from an event until `most` messages are found, the log begins, or a long run of other events is found.
fn read_messages(
    db: &Connection,
    conversation: ConversationKey,
    before: Seq,
    most: usize,
    found: &mut Vec<Seq>,
) -> Result<Option<EventRun>> {
    let mut select = db.prepare_cached(
        "SELECT seq, kind, messages FROM events WHERE conversation = ?1 AND seq > 0 AND seq < ?2 ORDER BY seq DESC",
    )?;
    let mut rows = select.query(params![conversation.0, before.0])?;
    let (mut length, mut count) = (0, None);
    while found.len() < most
        && let Some(row) = rows.next()?
    {
        let at = Seq(row.get(0)?);
        if EventKind::from_number(row.get(1)?) == EventKind::Message {
            found.push(at);
            length = 0;
            continue;
        }
        // All events of a run have the same message count. If this event's count differs from the run's, one of the two is
        // damaged, so a new run begins here.
        let messages: i64 = row.get(2)?;
        length = if length > 0 && count == Some(messages) { length + 1 } else { 1 };
        count = Some(messages);
        if length == MAX_SCANNED_EVENTS {
            return Ok(Some(EventRun { earliest: at, messages_before: messages }));
        }
    }
    Ok(None)
}

/// Finds the last message before a run of events without messages. Each event has the number of messages up to it, which is the
/// same for all events of the run and for that message; the message is the first event with this number. Searches backwards in
/// growing steps, then by bisection. An event that is missing in the table counts as earlier than the message, so that no message
/// is skipped.
fn first_with_count(db: &Connection, conversation: ConversationKey, run: EventRun) -> Result<Seq> {
    let mut select = db.prepare_cached("SELECT messages FROM events WHERE conversation = ?1 AND seq = ?2")?;
    let mut counts = |seq: u64| -> Result<bool> {
        let messages: Option<i64> =
            select.query_row(params![conversation.0, seq], |row| row.get(0)).optional()?;
        Ok(messages.is_some_and(|messages| messages >= run.messages_before))
    };
    let (mut first, mut step) = (run.earliest.0, 1);
    let mut earlier = loop {
        let seq = first.saturating_sub(step);
        if seq == 0 || !counts(seq)? {
            break seq;
        }
        (first, step) = (seq, step * 2);
    };
    while first - earlier > 1 {
        let middle = earlier + (first - earlier) / 2;
        if counts(middle)? {
            first = middle;
        } else {
            earlier = middle;
        }
    }
    Ok(Seq(first))
}

/// A run of events that are not messages.
#[derive(Clone, Copy)]
struct EventRun {
    /// The earliest event of the run that was read.
    earliest: Seq,
    /// The number of messages before `earliest`.
    messages_before: i64,
}
