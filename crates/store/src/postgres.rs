//! The log in PostgreSQL, for several nodes: one writer thread with group commit and some reader threads, each with its own
//! connection. It shares the rules of changes with the SQLite store; only the access to rows differs.

pub(crate) mod absences;
mod commit;
mod connect;
mod ended_room;
mod feed;
mod ids;
pub(crate) mod inspect;
mod installation;
pub(crate) mod keys;
pub mod moving;
mod query;
mod readers;
pub(crate) mod rename;
mod rewrite;
mod rows;
mod split;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod trouble;
pub(crate) mod webhooks;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Limits, Seq, UserId, UserUnread};
use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;

use self::connect::{BlockingConnection, SESSION_SETTINGS};
use self::installation::Installation;
pub use self::installation::{Capabilities, Outdated};
use self::readers::{PostgresReader, Readers};
use self::target::Target;
use super::batch::{MAX_QUEUED_BATCHES, MAX_QUEUED_WRITES, WriterState};
use super::counting::Counter;
use super::write_fault::WriteFault;
use super::{
    Batch, CurrentMembership, LogExcerpt, Memberships, MembershipsPage, PresencePeer, Query, Revocations,
    Seqs, SharedLog, Snapshot, Store, Submission, Summaries, WriteAccess,
};
use crate::CommitMetrics;
use crate::absence::{MissedPage, MissedQuery};
use crate::ban::Standing;
use crate::block::BlockList;
use crate::clock::Clock;
use crate::fair_queue::LaneOwner;
use crate::feed::{FeedPage, FeedQuery};
use crate::grant::KeyGrant;
use crate::listing::{BanListing, ListBans, ListRooms, ListUsers, ReportListing, RoomListing, UserListing};
use crate::profile::{ChangePlace, ChangedProfiles, Directory, LastToken, People, PeopleQuery};
use crate::read::feed::Unpaged;
use crate::record::{Answer, ConversationKey, NoticeKey, ReadEvent, UserKey};
use crate::report::{ListReports, UndecidedReports};

/// The current schema, for benchmarks.
pub const SCHEMA: &str = include_str!("migrations/postgres/V1__log.sql");

mod schema {
    refinery::embed_migrations!("src/migrations/postgres");
}

/// The advisory lock that serving nodes share and that `migrate-store` takes exclusively: "serving" in ASCII.
const SERVING_LOCK_ID: i64 = 0x73_65_72_76_69_6e_67;

/// The advisory lock under which one node at a time migrates the schema: "switchb" in ASCII.
const MIGRATING_LOCK_ID: i64 = 0x73_77_69_74_63_68_62;

/// The settings for opening a store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The URL of the database: `postgres://user:password@host,host/database?sslmode=…`.
    pub url: String,
    /// A file of root certificates that replaces the system's.
    pub ca: Option<PathBuf>,
    /// The name of this node in the database's list of connections.
    pub name: Option<String>,
    /// The number of reader threads. Each has its own connection.
    pub readers: usize,
    /// The limits of pages and changes.
    pub limits: Limits,
    /// Whether users may write to ids that the server has not seen before.
    pub strangers: bool,
    /// Whether the feed has an entry `user.read` for each `read` that moves a cursor.
    pub tells_reads: bool,
    /// The clock for the times of events.
    pub clock: Clock,
    /// The metrics of commits.
    pub metrics: CommitMetrics,
    /// The version and features that this build supports.
    pub capabilities: Capabilities,
}

/// Checks a database's URL and root certificates without connecting.
///
/// # Errors
/// The URL is invalid, or the certificates cannot be read.
pub fn check_url(url: &str, ca: Option<&Path>) -> anyhow::Result<()> {
    Target::new(url, ca).map(drop)
}

/// The store in PostgreSQL.
pub struct PostgresStore {
    queue: crossbeam_channel::Sender<Submission>,
    readers: Readers,
    /// Kept alive for the writer, which holds a weak reference.
    _counter: Arc<Counter<PostgresReader>>,
    state: Arc<WriterState>,
    installation: Arc<Installation>,
    notice_key: NoticeKey,
    /// The last number of the feed.
    feed: watch::Receiver<u64>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PostgresStore")
    }
}

