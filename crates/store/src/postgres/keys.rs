//! The table of API keys in PostgreSQL, for a process beside the nodes.

use std::path::Path;

use switchboard_protocol::Timestamp;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Transaction};

use super::connect::BlockingConnection;
use super::target::Target;
use super::{migrate, moving};
use crate::grant::{NewKey, Scopes, UserPattern, audit, check_rotatable};
use crate::key::Via;
use crate::record::ApiKeyInfo;
use crate::webhook::PARENT_REVOKED;

/// Stores a key. Returns `false` if the name is taken.
pub(crate) fn create(url: &str, ca: Option<&Path>, key: &NewKey, now: Timestamp) -> anyhow::Result<bool> {
    with_connection(url, ca, async |client| {
        let has_scopes = has_scopes(client).await?;
        key.check_storable(has_scopes)?;
        let (hash, at) = (key.hash.as_slice(), now.as_millis());
        if !has_scopes {
            let insert = "INSERT INTO api_keys (name, hash, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
            return Ok(client.execute(insert, &[&key.name, &hash, &at]).await? > 0);
        }
        let insert = "INSERT INTO api_keys (name, hash, created, scopes, acts_as, expires, rate, addresses, no_text, unasked)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (name) DO NOTHING";
        let (scopes, acts_as) = (key.scopes.to_string(), key.acts_as.as_ref().map(UserPattern::as_str));
        let (expires, rate) = (key.expires.map(|at| at.as_millis()), key.rate.map(i64::from));
        let values: [&(dyn ToSql + Sync); 10] = [
            &key.name,
            &hash,
            &at,
            &scopes,
            &acts_as,
            &expires,
            &rate,
            &key.addresses,
            &key.no_text,
            &key.unasked,
        ];
        change_key(client, &key.name, "create", now, async |transaction| {
            Ok(transaction.execute(insert, &values).await?)
        })
        .await
    })
}

/// All keys, by name.
pub(crate) fn list(url: &str, ca: Option<&Path>) -> anyhow::Result<Vec<ApiKeyInfo>> {
    with_connection(url, ca, async |client| {
        if !has_scopes(client).await? {
            let select = "SELECT name, created, revoked IS NOT NULL FROM api_keys ORDER BY name";
            let rows = client.query(select, &[]).await?;
            let keys = rows.iter().map(|row| {
                let created = Timestamp::from_millis(row.try_get(1)?);
                Ok(ApiKeyInfo::from_earlier_version(row.try_get(0)?, created, row.try_get(2)?))
            });
            return keys.collect();
        }
        let select = "SELECT k.name, k.created, k.revoked IS NOT NULL, k.scopes, k.acts_as, k.expires, k.rate, k.addresses,
                k.no_text, k.unasked, p.name, k.used, k.old_until
            FROM api_keys k LEFT JOIN api_keys p ON p.number = k.parent ORDER BY k.name";
        let rows = client.query(select, &[]).await?;
        let time = |at: Option<i64>| at.map(Timestamp::from_millis);
        let keys = rows.iter().map(|row| {
            Ok(ApiKeyInfo {
                name: row.try_get(0)?,
                created: Timestamp::from_millis(row.try_get(1)?),
                revoked: row.try_get(2)?,
                scopes: Scopes::parse(row.try_get(3)?),
                acts_as: row.try_get(4)?,
                expires: time(row.try_get(5)?),
                rate: row.try_get::<_, Option<i64>>(6)?.and_then(|rate| u32::try_from(rate).ok()),
                addresses: row.try_get(7)?,
                no_text: row.try_get(8)?,
                unasked: row.try_get(9)?,
                parent: row.try_get(10)?,
                used: time(row.try_get(11)?),
                old_until: time(row.try_get(12)?),
            })
        });
        keys.collect()
    })
}

