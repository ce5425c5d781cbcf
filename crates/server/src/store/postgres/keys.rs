//! The API keys of back ends, for whoever makes and revokes them.

use std::path::Path;

use switchboard_protocol::Timestamp;
use tokio_postgres::Client;

use super::connect::Link;
use super::target::Target;
use super::{migrate, moving};
use crate::clock::Clock;
use crate::store::keys::KeyInfo;

/// Stores a key's hash under a name; `false` if the name is taken.
pub(in crate::store) fn create(
    url: &str,
    ca: Option<&Path>,
    name: &str,
    hash: &[u8; 32],
) -> anyhow::Result<bool> {
    let now = Clock::system().now().as_millis();
    with(url, ca, async |client| {
        let insert =
            "INSERT INTO api_keys (name, hash, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
        Ok(client.execute(insert, &[&name, &hash.as_slice(), &now]).await? > 0)
    })
}

/// Every key, by name.
pub(in crate::store) fn list(url: &str, ca: Option<&Path>) -> anyhow::Result<Vec<KeyInfo>> {
    with(url, ca, async |client| {
        let select = "SELECT name, created, revoked IS NOT NULL FROM api_keys ORDER BY name";
        let rows = client.query(select, &[]).await?;
        let keys = rows.iter().map(|row| {
            let created = Timestamp::from_millis(row.try_get(1)?);
            Ok(KeyInfo { name: row.try_get(0)?, created, revoked: row.try_get(2)? })
        });
        keys.collect()
    })
}

/// Makes a key good no more; `false` if there is none.
pub(in crate::store) fn revoke(url: &str, ca: Option<&Path>, name: &str) -> anyhow::Result<bool> {
    let now = Clock::system().now().as_millis();
    with(url, ca, async |client| {
        let update = "UPDATE api_keys SET revoked = $2 WHERE name = $1 AND revoked IS NULL";
        Ok(client.execute(update, &[&name, &now]).await? > 0)
    })
}

/// Does something with a connection of its own, on a thread of its own: whoever asks may be serving others.
fn with<T: Send>(
    url: &str,
    ca: Option<&Path>,
    work: impl AsyncFnOnce(&mut Client) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let target = Target::new(url, ca)?;
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let mut link = Link::open(&target)?;
            // The nodes may be of an older version, so their tables stay as they are.
            let made = link.run_alone(async |client| -> anyhow::Result<bool> {
                let row = client.query_one("SELECT to_regclass('api_keys') IS NOT NULL", &[]).await?;
                Ok(row.try_get(0)?)
            });
            if !made? {
                migrate(&mut link)?;
            }
            moving::check_finished(&mut link)?;
            link.run_alone(work)
        });
        done.join().map_err(|_| anyhow::anyhow!("a bug: the thread that asked the database panicked"))?
    })
}
