//! The versions and features of an installation's nodes, and what the nodes may write because of them.
//!
//! Each node writes its version and features to its row of `writers` as a heartbeat, at least every [`HEARTBEAT_INTERVAL`]. A
//! node counts as alive for a minute after its last heartbeat, by the database's clock. A node of an earlier version has no
//! such row. It counts as alive while its session holds the lock of serving nodes without the lock of nodes with a row.
//!
//! A feature is on while every living node supports it. The version of the installation goes up once every living node can
//! read what will be written from then on. It never goes down: a trigger refuses each transaction of a node with a lower
//! version.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use switchboard_protocol::FEATURES;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::SERVING_LOCK_ID;
use super::connect::{BlockingConnection, Error};
use super::ended_room::remove;
use super::rewrite::{MAX_EVENTS_PER_PORTION, PortionResult, rewrite};
use crate::record::NewerKind;
use crate::rewrite::REWRITE_INTERVAL;

/// The version of stored data from which the bodies of events name users by key.
pub(super) const VERSION_WITH_USER_KEYS: i32 = 1;

/// The version from which every transaction tells the feed what it writes.
pub(super) const FEED: i32 = 2;

/// The version from which ids may be retired: an earlier build would give them again.
pub(super) const RETIRED_IDS: i32 = 3;

/// The version from which rooms may be deleted: an earlier build would write to them and list them.
pub(super) const ENDED_ROOMS: i32 = 4;

/// The advisory lock that keeps the version of the installation from changing: "version" in ASCII.
const VERSION_LOCK_ID: i64 = 0x76_65_72_73_69_6f_6e;

/// The advisory lock held by nodes that have a row with their version: "writers" in ASCII.
pub(super) const VERSIONED_NODE_LOCK_ID: i64 = 0x77_72_69_74_65_72_73;

/// The SQLSTATE with which the trigger `check_writer` refuses a node whose version is below the installation's.
const OUTDATED_SQLSTATE: &str = "SB001";

/// How often a node writes its heartbeat and reads the other nodes' rows.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// How often a node writes its heartbeat while other nodes keep features off or the version down.
const WAITING_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// What a build supports. A test opens a store with the abilities of an earlier build.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// The newest version of stored data that this build can read and write.
    pub version: i32,
    /// The features of [`FEATURES`] that the build supports.
    pub features: Vec<&'static str>,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { version: ENDED_ROOMS, features: FEATURES.to_vec() }
    }
}

/// The error of a node whose version is below that of its installation.
#[derive(Debug, thiserror::Error)]
#[error("this version of switchboard is too old for the installation: {0}. Start a newer version")]
pub struct Outdated(String);

/// What a node knows about its installation.
#[derive(Debug)]
pub(super) struct Installation {
    version: AtomicI32,
    /// The features that all nodes support, as bits: bit n is the n-th feature of `known`.
    features: AtomicU64,
    own_features: Vec<&'static str>,
}

impl Installation {
    pub(super) fn new(abilities: &Capabilities) -> Self {
        let own_features = abilities.features.clone();
        Self { version: AtomicI32::new(0), features: AtomicU64::new(0), own_features }
    }

    /// The features that every living node supports.
    pub(super) fn features(&self) -> Vec<&'static str> {
        let on = self.features.load(Ordering::Relaxed);
        let known = self.own_features.iter().enumerate();
        known.filter(|(place, _)| on & (1 << place) != 0).map(|(_, feature)| *feature).collect()
    }

    fn has_all_features(&self, version: i32) -> bool {
        self.version.load(Ordering::Relaxed) >= version && self.features().len() == self.own_features.len()
    }
}

/// A node, as its row describes it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) version: i32,
    pub(super) features: Vec<&'static str>,
}

/// The work that a node does for its installation between batches.
pub(super) struct InstallationUpkeep {
    pub(super) node: Node,
    installation: Arc<Installation>,
    last_heartbeat: Instant,
    /// If there are old bodies to rewrite: the time of the last portion.
    last_rewrite: Option<Instant>,
    /// If there is a deleted room of which content is left: the time of the last slice.
    last_removal: Option<Instant>,
}

