//! Reads a message together with its last edit and its reactions.

use rusqlite::{Connection, OptionalExtension, params};
use switchboard_protocol::reply::Edited;
use switchboard_protocol::{EventKind, Seq, Timestamp, UserId};

use super::Result;
use crate::read::row::{StoredMessage, WantedMessage, skip_damaged};
use crate::sqlite::rows::{seq, user_id};

pub(super) fn find(db: &Connection, wanted: &WantedMessage<'_>) -> Result<Option<StoredMessage>> {
    if wanted.target == Seq(0) {
        return Ok(None);
    }
    let mut select = db.prepare_cached(
        "SELECT u.name, e.at, e.key, e.body FROM events e LEFT JOIN users u ON u.id = e.sender
         WHERE e.conversation = ?1 AND e.seq = ?2",
    )?;
    let found = select
        .query_row(params![wanted.conversation.key.0, wanted.target.0], |row| {
            Ok(StoredMessage {
                from: user_id(row, 0).ok(),
                at: Timestamp::from_millis(row.get(1)?),
                key: row.get(2).unwrap_or_default(),
                body: row.get(3).unwrap_or_default(),
                edit: None,
                reactions: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut whole) = found else { return Ok(None) };
    whole.edit = last_edit(db, wanted)?;
    whole.reactions = reactions(db, wanted)?;
    Ok(Some(whole))
}

fn last_edit(db: &Connection, wanted: &WantedMessage<'_>) -> Result<Option<(Edited, String)>> {
    let mut select = db.prepare_cached(
        "SELECT e.seq, e.at, e.body FROM amendments a JOIN events e ON e.conversation = a.conversation AND e.seq = a.seq
         WHERE a.conversation = ?1 AND a.target = ?2 AND a.seq > 0 AND a.seq <= ?3 AND e.kind = ?4 ORDER BY a.seq DESC LIMIT 1",
    )?;
    let at = params![wanted.conversation.key.0, wanted.target.0, wanted.visible.0, EventKind::Edit.number()];
    let edit = select.query_row(at, |row| {
        let edited = Edited { seq: seq(row, 0)?, at: Timestamp::from_millis(row.get(1)?) };
        Ok((edited, row.get(2).unwrap_or_default()))
    });
    Ok(edit.optional()?)
}

fn reactions(db: &Connection, wanted: &WantedMessage<'_>) -> Result<Vec<(String, UserId)>> {
    let mut select = db.prepare_cached(if wanted.sees_whole_log() {
        "SELECT r.emoji, u.name FROM reactions r INDEXED BY reactions_that_stand CROSS JOIN users u ON u.id = r.user
         WHERE r.conversation = ?1 AND r.target = ?2 AND r.since <= ?3 AND r.until IS NULL ORDER BY r.since"
    } else {
        "SELECT r.emoji, u.name FROM reactions r CROSS JOIN users u ON u.id = r.user
         WHERE r.conversation = ?1 AND r.target = ?2 AND r.since <= ?3
         AND (r.until IS NULL OR r.until > ?3) ORDER BY r.since"
    })?;
    let mut rows = select.query(params![wanted.conversation.key.0, wanted.target.0, wanted.visible.0])?;
    let mut reactions = Vec::new();
    while let Some(row) = rows.next()? {
        let read = || Ok((row.get(0)?, user_id(row, 1)?));
        let at = || format!("a reaction to {} in {}", wanted.target, wanted.conversation.name);
        reactions.extend(skip_damaged(read(), at)?);
    }
    Ok(reactions)
}