impl PostgresStore {
    /// Connects to the database and brings its schema up to date. The outcomes of submissions come out of the receiver; the
    /// writer ends when the store and the receiver are dropped.
    ///
    /// # Errors
    /// The database cannot be reached or does not keep what it should, or a newer version made it.
    pub fn open(settings: Settings) -> anyhow::Result<(Self, mpsc::Receiver<Batch>)> {
        let target =
            Target::new(&settings.url, settings.ca.as_deref())?.with_node_name(settings.name.as_deref());
        let state = Arc::new(WriterState::new(settings.clock.clone()));
        let (batches, outcomes) = mpsc::channel(MAX_QUEUED_BATCHES);
        // A reader connects at its first read, so that the writer has created the tables by then.
        let readers = Readers::start(settings.readers, &target, &settings.limits, &state)?;
        let (queue, submissions) = crossbeam_channel::bounded(MAX_QUEUED_WRITES);
        let counter = Counter::new(readers.users.read_queue(), queue.clone());
        let installation = Arc::new(Installation::new(&settings.capabilities));
        let (committed, commits) = crossbeam_channel::bounded(1);
        let (last, feed) = watch::channel(0);
        let parts = feed::Parts {
            target: target.clone(),
            clock: settings.clock.clone(),
            state: state.clone(),
            commits,
            last,
        };
        let notice_key = writer::start(writer::WriterParts {
            target,
            settings,
            batches,
            state: state.clone(),
            queue: submissions,
            counter: Arc::downgrade(&counter),
            installation: installation.clone(),
            committed,
        })?;
        feed::start(parts)?;
        Ok((Self { queue, readers, _counter: counter, state, installation, notice_key, feed }, outcomes))
    }

    /// The key that authenticates notices between the nodes on this database.
    pub fn notice_key(&self) -> &NoticeKey {
        &self.notice_key
    }
}

impl Store for PostgresStore {
    fn submit(&self, submission: Submission) -> Result<(), Box<Submission>> {
        self.queue.try_send(submission).map_err(|error| Box::new(error.into_inner()))
    }

    fn query(&self, user: &UserId, query: Query) -> Answer<OkBody<Box<RawValue>>> {
        self.readers.users.query(user, query)
    }

    fn attach(&self, user: &UserId, named: Vec<ConversationId>) -> Answer<Option<Snapshot>> {
        self.readers.users.attach(user, named)
    }

    fn memberships(&self, user: &UserId, key: UserKey, after: ConversationKey) -> Answer<Memberships> {
        self.readers.users.memberships(user, key, after)
    }

    fn summaries(&self, user: &UserId, key: UserKey, of: Vec<ConversationKey>) -> Answer<Summaries> {
        self.readers.users.summaries(user, key, of)
    }

    fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Answer<Vec<ReadEvent>> {
        self.readers.users.replay(user, conversation, after, upto)
    }

    fn check_write_access(&self, user: &UserId, conversation: ConversationId) -> Answer<WriteAccess> {
        self.readers.users.write_access(user, conversation)
    }

    fn presence_peers(&self, user: &UserId, others: Vec<UserId>) -> Answer<Vec<PresencePeer>> {
        self.readers.users.presence_peers(user, others)
    }

    fn people(&self, user: &UserId, query: PeopleQuery, directory: Directory) -> Answer<People> {
        self.readers.users.people(user, query, directory)
    }

    fn last_token(&self, user: &UserId) -> Answer<Option<LastToken>> {
        self.readers.users.last_token(user)
    }

    fn standing(&self, user: &UserId) -> Answer<Standing> {
        self.readers.users.standing(user)
    }

    fn list_bans(&self, query: ListBans) -> Answer<BanListing> {
        self.readers.users.list_bans(query)
    }

    fn list_reports(&self, query: ListReports) -> Answer<ReportListing> {
        self.readers.users.list_reports(query)
    }

    fn undecided_reports(&self) -> Answer<UndecidedReports> {
        self.readers.users.undecided_reports()
    }

    fn moderator_history(&self, conversation: ConversationId, around: Seq) -> Answer<OkBody<Box<RawValue>>> {
        self.readers.users.moderator_history(conversation, around)
    }

    fn api_key(&self, hash: [u8; 32]) -> Answer<Option<KeyGrant>> {
        self.readers.users.api_key(hash)
    }