const INSERT_KINDS: &str = "INSERT INTO kinds (number, name, users)
    SELECT * FROM unnest($1::smallint[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING";

/// Writes the node's heartbeat. The trigger `check_writer` refuses it if the node is too old.
const WRITE_HEARTBEAT: &str = "INSERT INTO writers (id, batch, version, features) VALUES ($1, 0, $2, $3)
    ON CONFLICT (id) DO UPDATE SET at = now(), version = excluded.version, features = excluded.features";

/// An SQL condition: a living node has no row with its version. Such a node is recognised by its session, which runs a
/// query every few seconds.
macro_rules! has_unversioned_node {
    () => {
        "EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ShareLock' AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.classid::bigint << 32 | l.objid::bigint = $3
            AND coalesce(a.query_start, now()) > now() - interval '1 minute'
            AND NOT EXISTS (SELECT FROM pg_locks d WHERE d.pid = l.pid AND d.locktype = 'advisory' AND d.granted
                AND d.objsubid = 1 AND d.classid::bigint << 32 | d.objid::bigint = $4))"
    };
}

/// An SQL condition: a living node has a version below `$2`.
macro_rules! has_older_node {
    () => {
        "EXISTS (SELECT FROM writers w WHERE w.id <> $1 AND w.at > now() - interval '1 minute' AND w.version < $2)"
    };
}

/// Selects the version of the installation, the features that every other living node supports, whether all of them support
/// this node's version, and whether there are bodies to rewrite, and deleted rooms of which content is left.
const SELECT_INSTALLATION: &str = concat!(
    "SELECT i.version, ARRAY(SELECT f.place FROM unnest($5::text[]) WITH ORDINALITY f (name, place)
        WHERE NOT earlier.lives AND NOT EXISTS (SELECT FROM writers w
            WHERE w.id <> $1 AND w.at > now() - interval '1 minute' AND NOT f.name = ANY (w.features))),
        NOT earlier.lives AND NOT ",
    has_older_node!(),
    ", EXISTS (SELECT FROM rewrite), EXISTS (SELECT FROM ended_rooms)
    FROM installation i CROSS JOIN (SELECT ",
    has_unversioned_node!(),
    " AS lives) earlier"
);

/// Raises the version, under the exclusive lock of it. Where the version before has bodies with ids, their rewriting starts.
const RAISE_VERSION: &str = concat!(
    "WITH raised AS (UPDATE installation SET version = $2 WHERE version < $2 AND NOT ",
    has_older_node!(),
    " AND NOT ",
    has_unversioned_node!(),
    " RETURNING version)
    INSERT INTO rewrite (conversation, seq) SELECT 0, 0 FROM raised, installation before
    WHERE before.version < 1 AND EXISTS (SELECT FROM events)
    ON CONFLICT (id) DO UPDATE SET conversation = 0, seq = 0"
);

/// The statements to prepare on each connection.
pub(super) const STATEMENTS: [&str; 4] = [INSERT_KINDS, WRITE_HEARTBEAT, SELECT_INSTALLATION, RAISE_VERSION];

impl InstallationUpkeep {
    pub(super) fn new(abilities: &Capabilities, installation: Arc<Installation>) -> Self {
        let id = uuid::Uuid::now_v7().simple().to_string();
        let node = Node { id, version: abilities.version, features: abilities.features.clone() };
        Self { node, installation, last_heartbeat: Instant::now(), last_rewrite: None, last_removal: None }
    }

    /// Joins the installation; from then on the node may write.
    ///
    /// # Errors
    /// The node's version is below the installation's, or the database cannot be used.
    pub(super) fn join(&mut self, link: &BlockingConnection) -> anyhow::Result<()> {
        match self.insert_kinds(link).and_then(|()| self.write_heartbeat(link)) {
            Err(Error::Database(error)) if is_outdated(error.code()) => {
                let message =
                    error.as_db_error().map_or_else(String::new, |error| error.message().to_owned());
                Err(Outdated(message).into())
            }
            joined => Ok(joined?),
        }
    }

    fn insert_kinds(&self, link: &BlockingConnection) -> Result<(), Error> {
        let (mut numbers, mut names, mut users) = (Vec::new(), Vec::new(), Vec::new());
        for (number, name, fields) in NewerKind::own_rows() {
            numbers.push(number);
            names.push(name);
            users.push(fields);
        }
        link.run(link.rows(INSERT_KINDS, &[&numbers, &names, &users])).map(drop)
    }

    /// Whether there are old bodies to rewrite, or deleted rooms to remove, while the node is idle.
    pub(super) fn has_portions(&self) -> bool {
        self.last_rewrite.is_some() || self.last_removal.is_some()
    }

    /// Does the work that is due between two batches.
    ///
    /// # Errors
    /// The connection or the database failed.
    pub(super) fn run_due_work(&mut self, link: &BlockingConnection, is_idle: bool) -> Result<(), Error> {
        let interval = if self.installation.has_all_features(self.node.version) {
            HEARTBEAT_INTERVAL
        } else {
            WAITING_HEARTBEAT_INTERVAL
        };
        if self.last_heartbeat.elapsed() >= interval {
            self.write_heartbeat(link)?;
        }
        if self.last_rewrite.is_some_and(|last| is_idle || last.elapsed() >= REWRITE_INTERVAL) {
            self.last_rewrite = match rewrite(link, MAX_EVENTS_PER_PORTION)? {
                PortionResult::Done => {
                    tracing::info!("all events name users by number now");
                    None
                }
                PortionResult::More => Some(Instant::now()),
                // This node checks again at its next heartbeat whether bodies are left to rewrite.
                PortionResult::OfAnotherNode => None,
            };
        }
        if self.last_removal.is_some_and(|last| is_idle || last.elapsed() >= REWRITE_INTERVAL) {
            self.last_removal = match remove(link)? {
                PortionResult::More => Some(Instant::now()),
                PortionResult::Done | PortionResult::OfAnotherNode => None,
            };
        }
        Ok(())
    }

    /// Writes the heartbeat, reads the other nodes' rows, and raises the version of the installation if they allow it.
    fn write_heartbeat(&mut self, link: &BlockingConnection) -> Result<(), Error> {
        let Node { id, version, features } = &self.node;
        self.last_heartbeat = Instant::now();
        link.run(link.rows(WRITE_HEARTBEAT, &[id, version, features]))?;
        let mut found = self.read_state(link)?;
        if found.may_raise_version && found.version < *version {
            match link.run(raise_version(link, &self.node)) {
                Ok(()) => found = self.read_state(link)?,
                // Another node has a long transaction. This node tries again at its next heartbeat.
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
                Err(error) => return Err(error),
            }
        }
        let before = self.installation.version.swap(found.version, Ordering::Relaxed);
        if before != found.version {
            tracing::info!(version = found.version, "the version of the installation");
        }
        self.installation.features.store(found.features, Ordering::Relaxed);
        self.last_removal = found.has_ended_rooms.then(|| self.last_removal.unwrap_or_else(Instant::now));
        if !found.has_rewrite || found.version < VERSION_WITH_USER_KEYS || *version < VERSION_WITH_USER_KEYS {
            self.last_rewrite = None;
        } else if self.last_rewrite.is_none() {
            self.last_rewrite = Some(Instant::now());
        }
        Ok(())
    }

    fn read_state(&self, link: &BlockingConnection) -> Result<InstallationState, Error> {
        let Node { id, version, features } = &self.node;
        let rows = link.run(link.rows(
            SELECT_INSTALLATION,
            &[id, version, &SERVING_LOCK_ID, &VERSIONED_NODE_LOCK_ID, features],
        ))?;
        let row = rows.first().ok_or_else(|| Error::Damaged("the installation has no version".to_owned()))?;
        let places: Vec<i64> = row.try_get(1)?;
        let features = places.iter().fold(0, |on, place| on | 1 << (place - 1));
        Ok(InstallationState {
            version: row.try_get(0)?,
            features,
            may_raise_version: row.try_get(2)?,
            has_rewrite: row.try_get(3)?,
            has_ended_rooms: row.try_get(4)?,
        })
    }
}

/// What the query [`SELECT_INSTALLATION`] finds out about the installation and its other nodes.
struct InstallationState {
    version: i32,
    features: u64,
    /// Whether every other living node supports the version of this one.
    may_raise_version: bool,
    has_rewrite: bool,
    has_ended_rooms: bool,
}

/// Raises the version, if every living node supports it. Waits for open transactions to end.
async fn raise_version(link: &BlockingConnection, node: &Node) -> Result<(), Error> {
    let client = link.client();
    let raised = try_raise_version(link, client, node).await;
    if raised.is_err() {
        let _ = client.batch_execute("ROLLBACK").await;
    }
    raised
}

async fn try_raise_version(link: &BlockingConnection, client: &Client, node: &Node) -> Result<(), Error> {
    client.batch_execute("BEGIN; SET LOCAL lock_timeout = '1s'").await?;
    client.execute("SELECT pg_advisory_xact_lock($1)", &[&VERSION_LOCK_ID]).await?;
    link.rows(RAISE_VERSION, &[&node.id, &node.version, &SERVING_LOCK_ID, &VERSIONED_NODE_LOCK_ID]).await?;
    Ok(client.batch_execute("COMMIT").await?)
}

/// Whether the error means that the node's version is below the installation's.
pub(super) fn is_outdated(code: Option<&SqlState>) -> bool {
    code.is_some_and(|code| code.code() == OUTDATED_SQLSTATE)
}
