//! The rows of users who are away, in SQLite. One process serves the database, so nothing is leased.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use switchboard_protocol::{Timestamp, UserId};

use super::open_shared;
use super::rows::user_id;
use crate::absence::{CONSUMER, MissedEntry, MissedMessage};
use crate::key::Via;
use crate::webhook::Lease;

const INSERT_ENTRY: &str = "INSERT INTO feed_pending (type, at, user, via, body) VALUES (?1, ?2, ?3, ?4, ?5)";

pub(crate) struct Db(Connection);

impl Db {
    pub(crate) fn open(data: &Path) -> anyhow::Result<Self> {
        Ok(Self(open_shared(data)?))
    }

    pub(crate) fn connected_at_stop(&self) -> anyhow::Result<Vec<UserId>> {
        let mut select =
            self.0.prepare_cached("SELECT c.user, u.name FROM connected c JOIN users u ON u.id = c.user")?;
        let mut rows = select.query([])?;
        let mut users = Vec::new();
        while let Some(row) = rows.next()? {
            let key: i64 = row.get(0)?;
            match user_id(row, 1) {
                Ok(user) => users.push(user),
                Err(error) => tracing::error!(user = key, "the name of a user cannot be read: {error}"),
            }
        }
        Ok(users)
    }

    pub(crate) fn forget_connected_at_stop(&mut self, gone: &[UserId], now: Timestamp) -> anyhow::Result<()> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut find = transaction.prepare_cached(
                "SELECT u.id FROM users u JOIN connected c ON c.user = u.id WHERE u.name = ?1",
            )?;
            let mut insert = transaction.prepare_cached(INSERT_ENTRY)?;
            for user in gone {
                let user = find.query_row([user.as_str()], |row| row.get::<_, i64>(0)).optional()?;
                if let Some(user) = user {
                    insert.execute(params!["user.offline", now.as_millis(), user, Via::USER.0, "{}"])?;
                }
            }
        }
        transaction.execute("DELETE FROM connected", [])?;
        Ok(transaction.commit()?)
    }

    pub(crate) fn claim_missed(
        &self,
        lease: &Lease,
        last: u64,
        now: Timestamp,
    ) -> anyhow::Result<Option<u64>> {
        let select = "SELECT position FROM consumers WHERE name = ?1";
        let position = self.0.query_row(select, [CONSUMER], |row| row.get(0)).optional()?;
        if position.is_some() {
            return Ok(position);
        }
        let insert = "INSERT INTO consumers (name, epoch, position, at, node)
            SELECT ?1, epoch, ?2, ?3, ?4 FROM feed_state";
        self.0.execute(insert, params![CONSUMER, last, now.as_millis(), lease.node])?;
        Ok(Some(last))
    }

    pub(crate) fn save_missed(
        &mut self,
        lease: &Lease,
        position: u64,
        missed: &[MissedMessage],
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO missed (user, conversation, absence, seq) VALUES (?1, ?2, ?3, ?4)",
            )?;
            for missed in missed {
                insert.execute(params![
                    missed.user.0,
                    missed.conversation.0,
                    missed.absence,
                    missed.seq.0
                ])?;
            }
            let mut insert = transaction.prepare_cached(INSERT_ENTRY)?;
            for (user, entry) in MissedEntry::of_users(missed) {
                let body = serde_json::to_string(&entry)?;
                insert.execute(params![MissedEntry::KIND, now.as_millis(), user.0, Via::USER.0, body])?;
            }
        }
        transaction.execute(
            "UPDATE consumers SET position = ?2, at = ?3, node = ?4 WHERE name = ?1",
            params![CONSUMER, position, now.as_millis(), lease.node],
        )?;
        transaction.commit()?;
        Ok(true)
    }
}
