//! Users who are away: who went offline, and who has missed a message meanwhile. A server uses these rows on a connection of its
//! own, because they concern many users at once and must not wait in the queue of writes.
//!
//! A database that several nodes share has a row for each user and node that the user is connected to. The transaction that
//! removes a user's last row adds `user.offline` to the feed, so there is one entry, on whichever nodes the user was. The rows
//! of a node that has not said for a while that it lives are removed by the others.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use switchboard_protocol::{Seq, Timestamp, UserId};

use super::{postgres, sqlite};
use crate::key::{ConversationKey, UserKey};
pub use crate::webhook::Lease;

/// The consumer of the feed that finds what users have missed.
pub(crate) const CONSUMER: &str = "missed";

/// A question for what users have missed.
#[derive(Debug, Clone, Copy)]
pub struct MissedQuery {
    /// The number in the feed after which messages are examined.
    pub after: u64,
    /// Only messages that were stored up to this time are examined.
    pub before: Timestamp,
    /// Rooms with more members are left out.
    pub most_members: u32,
}

/// What users have missed.
#[derive(Debug, Clone, Default)]
pub struct MissedPage {
    /// The number in the feed up to which messages were examined.
    pub next: u64,
    /// Whether there is more to examine now.
    pub more: bool,
    /// One item for each user and conversation.
    pub messages: Vec<MissedMessage>,
}

/// What a user has missed in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedMessage {
    /// The user's key.
    pub user: UserKey,
    /// The user.
    pub name: UserId,
    /// When the user was last seen, in milliseconds since the Unix epoch; 0 for never.
    pub absence: i64,
    /// The conversation.
    pub conversation: ConversationKey,
    /// How many of its messages the user has not read.
    pub unread: u64,
    /// The last of them that was examined.
    pub seq: Seq,
    /// When that was stored, in milliseconds since the Unix epoch.
    pub at: i64,
}

/// The entry `user.missed`, as it is stored: the conversation is a key, because its id may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MissedEntry {
    /// In how many conversations messages were missed.
    pub(crate) conversations: u64,
    /// How many messages of them are unread.
    pub(crate) messages: u64,
    /// The latest of the messages.
    pub(crate) latest: (ConversationKey, Seq),
    /// Since when the user is away; `None` for a user who was never connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
}

impl MissedEntry {
    /// The type of the entry.
    pub(crate) const KIND: &str = "user.missed";

    /// One entry for each user.
    pub(crate) fn of_users(messages: &[MissedMessage]) -> Vec<(UserKey, Self)> {
        let mut users = BTreeMap::<UserKey, Vec<&MissedMessage>>::new();
        for missed in messages {
            users.entry(missed.user).or_default().push(missed);
        }
        let entry = |(user, messages): (UserKey, Vec<&MissedMessage>)| {
            let latest = messages.iter().max_by_key(|missed| (missed.at, missed.conversation))?;
            let entry = Self {
                conversations: messages.len() as u64,
                messages: messages.iter().map(|missed| missed.unread).sum(),
                latest: (latest.conversation, latest.seq),
                since: (latest.absence > 0).then(|| Timestamp::from_millis(latest.absence)),
            };
            Some((user, entry))
        };
        users.into_iter().filter_map(entry).collect()
    }
}

/// What has changed on a node since it last said so.
#[derive(Debug, Clone, Default)]
pub struct Attendance {
    /// Users who connected.
    pub arrived: Vec<UserId>,
    /// Users who went offline. A user may have arrived, too: they came before they left.
    pub departed: Vec<UserId>,
    /// Whether users who come online have an entry `user.online`.
    pub tells_online: bool,
    /// Whether `arrived` has every user of the node.
    pub is_complete: bool,
}

/// A connection to the rows of users who are away. All calls block.
pub struct Absences(Db);

enum Db {
    Sqlite(Box<sqlite::absences::Db>),
    Postgres(Box<postgres::absences::Db>),
}

macro_rules! on_both {
    ($self:ident, $db:ident => $call:expr) => {
        match &mut $self.0 {
            Db::Sqlite($db) => $call,
            Db::Postgres($db) => $call,
        }
    };
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
    /// of the database: nothing was stored, and the node says again who all is connected to it. SQLite needs none of it.
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
        on_both!(self, db => db.claim_missed(lease, last, now))
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
        on_both!(self, db => db.save_missed(lease, position, missed, now))
    }
}
