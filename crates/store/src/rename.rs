//! Gives a user another id, beside a running server or without one.
//!
//! Events, memberships and reactions name users by number, so they do not change. The names of the user's direct conversations
//! contain the id, and change in the same transaction. A server that runs reads them anew: on SQLite its writer drops its cached rows
//! when another connection has committed, and on PostgreSQL no cached row outlives a transaction.

use super::postgres;
use super::sqlite::rename as sqlite;
use crate::clock::Clock;
use crate::keys::KeyStore;
pub use crate::new_id::{Rename, RenamedConversations};
use crate::refusal::Refusal;

/// Gives a user another id. The old one is never given again. A repeated call has no effect and succeeds.
///
/// # Errors
/// The database cannot be used. The inner error is a refusal: there is no such user, or the new id was used before.
pub fn rename_user(
    store: &KeyStore,
    rename: &Rename,
) -> anyhow::Result<Result<RenamedConversations, Refusal>> {
    let now = Clock::system().now();
    match store {
        KeyStore::Directory(data) => sqlite::rename(data, rename, now),
        KeyStore::Shared { url, ca } => postgres::rename::rename(url, ca.as_deref(), rename, now),
    }
}
