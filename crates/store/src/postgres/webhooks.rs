//! The rows of the webhooks in PostgreSQL. One node at a time sends for each: it holds a lease, which the database's clock ends.

use std::path::Path;

use anyhow::ensure;
use switchboard_protocol::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connect::BlockingConnection;
use super::moving;
use super::query::row::get;
use super::target::Target;
use crate::webhook::{CONSUMER, Lease, NewWebhook, Progress, Webhook};

const EXISTS: &str = "SELECT to_regclass('webhooks') IS NOT NULL";

const LIST: &str = "SELECT w.name, w.created, w.settings, w.version, w.old_until, w.paused, c.epoch, c.position, c.at,
    CASE WHEN c.until > (extract(epoch FROM clock_timestamp()) * 1000)::bigint THEN c.node END, c.generation, c.state,
    k.name, k.expires FROM webhooks w JOIN consumers c ON c.name = 'webhook:' || w.name
    LEFT JOIN api_keys k ON k.number = w.parent ORDER BY w.name";

/// The lock on the key's row makes a revocation at the same time wait, and then pause this webhook, too.
const ADD: &str = "WITH k AS (
        SELECT number FROM api_keys WHERE number = $4 AND revoked IS NULL FOR SHARE
    ), w AS (
        INSERT INTO webhooks (name, created, settings, version, parent) SELECT $1, $2, $3, 1, $4
        WHERE $4::bigint IS NULL OR EXISTS (SELECT FROM k)
        ON CONFLICT (name) DO NOTHING RETURNING name
    ) INSERT INTO consumers (name, epoch, position, at) SELECT 'webhook:' || w.name, $5, $6, $2 FROM w RETURNING name";

const REMOVE: &str = "WITH c AS (DELETE FROM consumers WHERE name = 'webhook:' || $1::text)
    DELETE FROM webhooks WHERE name = $1 RETURNING name";

const PAUSE: &str = "UPDATE webhooks SET paused = $2 WHERE name = $1 RETURNING name";

const RESUME: &str = "UPDATE webhooks w SET paused = NULL, parent = CASE WHEN EXISTS (
        SELECT FROM api_keys k WHERE k.number = w.parent AND (k.revoked IS NOT NULL OR k.expires <= $3)
    ) THEN $2 ELSE parent END WHERE name = $1 RETURNING name";

const ROTATE: &str =
    "UPDATE webhooks SET version = version + 1, old_until = $2 WHERE name = $1 RETURNING version";

const MOVE: &str =
    "UPDATE consumers SET epoch = $2, position = $3, at = $4, state = $5, generation = generation + 1
    WHERE name = $1 RETURNING name";

const POSITION_AT: &str = "SELECT s.epoch, coalesce(
        (SELECT p.first - 1 FROM feed_pages p WHERE p.at >= $1 ORDER BY p.first LIMIT 1), s.last)
    FROM feed_state s";