    fn list_users(&self, query: ListUsers) -> Answer<UserListing> {
        self.readers.users.list_users(query)
    }

    fn list_rooms(&self, query: ListRooms) -> Answer<RoomListing> {
        self.readers.users.list_rooms(query)
    }

    fn unread(&self, users: Vec<UserId>) -> Answer<Vec<UserUnread>> {
        self.readers.users.unread(users)
    }

    fn feed(&self, query: FeedQuery) -> Answer<FeedPage> {
        // Everything that has a number is in a page.
        self.readers.users.read(LaneOwner::Feed, move |reader| reader.feed(&query, &Unpaged::default()))
    }

    fn feed_news(&self) -> watch::Receiver<u64> {
        self.feed.clone()
    }

    fn missed(&self, query: MissedQuery) -> Answer<MissedPage> {
        self.readers.users.read(LaneOwner::Feed, move |reader| reader.missed(&query, &Unpaged::default()))
    }

    fn probe(&self) -> Answer<()> {
        self.readers.probe()
    }

    fn queued_writes(&self) -> usize {
        self.queue.len()
    }

    fn write_fault(&self) -> Option<WriteFault> {
        self.state.fault()
    }

    fn features(&self) -> Vec<&'static str> {
        self.installation.features()
    }
}

impl SharedLog for PostgresStore {
    fn heads(&self, conversations: Vec<ConversationKey>) -> Answer<Seqs> {
        self.readers.heads(conversations)
    }

    fn revocations(&self, users: Vec<UserId>) -> Answer<Revocations> {
        self.readers.revocations(users)
    }

    fn membership_pages(
        &self,
        users: Vec<(UserId, ConversationKey)>,
        most: u32,
    ) -> Answer<Vec<MembershipsPage>> {
        self.readers.membership_pages(users, most)
    }

    fn current_memberships(
        &self,
        pairs: Vec<(UserId, ConversationKey)>,
    ) -> Answer<Vec<Option<CurrentMembership>>> {
        self.readers.memberships_in(pairs)
    }

    fn changed_blocks(&self, users: Vec<(UserId, u64)>) -> Answer<Vec<(UserId, BlockList)>> {
        self.readers.changed_blocks(users)
    }

    fn changed_profiles(&self, after: ChangePlace, most: u32) -> Answer<ChangedProfiles> {
        self.readers.changed_profiles(after, most)
    }

    fn read_log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Answer<LogExcerpt> {
        self.readers.log(conversation, after, upto)
    }
}

/// Migrates the schema. Only one node at a time does this.
///
/// # Errors
/// A newer version made the database, or it cannot be changed.
fn migrate(link: &mut BlockingConnection) -> anyhow::Result<()> {
    link.run_alone(async |client| {
        // If no migration is needed, nothing is written, so a database role that may only read and write rows is enough.
        if is_current(client).await? {
            return Ok(());
        }
        // Without a time-out, a second process waits for the lock, and then finds the migrations applied.
        client.batch_execute("SET lock_timeout = 0; SET statement_timeout = 0").await?;
        client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATING_LOCK_ID]).await?;
        if !is_current(client).await? {
            schema::migrations::runner()
                .run_async(client)
                .await
                .context("cannot bring its tables up to date")?;
        }
        client.execute("SELECT pg_advisory_unlock($1)", &[&MIGRATING_LOCK_ID]).await?;
        Ok(client.batch_execute(SESSION_SETTINGS).await?)
    })
}

/// Reads the key of notices, which the first migration generated.
///
/// # Errors
/// The database cannot be read, or the key is missing.
fn read_notice_key(link: &mut BlockingConnection) -> anyhow::Result<NoticeKey> {
    link.run_alone(async |client| {
        let row = client.query_one("SELECT value FROM secrets WHERE name = 'notices'", &[]).await;
        let value: Vec<u8> =
            row.and_then(|row| row.try_get(0)).context("cannot read the key of the bus's notices")?;
        let key =
            <[u8; 32]>::try_from(value).ok().context("the key of the bus's notices is not 32 bytes long")?;
        Ok(NoticeKey::new(key))
    })
}

/// Whether the tables are those of this version. Refuses a database that a newer version made, because this version does
/// not know what its tables mean.
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
