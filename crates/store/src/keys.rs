//! Creates, lists and revokes the API keys of back ends, with or without a running server. The server may be of an older
//! version, so this does not migrate its tables; every version has the table of keys.

use std::path::{Path, PathBuf};

use anyhow::bail;
use rusqlite::{ErrorCode, params};
use switchboard_protocol::Timestamp;

use super::postgres;
use super::sqlite::open_shared;
use crate::clock::Clock;
pub use crate::record::KeyInfo;

/// Where the keys are stored: in the database of the server.
#[derive(Debug, Clone)]
pub enum KeyStore {
    /// The SQLite database in this directory.
    Directory(PathBuf),
    /// The PostgreSQL database that several nodes share.
    Shared {
        /// The URL of the database.
        url: String,
        /// A file with the root certificates that verify the database's certificate.
        ca: Option<PathBuf>,
    },
}

/// Stores a key's SHA-256 under a name.
///
/// # Errors
/// The name is taken, also by a revoked key; the database cannot be used.
pub fn create(store: &KeyStore, name: &str, hash: &[u8; 32]) -> anyhow::Result<()> {
    let created = match store {
        KeyStore::Directory(data) => create_in(data, name, hash)?,
        KeyStore::Shared { url, ca } => postgres::keys::create(url, ca.as_deref(), name, hash)?,
    };
    if !created {
        bail!("there is a key called {name}; choose another name");
    }
    Ok(())
}

/// Stores a key in SQLite; `false` if the name is taken.
fn create_in(data: &Path, name: &str, hash: &[u8; 32]) -> anyhow::Result<bool> {
    let db = open_shared(data)?;
    let inserted = db.execute(
        "INSERT INTO api_keys (name, hash, created) VALUES (?1, ?2, ?3)",
        params![name, hash.as_slice(), Clock::system().now().as_millis()],
    );
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// All keys, including revoked ones, by name.
pub fn list(store: &KeyStore) -> anyhow::Result<Vec<KeyInfo>> {
    let data = match store {
        KeyStore::Directory(data) => data,
        KeyStore::Shared { url, ca } => return postgres::keys::list(url, ca.as_deref()),
    };
    let db = open_shared(data)?;
    let mut select = db.prepare("SELECT name, created, revoked IS NOT NULL FROM api_keys ORDER BY name")?;
    let keys = select.query_map([], |row| {
        Ok(KeyInfo { name: row.get(0)?, created: Timestamp::from_millis(row.get(1)?), revoked: row.get(2)? })
    })?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// Revokes a key; `false` if there is no such key, or if it is already revoked.
pub fn revoke(store: &KeyStore, name: &str) -> anyhow::Result<bool> {
    let data = match store {
        KeyStore::Directory(data) => data,
        KeyStore::Shared { url, ca } => return postgres::keys::revoke(url, ca.as_deref(), name),
    };
    let db = open_shared(data)?;
    let now = Clock::system().now().as_millis();
    Ok(db.execute(
        "UPDATE api_keys SET revoked = ?2 WHERE name = ?1 AND revoked IS NULL",
        params![name, now],
    )? > 0)
}
