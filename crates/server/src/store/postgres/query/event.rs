//! Events of the log.

use switchboard_protocol::{ConversationId, Limits, Seq, Timestamp};
use tokio_postgres::Row;

use super::row::{get, kind, number, seq, time, user_id};
use super::{Result, Session};
use crate::record::{ConversationKey, LogEvent};
use crate::store::postgres::connect::Error;
use crate::store::read::Range;
use crate::store::read::row::{is_readable, unreadable};

/// Those that fill the page, and no body more.
const EVENTS: &str = "SELECT e.seq, e.kind, u.name, e.at, e.key, e.body FROM (
        SELECT page.*, sum(octet_length(page.body) + $6::bigint) OVER (ORDER BY page.seq) AS so_far FROM (
            SELECT seq, kind, sender, at, key, body FROM events
            WHERE conversation = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4) page) e
    LEFT JOIN users u ON u.id = e.sender
    WHERE e.so_far - octet_length(e.body) - $6::bigint < $5::bigint ORDER BY e.seq";

pub(super) fn rows(session: &Session, conversation: ConversationKey, range: &Range) -> Result<Vec<Row>> {
    let (after, upto) = (number(range.after), number(range.upto));
    let (most, bytes, overhead) =
        (i64::from(range.most), i64::from(range.bytes), Limits::EVENT_OVERHEAD as i64);
    session.rows(EVENTS, &[&conversation.0, &after, &upto, &most, &bytes, &overhead])
}

/// Reads a row of [`EVENTS`].
pub(super) fn read(row: &Row, conversation: &ConversationId) -> std::result::Result<LogEvent, Error> {
    let seq: Seq = seq(row, 0)?;
    let read = || {
        let body: Box<str> = get(row, 5)?;
        let kind = kind(row, 1)?;
        if !is_readable(kind, &body) {
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
            Ok(unreadable(conversation, seq, user_id(row, 2).ok(), at, error))
        }
        read => read,
    }
}
