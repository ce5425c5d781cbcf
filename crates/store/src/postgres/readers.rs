//! The reader threads, each with a connection that only reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use switchboard_protocol::{Limits, Seq, UserId};
use tokio::time::Instant;

use super::connect::{BlockingConnection, Error};
use super::query::{self, Session};
use super::target::Target;
use super::trouble::describe;
use crate::batch::WriterState;
use crate::block::BlockList;
use crate::change::OperationError;
use crate::fair_queue::LaneOwner;
use crate::profile::{ChangePlace, ChangedProfiles};
use crate::read::{LookupResult, MEMBERSHIPS_PER_READ, Reader};
use crate::readers::{self, ReaderConnection, failure_to_refusal};
use crate::record::{Answer, ConversationKey};
use crate::refusal::Refusal;
use crate::{CurrentMembership, LogExcerpt, MembershipsPage, Revocations, Seqs};

/// The reader threads.
pub(super) struct Readers {
    /// The threads for users and their connections.
    pub(super) users: readers::Readers<PostgresReader>,
    /// The threads for the router, so that delivery does not wait for users' pages.
    router: readers::Readers<PostgresReader>,
    /// The thread for the router's query of revocations, so that it does not wait for other reads.
    revocations: readers::Readers<PostgresReader>,
}

/// How many threads read for the router. Its reads are short; with two threads, the log of one conversation does not delay
/// that of another.
const ROUTER_READERS: usize = 2;

impl Readers {
    /// Starts `count` threads for users, and those for the router. A thread connects at its first read. The threads end
    /// when this is dropped.
    pub(super) fn start(
        count: usize,
        target: &Target,
        limits: &Limits,
        state: &Arc<WriterState>,
    ) -> anyhow::Result<Self> {
        let (limits, logged) = (Arc::new(limits.clone()), Arc::<AtomicBool>::default());
        let connections = |count| {
            let connection =
                |_| Ok(PostgresReader::new(target.clone(), limits.clone(), state.clone(), logged.clone()));
            (0..count).map(connection)
        };
        let (users, _) = readers::Readers::start("reader", connections(count.max(1)))?;
        let (router, _) = readers::Readers::start("log-reader", connections(ROUTER_READERS))?;
        let (revocations, _) = readers::Readers::start("revocations", connections(1))?;
        Ok(Self { users, router, revocations })
    }

    /// Checks that the database answers. A thread that reads for the router runs the check, because the threads that read for users
    /// may all be busy.
    pub(super) fn probe(&self) -> Answer<()> {
        self.router.probe()
    }

    pub(super) fn heads(&self, conversations: Vec<ConversationKey>) -> Answer<Seqs> {
        self.router.read(LaneOwner::Heads, move |reader| query::heads(reader, &conversations))
    }

    pub(super) fn revocations(&self, users: Vec<UserId>) -> Answer<Revocations> {
        self.revocations.read(LaneOwner::Memberships, move |reader| query::revocations(reader, &users))
    }

    pub(super) fn changed_blocks(&self, users: Vec<(UserId, u64)>) -> Answer<Vec<(UserId, BlockList)>> {
        self.router.read(LaneOwner::Profiles, move |reader| reader.changed_blocks(&users))
    }

    pub(super) fn changed_profiles(&self, after: ChangePlace, most: u32) -> Answer<ChangedProfiles> {
        self.router.read(LaneOwner::Profiles, move |reader| query::changed_profiles(reader, after, most))
    }

    pub(super) fn membership_pages(
        &self,
        users: Vec<(UserId, ConversationKey)>,
        most: u32,
    ) -> Answer<Vec<MembershipsPage>> {
        self.router.read(LaneOwner::Memberships, move |reader| query::membership_pages(reader, &users, most))
    }

    pub(super) fn memberships_in(
        &self,
        pairs: Vec<(UserId, ConversationKey)>,
    ) -> Answer<Vec<Option<CurrentMembership>>> {
        self.router.read(LaneOwner::Newcomers, move |reader| query::memberships_in(reader, &pairs))
    }

    pub(super) fn log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Answer<LogExcerpt> {
        self.router.read(LaneOwner::Log(conversation), move |reader| reader.log(conversation, after, upto))
    }
}

/// The first delay of the exponential backoff between connection attempts of a reader.
const MIN_READER_RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// The longest delay of this backoff.
const MAX_READER_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Settings of a reader's session. Every statement is written for index lookups, but the planner prefers sequential scans
/// of tables that are small or that it estimates as small. That way a query about 500 users among a million memberships
/// took 400 ms in three processes; with index lookups it takes 50 ms in one. Bitmap scans are off, because they read all
/// matching rows even if only the first are needed.
///
/// With index lookups the plan does not depend on the parameters, so each statement is planned once. Planning two of them
/// anew for every `hello` took the database twice as long as all of its reads.
pub(super) const READER_SETTINGS: &str = "SET jit = off; SET max_parallel_workers_per_gather = 0;
                     SET plan_cache_mode = force_generic_plan; SET enable_bitmapscan = off;
                     SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// A connection that only reads. It is opened at the first read.
pub(super) struct PostgresReader {
    session: Option<Session>,
    target: Target,
    limits: Arc<Limits>,
    state: Arc<WriterState>,
    /// Whether a reader has logged that it cannot connect, and none has connected since. All readers share it.
    logged: Arc<AtomicBool>,
    /// When to try to connect again, and the current delay of the backoff.
    backoff: Option<(Instant, Duration)>,
}

