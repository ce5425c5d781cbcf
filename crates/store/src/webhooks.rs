//! Endpoints that the feed is sent to, and how far each has come. A server and the command line use these rows on a connection
//! of their own, because sending is slow and must not wait in the queue of writes.

use std::path::Path;

use switchboard_protocol::Timestamp;

use super::{postgres, sqlite};
use crate::clock::Clock;
pub use crate::webhook::{AT_END, Lease, NewWebhook, Progress, Webhook};

/// A connection to the rows of the webhooks. All calls block.
pub struct Webhooks(Db);

enum Db {
    Sqlite(Box<sqlite::webhooks::Db>),
    Postgres(Box<postgres::webhooks::Db>),
}

macro_rules! on_both {
    ($self:ident, $db:ident => $call:expr) => {
        match &mut $self.0 {
            Db::Sqlite($db) => $call,
            Db::Postgres($db) => $call,
        }
    };
}

impl Webhooks {
    /// Opens the SQLite database in a directory.
    ///
    /// # Errors
    /// The database cannot be used, or has no such table yet.
    pub fn open_directory(data: &Path) -> anyhow::Result<Self> {
        Ok(Self(Db::Sqlite(Box::new(sqlite::webhooks::Db::open(data)?))))
    }

    /// Connects to the PostgreSQL database that several nodes share.
    ///
    /// # Errors
    /// The database cannot be used, or has no such table yet.
    pub fn open_shared(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self(Db::Postgres(Box::new(postgres::webhooks::Db::open(url, ca)?))))
    }

    /// All webhooks, by name.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn list(&mut self) -> anyhow::Result<Vec<Webhook>> {
        on_both!(self, db => db.list())
    }

    /// Adds a webhook; `false` if the name is taken, or if the key that adds it was revoked meanwhile.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn add(&mut self, new: &NewWebhook) -> anyhow::Result<bool> {
        let now = Clock::system().now();
        on_both!(self, db => db.add(new, now))
    }

    /// Removes a webhook; `false` if there is none.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn remove(&mut self, name: &str) -> anyhow::Result<bool> {
        on_both!(self, db => db.remove(name))
    }

    /// Pauses a webhook; `false` if there is none.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn pause(&mut self, name: &str, why: &str) -> anyhow::Result<bool> {
        on_both!(self, db => db.pause(name, why))
    }

    /// Lets a webhook go on; `false` if there is none. If its key is revoked or has expired, it belongs to the key with the number
    /// `by` from then on, or to the command line.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn resume(&mut self, name: &str, by: Option<i32>) -> anyhow::Result<bool> {
        let now = Clock::system().now();
        on_both!(self, db => db.resume(name, by, now))
    }

    /// Gives a webhook its next secret. The one before signs as well for `overlap` milliseconds. Returns the version of the
    /// secret; `None` if there is no such webhook.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn rotate(&mut self, name: &str, overlap: i64) -> anyhow::Result<Option<i32>> {
        let until = Clock::system().now().as_millis().saturating_add(overlap);
        on_both!(self, db => db.rotate(name, until))
    }

    /// Moves a webhook to another position; `false` if there is none.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn move_to(&mut self, name: &str, epoch: &str, position: i64, state: &str) -> anyhow::Result<bool> {
        let now = Clock::system().now();
        on_both!(self, db => db.move_to(name, (epoch, position), state, now))
    }

    /// The epoch of the feed, and the number before the entries of a time: before the first page that was written then or later.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn position_at(&mut self, at: Timestamp) -> anyhow::Result<(String, i64)> {
        on_both!(self, db => db.position_at(at))
    }

    /// Claims the webhooks that no other node has, or renews the lease on them. Returns the names of those that this node has.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn claim(&mut self, lease: &Lease) -> anyhow::Result<Vec<String>> {
        on_both!(self, db => db.claim(lease))
    }

    /// Gives back the webhooks of this node.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn release(&mut self, lease: &Lease) -> anyhow::Result<()> {
        on_both!(self, db => db.release(lease))
    }

    /// Stores where a webhook stands; `false` if another node has it now, or if an operator has moved it.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn save(&mut self, lease: &Lease, progress: &Progress) -> anyhow::Result<bool> {
        let now = Clock::system().now();
        on_both!(self, db => db.save(lease, progress, now))
    }
}
