//! Rewrites one portion of old bodies in PostgreSQL; see [`crate::rewrite`]. Only one node at a time rewrites: it locks the
//! row of the position.

use rustc_hash::FxHashMap;
use switchboard_protocol::UserId;
use tokio_postgres::Client;

use super::connect::{BlockingConnection, Error};
use super::query::row::{count, get};
use crate::body;
use crate::record::{Kind, UserKey};
use crate::rewrite::{Candidate, EventRange, KINDS, MAX_CONVERSATIONS_PER_PORTION, Position, next_portion};

/// How many events a portion reads at most. The number is lower than for SQLite, because each event may be on another page,
/// which may have to be read from the disk.
pub(super) const MAX_EVENTS_PER_PORTION: u64 = 500;

/// The result of a portion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortionResult {
    /// There are more bodies to rewrite.
    More,
    /// This was the last portion.
    Done,
    /// Another node is rewriting.
    OfAnotherNode,
}

const SELECT_POSITION: &str = "SELECT conversation, seq FROM rewrite FOR UPDATE SKIP LOCKED";

const SELECT_CANDIDATES: &str =
    "SELECT id, name LIKE '#%', greatest(head, 0) FROM conversations WHERE id >= $1 ORDER BY id LIMIT $2";

/// `OFFSET 0` is an optimisation fence, because the planner would read all events of a kind.
const SELECT_BODIES: &str = "SELECT e.conversation, e.seq, e.kind, e.body
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) s (conversation, after, upto)
    CROSS JOIN LATERAL (SELECT * FROM events e
        WHERE e.conversation = s.conversation AND e.seq > s.after AND e.seq <= s.upto OFFSET 0) e
    WHERE e.kind = ANY ($4::smallint[])";

const SELECT_USER_IDS: &str = "SELECT name, id FROM users WHERE name = ANY ($1::text[])";

const UPDATE_BODIES: &str = "UPDATE events e SET body = w.body
    FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS w (conversation, seq, body)
    WHERE e.conversation = w.conversation AND e.seq = w.seq";

/// Rewrites a portion of at most `events` events in one transaction.
pub(super) fn rewrite(link: &BlockingConnection, events: u64) -> Result<PortionResult, Error> {
    link.run(async {
        let client = link.client();
        let rewritten = rewrite_portion(client, events).await;
        if rewritten.is_err() {
            let _ = client.batch_execute("ROLLBACK").await;
        }
        rewritten
    })
}

async fn rewrite_portion(client: &Client, events: u64) -> Result<PortionResult, Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
    let Some(row) = client.query_opt(SELECT_POSITION, &[]).await? else {
        client.batch_execute("COMMIT").await?;
        return Ok(PortionResult::OfAnotherNode);
    };
    let from = Position { conversation: get(&row, 0)?, seq: count(&row, 1)? };
    let (sections, next) = next_portion(from, &candidates(client, from).await?, events);
    if !sections.is_empty() {
        rewrite_sections(client, &sections).await?;
    }
    // If the position no longer advances, the rewrite has reached the end of the log.
    let next = next.filter(|next| *next != from);
    match next {
        Some(Position { conversation, seq }) => {
            let update = "UPDATE rewrite SET conversation = $1, seq = $2";
            client.execute(update, &[&conversation, &signed_seq(seq)]).await?;
        }
        None => drop(client.execute("DELETE FROM rewrite", &[]).await?),
    }
    client.batch_execute("COMMIT").await?;
    Ok(if next.is_some() { PortionResult::More } else { PortionResult::Done })
}

async fn candidates(client: &Client, from: Position) -> Result<Vec<Candidate>, Error> {
    let rows = client
        .query(SELECT_CANDIDATES, &[&from.conversation, &signed_seq(MAX_CONVERSATIONS_PER_PORTION)])
        .await?;
    let candidates = rows
        .iter()
        .map(|row| Ok(Candidate { conversation: get(row, 0)?, is_room: get(row, 1)?, head: count(row, 2)? }));
    candidates.collect()
}

/// An event whose body has to be rewritten.
struct StoredBody {
    conversation: i64,
    seq: i64,
    kind: Kind,
    body: String,
}

async fn rewrite_sections(client: &Client, sections: &[EventRange]) -> Result<(), Error> {
    let found = find_bodies(client, sections).await?;
    let mut ids = Vec::new();
    for event in &found {
        body::collect_user_ids(&event.kind, &event.body, &mut ids);
    }
    let names: Vec<_> = ids.iter().map(UserId::as_str).collect();
    let mut numbers = FxHashMap::default();
    for row in client.query(SELECT_USER_IDS, &[&names]).await? {
        numbers.insert(get::<String>(&row, 0)?, UserKey(get(&row, 1)?));
    }
    let (mut conversations, mut seqs, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for StoredBody { conversation, seq, kind, body } in found {
        let stored =
            body::to_stored(&kind, &body, |user| Ok::<_, Error>(numbers.get(user.as_str()).copied()))?;
        // A damaged event stays as it is, so that `check` still finds it.
        if let Some(stored) = stored.filter(|stored| *stored != body) {
            conversations.push(conversation);
            seqs.push(seq);
            bodies.push(stored);
        }
    }
    if !seqs.is_empty() {
        client.execute(UPDATE_BODIES, &[&conversations, &seqs, &bodies]).await?;
    }
    Ok(())
}

async fn find_bodies(client: &Client, sections: &[EventRange]) -> Result<Vec<StoredBody>, Error> {
    let conversations: Vec<_> = sections.iter().map(|section| section.conversation).collect();
    let after: Vec<_> = sections.iter().map(|section| signed_seq(section.after)).collect();
    let upto: Vec<_> = sections.iter().map(|section| signed_seq(section.upto)).collect();
    let kinds = KINDS.map(|kind| i16::from(kind.number())).to_vec();
    let rows = client.query(SELECT_BODIES, &[&conversations, &after, &upto, &kinds]).await?;
    let found = rows.iter().map(|row| {
        let kind = Kind::from_number(get::<i16>(row, 2)?.into());
        Ok(StoredBody { conversation: get(row, 0)?, seq: get(row, 1)?, kind, body: get(row, 3)? })
    });
    found.collect()
}

fn signed_seq(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