/// Revokes a key and pauses its webhooks. Returns `None` if no active key has this name.
pub(crate) fn revoke(
    url: &str,
    ca: Option<&Path>,
    name: &str,
    now: Timestamp,
) -> anyhow::Result<Option<Vec<String>>> {
    with_connection(url, ca, async |client| {
        let update = "UPDATE api_keys SET revoked = $2 WHERE name = $1 AND revoked IS NULL";
        let values: [&(dyn ToSql + Sync); 2] = [&name, &now.as_millis()];
        if !has_scopes(client).await? {
            return Ok((client.execute(update, &values).await? > 0).then(Vec::new));
        }
        let mut paused = Vec::new();
        let is_revoked = change_key(client, name, "revoke", now, async |transaction| {
            let revoked = transaction.execute(update, &values).await?;
            if revoked > 0 {
                // A statement of its own, so that it sees what was added until the key's row was locked.
                let pause = "UPDATE webhooks SET paused = $2 WHERE parent = (SELECT number FROM api_keys WHERE name = $1) RETURNING name";
                let rows = transaction.query(pause, &[&name, &PARENT_REVOKED]).await?;
                paused = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
            }
            Ok(revoked)
        })
        .await?;
        paused.sort_unstable();
        Ok(is_revoked.then_some(paused))
    })
}

/// Gives a key another secret. Returns `false` if no active key has this name.
pub(crate) fn rotate(
    url: &str,
    ca: Option<&Path>,
    name: &str,
    hash: &[u8; 32],
    old_until: Timestamp,
    now: Timestamp,
) -> anyhow::Result<bool> {
    with_connection(url, ca, async |client| {
        check_rotatable(has_scopes(client).await?)?;
        let update = "UPDATE api_keys SET old_hash = hash, old_until = $3, hash = $2 WHERE name = $1 AND revoked IS NULL";
        let values: [&(dyn ToSql + Sync); 3] = [&name, &hash.as_slice(), &old_until.as_millis()];
        change_key(client, name, "rotate", now, async |transaction| {
            Ok(transaction.execute(update, &values).await?)
        })
        .await
    })
}

/// Begins a new epoch of the feed.
pub(crate) fn begin_feed_epoch(url: &str, ca: Option<&Path>) -> anyhow::Result<()> {
    with_connection(url, ca, async |client| {
        let update = "UPDATE feed_state SET epoch = substr(md5(gen_random_uuid()::text), 1, 8)";
        client.execute(update, &[]).await?;
        Ok(())
    })
}

/// Whether the table has the columns of this version.
async fn has_scopes(client: &Client) -> anyhow::Result<bool> {
    let select = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'api_keys'::regclass AND attname = 'scopes')";
    Ok(client.query_one(select, &[]).await?.try_get(0)?)
}

/// Changes a key, and tells it to the feed in the same transaction. `change` returns how many rows it changed. Returns whether a row
/// was changed.
async fn change_key(
    client: &mut Client,
    name: &str,
    action: &str,
    now: Timestamp,
    change: impl AsyncFnOnce(&Transaction<'_>) -> anyhow::Result<u64>,
) -> anyhow::Result<bool> {
    let transaction = client.transaction().await?;
    let is_changed = change(&transaction).await? > 0;
    if is_changed {
        let insert = "INSERT INTO feed_pending (type, at, via, body) VALUES ('audit.key', $1, $2, $3)";
        let (at, body) = (now.as_millis(), audit(name, action));
        transaction.execute(insert, &[&at, &Via::COMMAND_LINE.0, &body]).await?;
    }
    transaction.commit().await?;
    Ok(is_changed)
}

/// Runs `work` on a new connection in a new thread, because the caller's thread may be async and must not block.
pub(super) fn with_connection<T: Send>(
    url: &str,
    ca: Option<&Path>,
    work: impl AsyncFnOnce(&mut Client) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let target = Target::new(url, ca)?;
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let mut link = BlockingConnection::open(&target)?;
            // The tables are not migrated, because running nodes may be of an older version.
            let has_tables = link.run_alone(async |client| -> anyhow::Result<bool> {
                let row = client.query_one("SELECT to_regclass('api_keys') IS NOT NULL", &[]).await?;
                Ok(row.try_get(0)?)
            });
            if !has_tables? {
                migrate(&mut link)?;
            }
            moving::check_finished(&mut link)?;
            link.run_alone(work)
        });
        done.join().map_err(|_| anyhow::anyhow!("a bug: the thread of the database connection panicked"))?
    })
}
