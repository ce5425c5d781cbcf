//! Finds the messages of a page, and reads each with its last edit and its reactions.

use std::ops::ControlFlow;

use switchboard_protocol::reply::Edited;
use switchboard_protocol::{Limits, Seq, UserId, kind_number};
use tokio_postgres::Row;

use super::row::{count, get, maybe_seq, number, position, seq, time, user_id};
use super::{Result, Session};
use crate::postgres::connect::Error;
use crate::read::row::{StoredMessage, WantedMessage, skip_damaged};
use crate::record::ConversationKey;

/// Walks back from one message to the previous one. Each row of `way` is a step that reads the last event up to `probe`. If
/// that is a wanted message, the next probe is the event before it. Any other event has the count of the messages before
/// it, and the first event with that count is the last of those messages. It is searched backwards in growing steps, then
/// by bisection. So a run of other events costs twice as many steps as its length has bits.
///
/// `goal` is the count that is searched for, `high` the first event known to have it, and `low` the last event known not
/// to.
const SELECT_MESSAGES_BEFORE: &str = concat!(
    "WITH RECURSIVE way AS (
        SELECT NULL::bigint AS found, $2::bigint - 1 AS probe, $3::bigint AS wanted,
               NULL::bigint AS goal, NULL::bigint AS high, NULL::bigint AS low, 1::bigint AS step
    UNION ALL
        SELECT CASE WHEN now.hit THEN event.seq END,
               CASE WHEN now.hit THEN event.seq - 1
                    WHEN coalesce(way.goal, event.messages) <= 0 THEN 0
                    WHEN near.low IS NULL THEN now.high - way.step
                    WHEN near.settled THEN now.high - 1
                    ELSE near.low + (now.high - near.low) / 2 END,
               CASE WHEN now.hit THEN way.wanted - 1 ELSE way.wanted END,
               CASE WHEN now.hit OR near.settled THEN NULL ELSE coalesce(way.goal, event.messages) END,
               CASE WHEN now.hit OR near.settled THEN NULL ELSE now.high END,
               CASE WHEN now.hit OR near.settled THEN NULL ELSE near.low END,
               CASE WHEN now.hit OR near.low IS NOT NULL THEN 1 ELSE way.step * 2 END
        FROM way
        CROSS JOIN LATERAL (
            SELECT seq, kind, messages FROM events
            WHERE conversation = $1 AND seq > 0 AND seq <= way.probe ORDER BY seq DESC LIMIT 1) event
        CROSS JOIN LATERAL (
            SELECT event.kind = ",
    kind_number!(Message),
    " AND (way.goal IS NULL OR event.messages >= way.goal) AS hit,
                   CASE WHEN way.goal IS NULL OR event.messages >= way.goal THEN event.seq ELSE way.high END AS high,
                   CASE WHEN way.goal IS NULL OR event.messages >= way.goal THEN way.low ELSE way.probe END AS low) now
        CROSS JOIN LATERAL (
            SELECT CASE WHEN now.low IS NULL AND now.high <= way.step THEN 0 ELSE now.low END AS low) bound
        CROSS JOIN LATERAL (
            SELECT bound.low, bound.low IS NOT NULL AND now.high - bound.low <= 1 AS settled) near
        WHERE way.probe > 0 AND way.wanted > 0)
    SELECT found FROM way WHERE found IS NOT NULL ORDER BY found DESC"
);

pub(super) fn find_messages_before(
    session: &Session,
    conversation: ConversationKey,
    before: Seq,
    most: usize,
) -> Result<Vec<Seq>> {
    let rows =
        session.query_rows(SELECT_MESSAGES_BEFORE, &[&conversation.0, &number(before), &(most as i64)])?;
    Ok(rows.iter().map(|row| seq(row, 0)).collect::<std::result::Result<_, _>>()?)
}

/// Finds the first event up to which there are `$4` messages more than before `$2`, or `$3` if there are fewer. It is a
/// bisection, because the message count never goes down. Missing events are skipped.
const SELECT_LAST_MESSAGES: &str = "WITH RECURSIVE way AS (
        SELECT $2::bigint - 1 AS earlier, $3::bigint AS last, $4::bigint + coalesce(
            (SELECT messages FROM events WHERE conversation = $1 AND seq = $2::bigint - 1), 0) AS goal
    UNION ALL
        SELECT CASE WHEN reached.yes THEN way.earlier ELSE middle.seq END,
               CASE WHEN reached.yes THEN middle.seq ELSE way.last END, way.goal
        FROM way
        CROSS JOIN LATERAL (SELECT way.earlier + (way.last - way.earlier) / 2 AS seq) middle
        CROSS JOIN LATERAL (SELECT EXISTS (SELECT 1 FROM events
            WHERE conversation = $1 AND seq = middle.seq AND messages >= way.goal) AS yes) reached
        WHERE way.last - way.earlier > 1)
    SELECT min(last) FROM way";

pub(super) fn from(
    session: &Session,
    conversation: ConversationKey,
    (from, upto): (Seq, Seq),
    most: usize,
) -> Result<Vec<Seq>> {
    let (first, end) = (number(from), number(upto));
    let last = session.query_rows(SELECT_LAST_MESSAGES, &[&conversation.0, &first, &end, &(most as i64)])?;
    let last = last.first().map_or(Ok(upto), |row| seq(row, 0))?;
    let mut found = find_messages_before(session, conversation, last.next(), most)?;
    found.retain(|seq| *seq >= from);
    found.reverse();
    Ok(found)
}

