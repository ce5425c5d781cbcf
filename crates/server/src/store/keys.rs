//! The API keys of back ends: made, listed and revoked beside a running server or without one. The server may be of an older
//! version, so its tables stay as they are; the one of keys has been there from the first version on.

use std::path::Path;

use anyhow::bail;
use rusqlite::{ErrorCode, params};
use switchboard_protocol::Timestamp;

use super::sqlite::open_beside;
use crate::clock::Clock;

/// An API key as far as it can be shown: its secret is nowhere.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it is good no more.
    pub revoked: bool,
}

/// Stores a key's SHA-256 under a name in the database of the directory `data`.
///
/// # Errors
/// The name is taken, also by a revoked key; the database cannot be used.
pub fn create(data: &Path, name: &str, hash: &[u8; 32]) -> anyhow::Result<()> {
    let db = open_beside(data)?;
    let inserted = db.execute(
        "INSERT INTO api_keys (name, hash, created) VALUES (?1, ?2, ?3)",
        params![name, hash.as_slice(), Clock::system().now().as_millis()],
    );
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            bail!("there is a key called {name}; choose another name")
        }
        Err(error) => Err(error.into()),
    }
}

/// Every key, revoked ones too, by name.
pub fn list(data: &Path) -> anyhow::Result<Vec<KeyInfo>> {
    let db = open_beside(data)?;
    let mut select = db.prepare("SELECT name, created, revoked IS NOT NULL FROM api_keys ORDER BY name")?;
    let keys = select.query_map([], |row| {
        Ok(KeyInfo { name: row.get(0)?, created: Timestamp::from_millis(row.get(1)?), revoked: row.get(2)? })
    })?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// Makes a key good no more; `false` if there is no such key, or it was revoked before.
pub fn revoke(data: &Path, name: &str) -> anyhow::Result<bool> {
    let db = open_beside(data)?;
    let now = Clock::system().now().as_millis();
    Ok(db.execute(
        "UPDATE api_keys SET revoked = ?2 WHERE name = ?1 AND revoked IS NULL",
        params![name, now],
    )? > 0)
}
