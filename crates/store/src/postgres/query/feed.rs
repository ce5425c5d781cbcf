//! The lookups of the feed.

use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq};
use tokio_postgres::Row;

use super::row::{conversation_id, conversation_key, count, get, number, position};
use super::{Result, Session, event};
use crate::grant::UserPattern;
use crate::postgres::connect::Error;
use crate::postgres::table::to_signed;
use crate::read::feed::{Ends, FedEntry, FedEvent, FeedLookups};
use crate::record::ConversationKey;

const ENDS: &str = "SELECT s.epoch, s.last, coalesce((SELECT p.first - 1 FROM feed_pages p ORDER BY p.first LIMIT 1), s.last)
    FROM feed_state s";

/// Pages do not overlap, so the first one that ends after the number is the last that begins up to it, or the next.
const PAGES: &str = "SELECT first, runs FROM feed_pages
    WHERE first >= coalesce((SELECT max(first) FROM feed_pages WHERE first <= $1::bigint + 1), 0) AND last > $1
    ORDER BY first LIMIT $2";

const EVENTS: &str = "SELECT e.seq, e.kind, u.name, e.at, e.key, e.body, e.via, w.place, c.name
    FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY w (conversation, seq, place)
    JOIN events e ON e.conversation = w.conversation AND e.seq = w.seq
    JOIN conversations c ON c.id = w.conversation LEFT JOIN users u ON u.id = e.sender";

const ENTRIES: &str = r#"SELECT number, type, at, "user", via, address, body FROM feed_entries
    WHERE number > $1 AND number <= $2"#;

const CONVERSATION: &str = "SELECT id FROM conversations WHERE name = $1";

const CONVERSATION_NAMES: &str = "SELECT id, name FROM conversations WHERE id = ANY($1)";

const KEY_NAMES: &str = "SELECT number, name FROM api_keys";

const CONVERSATIONS_WITH: &str = r#"SELECT w.id, CASE
        WHEN EXISTS (SELECT FROM members m JOIN users u ON u.id = m."user"
            WHERE m.conversation = w.id AND m.until IS NULL AND u.name LIKE $2) THEN 9007199254740991
        ELSE (SELECT max(m.until) FROM members m JOIN users u ON u.id = m."user"
            WHERE m.conversation = w.id AND m.until IS NOT NULL AND u.name LIKE $2)
        END
    FROM unnest($1::bigint[]) w (id)"#;

impl FeedLookups for Session {
    fn feed_ends(&self) -> Result<Ends> {
        let row = self.query_row(ENDS, &[])?;
        let row = row.ok_or_else(|| Error::Damaged("the feed has no state".to_owned()))?;
        Ok(Ends { epoch: get(&row, 0)?, last: count(&row, 1)?, before: count(&row, 2)? })
    }

    fn feed_pages(&self, after: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let rows = self.query_rows(PAGES, &[&to_signed(after), &(most as i64)])?;
        rows.iter().map(|row| Ok((count(row, 0)?, get(row, 1)?))).collect()
    }

    fn feed_events(&self, events: &[(ConversationKey, Seq)]) -> Result<Vec<Option<FedEvent>>> {
        let mut found: Vec<_> = events.iter().map(|_| None).collect();
        if events.is_empty() {
            return Ok(found);
        }
        let (conversations, seqs): (Vec<_>, Vec<_>) =
            events.iter().map(|(conversation, seq)| (conversation.0, number(*seq))).unzip();
        for row in self.query_rows(EVENTS, &[&conversations, &seqs])? {
            let event =
                FedEvent { event: event::read(&row, &conversation_id(&row, 8)?)?, via: get(&row, 6)? };
            if let Some(found) = found.get_mut(position(&row, 7)?) {
                *found = Some(event);
            }
        }
        Ok(found)
    }

    fn feed_entries(&self, after: u64, upto: u64) -> Result<FxHashMap<u64, FedEntry>> {
        let rows = self.query_rows(ENTRIES, &[&to_signed(after), &to_signed(upto)])?;
        let entry = |row: &Row| {
            let entry = FedEntry {
                kind: get(row, 1)?,
                at: get(row, 2)?,
                user: get(row, 3)?,
                via: get(row, 4)?,
                address: get(row, 5)?,
                body: get(row, 6)?,
            };
            Ok((count(row, 0)?, entry))
        };
        rows.iter().map(entry).collect()
    }

    fn find_conversation(&self, name: &ConversationId) -> Result<Option<ConversationKey>> {
        let row = self.query_row(CONVERSATION, &[&name.as_str()])?;
        Ok(row.map(|row| conversation_key(&row, 0)).transpose()?)
    }

    fn conversation_names(
        &self,
        conversations: &[ConversationKey],
    ) -> Result<FxHashMap<ConversationKey, ConversationId>> {
        let keys: Vec<_> = conversations.iter().map(|key| key.0).collect();
        let rows = self.query_rows(CONVERSATION_NAMES, &[&keys])?;
        rows.iter().map(|row| Ok((conversation_key(row, 0)?, conversation_id(row, 1)?))).collect()
    }

    fn key_names(&self) -> Result<FxHashMap<i64, String>> {
        let rows = self.query_rows(KEY_NAMES, &[])?;
        rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
    }

    fn conversations_with(
        &self,
        conversations: &[ConversationKey],
        pattern: &UserPattern,
    ) -> Result<FxHashMap<ConversationKey, Seq>> {
        let keys: Vec<_> = conversations.iter().map(|key| key.0).collect();
        // Of the characters that LIKE knows, ids have only the underscore.
        let like = pattern.as_str().replace('_', "\\_").replace('*', "%");
        let rows = self.query_rows(CONVERSATIONS_WITH, &[&keys, &like])?;
        let last = |row: &Row| Ok((conversation_key(row, 0)?, get::<Option<i64>>(row, 1)?));
        let found = rows.iter().map(last).collect::<Result<Vec<_>>>()?;
        let found = found.into_iter().filter_map(|(key, last)| Some((key, Seq(last?.unsigned_abs()))));
        Ok(found.collect())
    }
}