/// Defines two statements that differ in which reactions they read.
macro_rules! for_reactions {
    ($all:ident, $standing:ident: [$($first:tt)*], [$($last:tt)*]) => {
        /// For a user who sees the log up to an event: reads removed reactions, too.
        const $all: &str = concat!($($first)*, "(r.until IS NULL OR r.until > w.visible)", $($last)*);
        /// For a user who sees the whole log: does not read removed reactions.
        const $standing: &str = concat!($($first)*, "r.until IS NULL", $($last)*);
    };
}

for_reactions!(MESSAGES, STANDING_MESSAGES:
    ["SELECT w.place, w.name, w.at, w.key, w.body, w.edit_seq, w.edit_at, w.edit_body, w.reactions, w.is_there FROM (
        SELECT w.place, u.name, e.at, e.key, e.body, edit.seq AS edit_seq, edit.at AS edit_at, edit.body AS edit_body,
            reacted.reactions, e.seq IS NOT NULL AS is_there, weight.bytes,
            sum(weight.bytes) OVER (ORDER BY w.place) AS so_far
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY w (conversation, target, visible, place)
        LEFT JOIN events e ON e.conversation = w.conversation AND e.seq = w.target
        LEFT JOIN users u ON u.id = e.sender
        LEFT JOIN LATERAL (
            SELECT x.seq, x.at, x.body FROM amendments a
            JOIN events x ON x.conversation = a.conversation AND x.seq = a.seq
            WHERE a.conversation = w.conversation AND a.target = w.target AND a.seq > 0 AND a.seq <= w.visible AND x.kind = ", kind_number!(Edit), "
            ORDER BY a.seq DESC LIMIT 1) edit ON true
        CROSS JOIN LATERAL (
            SELECT count(*) AS reactions, coalesce(sum(octet_length(r.emoji)), 0) AS emoji FROM reactions r
            WHERE r.conversation = w.conversation AND r.target = w.target AND r.since <= w.visible AND "],
    [") reacted
        CROSS JOIN LATERAL (
            SELECT coalesce(octet_length(coalesce(edit.body, e.body)), 0) + 32 * reacted.reactions + reacted.emoji
                + $5::bigint AS bytes) weight
    ) w WHERE w.so_far - w.bytes < $4::bigint ORDER BY w.place"]);

for_reactions!(REACTIONS, STANDING_REACTIONS:
    [r#"SELECT w.place, r.emoji, u.name
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY w (conversation, target, visible, place)
    JOIN reactions r ON r.conversation = w.conversation AND r.target = w.target AND r.since <= w.visible AND "#],
    [r#" JOIN users u ON u.id = r."user" ORDER BY w.place, r.since"#]);

/// Passes messages to `each`, in their order. Each round reads as many as fill about `bytes`; few pages need a second
/// round.
pub(super) fn find(
    session: &Session,
    mut wanted: &[WantedMessage<'_>],
    bytes: usize,
    mut each: impl FnMut(Option<StoredMessage>) -> ControlFlow<()>,
) -> Result<()> {
    while !wanted.is_empty() {
        let found = read_portion(session, wanted, bytes)?;
        // If one body is too long for any page, the loop would make no progress, so it ends with an error.
        if found.is_empty() {
            return Err(Error::Damaged("no message can be read".to_owned()).into());
        }
        wanted = &wanted[found.len().min(wanted.len())..];
        for whole in found {
            if each(whole).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads the first of the wanted messages: as many as fill about `bytes`.
fn read_portion(
    session: &Session,
    wanted: &[WantedMessage<'_>],
    bytes: usize,
) -> Result<Vec<Option<StoredMessage>>> {
    let keys: Vec<_> = wanted.iter().map(|wanted| wanted.conversation.key.0).collect();
    let targets: Vec<_> = wanted.iter().map(|wanted| number(wanted.target)).collect();
    let visible: Vec<_> = wanted.iter().map(|wanted| number(wanted.visible)).collect();
    let (messages, reactions) = if wanted.iter().all(WantedMessage::sees_whole_log) {
        (STANDING_MESSAGES, STANDING_REACTIONS)
    } else {
        (MESSAGES, REACTIONS)
    };
    let (bytes, overhead) = (bytes as i64, Limits::EVENT_OVERHEAD_BYTES as i64);
    let rows = session.query_rows(messages, &[&keys, &targets, &visible, &bytes, &overhead])?;
    let mut any_reaction = false;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        any_reaction |= count(row, 8)? > 0;
        found.push(if get(row, 9)? { Some(read_message(row)?) } else { None });
    }
    if any_reaction {
        let of = found.len().min(keys.len());
        for row in session.query_rows(reactions, &[&&keys[..of], &&targets[..of], &&visible[..of]])? {
            let place = position(&row, 0)?;
            let (Some(Some(whole)), Some(wanted)) = (found.get_mut(place), wanted.get(place)) else {
                continue;
            };
            let read = || Ok((get(&row, 1)?, user_id(&row, 2)?));
            let at = || format!("a reaction to {} in {}", wanted.target, wanted.conversation.name);
            whole.reactions.extend(skip_damaged::<(String, UserId), Error>(read(), at)?);
        }
    }
    Ok(found)
}

fn read_message(row: &Row) -> Result<StoredMessage> {
    let edit =
        maybe_seq(row, 5)?.map(|seq| Ok::<_, Error>((Edited { seq, at: time(row, 6)? }, get(row, 7)?)));
    Ok(StoredMessage {
        from: user_id(row, 1).ok(),
        at: time(row, 2)?,
        key: get(row, 3)?,
        body: get(row, 4)?,
        edit: edit.transpose()?,
        reactions: Vec::new(),
    })
}
