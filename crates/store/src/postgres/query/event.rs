//! Reads events of the log.

use switchboard_protocol::{ConversationId, Seq, Timestamp};
use tokio_postgres::Row;

use super::row::{get, number, seq, time, user_id};
use super::{Result, Session};
use crate::postgres::connect::Error;
use crate::read::LogRange;
use crate::read::row::{is_readable, unreadable_event};
use crate::record::{ConversationKey, Kind, LogEvent};

/// Selects the events that fit on a page. It reads no body of an event that does not fit.
const SELECT_EVENT_PAGE: &str = "SELECT e.seq, e.kind, u.name, e.at, e.key, e.body FROM (
        SELECT page.*, sum(page.bytes) OVER (ORDER BY page.seq) AS so_far FROM (
            SELECT seq, kind, sender, at, key, body,
                $6::bigint + 2 * coalesce(octet_length(key), 0) + octet_length(body) AS bytes FROM events
            WHERE conversation = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4) page) e
    LEFT JOIN users u ON u.id = e.sender
    WHERE e.so_far - e.bytes < $5::bigint ORDER BY e.seq";

pub(super) fn rows(
    session: &Session,
    conversation: ConversationKey,
    name: &ConversationId,
    range: &LogRange,
) -> Result<Vec<Row>> {
    let (after, upto) = (number(range.after), number(range.upto));
    let (most, bytes) = (i64::from(range.most), i64::from(range.bytes));
    let overhead = LogEvent::most_bytes_of(name.as_str().len(), 0, 0) as i64;
    session.query_rows(SELECT_EVENT_PAGE, &[&conversation.0, &after, &upto, &most, &bytes, &overhead])
}

/// Reads a row of [`SELECT_EVENT_PAGE`].
pub(super) fn read(row: &Row, conversation: &ConversationId) -> std::result::Result<LogEvent, Error> {
    let seq: Seq = seq(row, 0)?;
    let read = || {
        let body: Box<str> = get(row, 5)?;
        let kind = Kind::from_number(get::<i16>(row, 1)?.into());
        if !is_readable(&kind, &body) {
            return Err(Error::Damaged("its body".to_owned()));
        }
        Ok(LogEvent {
            conversation: conversation.clone(),
            seq,
            kind,
            from: user_id(row, 2)?,
            at: time(row, 3)?,
            key: get(row, 4)?,
            body,
        })
    };
    match read() {
        Err(error @ Error::Damaged(_)) => {
            let at = time(row, 3).unwrap_or(Timestamp::from_millis(0));
            Ok(unreadable_event(conversation, seq, user_id(row, 2).ok(), at, error))
        }
        read => read,
    }
}
