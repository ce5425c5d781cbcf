//! The lookups of the feed.

use rusqlite::{Connection, OptionalExtension as _, params};
use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq};

use super::{Result, conversation_id, read_event};
use crate::grant::UserPattern;
use crate::read::feed::{Ends, FedEntry, FedEvent, FeedLookups};
use crate::record::ConversationKey;

impl FeedLookups for Connection {
    fn feed_ends(&self) -> Result<Ends> {
        let mut select = self.prepare_cached(
            "SELECT s.epoch, coalesce(s.last, 0), (SELECT first FROM feed_pages ORDER BY first LIMIT 1),
                (SELECT last FROM feed_pages ORDER BY first DESC LIMIT 1) FROM feed_state s",
        )?;
        Ok(select.query_row([], |row| {
            let (closed, first, last): (u64, Option<u64>, Option<u64>) =
                (row.get(1)?, row.get(2)?, row.get(3)?);
            let last = last.unwrap_or(closed);
            Ok(Ends { epoch: row.get(0)?, before: first.map_or(0, |first| first.saturating_sub(1)), last })
        })?)
    }

    fn feed_pages(&self, after: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        // Pages do not overlap, so the first one that ends after the number is the last that begins up to it, or the next.
        let mut select = self.prepare_cached(
            "SELECT first, runs FROM feed_pages
             WHERE first >= coalesce((SELECT max(first) FROM feed_pages WHERE first <= ?1 + 1), 0) AND last > ?1
             ORDER BY first LIMIT ?2",
        )?;
        let pages = select.query_map(params![after, most], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(pages.collect::<rusqlite::Result<_>>()?)
    }

    fn feed_events(&self, events: &[(ConversationKey, Seq)]) -> Result<Vec<Option<FedEvent>>> {
        let mut name = self.prepare_cached("SELECT name FROM conversations WHERE id = ?1")?;
        let mut select = self.prepare_cached(
            "SELECT e.seq, e.kind, u.name, e.at, e.key, e.body, e.via FROM events e LEFT JOIN users u ON u.id = e.sender
             WHERE e.conversation = ?1 AND e.seq = ?2",
        )?;
        let (mut names, mut found) = (FxHashMap::default(), Vec::with_capacity(events.len()));
        for (conversation, seq) in events {
            if !names.contains_key(conversation) {
                let name = name.query_row([conversation.0], |row| conversation_id(row, 0)).optional()?;
                names.insert(*conversation, name);
            }
            let event = match names.get(conversation) {
                Some(Some(name)) => {
                    let event = select.query_row(params![conversation.0, seq.0], |row| {
                        Ok(FedEvent { event: read_event(row, name)?, via: row.get(6)? })
                    });
                    event.optional()?
                }
                _ => None,
            };
            found.push(event);
        }
        Ok(found)
    }

    fn feed_entries(&self, after: u64, upto: u64) -> Result<FxHashMap<u64, FedEntry>> {
        let mut select = self.prepare_cached(
            "SELECT number, type, at, user, via, address, body FROM feed_entries WHERE number > ?1 AND number <= ?2",
        )?;
        let entries = select.query_map(params![after, upto], |row| {
            let entry = FedEntry {
                kind: row.get(1)?,
                at: row.get(2)?,
                user: row.get(3)?,
                via: row.get(4)?,
                address: row.get(5)?,
                body: row.get(6)?,
            };
            Ok((row.get(0)?, entry))
        })?;
        Ok(entries.collect::<rusqlite::Result<_>>()?)
    }

    fn find_conversation(&self, name: &ConversationId) -> Result<Option<ConversationKey>> {
        let mut select = self.prepare_cached("SELECT id FROM conversations WHERE name = ?1")?;
        Ok(select.query_row([name.as_str()], |row| row.get(0)).optional()?.map(ConversationKey))
    }

    fn conversation_names(
        &self,
        conversations: &[ConversationKey],
    ) -> Result<FxHashMap<ConversationKey, ConversationId>> {
        let mut select = self.prepare_cached("SELECT name FROM conversations WHERE id = ?1")?;
        let mut names = FxHashMap::default();
        for key in conversations {
            let name = select.query_row([key.0], |row| conversation_id(row, 0)).optional()?;
            names.extend(name.map(|name| (*key, name)));
        }
        Ok(names)
    }

    fn key_names(&self) -> Result<FxHashMap<i64, String>> {
        let mut select = self.prepare_cached("SELECT number, name FROM api_keys")?;
        let names = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(names.collect::<rusqlite::Result<_>>()?)
    }

    fn conversations_with(
        &self,
        conversations: &[ConversationKey],
        pattern: &UserPattern,
    ) -> Result<FxHashMap<ConversationKey, Seq>> {
        // The pattern has no other character that GLOB knows.
        let mut is_member = self.prepare_cached(
            "SELECT 1 FROM members m CROSS JOIN users u ON u.id = m.user
             WHERE m.conversation = ?1 AND m.until IS NULL AND u.name GLOB ?2 LIMIT 1",
        )?;
        let mut was_member = self.prepare_cached(
            "SELECT max(m.until) FROM members m CROSS JOIN users u ON u.id = m.user
             WHERE m.conversation = ?1 AND m.until IS NOT NULL AND u.name GLOB ?2",
        )?;
        let mut found = FxHashMap::default();
        for conversation in conversations {
            let last = if is_member.exists(params![conversation.0, pattern.as_str()])? {
                Some(Seq::MAX)
            } else {
                let last = was_member.query_row(params![conversation.0, pattern.as_str()], |row| row.get(0));
                last.map(|last: Option<u64>| last.map(Seq))?
            };
            found.extend(last.map(|last| (*conversation, last)));
        }
        Ok(found)
    }
}
