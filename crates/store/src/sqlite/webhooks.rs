//! The rows of the webhooks in SQLite. One process serves the database, so nothing is leased.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params};
use switchboard_protocol::Timestamp;

use super::open_shared;
use crate::webhook::{CONSUMER, Lease, NewWebhook, Progress, Webhook};

const LIST: &str = "SELECT w.name, w.created, w.settings, w.version, w.old_until, w.paused, c.epoch, c.position, c.at, c.node,
    c.generation, c.state, k.name, k.expires FROM webhooks w JOIN consumers c ON c.name = 'webhook:' || w.name
    LEFT JOIN api_keys k ON k.number = w.parent ORDER BY w.name";

pub(crate) struct Db(Connection);

impl Db {
    pub(crate) fn open(data: &Path) -> anyhow::Result<Self> {
        let db = open_shared(data)?;
        let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'webhooks')";
        let exists: bool = db.query_row(exists, [], |row| row.get(0))?;
        anyhow::ensure!(
            exists,
            "the database is of an earlier version, which has no webhooks: start this version of the server on it first"
        );
        Ok(Self(db))
    }

    pub(crate) fn list(&mut self) -> anyhow::Result<Vec<Webhook>> {
        let mut select = self.0.prepare_cached(LIST)?;
        let rows = select.query_map([], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn add(&mut self, new: &NewWebhook, now: Timestamp) -> anyhow::Result<bool> {
        let NewWebhook { name, settings, epoch, position, parent } = new;
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let insert =
            "INSERT INTO webhooks (name, created, settings, version, parent) SELECT ?1, ?2, ?3, 1, ?4
            WHERE ?4 IS NULL OR EXISTS (SELECT 1 FROM api_keys WHERE number = ?4 AND revoked IS NULL)
            ON CONFLICT DO NOTHING";
        if transaction.execute(insert, params![name, now.as_millis(), settings, parent])? == 0 {
            return Ok(false);
        }
        let insert = "INSERT INTO consumers (name, epoch, position, at) VALUES (?1, ?2, ?3, ?4)";
        transaction
            .execute(insert, params![format!("{CONSUMER}{name}"), epoch, position, now.as_millis()])?;
        transaction.commit()?;
        Ok(true)
    }

    pub(crate) fn remove(&mut self, name: &str) -> anyhow::Result<bool> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let rows = transaction.execute("DELETE FROM webhooks WHERE name = ?1", [name])?;
        transaction.execute("DELETE FROM consumers WHERE name = ?1", [format!("{CONSUMER}{name}")])?;
        transaction.commit()?;
        Ok(rows > 0)
    }

    pub(crate) fn pause(&mut self, name: &str, why: &str) -> anyhow::Result<bool> {
        Ok(self.0.execute("UPDATE webhooks SET paused = ?2 WHERE name = ?1", params![name, why])? > 0)
    }

    pub(crate) fn resume(&mut self, name: &str, by: Option<i32>, now: Timestamp) -> anyhow::Result<bool> {
        let update = "UPDATE webhooks SET paused = NULL, parent = CASE WHEN EXISTS (
                SELECT 1 FROM api_keys k WHERE k.number = webhooks.parent AND (k.revoked IS NOT NULL OR k.expires <= ?3)
            ) THEN ?2 ELSE parent END WHERE name = ?1";
        Ok(self.0.execute(update, params![name, by, now.as_millis()])? > 0)
    }

    pub(crate) fn rotate(&mut self, name: &str, until: i64) -> anyhow::Result<Option<i32>> {
        let update =
            "UPDATE webhooks SET version = version + 1, old_until = ?2 WHERE name = ?1 RETURNING version";
        Ok(self.0.query_row(update, params![name, until], |row| row.get(0)).optional()?)
    }

    pub(crate) fn move_to(
        &mut self,
        name: &str,
        (epoch, position): (&str, i64),
        state: &str,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let update =
            "UPDATE consumers SET epoch = ?2, position = ?3, at = ?4, state = ?5, generation = generation + 1
            WHERE name = ?1";
        let name = format!("{CONSUMER}{name}");
        Ok(self.0.execute(update, params![name, epoch, position, now.as_millis(), state])? > 0)
    }

    pub(crate) fn position_at(&mut self, at: Timestamp) -> anyhow::Result<(String, i64)> {
        let select = "SELECT s.epoch, coalesce(
                (SELECT p.first - 1 FROM feed_pages p WHERE p.at >= ?1 ORDER BY p.first LIMIT 1),
                (SELECT max(p.last) FROM feed_pages p), 0) FROM feed_state s";
        Ok(self.0.query_row(select, [at.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    pub(crate) fn claim(&mut self, _: &Lease) -> anyhow::Result<Vec<String>> {
        let mut select = self.0.prepare_cached("SELECT name FROM webhooks")?;
        let names = select.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    #[expect(clippy::unnecessary_wraps, reason = "PostgreSQL can fail")]
    pub(crate) fn release(&mut self, _: &Lease) -> anyhow::Result<()> {
        Ok(())
    }

    pub(crate) fn save(
        &mut self,
        lease: &Lease,
        progress: &Progress,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let Progress { name, generation, epoch, position, state, paused } = progress;
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let update = "UPDATE consumers SET epoch = ?2, position = ?3, at = ?4, state = ?5, node = ?7
            WHERE name = ?1 AND generation = ?6";
        let consumer = format!("{CONSUMER}{name}");
        let rows = transaction.execute(
            update,
            params![consumer, epoch, position, now.as_millis(), state, generation, lease.node],
        )?;
        if rows > 0 && paused.is_some() {
            transaction.execute("UPDATE webhooks SET paused = ?2 WHERE name = ?1", params![name, paused])?;
        }
        transaction.commit()?;
        Ok(rows > 0)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Webhook> {
    Ok(Webhook {
        name: row.get(0)?,
        created: Timestamp::from_millis(row.get(1)?),
        settings: row.get(2)?,
        version: row.get(3)?,
        old_until: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_millis),
        paused: row.get(5)?,
        epoch: row.get(6)?,
        position: row.get(7)?,
        moved: Timestamp::from_millis(row.get(8)?),
        node: row.get(9)?,
        generation: row.get(10)?,
        state: row.get(11)?,
        parent: row.get(12)?,
        parent_expires: row.get::<_, Option<i64>>(13)?.map(Timestamp::from_millis),
    })
}
