//! The lookups of who blocks whom.

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{EventKind, UserId};

use super::row::{conversation_key, count, number, position, time, user_id, user_key};
use super::{Result, Session};
use crate::postgres::connect::Error;
use crate::read::row::skip_damaged;
use crate::read::{BlockLookups, BlockRow, CountedRange};
use crate::record::{ConversationKey, UserKey};

const SELECT_BLOCKED: &str = r#"SELECT b.blocked, u.name, b.at FROM (
        SELECT blocked, at FROM blocks WHERE "user" = $1 AND blocked > $2 ORDER BY blocked LIMIT $3) b
    LEFT JOIN users u ON u.id = b.blocked ORDER BY b.blocked"#;

const SELECT_EITHER: &str = r#"SELECT o.id FROM unnest($2::bigint[]) o (id)
    WHERE EXISTS (SELECT FROM blocks b WHERE b."user" = $1 AND b.blocked = o.id)
    OR EXISTS (SELECT FROM blocks b WHERE b."user" = o.id AND b.blocked = $1)"#;

/// The members are looked up one by one, because very many users may block one.
const SELECT_MEMBERS_APART: &str = r#"SELECT u.name FROM members m JOIN users u ON u.id = m."user"
    WHERE (EXISTS (SELECT FROM blocks WHERE "user" = $2) OR EXISTS (SELECT FROM blocks WHERE blocked = $2))
    AND m.conversation = $1 AND m.until IS NULL
    AND (EXISTS (SELECT FROM blocks b WHERE b."user" = m."user" AND b.blocked = $2)
        OR EXISTS (SELECT FROM blocks b WHERE b."user" = $2 AND b.blocked = m."user"))"#;

/// Mostly no blocked user has ever written in the conversation. Then no event is read.
const COUNT_BLOCKED: &str = r#"SELECT w.place, n.messages
    FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY w (conversation, after, upto, place)
    CROSS JOIN LATERAL (SELECT count(*) AS messages FROM events e
        WHERE e.conversation = w.conversation AND e.seq > w.after AND e.seq <= w.upto AND e.kind = $5
        AND EXISTS (SELECT FROM blocks b WHERE b."user" = $1 AND b.blocked = e.sender)) n
    WHERE EXISTS (SELECT FROM blocks b JOIN members m ON m.conversation = w.conversation AND m."user" = b.blocked
        WHERE b."user" = $1 AND m.sent > 0) AND n.messages > 0"#;

const SELECT_HIDDEN: &str = r#"SELECT c.id FROM blocks b JOIN users u ON u.id = b."user" JOIN users o ON o.id = b.blocked
    JOIN conversations c ON c.name = CASE WHEN u.name COLLATE "C" < o.name COLLATE "C"
        THEN '@' || u.name || ':' || o.name ELSE '@' || o.name || ':' || u.name END
    WHERE b."user" = $1"#;

const SELECT_HIDDEN_FROM: &str = r#"SELECT b."user", u.name FROM blocks b JOIN users u ON u.id = b.blocked
    WHERE b."user" = ANY($1::bigint[])"#;

/// The users whom each of some users blocks.
pub(super) fn blocked_by(session: &Session, users: &[UserKey]) -> Result<FxHashMap<UserKey, Vec<UserId>>> {
    let keys: Vec<_> = users.iter().map(|user| user.0).collect();
    let mut blocked = FxHashMap::<_, Vec<_>>::default();
    if !keys.is_empty() {
        for row in session.query_rows(SELECT_HIDDEN_FROM, &[&keys])? {
            blocked.entry(user_key(&row, 0)?).or_default().push(user_id(&row, 1)?);
        }
    }
    Ok(blocked)
}

impl BlockLookups for Session {
    type Error = Error;

    fn blocked_after(&self, user: UserKey, after: UserKey, most: usize) -> Result<Vec<BlockRow>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut found = Vec::new();
        for row in self.query_rows(SELECT_BLOCKED, &[&user.0, &after.0, &most])? {
            let key = user_key(&row, 0)?;
            let read = || Ok(BlockRow { key, name: user_id(&row, 1)?, at: time(&row, 2)? });
            found.extend(skip_damaged::<_, Error>(read(), || format!("user number {}", key.0))?);
        }
        Ok(found)
    }

    fn either_blocks(&self, user: UserKey, others: &[UserKey]) -> Result<FxHashSet<UserKey>> {
        let keys: Vec<_> = others.iter().map(|other| other.0).collect();
        if keys.is_empty() {
            return Ok(FxHashSet::default());
        }
        let rows = self.query_rows(SELECT_EITHER, &[&user.0, &keys])?;
        rows.iter().map(|row| Ok(user_key(row, 0)?)).collect()
    }

    fn members_apart(&self, conversation: ConversationKey, user: UserKey) -> Result<Vec<UserId>> {
        let rows = self.query_rows(SELECT_MEMBERS_APART, &[&conversation.0, &user.0])?;
        rows.iter().map(|row| Ok(user_id(row, 0)?)).collect()
    }

    fn count_blocked(&self, user: UserKey, ranges: &[CountedRange]) -> Result<Vec<u64>> {
        let mut counts = vec![0; ranges.len()];
        if ranges.is_empty() {
            return Ok(counts);
        }
        let column = |of: fn(&CountedRange) -> i64| ranges.iter().map(of).collect::<Vec<_>>();
        let conversations = column(|range| range.conversation.0);
        let after = column(|range| number(range.after));
        let upto = column(|range| number(range.upto));
        let message = i16::from(EventKind::Message.number());
        for row in self.query_rows(COUNT_BLOCKED, &[&user.0, &conversations, &after, &upto, &message])? {
            if let Some(messages) = counts.get_mut(position(&row, 0)?) {
                *messages = count(&row, 1)?;
            }
        }
        Ok(counts)
    }

    fn hidden_conversations(&self, user: UserKey) -> Result<FxHashSet<ConversationKey>> {
        let rows = self.query_rows(SELECT_HIDDEN, &[&user.0])?;
        rows.iter().map(|row| Ok(conversation_key(row, 0)?)).collect()
    }

    fn block_changes(&self, user: UserKey) -> Result<u64> {
        let row = self.query_row("SELECT block_changes FROM users WHERE id = $1", &[&user.0])?;
        Ok(row.map_or(Ok(0), |row| count(&row, 0))?)
    }
}
