//! Compares the pages of the feed with the events and entries that they name.

use rusqlite::{Connection, OptionalExtension as _, Result, params};

use super::log::placeholder_name;
use super::{FIRST_SCHEMA_WITH_ENDED_ROOMS, Report};
use crate::feed::runs;

/// The first schema version with a feed.
const FIRST_SCHEMA_WITH_FEED: usize = 7;

/// The most numbers that a page can have: more than a transaction gives.
const MAX_PAGE_ITEMS: u64 = 1 << 20;

/// Reports pages that are missing or cannot be read, and numbers that lead to nothing or to another event.
pub(super) fn check(db: &Connection, report: &mut Report) -> Result<()> {
    if report.schema < FIRST_SCHEMA_WITH_FEED {
        return Ok(());
    }
    let mut pages = db.prepare("SELECT first, last, runs FROM feed_pages ORDER BY first")?;
    let mut event = db.prepare("SELECT feed FROM events WHERE conversation = ?1 AND seq = ?2")?;
    let mut entry = db.prepare("SELECT 1 FROM feed_entries WHERE number = ?1")?;
    let mut rows = pages.query([])?;
    let mut next = None;
    while let Some(row) = rows.next()? {
        let (first, last): (u64, u64) = (row.get(0)?, row.get(1)?);
        if next.is_some_and(|next| next != first) {
            report.add_problem(None, None, format!("no page of the feed ends before {first}"));
        }
        next = Some(last + 1);
        let items = runs::decode(row.get_ref(2)?.as_blob().unwrap_or_default(), MAX_PAGE_ITEMS);
        let Some(items) = items.filter(|items| (first + items.len() as u64) == last + 1) else {
            report.add_problem(None, None, format!("the page of the feed from {first} cannot be read"));
            continue;
        };
        for (number, item) in (first..).zip(items) {
            let Some((conversation, seq)) = item else {
                if !entry.exists([number])? {
                    report.add_problem(None, None, format!("number {number} of the feed has no entry"));
                }
                continue;
            };
            let found = event.query_row(params![conversation.0, seq.0], |row| row.get(0));
            let found: Option<Option<u64>> = found.optional()?;
            if found.is_none() && is_ended(db, report.schema, conversation.0)? {
                continue;
            }
            if found.flatten() != Some(number) {
                let what = format!("the feed has it as number {number}, and it has another or is not there");
                report.add_problem(Some(&placeholder_name(conversation.0)), Some(seq.0), what);
            }
        }
    }
    Ok(())
}

/// Whether a room was deleted. Then its earlier events are gone.
fn is_ended(db: &Connection, schema: usize, conversation: i64) -> Result<bool> {
    if schema < FIRST_SCHEMA_WITH_ENDED_ROOMS {
        return Ok(false);
    }
    db.prepare_cached("SELECT 1 FROM conversations WHERE id = ?1 AND ended")?.exists([conversation])
}
