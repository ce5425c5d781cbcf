//! Removes a slice of a deleted room in PostgreSQL; see [`crate::ended_room`]. Only one node at a time removes: it locks the row of
//! the room.

use tokio_postgres::Client;

use super::connect::{BlockingConnection, Error};
use super::query::row::get;
use super::rewrite::PortionResult;

/// How many rows a slice removes at most. Each may be on another page, which may have to be read from the disk.
const MAX_ROWS_PER_SLICE: i64 = 500;

const SELECT_ROOM: &str =
    "SELECT e.conversation, c.head, e.member FROM ended_rooms e JOIN conversations c ON c.id = e.conversation
    ORDER BY e.conversation LIMIT 1 FOR UPDATE OF e SKIP LOCKED";

const SELECT_MEMBERS: &str =
    r#"SELECT "user" FROM members WHERE conversation = $1 AND "user" > $2 ORDER BY "user" LIMIT $3"#;

const END_MEMBERSHIPS: &str = r#"UPDATE members SET until = $3 WHERE conversation = $1 AND "user" = ANY ($2::bigint[]) AND until IS NULL"#;

const DELETE_MEMBERSHIPS: &str =
    r#"DELETE FROM members WHERE conversation = $1 AND "user" = ANY ($2::bigint[]) AND until < $3"#;

const DELETE_CHOICES: &str =
    r#"DELETE FROM rooms_by_choice WHERE conversation = $1 AND "user" = ANY ($2::bigint[])"#;

/// What is removed once all memberships have ended, in this order: events last, because all of it is about them.
const REMOVALS: [&str; 5] = [
    r#"DELETE FROM bans WHERE (conversation, "user") IN (
        SELECT conversation, "user" FROM bans WHERE conversation = $1 AND $2::bigint > 0 LIMIT $3)"#,
    r#"DELETE FROM reactions WHERE (conversation, target, emoji, "user", since) IN (
        SELECT conversation, target, emoji, "user", since FROM reactions WHERE conversation = $1 AND target < $2 LIMIT $3)"#,
    "DELETE FROM amendments WHERE (conversation, target, seq) IN (
        SELECT conversation, target, seq FROM amendments WHERE conversation = $1 AND target < $2 LIMIT $3)",
    "DELETE FROM replaced_requests WHERE (conversation, seq) IN (
        SELECT conversation, seq FROM replaced_requests WHERE conversation = $1 AND seq < $2 LIMIT $3)",
    "DELETE FROM events WHERE (conversation, seq) IN (
        SELECT conversation, seq FROM events WHERE conversation = $1 AND seq < $2 ORDER BY seq LIMIT $3)",
];

/// Removes a slice of a deleted room in one transaction.
pub(super) fn remove(link: &BlockingConnection) -> Result<PortionResult, Error> {
    link.run(async {
        let client = link.client();
        let removed = remove_slice(client).await;
        if removed.is_err() {
            let _ = client.batch_execute("ROLLBACK").await;
        }
        removed
    })
}

async fn remove_slice(client: &Client) -> Result<PortionResult, Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
    let Some(row) = client.query_opt(SELECT_ROOM, &[]).await? else {
        client.batch_execute("COMMIT").await?;
        return Ok(PortionResult::OfAnotherNode);
    };
    let (conversation, end, member): (i64, i64, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    let mut left = MAX_ROWS_PER_SLICE;
    let users = client.query(SELECT_MEMBERS, &[&conversation, &member, &left]).await?;
    let users = users.iter().map(|row| get(row, 0)).collect::<Result<Vec<i64>, Error>>()?;
    if let Some(last) = users.last() {
        left -= users.len() as i64;
        client.execute(END_MEMBERSHIPS, &[&conversation, &users, &end]).await?;
        client.execute(DELETE_MEMBERSHIPS, &[&conversation, &users, &end]).await?;
        client.execute(DELETE_CHOICES, &[&conversation, &users]).await?;
        let advance = "UPDATE ended_rooms SET member = $2 WHERE conversation = $1";
        client.execute(advance, &[&conversation, last]).await?;
    }
    for removal in REMOVALS {
        if left > 0 {
            let removed = client.execute(removal, &[&conversation, &end, &left]).await?;
            left -= i64::try_from(removed).unwrap_or(left);
        }
    }
    let mut result = PortionResult::More;
    if left > 0 {
        client.execute("DELETE FROM ended_rooms WHERE conversation = $1", &[&conversation]).await?;
        let more = client.query_one("SELECT EXISTS (SELECT FROM ended_rooms)", &[]).await?;
        if !get::<bool>(&more, 0)? {
            result = PortionResult::Done;
        }
    }
    client.batch_execute("COMMIT").await?;
    if left > 0 {
        tracing::info!(conversation, "the content of a deleted room is removed");
    }
    Ok(result)
}
