//! Moving an installation from SQLite to PostgreSQL: every row is copied, then every row is read back and compared.
//!
//! Rows go over in the order of their keys, some thousand in a transaction that also notes how many have gone. So whatever
//! interrupts it, the next run goes on from there. Until it is finished no node serves from that database.

mod table;

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use futures_util::TryStreamExt as _;
use rusqlite::Connection;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;

use self::table::{TABLES, Table, Value};
use super::connect::Link;
use super::target::Target;
use super::{SERVING, migrate};
use crate::config::EngineUrl;
use crate::store::sqlite;

/// Rows that go over in one transaction: a second's work or less, which is what an interruption costs.
const CHUNK: usize = 5_000;

/// Copying takes as long as it takes.
const PATIENT: &str =
    "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
                       SET default_transaction_isolation = 'read committed'";

/// What became of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Which.
    pub table: &'static str,
    /// Rows that are there now, each compared with its original.
    pub rows: u64,
    /// Rows of them that an earlier run had moved.
    pub before: u64,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Which table.
    pub table: &'static str,
    /// Whether its rows are being compared; before that they are copied.
    pub compares: bool,
    /// Rows so far.
    pub done: u64,
    /// Rows in all.
    pub of: u64,
}

/// Moves the database in the directory `from`, which no server uses meanwhile, to the PostgreSQL database at `to`, which is
/// empty or was begun by an earlier run. The database in `from` stays as it is; a note beside it keeps servers from it.
///
/// # Errors
/// One of the two cannot be used, they are used by others, or what was copied is not what it was copied from.
pub fn move_store(
    from: &Path,
    to: &str,
    ca: Option<&Path>,
    tell: &mut dyn FnMut(Step),
) -> anyhow::Result<Vec<Moved>> {
    ensure!(
        from.join(sqlite::DATABASE).exists(),
        "there is no database in {0}; of a backup, make a directory with the file in it as {1}",
        from.display(),
        sqlite::DATABASE
    );
    let _lock = sqlite::lock(from)?;
    let source = sqlite::open_database(from)?;
    let destination = EngineUrl::new(to).to_string();
    let mut link = Link::open(&Target::new(to, ca)?)?;
    migrate(&mut link)?;
    link.run_alone(async |client| {
        client.batch_execute(PATIENT).await?;
        let alone = client.query_one("SELECT pg_try_advisory_lock($1)", &[&SERVING]).await?;
        ensure!(
            alone.try_get::<_, bool>(0)?,
            "a node serves from that database, or somebody else is moving an installation there; stop that first"
        );
        let source_print = fingerprint(&source)?;
        if let Err(error) = begin(client, &source_print).await {
            // An earlier run may have died before it noted that it was finished.
            if is_finished(client, &source_print).await? {
                sqlite::mark_moved(from, &destination)?;
            }
            return Err(error);
        }
        let mut moved = Vec::new();
        for table in &TABLES {
            let before =
                copy(&source, client, table, tell).await.with_context(|| format!("table {}", table.name))?;
            moved.push(Moved { table: table.name, rows: 0, before });
        }
        for (table, moved) in TABLES.iter().zip(&mut moved) {
            let compared = compare(&source, client, table, tell).await;
            moved.rows = compared.with_context(|| format!("table {}", table.name))?;
        }
        finish(client).await?;
        sqlite::mark_moved(from, &destination)?;
        Ok(moved)
    })
}

/// Nobody serves from a database to which an installation is still being moved.
pub(super) fn check_finished(link: &mut Link) -> anyhow::Result<()> {
    link.run_alone(async |client| {
        let begun = client.query_one("SELECT EXISTS (SELECT 1 FROM moves WHERE NOT finished)", &[]).await?;
        let begun: bool = begun.try_get(0)?;
        ensure!(!begun, "an installation is being moved there; `switchboard migrate-store` goes on with it");
        Ok(())
    })
}

