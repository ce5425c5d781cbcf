//! What an operator asks of the database: its rooms, and the sizes of its tables.

use std::path::Path;

use anyhow::ensure;
use switchboard_protocol::{ConversationId, Seq, Timestamp};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::connect::BlockingConnection;
use super::keys::with_connection;
use super::target::Target;
use super::{Capabilities, moving};
use crate::key::ConversationKey;
use crate::sizes::{
    ConversationSize, INSPECTION_TIMEOUT, LARGEST_CONVERSATIONS, Room, RoomOrder, Sizes, TableSize,
    took_too_long,
};
use crate::table::TABLES;

/// The condition that a room was deleted. The database may be one of an earlier version, which has no column for it.
const IS_ENDED: &str = "coalesce((to_jsonb(c) ->> 'ended')::boolean, false)";

/// At most `most` rooms in an order, after the room `after`.
pub(crate) fn rooms(
    url: &str,
    ca: Option<&Path>,
    order: RoomOrder,
    after: &str,
    most: u32,
) -> anyhow::Result<Vec<Room>> {
    with_connection(url, ca, async |client| {
        limit_time(client).await?;
        // Names of rooms begin with `#`, and `$` is the next character.
        let order = order.sql();
        let select = format!(
            "SELECT id, name, title, public, members, messages, head, at FROM conversations c
             WHERE name >= '#' AND name < '$' AND name > $1 AND NOT {IS_ENDED} ORDER BY {order} LIMIT $2"
        );
        let rows = client.query(&select, &[&after, &i64::from(most)]).await.map_err(describe_error)?;
        rows.iter().map(read_room).collect()
    })
}

/// The sizes of the database.
pub(crate) fn sizes(url: &str, ca: Option<&Path>) -> anyhow::Result<Sizes> {
    with_connection(url, ca, async |client| {
        limit_time(client).await?;
        let database = client.query_one("SELECT pg_database_size(current_database())", &[]);
        let database_bytes = to_unsigned(database.await.map_err(describe_error)?.try_get(0)?);
        let mut tables = Vec::new();
        for table in &TABLES {
            let select = "SELECT reltuples::bigint, pg_total_relation_size(oid) FROM pg_class WHERE oid = to_regclass($1)";
            let row = client.query_one(select, &[&table.name]).await.map_err(describe_error)?;
            // -1 means that the table has not been analysed yet.
            let rows = u64::try_from(row.try_get::<_, i64>(0)?).ok();
            tables.push(TableSize { name: table.name, rows, bytes: Some(to_unsigned(row.try_get(1)?)) });
        }
        let select = format!(
            "SELECT name, head, messages FROM conversations c WHERE NOT {IS_ENDED} ORDER BY head DESC, name LIMIT $1"
        );
        let rows =
            client.query(&select, &[&i64::from(LARGEST_CONVERSATIONS)]).await.map_err(describe_error)?;
        let largest = rows.iter().map(|row| {
            let (events, messages) = (to_unsigned(row.try_get(1)?), to_unsigned(row.try_get(2)?));
            Ok(ConversationSize { name: name(row, 0)?, events, messages })
        });
        let largest_conversations = largest.collect::<anyhow::Result<_>>()?;
        Ok(Sizes { database_bytes, wal_bytes: None, tables, largest_conversations })
    })
}

/// Connects to the database, and returns what a server would find. Changes nothing.
pub(crate) fn try_open(url: &str, ca: Option<&Path>) -> anyhow::Result<String> {
    let target = Target::new(url, ca)?;
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let mut link = BlockingConnection::open(&target)?;
            let found = link.run_alone(async |client| inspect_database(client).await)?;
            if found.has_tables {
                moving::check_finished(&mut link)?;
            }
            let tables = if found.has_tables {
                "its tables are there"
            } else {
                "it has no tables yet, and `serve` creates them"
            };
            Ok(format!("{target} is PostgreSQL {}; {tables}", found.server))
        });
        done.join().map_err(|_| anyhow::anyhow!("a bug: the thread of the database connection panicked"))?
    })
}

/// What [`try_open`] finds.
struct FoundDatabase {
    server: String,
    has_tables: bool,
}

async fn inspect_database(client: &Client) -> anyhow::Result<FoundDatabase> {
    let select = "SELECT current_setting('server_version'), to_regclass('users') IS NOT NULL,
                  to_regclass('installation') IS NOT NULL, has_schema_privilege(current_schema(), 'CREATE')";
    let row = client.query_one(select, &[]).await?;
    let (has_tables, has_version): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
    ensure!(has_tables || row.try_get(3)?, "it has no tables, and this role may not create any");
    if has_version {
        let installed = client.query_one("SELECT version FROM installation", &[]).await?;
        let (version, known) = (installed.try_get::<_, i32>(0)?, Capabilities::default().version);
        ensure!(
            version <= known,
            "a newer version of switchboard uses it (version {version}, this one knows {known})"
        );
    }
    Ok(FoundDatabase { server: row.try_get(0)?, has_tables })
}

async fn limit_time(client: &Client) -> anyhow::Result<()> {
    let timeout = format!("SET statement_timeout = {}", INSPECTION_TIMEOUT.as_millis());
    Ok(client.batch_execute(&timeout).await?)
}

fn describe_error(error: tokio_postgres::Error) -> anyhow::Error {
    if error.code() == Some(&SqlState::QUERY_CANCELED) {
        took_too_long()
    } else {
        super::connect::Error::from(error).into()
    }
}

fn read_room(row: &Row) -> anyhow::Result<Room> {
    Ok(Room {
        key: ConversationKey(row.try_get(0)?),
        name: name(row, 1)?,
        title: row.try_get(2)?,
        public: row.try_get(3)?,
        members: to_unsigned(row.try_get(4)?),
        messages: to_unsigned(row.try_get(5)?),
        last_seq: Seq(to_unsigned(row.try_get(6)?)),
        last_event: Timestamp::from_millis(row.try_get(7)?),
    })
}

fn name(row: &Row, column: usize) -> anyhow::Result<ConversationId> {
    Ok(ConversationId::parse(row.try_get(column)?)?)
}

fn to_unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
