//! Gives a user another id in PostgreSQL.

use std::path::Path;

use switchboard_protocol::Timestamp;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::installation::RETIRED_IDS;
use super::keys::with_connection;
use super::query::row::{conversation_id, conversation_key};
use crate::new_id::{self, ENTRY, Ids, Rename, RenamedConversations};
use crate::record::UserKey;
use crate::refusal::Refusal;

/// Locks the user's direct conversations in the order of their numbers, as every other transaction does. So no node writes in them
/// until this transaction ends, and a node that waits finds them under their new ids.
const LOCK_CONVERSATIONS: &str = r#"SELECT c.id FROM conversations c WHERE c.id IN (
        SELECT m.conversation FROM members m JOIN users u ON u.id = m."user"
        WHERE u.name = $1 AND m.until IS NULL AND m.since = 0)
    ORDER BY c.id FOR UPDATE"#;

/// Locks the user, after the conversations. A node that begins a direct conversation locks its users before.
const LOCK_USER: &str = "SELECT id FROM users WHERE name = $1 FOR UPDATE";

const FIND_IDS: &str =
    "SELECT (SELECT id FROM users WHERE name = $1), (SELECT r.\"user\" FROM retired_ids r WHERE r.name = $1),
    (SELECT id FROM users WHERE name = $2), EXISTS (SELECT FROM retired_ids WHERE name = $2),
    EXISTS (SELECT FROM rewrite) OR (SELECT i.version < $3 FROM installation i)";

const DIRECT_CONVERSATIONS: &str = r#"SELECT c.id, c.name FROM members m JOIN conversations c ON c.id = m.conversation
    WHERE m."user" = $1 AND m.until IS NULL AND m.since = 0"#;

const RENAME_CONVERSATIONS: &str = "UPDATE conversations c SET name = w.name
    FROM unnest($1::bigint[], $2::text[]) AS w (id, name) WHERE c.id = w.id";

/// Gives a user another id, in one transaction.
pub(crate) fn rename(
    url: &str,
    ca: Option<&Path>,
    rename: &Rename,
    now: Timestamp,
) -> anyhow::Result<Result<RenamedConversations, Refusal>> {
    with_connection(url, ca, async |client: &mut Client| {
        let transaction = client.transaction().await?;
        match apply(&transaction, rename, now).await {
            Ok(Ok(conversations)) => {
                transaction.commit().await?;
                Ok(Ok(conversations))
            }
            Ok(Err(refusal)) => Ok(Err(refusal)),
            // Another node has stored a user with the new id since it was looked for.
            Err(error) if is_duplicate(&error) => Ok(Err(Refusal::id_used_before("to"))),
            Err(error) => Err(error),
        }
    })
}

fn is_duplicate(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<tokio_postgres::Error>();
    error.and_then(tokio_postgres::Error::code) == Some(&SqlState::UNIQUE_VIOLATION)
}

async fn apply(
    transaction: &Transaction<'_>,
    rename: &Rename,
    now: Timestamp,
) -> anyhow::Result<Result<RenamedConversations, Refusal>> {
    let Rename { user: old, to, via, address } = rename;
    transaction.execute(LOCK_CONVERSATIONS, &[&old.as_str()]).await?;
    transaction.execute(LOCK_USER, &[&old.as_str()]).await?;
    let user = match new_id::check(rename, find_ids(transaction, rename).await?) {
        Ok(Some(user)) => user,
        Ok(None) => return Ok(Ok(Vec::new())),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let rows = transaction.query(DIRECT_CONVERSATIONS, &[&user.0]).await?;
    let conversations = rows.iter().map(|row| Ok((conversation_key(row, 0)?, conversation_id(row, 1)?)));
    let conversations = conversations.collect::<Result<RenamedConversations, super::connect::Error>>()?;
    let renamed = match new_id::renamed_conversations(rename, &conversations) {
        Ok(renamed) => renamed,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (keys, names): (Vec<_>, Vec<_>) = renamed.iter().map(|(key, name)| (key.0, name.as_str())).unzip();
    transaction.execute("UPDATE users SET name = $2 WHERE id = $1", &[&user.0, &to.as_str()]).await?;
    let retire = r#"INSERT INTO retired_ids (name, "user", at) VALUES ($1, $2, $3)"#;
    transaction.execute(retire, &[&old.as_str(), &user.0, &now.as_millis()]).await?;
    transaction.execute(RENAME_CONVERSATIONS, &[&keys, &names]).await?;
    rename_words(transaction, rename, user).await?;
    let entry =
        r#"INSERT INTO feed_pending (type, at, "user", via, address, body) VALUES ($1, $2, $3, $4, $5, $6)"#;
    let body = new_id::entry_body(rename);
    transaction.execute(entry, &[&ENTRY, &now.as_millis(), &user.0, &via.0, address, &body]).await?;
    Ok(Ok(conversations))
}

async fn find_ids(transaction: &Transaction<'_>, rename: &Rename) -> anyhow::Result<Ids> {
    let row =
        transaction.query_one(FIND_IDS, &[&rename.user.as_str(), &rename.to.as_str(), &RETIRED_IDS]).await?;
    let key = |column| row.try_get::<_, Option<i64>>(column).map(|key| key.map(UserKey));
    Ok(Ids {
        user: key(0)?,
        former: key(1)?,
        to: key(2)?,
        is_retired: row.try_get(3)?,
        has_old_bodies: row.try_get(4)?,
    })
}

/// Changes the words by which the user is found, if the user has a profile.
async fn rename_words(
    transaction: &Transaction<'_>,
    rename: &Rename,
    user: UserKey,
) -> Result<(), tokio_postgres::Error> {
    let profile = transaction.query_opt(r#"SELECT name FROM profiles WHERE "user" = $1"#, &[&user.0]).await?;
    let Some(profile) = profile else { return Ok(()) };
    let (removed, added) = new_id::changed_words(rename, profile.try_get::<_, Option<&str>>(0)?);
    let delete = r#"DELETE FROM profile_words WHERE "user" = $1 AND word = ANY ($2)"#;
    transaction.execute(delete, &[&user.0, &removed]).await?;
    let insert = r#"INSERT INTO profile_words (word, "user") SELECT w, $1 FROM unnest($2::text[]) w ON CONFLICT DO NOTHING"#;
    transaction.execute(insert, &[&user.0, &added]).await?;
    Ok(())
}
