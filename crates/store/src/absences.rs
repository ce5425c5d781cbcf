//! Users who are away: who went offline, and who has missed a message meanwhile. A server uses these rows on a connection of its
//! own, because they concern many users at once and must not wait in the queue of writes.
//!
//! A database that several nodes share has a row for each user and node that the user is connected to. The transaction that
//! removes a user's last row adds `user.offline` to the feed, so there is one entry, on whichever nodes the user was. The rows
//! of a node that has not said for a while that it lives are removed by the others.

use std::path::Path;

use switchboard_protocol::{Timestamp, UserId};

use super::{postgres, sqlite};
pub use crate::absence::{Attendance, MissedMessage, MissedPage, MissedQuery};
pub use crate::webhook::Lease;

/// A connection to the rows of users who are away. All calls block.
pub struct Absences(Db);

enum Db {
    Sqlite(Box<sqlite::absences::Db>),
    Postgres(Box<postgres::absences::Db>),
}

impl Absences {
    /// Opens the SQLite database in a directory.
    ///
    /// # Errors
    /// The database cannot be used.
    pub fn open_directory(data: &Path) -> anyhow::Result<Self> {
        Ok(Self(Db::Sqlite(Box::new(sqlite::absences::Db::open(data)?))))
    }

    /// Connects to the PostgreSQL database that several nodes share.
    ///
    /// # Errors
    /// The database cannot be used.
    pub fn open_shared(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self(Db::Postgres(Box::new(postgres::absences::Db::open(url, ca)?))))
    }

    /// Renews the row of a node, and stores who came and who went. `false` if the database does not know the node, as after a crash
    /// of the database: nothing was stored, and the node stores all of its users again. SQLite needs none of it.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn update(&mut self, lease: &Lease, changes: &Attendance, now: Timestamp) -> anyhow::Result<bool> {
        match &mut self.0 {
            Db::Sqlite(_) => Ok(true),
            Db::Postgres(db) => db.update(lease, changes, now),
        }
    }

    /// Removes some of the users of nodes that have not renewed their rows for `grace` milliseconds beyond their leases. Returns how
    /// many rows were removed: 0 if there is no such node.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn remove_lost(&mut self, lease: &Lease, grace: i64, now: Timestamp) -> anyhow::Result<usize> {
        match &mut self.0 {
            Db::Sqlite(_) => Ok(0),
            Db::Postgres(db) => db.remove_lost(lease, grace, now),
        }
    }

    /// Ends the lease of a node that stops. Its users stay for the grace period, because they connect to another node.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn end_lease(&mut self, lease: &Lease) -> anyhow::Result<()> {
        match &mut self.0 {
            Db::Sqlite(_) => Ok(()),
            Db::Postgres(db) => db.end_lease(lease),
        }
    }

    /// The users who were connected when the server stopped last. PostgreSQL has none: another node, or the next, removes them.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn connected_at_stop(&mut self) -> anyhow::Result<Vec<UserId>> {
        match &mut self.0 {
            Db::Sqlite(db) => db.connected_at_stop(),
            Db::Postgres(_) => Ok(Vec::new()),
        }
    }

    /// Forgets who was connected when the server stopped. Those in `gone` went offline.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn forget_connected_at_stop(&mut self, gone: &[UserId], now: Timestamp) -> anyhow::Result<()> {
        match &mut self.0 {
            Db::Sqlite(db) => db.forget_connected_at_stop(gone, now),
            Db::Postgres(_) => Ok(()),
        }
    }

    /// Claims the consumer that finds what users have missed, or renews the claim. Returns the number in the feed up to which it has
    /// come; `None` if another node has it. A new consumer begins after the number `last`.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn claim_missed(&mut self, lease: &Lease, last: u64, now: Timestamp) -> anyhow::Result<Option<u64>> {
        match &mut self.0 {
            Db::Sqlite(db) => db.claim_missed(lease, last, now),
            Db::Postgres(db) => db.claim_missed(lease, last, now),
        }
    }

    /// Stores how far the consumer has come, and entries of the feed for what users have missed. `false` if another node has it by
    /// now: nothing was stored.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn save_missed(
        &mut self,
        lease: &Lease,
        position: u64,
        missed: &[MissedMessage],
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        match &mut self.0 {
            Db::Sqlite(db) => db.save_missed(lease, position, missed, now),
            Db::Postgres(db) => db.save_missed(lease, position, missed, now),
        }
    }
}