/// Says what an installation consists of, so that another one, or the same one later, is not taken for it.
fn fingerprint(source: &Connection) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    for table in &TABLES {
        let rows = table.count(source)?;
        hash.update(format!("{} {rows}\n", table.name));
    }
    let last = source.query_row(
        "SELECT coalesce(sum(head), 0), coalesce(max(at), 0), (SELECT coalesce(sum(read + received), 0) FROM members)
         FROM conversations",
        [],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)),
    )?;
    hash.update(format!("{last:?}"));
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Finds the database empty and claims it, or finds that an earlier run did.
async fn begin(client: &Client, source: &str) -> anyhow::Result<()> {
    let claims = client.query("SELECT source, finished FROM moves", &[]).await?;
    if let Some(claim) = claims.first() {
        let (claim, finished): (&str, bool) = (claim.try_get(0)?, claim.try_get(1)?);
        ensure!(!finished, "an installation was moved there already, and may be in use");
        ensure!(
            claim == source,
            "another installation was begun to be moved there, or this one has changed since; empty that database and begin again"
        );
        return Ok(());
    }
    let used = "SELECT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM api_keys)";
    if client.query_one(used, &[]).await?.try_get(0)? {
        bail!("that database is in use already: an installation is moved to an empty one");
    }
    client.execute("INSERT INTO moves (source, finished) VALUES ($1, false)", &[&source]).await?;
    Ok(())
}

/// Whether this installation was moved there, all of it.
async fn is_finished(client: &Client, source: &str) -> anyhow::Result<bool> {
    let claim = client.query_opt("SELECT FROM moves WHERE source = $1 AND finished", &[&source]).await?;
    Ok(claim.is_some())
}

/// Copies what has not been copied yet; returns how many rows had been.
async fn copy(
    source: &Connection,
    client: &mut Client,
    table: &Table,
    tell: &mut dyn FnMut(Step),
) -> anyhow::Result<u64> {
    let noted = client.query_opt("SELECT rows FROM moved WHERE name = $1", &[&table.name]).await?;
    let before = noted.map(|row| row.try_get::<_, i64>(0)).transpose()?.unwrap_or_default();
    let before = u64::try_from(before)?;
    let of = table.count(source)?;
    let mut select = source.prepare(&table.select_from(before))?;
    let mut rows = select.query([])?;
    let mut done = before;
    while done < of {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK
            && let Some(row) = rows.next()?
        {
            chunk.push(table.read(row)?);
        }
        ensure!(!chunk.is_empty(), "rows are missing: {done} of {of} could be read");
        done += chunk.len() as u64;
        put(client, table, &chunk, done).await?;
        tell(Step { table: table.name, compares: false, done, of });
    }
    Ok(before)
}

/// Copies rows and notes how many have been, in one transaction.
async fn put(client: &mut Client, table: &Table, rows: &[Vec<Value>], done: u64) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    let sink = transaction.copy_in(&table.copy()).await?;
    let writer = BinaryCopyInWriter::new(sink, &table.types());
    tokio::pin!(writer);
    for row in rows {
        let values: Vec<_> = row.iter().map(Value::to_sql).collect();
        writer.as_mut().write(&values).await?;
    }
    writer.finish().await?;
    let note = "INSERT INTO moved (name, rows) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET rows = excluded.rows";
    transaction.execute(note, &[&table.name, &i64::try_from(done)?]).await?;
    Ok(transaction.commit().await?)
}

/// Reads both sides and compares them row by row; returns how many rows there are.
async fn compare(
    source: &Connection,
    client: &Client,
    table: &Table,
    tell: &mut dyn FnMut(Step),
) -> anyhow::Result<u64> {
    let of = table.count(source)?;
    let mut select = source.prepare(&table.select_from(0))?;
    let mut originals = select.query([])?;
    let copies = client.query_raw(&table.select_there(), std::iter::empty::<i64>()).await?;
    tokio::pin!(copies);
    let mut done = 0;
    while let Some(original) = originals.next()? {
        let original = table.read(original)?;
        let copy = copies.try_next().await?.map(|copy| table.read_there(&copy)).transpose()?;
        ensure!(copy.as_ref() == Some(&original), "row {} is not what it was copied from", done + 1);
        done += 1;
        if done % CHUNK as u64 == 0 {
            tell(Step { table: table.name, compares: true, done, of });
        }
    }
    ensure!(copies.try_next().await?.is_none(), "there are rows that were not copied");
    tell(Step { table: table.name, compares: true, done, of });
    Ok(done)
}

/// Numbers go on behind those that came over, and nodes may serve.
async fn finish(client: &mut Client) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    for table in ["users", "conversations"] {
        let next = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', 'id'), greatest((SELECT max(id) FROM {table}), 1),
             EXISTS (SELECT 1 FROM {table}))"
        );
        transaction.query_one(&next, &[]).await?;
    }
    transaction.execute("UPDATE moves SET finished = true", &[]).await?;
    transaction.commit().await?;
    // What the planner knows of the tables is from when they were empty.
    Ok(client.batch_execute("ANALYZE").await?)
}
