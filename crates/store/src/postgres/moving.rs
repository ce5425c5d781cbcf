//! `migrate-store`: copies an installation from SQLite to PostgreSQL, then reads every row back and compares it.
//!
//! Rows are copied in key order, some thousand in each transaction. The transaction also stores the number of copied rows,
//! so that the next run resumes an interrupted one. Until the migration is finished, no node serves from that database.

mod table;

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use futures_util::TryStreamExt as _;
use rusqlite::{Connection, OptionalExtension as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;

use self::table::Value;
use super::connect::BlockingConnection;
use super::installation::FEED;
use super::target::Target;
use super::{SERVING_LOCK_ID, migrate};
use crate::sqlite;
use crate::table::{TABLES, Table};

/// How many rows a transaction copies. They take at most a second, so an interruption repeats at most that.
const CHUNK_ROWS: usize = 5_000;

/// Session settings of the copy, which may take arbitrarily long.
const COPY_SESSION: &str =
    "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
                       SET default_transaction_isolation = 'read committed'";

/// The result of moving one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopiedTable {
    /// The table's name.
    pub table: &'static str,
    /// How many rows PostgreSQL has. Each was compared with its original.
    pub rows: u64,
    /// How many of these rows an earlier run had copied.
    #[serde(rename = "before")]
    pub rows_before: u64,
}

/// The progress of the migration of one table.
#[derive(Debug, Clone, Copy)]
pub struct MovingProgress {
    /// The table's name.
    pub table: &'static str,
    /// True while the rows are compared, false while they are copied.
    pub compares: bool,
    /// How many rows of the table have been copied or compared so far.
    pub rows_done: u64,
    /// How many rows the table has in all.
    pub rows_in_table: u64,
}

/// The PostgreSQL database to copy to.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The URL of the database.
    pub url: &'a str,
    /// A file of root certificates that replaces the system's.
    pub ca: Option<&'a Path>,
    /// The URL without a password, for the marker file in the source's directory.
    pub name: &'a str,
}

/// Copies the database in the directory `from` to the PostgreSQL database at `to`. The server of `from` must be stopped.
/// The destination must be empty or from an interrupted run. The database in `from` is not changed; a marker file beside it
/// stops servers from using it.
///
/// # Errors
/// A database cannot be used or is in use, or a copied row differs from its original.
pub fn move_store(
    from: &Path,
    to: Destination<'_>,
    on_step: &mut dyn FnMut(MovingProgress),
) -> anyhow::Result<Vec<CopiedTable>> {
    ensure!(
        from.join(sqlite::DATABASE_FILE).exists(),
        "there is no database in {0}; to migrate a backup, copy it into a directory as {1}",
        from.display(),
        sqlite::DATABASE_FILE
    );
    let _lock = sqlite::lock(from)?;
    let source = sqlite::open_database(from)?;
    let mut link = BlockingConnection::open(&Target::new(to.url, to.ca)?)?;
    migrate(&mut link)?;
    link.run_alone(async |client| {
        client.batch_execute(COPY_SESSION).await?;
        let alone = client.query_one("SELECT pg_try_advisory_lock($1)", &[&SERVING_LOCK_ID]).await?;
        ensure!(
            alone.try_get::<_, bool>(0)?,
            "a node serves from that database, or another `migrate-store` is running; stop it first"
        );
        let source_print = fingerprint(&source)?;
        if let Err(error) = begin_move(client, &source_print).await {
            // An earlier run may have been killed before it wrote the marker file.
            if is_finished(client, &source_print).await? {
                sqlite::mark_moved(from, to.name)?;
            }
            return Err(error);
        }
        let mut moved = Vec::new();
        for table in &TABLES {
            let before = copy_table(&source, client, table, on_step)
                .await
                .with_context(|| format!("table {}", table.name))?;
            moved.push(CopiedTable { table: table.name, rows: 0, rows_before: before });
        }
        for (table, moved) in TABLES.iter().zip(&mut moved) {
            let compared = compare_tables(&source, client, table, on_step).await;
            moved.rows = compared.with_context(|| format!("table {}", table.name))?;
        }
        finish_move(&source, client).await?;
        sqlite::mark_moved(from, to.name)?;
        Ok(moved)
    })
}

