//! The rows of users who are away, in PostgreSQL. All times of leases are those of the database's clock.
//!
//! Transactions that take users offline wait for each other: two nodes that a user leaves at the same time would each see the
//! other's row, and neither would add the entry.

use std::path::Path;

use switchboard_protocol::{Timestamp, UserId};
use tokio_postgres::Row;

use super::connect::{BlockingConnection, Error};
use super::query::row::{count, get, number};
use super::table::to_signed;
use super::target::Target;
use crate::absence::{Attendance, CONSUMER, MissedEntry, MissedMessage};
use crate::webhook::Lease;

/// The lock of transactions that take users offline: "offline" in ASCII.
const LOCK: &str = "SELECT pg_advisory_xact_lock(31351333206420069)";

/// The most users of a node that is lost whom one transaction removes.
const MOST_REMOVED: i64 = 1_000;

const RENEW: &str = "INSERT INTO connected_nodes (node, until)
    VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $2)
    ON CONFLICT (node) DO UPDATE SET until = excluded.until RETURNING xmax = 0";

/// A user may have another id by now.
const ARRIVE: &str = r#"WITH arrived AS (
        SELECT id FROM users WHERE name = ANY($2)
        UNION SELECT "user" FROM retired_ids WHERE name = ANY($2) AND "user" IS NOT NULL
    ), added AS (
        INSERT INTO connected ("user", node) SELECT id, $1 FROM arrived ON CONFLICT DO NOTHING RETURNING "user"
    ) INSERT INTO feed_pending (type, at, "user", via, body)
    SELECT 'user.online', $3, a."user", 0, '{}' FROM added a WHERE $4
        AND NOT EXISTS (SELECT FROM connected c WHERE c."user" = a."user" AND c.node <> $1)"#;

const DEPART: &str = r#"WITH departed AS (
        SELECT id FROM users WHERE name = ANY($2)
        UNION SELECT "user" FROM retired_ids WHERE name = ANY($2) AND "user" IS NOT NULL
    ), removed AS (
        DELETE FROM connected c USING departed d WHERE c.node = $1 AND c."user" = d.id RETURNING c."user"
    ) INSERT INTO feed_pending (type, at, "user", via, body)
    SELECT 'user.offline', $3, r."user", 0, '{}' FROM removed r
    WHERE NOT EXISTS (SELECT FROM connected c WHERE c."user" = r."user" AND c.node <> $1)"#;

/// A node that is lost. Its row stays until its last user is removed.
macro_rules! lost {
    () => {
        "SELECT node, until FROM connected_nodes WHERE node <> $1
    AND until < (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $2 ORDER BY node LIMIT 1"
    };
}

/// Mostly there is none, and then one statement is enough.
const LOOK_FOR_LOST: &str = lost!();

const LOST: &str = concat!(lost!(), " FOR UPDATE");

/// The users of a node that is lost were last seen when it renewed its lease for the last time.
const REMOVE: &str = r#"WITH removed AS (
        DELETE FROM connected WHERE node = $1
            AND "user" IN (SELECT "user" FROM connected WHERE node = $1 ORDER BY "user" LIMIT $4) RETURNING "user"
    ), gone AS (
        SELECT r."user" FROM removed r
        WHERE NOT EXISTS (SELECT FROM connected c WHERE c."user" = r."user" AND c.node <> $1)
    ), locked AS (
        SELECT id FROM users WHERE id IN (SELECT "user" FROM gone) ORDER BY id FOR NO KEY UPDATE
    ), seen AS (
        UPDATE users u SET last_seen = greatest(u.last_seen, $2::bigint) FROM locked l WHERE u.id = l.id
    ), added AS (
        INSERT INTO feed_pending (type, at, "user", via, body)
        SELECT 'user.offline', $3, g."user", 0, '{}' FROM gone g
    ) SELECT count(*) FROM removed"#;

const REMOVE_NODE: &str = "DELETE FROM connected_nodes WHERE node = $1";

const END_LEASE: &str =
    "UPDATE connected_nodes SET until = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    WHERE node = $1";

const ADD_CONSUMER: &str = "INSERT INTO consumers (name, epoch, position, at)
    SELECT $1, epoch, $2, $3 FROM feed_state ON CONFLICT DO NOTHING";