impl PostgresReader {
    fn new(target: Target, limits: Arc<Limits>, state: Arc<WriterState>, logged: Arc<AtomicBool>) -> Self {
        Self { session: None, target, limits, state, logged, backoff: None }
    }

    /// The session; connects if there is none and the backoff delay is over.
    fn session(&mut self) -> Option<&Session> {
        if self.session.as_ref().is_some_and(|session| session.link.is_closed()) {
            self.session = None;
        }
        if self.session.is_none() {
            if self.backoff.is_some_and(|(until, _)| Instant::now() < until) {
                return None;
            }
            match connect(&self.target) {
                Ok(session) => {
                    self.backoff = None;
                    if self.logged.swap(false, Ordering::Relaxed) {
                        tracing::info!("the database can be read again");
                    }
                    self.session = Some(session);
                }
                Err(error) => {
                    if self.backoff.is_none() && !self.logged.swap(true, Ordering::Relaxed) {
                        tracing::error!(error = describe(&error), "cannot read the database");
                    }
                    let delay = self.backoff.map_or(MIN_READER_RECONNECT_DELAY, |(_, delay)| {
                        (delay * 2).min(MAX_READER_RECONNECT_DELAY)
                    });
                    self.backoff = Some((Instant::now() + delay, delay));
                }
            }
        }
        self.session.as_ref()
    }
}

impl ReaderConnection for PostgresReader {
    type Rows = Session;

    const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

    fn read<T>(
        &mut self,
        read: impl Fn(&Reader<'_, Session>) -> LookupResult<T, Session>,
    ) -> Result<T, Refusal> {
        let (limits, state) = (self.limits.clone(), self.state.clone());
        let mut may_retry = true;
        loop {
            let Some(rows) = self.session() else { return Err(Refusal::unavailable()) };
            let answer = read(&Reader {
                rows,
                limits: &limits,
                mark: &state.mark,
                memberships_per_step: MEMBERSHIPS_PER_READ,
                now: state.clock.now(),
            });
            let lost = rows.link.is_closed()
                || matches!(&answer, Err(OperationError::Store(error)) if error.is_lost());
            let silent = matches!(answer, Err(OperationError::Store(Error::AnswerTimeout)));
            if lost {
                self.session = None;
            }
            // A read may be retried, because it changes nothing. After a time-out it is not, because the caller has waited
            // long enough.
            if !(lost && may_retry && answer.is_err()) || silent {
                return failure_to_refusal(answer);
            }
            may_retry = false;
        }
    }

    fn end(&mut self) {
        if let Some(session) = &self.session {
            session.end_transaction();
        }
    }

    fn free_memory(&mut self) {}
}

fn connect(target: &Target) -> anyhow::Result<Session> {
    let session = Session::new(BlockingConnection::open(target)?);
    session.link.run(session.link.client().batch_execute(READER_SETTINGS))?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use engines::Postgres;
    use switchboard_protocol::ErrorCode;
    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    /// A new database with its tables, and a reader of it.
    async fn reader(url: &str) -> Readers {
        let target = Target::new(url, None).expect("a target");
        let migrated = target.clone();
        let migrate = move || {
            let mut link = BlockingConnection::open(&migrated).expect("connected");
            crate::postgres::migrate(&mut link).expect("tables");
        };
        tokio::task::spawn_blocking(migrate).await.expect("migrated");
        Readers::start(1, &target, &Limits::default(), &Arc::new(WriterState::default())).expect("readers")
    }

    async fn read(readers: &Readers) -> Result<Option<crate::grant::KeyGrant>, Refusal> {
        let answer = timeout(Duration::from_secs(60), readers.users.api_key([7; 32]));
        answer.await.expect("an answer within the time-out")
    }

    #[tokio::test]
    async fn a_read_ends_its_transaction_and_is_retried_after_a_lost_connection() {
        let scratch = TempDir::new().expect("a directory");
        let postgres = Postgres::start(scratch.path(), &[]).await.expect("a PostgreSQL");
        let readers = reader(&postgres.url()).await;
        assert_eq!(read(&readers).await, Ok(None));
        // The answer comes before the transaction ends, so the test waits for the end.
        let ended = async {
            let state = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query = 'ROLLBACK'";
            while postgres.psql(state).await.expect("a row") != "1" {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(4), ended).await.expect("ended");
        for _ in 0..3 {
            let ends = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
                        WHERE application_name = 'switchboard'";
            assert_eq!(postgres.psql(ends).await.expect("a row"), "1");
            assert_eq!(read(&readers).await, Ok(None), "on a new connection");
        }
    }

    #[tokio::test]
    async fn reads_are_unavailable_while_the_database_is_down_or_stalled() {
        let scratch = TempDir::new().expect("a directory");
        let mut postgres = Postgres::start(scratch.path(), &[]).await.expect("a PostgreSQL");
        let readers = reader(&postgres.url()).await;
        let is_back = async || {
            let back = async {
                while read(&readers).await.is_err() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(30), back).await.expect("reads succeed again");
        };
        is_back().await;
        postgres.kill().await.expect("killed");
        for _ in 0..100 {
            assert_eq!(read(&readers).await.map_err(|refusal| refusal.code), Err(ErrorCode::Unavailable));
        }
        postgres.start_again().await.expect("started");
        is_back().await;
        postgres.pause().expect("paused");
        assert_eq!(read(&readers).await.map_err(|refusal| refusal.code), Err(ErrorCode::Unavailable));
        postgres.resume().expect("resumed");
        is_back().await;
    }
}