/// Refuses a database whose migration is not finished.
pub(super) fn check_finished(link: &mut BlockingConnection) -> anyhow::Result<()> {
    link.run_alone(async |client| {
        let begun = client.query_one("SELECT EXISTS (SELECT 1 FROM moves WHERE NOT finished)", &[]).await?;
        let begun: bool = begun.try_get(0)?;
        ensure!(
            !begun,
            "the migration to that database is not finished; `switchboard migrate-store` resumes it"
        );
        Ok(())
    })
}

/// A hash that identifies an installation and its state, so that a resumed run detects a different or changed one.
fn fingerprint(source: &Connection) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    for table in &TABLES {
        let rows = table.count_rows(source)?;
        hash.update(format!("{} {rows}\n", table.name));
    }
    let last = source.query_row(
        "SELECT coalesce(sum(head), 0), coalesce(max(at), 0), (SELECT coalesce(sum(read + received), 0) FROM members)
         FROM conversations",
        [],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)),
    )?;
    hash.update(format!("{last:?}"));
    // Bodies that a server has rewritten meanwhile would differ from those that were copied.
    if let Some(position) = rewrite_position(source)? {
        hash.update(format!("{position:?}"));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The event up to which bodies name users by key; `None` if all do.
fn rewrite_position(source: &Connection) -> rusqlite::Result<Option<(i64, i64)>> {
    let select = "SELECT conversation, seq FROM rewrite";
    source.query_row(select, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Claims an empty database, or checks that an earlier run for the same source has claimed it.
async fn begin_move(client: &Client, source: &str) -> anyhow::Result<()> {
    let claims = client.query("SELECT source, finished FROM moves", &[]).await?;
    if let Some(claim) = claims.first() {
        let (claim, finished): (&str, bool) = (claim.try_get(0)?, claim.try_get(1)?);
        ensure!(!finished, "an installation was already migrated there and may be in use");
        ensure!(
            claim == source,
            "a migration of another installation was started there, or this one has changed since; empty that database and start again"
        );
        return Ok(());
    }
    let used = "SELECT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM api_keys)";
    if client.query_one(used, &[]).await?.try_get(0)? {
        bail!("that database is not empty: migrate to an empty one");
    }
    client.execute("INSERT INTO moves (source, finished) VALUES ($1, false)", &[&source]).await?;
    Ok(())
}

/// Whether the migration of this installation is finished.
async fn is_finished(client: &Client, source: &str) -> anyhow::Result<bool> {
    let claim = client.query_opt("SELECT FROM moves WHERE source = $1 AND finished", &[&source]).await?;
    Ok(claim.is_some())
}

/// Copies the rows that have not been copied yet. Returns how many had been copied before.
async fn copy_table(
    source: &Connection,
    client: &mut Client,
    table: &Table,
    on_step: &mut dyn FnMut(MovingProgress),
) -> anyhow::Result<u64> {
    let noted = client.query_opt("SELECT rows FROM moved WHERE name = $1", &[&table.name]).await?;
    let before = noted.map(|row| row.try_get::<_, i64>(0)).transpose()?.unwrap_or_default();
    let before = u64::try_from(before)?;
    let of = table.count_rows(source)?;
    let mut select = source.prepare(&table.select_rest_sql(before))?;
    let mut rows = select.query([])?;
    let mut done = before;
    while done < of {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_ROWS
            && let Some(row) = rows.next()?
        {
            chunk.push(table.read_row(row)?);
        }
        ensure!(!chunk.is_empty(), "rows are missing: {done} of {of} could be read");
        done += chunk.len() as u64;
        copy_chunk(client, table, &chunk, done).await?;
        on_step(MovingProgress { table: table.name, compares: false, rows_done: done, rows_in_table: of });
    }
    Ok(before)
}

/// Copies rows and stores the number copied so far, in one transaction.
async fn copy_chunk(
    client: &mut Client,
    table: &Table,
    rows: &[Vec<Value>],
    rows_done: u64,
) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    let sink = transaction.copy_in(&table.copy_sql()).await?;
    let writer = BinaryCopyInWriter::new(sink, &table.column_types());
    tokio::pin!(writer);
    for row in rows {
        let values: Vec<_> = row.iter().map(Value::to_sql).collect();
        writer.as_mut().write(&values).await?;
    }
    writer.finish().await?;
    let note = "INSERT INTO moved (name, rows) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET rows = excluded.rows";
    transaction.execute(note, &[&table.name, &i64::try_from(rows_done)?]).await?;
    Ok(transaction.commit().await?)
}

/// Compares both databases row by row. Returns the number of rows.
async fn compare_tables(
    source: &Connection,
    client: &Client,
    table: &Table,
    on_step: &mut dyn FnMut(MovingProgress),
) -> anyhow::Result<u64> {
    let of = table.count_rows(source)?;
    let mut select = source.prepare(&table.select_rest_sql(0))?;
    let mut originals = select.query([])?;
    let copies = client.query_raw(&table.select_copies_sql(), std::iter::empty::<i64>()).await?;
    tokio::pin!(copies);
    let mut done = 0;
    while let Some(original) = originals.next()? {
        let original = table.read_row(original)?;
        let copy = copies.try_next().await?.map(|copy| table.read_copied_row(&copy)).transpose()?;
        ensure!(copy.as_ref() == Some(&original), "row {} differs from its original", done + 1);
        done += 1;
        if done % CHUNK_ROWS as u64 == 0 {
            on_step(MovingProgress { table: table.name, compares: true, rows_done: done, rows_in_table: of });
        }
    }
    ensure!(copies.try_next().await?.is_none(), "PostgreSQL has rows that were not copied");
    on_step(MovingProgress { table: table.name, compares: true, rows_done: done, rows_in_table: of });
    Ok(done)
}

/// Finishes the migration: sets the id sequences after the copied rows, stores the version of the source, and allows nodes
/// to serve.
async fn finish_move(source: &Connection, client: &mut Client) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    transaction.execute("UPDATE installation SET version = greatest(version, $1)", &[&FEED]).await?;
    if let Some((conversation, seq)) = rewrite_position(source)? {
        let insert = "INSERT INTO rewrite (conversation, seq) VALUES ($1, $2)
            ON CONFLICT (id) DO UPDATE SET conversation = excluded.conversation, seq = excluded.seq";
        transaction.execute(insert, &[&conversation, &seq]).await?;
    }
    let kinds: Vec<(i16, String, String)> = {
        let mut select = source.prepare("SELECT number, name, users FROM kinds")?;
        let kinds = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        kinds.collect::<Result<_, _>>()?
    };
    for (number, name, users) in kinds {
        let insert = "INSERT INTO kinds (number, name, users) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        transaction.execute(insert, &[&number, &name, &users]).await?;
    }
    let (epoch, last): (String, i64) =
        source.query_row("SELECT epoch, last FROM feed_state", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    transaction.execute("UPDATE feed_state SET epoch = $1, last = $2", &[&epoch, &last]).await?;
    for (table, number) in [("users", "id"), ("conversations", "id"), ("api_keys", "number")] {
        let next = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', '{number}'), greatest((SELECT max({number}) FROM {table}), 1),
             EXISTS (SELECT 1 FROM {table}))"
        );
        transaction.query_one(&next, &[]).await?;
    }
    transaction.execute("UPDATE moves SET finished = true", &[]).await?;
    transaction.commit().await?;
    // The planner's statistics are from when the tables were empty.
    Ok(client.batch_execute("ANALYZE").await?)
}
