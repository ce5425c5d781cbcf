//! The log in PostgreSQL, for several nodes: one writer thread with group commit, reader threads beside it, each with a
//! connection of its own. What a change means is the same as in the SQLite store; only the rows are elsewhere.

mod connect;
pub mod moving;
mod query;
mod readers;
mod target;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use anyhow::{Context as _, bail};
use switchboard_protocol::Limits;
use tokio_postgres::Client;

use self::connect::{Link, SESSION};
use crate::clock::Clock;
use crate::metrics::Metrics;

mod schema {
    refinery::embed_migrations!("src/migrations/postgres");
}

/// The advisory lock under which one node at a time brings the schema up to date: "switchb" in ASCII.
const MIGRATING: i64 = 0x73_77_69_74_63_68_62;

/// What opening a store needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the database is: `postgres://user:password@host,host/database?sslmode=…`.
    pub url: String,
    /// A file of root certificates in place of the system's.
    pub ca: Option<PathBuf>,
    /// Threads that read, each with a connection.
    pub readers: usize,
    /// The limits that pages and changes are held to.
    pub limits: Limits,
    /// Whether ids never seen before may be written to.
    pub strangers: bool,
    /// The time of events.
    pub clock: Clock,
    /// Where commits are counted.
    pub metrics: Arc<Metrics>,
}

/// What the writer tells the readers.
#[derive(Debug, Default)]
struct State {
    /// The batch whose commit began last.
    mark: AtomicU64,
    /// Set while the database cannot be written to.
    failed: AtomicBool,
}

/// Brings the schema up to date, one node at a time.
///
/// # Errors
/// A newer version made the database, or it cannot be changed.
fn migrate(link: &mut Link) -> anyhow::Result<()> {
    link.run_alone(async |client| {
        // Nothing is changed that need not be: a role that may only read and write rows will do.
        if is_current(client).await? {
            return Ok(());
        }
        // Whoever comes second waits for as long as it takes, and then finds it done.
        client.batch_execute("SET lock_timeout = 0; SET statement_timeout = 0").await?;
        client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATING]).await?;
        if !is_current(client).await? {
            schema::migrations::runner()
                .run_async(client)
                .await
                .context("cannot bring its tables up to date")?;
        }
        client.execute("SELECT pg_advisory_unlock($1)", &[&MIGRATING]).await?;
        Ok(client.batch_execute(SESSION).await?)
    })
}

/// Whether the tables are those that this version knows. A database that a newer version made is left as it is: what its
/// tables mean is not known here.
async fn is_current(client: &Client) -> anyhow::Result<bool> {
    let runner = schema::migrations::runner();
    let known = runner.get_migrations().iter().map(refinery::Migration::version).max().unwrap_or_default();
    let found = client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await?;
    if !found.try_get::<_, bool>(0)? {
        return Ok(false);
    }
    let version = client.query_one("SELECT max(version) FROM refinery_schema_history", &[]).await?;
    let version: Option<i32> = version.try_get(0)?;
    match i64::from(version.unwrap_or_default()) {
        version if version > i64::from(known) => bail!(
            "a newer version of switchboard made its tables (schema {version}, this one knows {known}); use that version or a newer one"
        ),
        version => Ok(version == i64::from(known)),
    }
}
