//! Creates, lists and revokes the API keys of back ends.

use std::path::Path;

use switchboard_protocol::Timestamp;
use tokio_postgres::Client;

use super::connect::BlockingConnection;
use super::target::Target;
use super::{migrate, moving};
use crate::clock::Clock;
use crate::record::KeyInfo;

/// Stores a key's hash under a name. Returns `false` if the name is taken.
pub(crate) fn create(url: &str, ca: Option<&Path>, name: &str, hash: &[u8; 32]) -> anyhow::Result<bool> {
    let now = Clock::system().now().as_millis();
    with_connection(url, ca, async |client| {
        let insert =
            "INSERT INTO api_keys (name, hash, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
        Ok(client.execute(insert, &[&name, &hash.as_slice(), &now]).await? > 0)
    })
}

/// All keys, by name.
pub(crate) fn list(url: &str, ca: Option<&Path>) -> anyhow::Result<Vec<KeyInfo>> {
    with_connection(url, ca, async |client| {
        let select = "SELECT name, created, revoked IS NOT NULL FROM api_keys ORDER BY name";
        let rows = client.query(select, &[]).await?;
        let keys = rows.iter().map(|row| {
            let created = Timestamp::from_millis(row.try_get(1)?);
            Ok(KeyInfo { name: row.try_get(0)?, created, revoked: row.try_get(2)? })
        });
        keys.collect()
    })
}

/// Revokes a key. Returns `false` if no active key has this name.
pub(crate) fn revoke(url: &str, ca: Option<&Path>, name: &str) -> anyhow::Result<bool> {
    let now = Clock::system().now().as_millis();
    with_connection(url, ca, async |client| {
        let update = "UPDATE api_keys SET revoked = $2 WHERE name = $1 AND revoked IS NULL";
        Ok(client.execute(update, &[&name, &now]).await? > 0)
    })
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
