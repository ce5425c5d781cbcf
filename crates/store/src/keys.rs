//! Creates, lists, rotates and revokes the API keys of back ends, with or without a running server. The server may be of an
//! older version, so this does not migrate its tables; every version has the table of keys.

use std::path::PathBuf;

use anyhow::bail;
use switchboard_protocol::Timestamp;

use super::postgres;
use super::sqlite::keys as sqlite;
use crate::clock::Clock;
pub use crate::grant::NewKey;
pub use crate::record::ApiKeyInfo;

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

/// Stores a key.
///
/// # Errors
/// The name is taken, also by a revoked key; the database cannot be used, or cannot store such a key yet.
pub fn create(store: &KeyStore, key: &NewKey) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let created = match store {
        KeyStore::Directory(data) => sqlite::create(data, key, now)?,
        KeyStore::Shared { url, ca } => postgres::keys::create(url, ca.as_deref(), key, now)?,
    };
    if !created {
        bail!("there is a key called {}; choose another name", key.name);
    }
    Ok(())
}

/// All keys, including revoked ones, by name.
pub fn list(store: &KeyStore) -> anyhow::Result<Vec<ApiKeyInfo>> {
    match store {
        KeyStore::Directory(data) => sqlite::list(data),
        KeyStore::Shared { url, ca } => postgres::keys::list(url, ca.as_deref()),
    }
}

/// Revokes a key, and pauses the webhooks that it added. Returns their names; `None` if there is no such key, or if it is already
/// revoked.
pub fn revoke(store: &KeyStore, name: &str) -> anyhow::Result<Option<Vec<String>>> {
    let now = Clock::system().now();
    match store {
        KeyStore::Directory(data) => sqlite::revoke(data, name, now),
        KeyStore::Shared { url, ca } => postgres::keys::revoke(url, ca.as_deref(), name, now),
    }
}

/// Gives a key another secret. The one before is good for `overlap` milliseconds more. Returns `false` if there is no such
/// key, or if it is revoked.
pub fn rotate(store: &KeyStore, name: &str, hash: &[u8; 32], overlap: i64) -> anyhow::Result<bool> {
    let now = Clock::system().now();
    let until = Timestamp::from_millis(now.as_millis().saturating_add(overlap));
    match store {
        KeyStore::Directory(data) => sqlite::rotate(data, name, hash, until, now),
        KeyStore::Shared { url, ca } => postgres::keys::rotate(url, ca.as_deref(), name, hash, until, now),
    }
}

/// Begins a new epoch of the feed in a database that was restored: every cursor of before is refused from then on. A server on
/// SQLite must be stopped; nodes on PostgreSQL need not be.
///
/// # Errors
/// The database cannot be used, or a server uses it.
pub fn begin_feed_epoch(store: &KeyStore) -> anyhow::Result<()> {
    match store {
        KeyStore::Directory(data) => sqlite::begin_feed_epoch(data),
        KeyStore::Shared { url, ca } => postgres::keys::begin_feed_epoch(url, ca.as_deref()),
    }
}