const CLAIM: &str = "UPDATE consumers
    SET node = $1, until = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $2
    WHERE name IN (SELECT name FROM consumers WHERE name LIKE 'webhook:%'
        AND (node = $1 OR until IS NULL OR until < (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
        ORDER BY name FOR UPDATE SKIP LOCKED)
    RETURNING substr(name, 9)";

const RELEASE: &str = "UPDATE consumers SET until = 0 WHERE node = $1 AND name LIKE 'webhook:%'";

/// An expired lease that no other node has claimed is as good as a valid one.
const SAVE: &str = "WITH c AS (
        UPDATE consumers SET epoch = $2, position = $3, at = $4, state = $5
        WHERE name = $1 AND generation = $6 AND node = $7 RETURNING name
    ), w AS (
        UPDATE webhooks SET paused = $8 WHERE 'webhook:' || name = $1 AND $8::text IS NOT NULL AND EXISTS (SELECT FROM c)
    ) SELECT name FROM c";

pub(crate) struct Db {
    target: Target,
    link: BlockingConnection,
}

impl Db {
    pub(crate) fn open(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let target = Target::new(url, ca)?;
        let link = connect(&target)?;
        Ok(Self { target, link })
    }

    /// Runs a statement. A connection that was lost is opened again first.
    fn rows(&mut self, sql: &'static str, parameters: &[&(dyn ToSql + Sync)]) -> anyhow::Result<Vec<Row>> {
        if self.link.is_closed() {
            self.link = connect(&self.target)?;
        }
        Ok(self.link.run(self.link.rows(sql, parameters))?)
    }

    pub(crate) fn list(&mut self) -> anyhow::Result<Vec<Webhook>> {
        self.rows(LIST, &[])?.iter().map(read).collect()
    }

    pub(crate) fn add(&mut self, new: &NewWebhook, now: Timestamp) -> anyhow::Result<bool> {
        let NewWebhook { name, settings, epoch, position, parent } = new;
        let parent = parent.map(i64::from);
        let rows = self.rows(ADD, &[name, &now.as_millis(), settings, &parent, epoch, position])?;
        Ok(!rows.is_empty())
    }

    pub(crate) fn remove(&mut self, name: &str) -> anyhow::Result<bool> {
        Ok(!self.rows(REMOVE, &[&name])?.is_empty())
    }

    pub(crate) fn pause(&mut self, name: &str, why: &str) -> anyhow::Result<bool> {
        Ok(!self.rows(PAUSE, &[&name, &why])?.is_empty())
    }

    pub(crate) fn resume(&mut self, name: &str, by: Option<i32>, now: Timestamp) -> anyhow::Result<bool> {
        Ok(!self.rows(RESUME, &[&name, &by.map(i64::from), &now.as_millis()])?.is_empty())
    }

    pub(crate) fn rotate(&mut self, name: &str, until: i64) -> anyhow::Result<Option<i32>> {
        let rows = self.rows(ROTATE, &[&name, &until])?;
        Ok(rows.first().map(|row| get(row, 0)).transpose()?)
    }

    pub(crate) fn move_to(
        &mut self,
        name: &str,
        (epoch, position): (&str, i64),
        state: &str,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let name = format!("{CONSUMER}{name}");
        Ok(!self.rows(MOVE, &[&name, &epoch, &position, &now.as_millis(), &state])?.is_empty())
    }

    pub(crate) fn position_at(&mut self, at: Timestamp) -> anyhow::Result<(String, i64)> {
        let rows = self.rows(POSITION_AT, &[&at.as_millis()])?;
        let Some(row) = rows.first() else { anyhow::bail!("the feed has no state") };
        Ok((get(row, 0)?, get(row, 1)?))
    }

    pub(crate) fn claim(&mut self, lease: &Lease) -> anyhow::Result<Vec<String>> {
        let rows = self.rows(CLAIM, &[&lease.node, &lease.duration])?;
        rows.iter().map(|row| Ok(get(row, 0)?)).collect()
    }

    pub(crate) fn release(&mut self, lease: &Lease) -> anyhow::Result<()> {
        self.rows(RELEASE, &[&lease.node]).map(drop)
    }

    pub(crate) fn save(
        &mut self,
        lease: &Lease,
        progress: &Progress,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let Progress { name, generation, epoch, position, state, paused } = progress;
        let name = format!("{CONSUMER}{name}");
        let now = now.as_millis();
        let rows =
            self.rows(SAVE, &[&name, epoch, position, &now, state, generation, &lease.node, paused])?;
        Ok(!rows.is_empty())
    }
}

fn connect(target: &Target) -> anyhow::Result<BlockingConnection> {
    let mut link = BlockingConnection::open(target)?;
    let rows = link.run(link.client().query(EXISTS, &[]))?;
    let exists = rows.first().map(|row| get::<bool>(row, 0)).transpose()?.unwrap_or_default();
    ensure!(
        exists,
        "the database is of an earlier version, which has no webhooks: start this version of the server on it first"
    );
    moving::check_finished(&mut link)?;
    Ok(link)
}

fn read(row: &Row) -> anyhow::Result<Webhook> {
    Ok(Webhook {
        name: get(row, 0)?,
        created: Timestamp::from_millis(get(row, 1)?),
        settings: get(row, 2)?,
        version: get(row, 3)?,
        old_until: get::<Option<i64>>(row, 4)?.map(Timestamp::from_millis),
        paused: get(row, 5)?,
        epoch: get(row, 6)?,
        position: get(row, 7)?,
        moved: Timestamp::from_millis(get(row, 8)?),
        node: get(row, 9)?,
        generation: get(row, 10)?,
        state: get(row, 11)?,
        parent: get(row, 12)?,
        parent_expires: get::<Option<i64>>(row, 13)?.map(Timestamp::from_millis),
    })
}