const CLAIM: &str =
    "UPDATE consumers SET node = $2, until = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $3
    WHERE name = $1 AND (node = $2 OR until IS NULL OR until < (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    RETURNING position";

const RELEASE: &str = "UPDATE consumers SET until = 0 WHERE name = $1 AND node = $2";

/// An expired lease that no other node has claimed is as good as a valid one.
const SAVE: &str =
    "UPDATE consumers SET position = $3, at = $4 WHERE name = $1 AND node = $2 RETURNING position";

const PUT_MISSED: &str = r#"INSERT INTO missed ("user", conversation, absence, seq)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
    ON CONFLICT ("user", conversation) DO UPDATE SET absence = excluded.absence, seq = excluded.seq"#;

const ADD_ENTRIES: &str = r#"INSERT INTO feed_pending (type, at, "user", via, body)
    SELECT $1, $2, w."user", 0, w.body FROM unnest($3::bigint[], $4::text[]) w ("user", body)"#;

pub(crate) struct Db {
    target: Target,
    link: BlockingConnection,
}

impl Db {
    pub(crate) fn open(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let target = Target::new(url, ca)?;
        let link = BlockingConnection::open(&target)?;
        Ok(Self { target, link })
    }

    /// A connection that was lost is opened again first.
    fn link(&mut self) -> anyhow::Result<&BlockingConnection> {
        if self.link.is_closed() {
            self.link = BlockingConnection::open(&self.target)?;
        }
        Ok(&self.link)
    }

    /// Runs statements in a transaction, which is rolled back if one fails or if they say so.
    fn transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&BlockingConnection) -> Result<Outcome<T>, Error>,
    ) -> anyhow::Result<T> {
        let link = self.link()?;
        let done = link.run(async {
            link.client().batch_execute("BEGIN").await?;
            match work(link).await? {
                Outcome::Commit(value) => {
                    link.client().batch_execute("COMMIT").await?;
                    Ok::<_, Error>(value)
                }
                Outcome::RollBack(value) => {
                    link.client().batch_execute("ROLLBACK").await?;
                    Ok(value)
                }
            }
        });
        if done.is_err() {
            let _ = link.run(link.client().batch_execute("ROLLBACK"));
        }
        Ok(done?)
    }

    pub(crate) fn update(
        &mut self,
        lease: &Lease,
        changes: &Attendance,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let Attendance { arrived, departed, tells_online, is_complete } = changes;
        let [arrived, departed] = [arrived, departed].map(|users| names(users));
        let (node, now) = (&lease.node, now.as_millis());
        self.transaction(async |link| {
            if !departed.is_empty() || (*tells_online && !arrived.is_empty()) {
                link.rows(LOCK, &[]).await?;
            }
            let renewed = link.rows(RENEW, &[node, &lease.duration]).await?;
            let is_new = renewed.first().map(|row| get::<bool>(row, 0)).transpose()?.unwrap_or_default();
            if is_new && !is_complete {
                return Ok(Outcome::RollBack(false));
            }
            if !arrived.is_empty() {
                link.rows(ARRIVE, &[node, &arrived, &now, tells_online]).await?;
            }
            if !departed.is_empty() {
                link.rows(DEPART, &[node, &departed, &now]).await?;
            }
            Ok(Outcome::Commit(true))
        })
    }

    pub(crate) fn remove_lost(&mut self, lease: &Lease, grace: i64, now: Timestamp) -> anyhow::Result<usize> {
        let now = now.as_millis();
        let link = self.link()?;
        if link.run(link.rows(LOOK_FOR_LOST, &[&lease.node, &grace]))?.is_empty() {
            return Ok(0);
        }
        self.transaction(async |link| {
            link.rows(LOCK, &[]).await?;
            let lost = link.rows(LOST, &[&lease.node, &grace]).await?;
            let Some(row) = lost.first() else { return Ok(Outcome::RollBack(0)) };
            let (node, until): (String, i64) = (get(row, 0)?, get(row, 1)?);
            let renewed = until - lease.duration;
            let removed = link.rows(REMOVE, &[&node, &renewed, &now, &MOST_REMOVED]).await?;
            let removed = removed.first().map(|row: &Row| count(row, 0)).transpose()?.unwrap_or_default();
            if removed == 0 {
                link.rows(REMOVE_NODE, &[&node]).await?;
            }
            Ok(Outcome::Commit(usize::try_from(removed).unwrap_or(usize::MAX)))
        })
    }

    pub(crate) fn end_lease(&mut self, lease: &Lease) -> anyhow::Result<()> {
        let link = self.link()?;
        link.run(link.rows(END_LEASE, &[&lease.node]))?;
        link.run(link.rows(RELEASE, &[&CONSUMER, &lease.node]))?;
        Ok(())
    }

    pub(crate) fn claim_missed(
        &mut self,
        lease: &Lease,
        last: u64,
        now: Timestamp,
    ) -> anyhow::Result<Option<u64>> {
        let link = self.link()?;
        let claim = || link.run(link.rows(CLAIM, &[&CONSUMER, &lease.node, &lease.duration]));
        let mut claimed = claim()?;
        if claimed.is_empty() {
            let last = to_signed(last);
            link.run(link.rows(ADD_CONSUMER, &[&CONSUMER, &last, &now.as_millis()]))?;
            claimed = claim()?;
        }
        Ok(claimed.first().map(|row| count(row, 0)).transpose()?)
    }

    pub(crate) fn save_missed(
        &mut self,
        lease: &Lease,
        position: u64,
        missed: &[MissedMessage],
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let (position, now) = (to_signed(position), now.as_millis());
        let column = |of: fn(&MissedMessage) -> i64| missed.iter().map(of).collect::<Vec<_>>();
        let users = column(|missed| missed.user.0);
        let conversations = column(|missed| missed.conversation.0);
        let absences = column(|missed| missed.absence);
        let seqs = column(|missed| number(missed.seq));
        let mut bodies = Vec::new();
        let mut of = Vec::new();
        for (user, entry) in MissedEntry::of_users(missed) {
            of.push(user.0);
            bodies.push(serde_json::to_string(&entry)?);
        }
        self.transaction(async |link| {
            let saved = link.rows(SAVE, &[&CONSUMER, &lease.node, &position, &now]).await?;
            if saved.is_empty() {
                return Ok(Outcome::RollBack(false));
            }
            if !of.is_empty() {
                link.rows(PUT_MISSED, &[&users, &conversations, &absences, &seqs]).await?;
                link.rows(ADD_ENTRIES, &[&MissedEntry::KIND, &now, &of, &bodies]).await?;
            }
            Ok(Outcome::Commit(true))
        })
    }
}

/// How a transaction ends.
enum Outcome<T> {
    Commit(T),
    RollBack(T),
}

fn names(users: &[UserId]) -> Vec<&str> {
    users.iter().map(UserId::as_str).collect()
}
