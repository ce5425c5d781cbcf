//! Gives a user another id in SQLite.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Result, Transaction, TransactionBehavior, params};
use switchboard_protocol::{ConversationId, Timestamp};

use super::open_shared;
use super::rows::{conversation_id, profiles};
use crate::new_id::{self, ENTRY, Ids, Rename, RenamedConversations};
use crate::record::{ConversationKey, UserKey};
use crate::refusal::Refusal;

/// Gives a user another id, in one transaction.
pub(crate) fn rename(
    data: &Path,
    rename: &Rename,
    now: Timestamp,
) -> anyhow::Result<std::result::Result<RenamedConversations, Refusal>> {
    let mut db = open_shared(data)?;
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let user = match new_id::check(rename, find_ids(&transaction, rename)?) {
        Ok(Some(user)) => user,
        Ok(None) => return Ok(Ok(Vec::new())),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let conversations = direct_conversations(&transaction, user)?;
    let renamed = match new_id::renamed_conversations(rename, &conversations) {
        Ok(renamed) => renamed,
        Err(refusal) => return Ok(Err(refusal)),
    };
    apply(&transaction, rename, user, &renamed, now)?;
    transaction.commit()?;
    Ok(Ok(conversations))
}

fn find_ids(db: &Connection, rename: &Rename) -> Result<Ids> {
    let find = |sql: &str, name: &str| -> Result<Option<Option<i64>>> {
        db.query_row(sql, [name], |row| row.get(0)).optional()
    };
    let (user, retired) =
        ("SELECT id FROM users WHERE name = ?1", "SELECT user FROM retired_ids WHERE name = ?1");
    let key = |found: Option<Option<i64>>| found.flatten().map(UserKey);
    Ok(Ids {
        user: key(find(user, rename.user.as_str())?),
        former: key(find(retired, rename.user.as_str())?),
        to: key(find(user, rename.to.as_str())?),
        is_retired: find(retired, rename.to.as_str())?.is_some(),
        has_old_bodies: db.query_row("SELECT EXISTS (SELECT 1 FROM rewrite)", [], |row| row.get(0))?,
    })
}

fn direct_conversations(db: &Connection, user: UserKey) -> Result<RenamedConversations> {
    let mut select = db.prepare(
        "SELECT c.id, c.name FROM members m INDEXED BY members_of_user CROSS JOIN conversations c ON c.id = m.conversation
         WHERE m.user = ?1 AND m.until IS NULL AND m.since = 0",
    )?;
    let rows =
        select.query_map([user.0], |row| Ok((ConversationKey(row.get(0)?), conversation_id(row, 1)?)))?;
    rows.collect()
}

fn apply(
    transaction: &Transaction<'_>,
    rename: &Rename,
    user: UserKey,
    renamed: &[(ConversationKey, ConversationId)],
    now: Timestamp,
) -> Result<()> {
    let Rename { user: old, to, via, address } = rename;
    transaction.execute("UPDATE users SET name = ?2 WHERE id = ?1", params![user.0, to.as_str()])?;
    transaction.execute(
        "INSERT INTO retired_ids (name, user, at) VALUES (?1, ?2, ?3)",
        params![old.as_str(), user.0, now.as_millis()],
    )?;
    let mut update = transaction.prepare("UPDATE conversations SET name = ?2 WHERE id = ?1")?;
    for (conversation, name) in renamed {
        update.execute(params![conversation.0, name.as_str()])?;
    }
    drop(update);
    if let Some(profile) = profiles::find(transaction, user)? {
        let (removed, added) = new_id::changed_words(rename, profile.name.as_deref());
        profiles::put(transaction, user, &profile, &removed, &added)?;
    }
    transaction.execute(
        "INSERT INTO feed_pending (type, at, user, via, address, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![ENTRY, now.as_millis(), user.0, via.0, address, new_id::entry_body(rename)],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Via;
    use crate::sqlite::{DATABASE_FILE, open_database};
    use switchboard_protocol::UserId;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a user id")
    }

    /// A database in which `bob` has 100,000 events in one room and `directs` direct conversations.
    fn database_of_bob(directs: u32) -> tempfile::TempDir {
        let data = tempfile::tempdir().expect("a directory");
        let db = open_database(data.path()).expect("a database");
        db.execute_batch(&format!(
            "BEGIN;
             DELETE FROM rewrite;
             INSERT INTO users (id, name) VALUES (1, 'bob');
             INSERT INTO conversations (id, name, public, head, messages, last_message, members, admins, at)
                VALUES (1, '#r', 0, 100000, 99999, 100000, 1, 1, 0);
             INSERT INTO members VALUES (1, 1, 2, 1, NULL, 1, 1, 99999, 0, 0, 0, 0, 0);
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)
                INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
                SELECT 1, n, 1, 1, 0, n, 'k' || n, '{{\"text\":\"hi\"}}' FROM n;
             WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n <= {directs})
                INSERT INTO users (id, name) SELECT n, 'u' || n FROM n;
             INSERT INTO conversations (id, name, public, head, messages, last_message, members, admins, at)
                SELECT id, '@bob:' || name, 0, 0, 0, 0, 2, 0, 0 FROM users WHERE id > 1;
             INSERT INTO members SELECT id, 1, 1, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0 FROM users WHERE id > 1;
             INSERT INTO members SELECT id, id, 1, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0 FROM users WHERE id > 1;
             COMMIT;"
        ))
        .expect("filled");
        data
    }

    fn rename_now(data: &Path, from: &str, to: &str) -> Result<RenamedConversations, Refusal> {
        let asked = Rename { user: user(from), to: user(to), via: Via::USER, address: None };
        rename(data, &asked, Timestamp::from_millis(0)).expect("a database")
    }

    #[test]
    fn the_rename_of_a_user_with_a_hundred_thousand_events_writes_a_few_pages() {
        const MAX_BYTES: u64 = 64 * 4_096;
        let data = database_of_bob(10);
        // While a connection is open, the write-ahead log stays.
        let open = open_database(data.path()).expect("a database");
        let log = data.path().join(format!("{DATABASE_FILE}-wal"));
        let before = std::fs::metadata(&log).map_or(0, |log| log.len());
        rename_now(data.path(), "bob", "b1").expect("renamed");
        let written = std::fs::metadata(&log).expect("a log").len() - before;
        assert!(written > 0 && written <= MAX_BYTES, "{written} bytes");
        drop(open);
    }

    #[test]
    fn a_user_with_too_many_direct_conversations_keeps_the_id() {
        let data = database_of_bob(10_000);
        rename_now(data.path(), "bob", "b1").expect("renamed");
        let db = open_database(data.path()).expect("a database");
        let renamed: u32 = db
            .query_row("SELECT count(*) FROM conversations WHERE name LIKE '@b1:%'", [], |row| row.get(0))
            .expect("a count");
        assert_eq!(renamed, 9_999 + 1);
        db.execute_batch(
            "INSERT INTO users (id, name) VALUES (20000, 'more');
             INSERT INTO conversations (id, name, public, head, messages, last_message, members, admins, at)
                VALUES (20000, '@b1:more', 0, 0, 0, 0, 2, 0, 0);
             INSERT INTO members VALUES (20000, 1, 1, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0);",
        )
        .expect("one more");
        drop(db);
        let refused = rename_now(data.path(), "b1", "b2");
        assert_eq!(refused.expect_err("too many").field.as_deref(), Some("user"));
    }
}
