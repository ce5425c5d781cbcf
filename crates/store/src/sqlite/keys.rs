//! The table of API keys in SQLite, for a process beside the server.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use switchboard_protocol::Timestamp;

use super::{lock, open_shared};
use crate::grant::{NewKey, Scopes, audit, check_rotatable};
use crate::key::Via;
use crate::record::ApiKeyInfo;
use crate::webhook::PARENT_REVOKED;

/// Stores a key; `false` if the name is taken.
pub(crate) fn create(data: &Path, key: &NewKey, now: Timestamp) -> anyhow::Result<bool> {
    let mut db = open_shared(data)?;
    let has_scopes = has_scopes(&db)?;
    key.check_storable(has_scopes)?;
    let inserted = if has_scopes {
        change_key(&mut db, &key.name, "create", now, |transaction| {
            transaction.execute(
                "INSERT INTO api_keys (name, hash, created, scopes, acts_as, expires, rate, addresses, no_text, unasked)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    key.name,
                    key.hash.as_slice(),
                    now.as_millis(),
                    key.scopes.to_string(),
                    key.acts_as.as_ref().map(crate::grant::UserPattern::as_str),
                    key.expires.map(|at| at.as_millis()),
                    key.rate,
                    key.addresses,
                    key.no_text,
                    key.unasked
                ],
            )
        })
    } else {
        let insert = "INSERT INTO api_keys (name, hash, created) VALUES (?1, ?2, ?3)";
        db.execute(insert, params![key.name, key.hash.as_slice(), now.as_millis()]).map(|rows| rows > 0)
    };
    match inserted {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Ok(false),
        inserted => Ok(inserted?),
    }
}

/// All keys, by name.
pub(crate) fn list(data: &Path) -> anyhow::Result<Vec<ApiKeyInfo>> {
    let db = open_shared(data)?;
    if !has_scopes(&db)? {
        let mut select =
            db.prepare("SELECT name, created, revoked IS NOT NULL FROM api_keys ORDER BY name")?;
        let keys = select.query_map([], |row| {
            Ok(ApiKeyInfo::from_earlier_version(
                row.get(0)?,
                Timestamp::from_millis(row.get(1)?),
                row.get(2)?,
            ))
        })?;
        return Ok(keys.collect::<Result<_, _>>()?);
    }
    let mut select = db.prepare(
        "SELECT k.name, k.created, k.revoked IS NOT NULL, k.scopes, k.acts_as, k.expires, k.rate, k.addresses, k.no_text,
            k.unasked, p.name, k.used, k.old_until
         FROM api_keys k LEFT JOIN api_keys p ON p.number = k.parent ORDER BY k.name",
    )?;
    let time = |at: Option<i64>| at.map(Timestamp::from_millis);
    let keys = select.query_map([], |row| {
        Ok(ApiKeyInfo {
            name: row.get(0)?,
            created: Timestamp::from_millis(row.get(1)?),
            revoked: row.get(2)?,
            scopes: Scopes::parse(row.get_ref(3)?.as_str()?),
            acts_as: row.get(4)?,
            expires: time(row.get(5)?),
            rate: row.get(6)?,
            addresses: row.get(7)?,
            no_text: row.get(8)?,
            unasked: row.get(9)?,
            parent: row.get(10)?,
            used: time(row.get(11)?),
            old_until: time(row.get(12)?),
        })
    })?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// Revokes a key and pauses its webhooks; `None` if there is no active key of this name.
pub(crate) fn revoke(data: &Path, name: &str, now: Timestamp) -> anyhow::Result<Option<Vec<String>>> {
    let mut db = open_shared(data)?;
    let update = "UPDATE api_keys SET revoked = ?2 WHERE name = ?1 AND revoked IS NULL";
    if !has_scopes(&db)? {
        return Ok((db.execute(update, params![name, now.as_millis()])? > 0).then(Vec::new));
    }
    let mut paused = Vec::new();
    let is_revoked = change_key(&mut db, name, "revoke", now, |transaction| {
        let rows = transaction.execute(update, params![name, now.as_millis()])?;
        let mut pause = transaction.prepare(
            "UPDATE webhooks SET paused = ?2 WHERE parent = (SELECT number FROM api_keys WHERE name = ?1) RETURNING name",
        )?;
        let names = pause.query_map(params![name, PARENT_REVOKED], |row| row.get(0))?;
        paused = names.collect::<Result<_, _>>()?;
        Ok(rows)
    })?;
    paused.sort_unstable();
    Ok(is_revoked.then_some(paused))
}

/// Gives a key another secret; `false` if there is no active key of this name.
pub(crate) fn rotate(
    data: &Path,
    name: &str,
    hash: &[u8; 32],
    old_until: Timestamp,
    now: Timestamp,
) -> anyhow::Result<bool> {
    let mut db = open_shared(data)?;
    check_rotatable(has_scopes(&db)?)?;
    Ok(change_key(&mut db, name, "rotate", now, |transaction| {
        transaction.execute(
            "UPDATE api_keys SET old_hash = hash, old_until = ?3, hash = ?2 WHERE name = ?1 AND revoked IS NULL",
            params![name, hash.as_slice(), old_until.as_millis()],
        )
    })?)
}

/// Makes the next server begin a new epoch of the feed.
pub(crate) fn begin_feed_epoch(data: &Path) -> anyhow::Result<()> {
    let _lock = lock(data)?;
    open_shared(data)?.execute("UPDATE feed_state SET epoch = ''", [])?;
    Ok(())
}

/// Whether the table has the columns of this version.
fn has_scopes(db: &Connection) -> rusqlite::Result<bool> {
    let select = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('api_keys') WHERE name = 'scopes')";
    db.query_row(select, [], |row| row.get(0))
}

/// Changes a key, and tells it to the feed in the same transaction. Returns whether a row was changed.
fn change_key(
    db: &mut Connection,
    name: &str,
    action: &str,
    now: Timestamp,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<usize>,
) -> rusqlite::Result<bool> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_changed = change(&transaction)? > 0;
    if is_changed {
        transaction.execute(
            "INSERT INTO feed_pending (type, at, via, body) VALUES ('audit.key', ?1, ?2, ?3)",
            params![now.as_millis(), Via::COMMAND_LINE.0, audit(name, action)],
        )?;
    }
    transaction.commit()?;
    Ok(is_changed)
}
