//! A blocking connection to the database, used by one thread that waits for each answer.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::join_all;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Row, Statement};

use super::target::Target;
use crate::change::StoreError;

/// Time-out of the handshake with one host, from the first byte until the session is set up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time-out of an answer. A database that is stalled or unreachable sends no answer; the outcome of the statement is then
/// unknown. It is longer than the server's own time-outs in [`SESSION_SETTINGS`].
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a dropped connection may take to send its termination message.
const TERMINATE_TIMEOUT: Duration = Duration::from_millis(200);

/// Settings of every session.
///
/// - `lock_timeout`: bounds the wait for a row that another node has locked.
/// - `idle_in_transaction_session_timeout`: bounds how long a node that stalls in the middle of a batch blocks others.
/// - `default_transaction_isolation`: the order of writes depends on row locks, and each statement must see what other
///   nodes committed before it.
pub(super) const SESSION_SETTINGS: &str = "SET statement_timeout = '8s'; SET lock_timeout = '5s';
                       SET idle_in_transaction_session_timeout = '5s';
                       SET default_transaction_isolation = 'read committed';
                       SET client_encoding = 'UTF8'; SET standard_conforming_strings = on;";

/// The oldest supported PostgreSQL, as a `server_version_num`. It has all features used here, and older versions get no
/// fixes.
const MIN_SERVER_VERSION: i32 = 130_000;

/// An error of the database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An error of the server or the connection.
    #[error("{}", without_details(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The answer timed out.
    #[error("the database does not answer")]
    AnswerTimeout,
    /// Another node has locked the conversation, and the read skipped it.
    #[error("another node has locked this conversation")]
    ConversationLocked,
    /// The commit succeeded with a warning that the standby may not have it.
    #[error("the database gave up waiting for its standby")]
    StandbyUncertain,
    /// `migrate-store` is copying an installation to the database.
    #[error("`switchboard migrate-store` is copying an installation to it")]
    MigrationRunning,
    /// A row has unexpected content.
    #[error("a row is damaged: {0}")]
    Damaged(String),
    /// A row cannot be encoded.
    #[error("a row cannot be written: {0}")]
    Unwritable(String),
}

impl StoreError for Error {
    fn concerns_one_change(&self) -> bool {
        matches!(self, Self::ConversationLocked)
    }

    fn is_damaged_row(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }

    fn unwritable(what: String) -> Self {
        Self::Unwritable(what)
    }
}

impl Error {
    /// The SQLSTATE of the server's error, if it is one.
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            Self::AnswerTimeout
            | Self::ConversationLocked
            | Self::StandbyUncertain
            | Self::MigrationRunning
            | Self::Damaged(_)
            | Self::Unwritable(_) => None,
        }
    }

    /// Whether the connection is lost.
    pub(super) fn is_lost(&self) -> bool {
        const CONNECTION_ENDS: [SqlState; 4] = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ];
        match self {
            Self::AnswerTimeout => true,
            // An error without a code is an error of the connection.
            Self::Database(error) => error.code().is_none_or(|code| CONNECTION_ENDS.contains(code)),
            Self::ConversationLocked
            | Self::StandbyUncertain
            | Self::MigrationRunning
            | Self::Damaged(_)
            | Self::Unwritable(_) => false,
        }
    }
}

/// The message of an error without its details, which may contain keys and texts.
fn without_details(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(database), _) => format!("{} (SQLSTATE {})", database.message(), database.code().code()),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}

/// A statement with its parameters, which is sent together with others.
pub(super) struct Pipelined<'a> {
    sql: &'static str,
    parameters: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Pipelined<'a> {
    pub(super) fn new(sql: &'static str, parameters: &[&'a (dyn ToSql + Sync)]) -> Self {
        Self { sql, parameters: parameters.to_vec() }
    }
}

/// The answers to pipelined statements.
pub(super) type PipelinedResults = Vec<Result<Vec<Row>, Error>>;

/// A connection with the runtime that drives it. It stays on one thread, and I/O happens only within
/// [`BlockingConnection::run`].
pub(super) struct BlockingConnection {
    client: Client,
    statements: RefCell<FxHashMap<&'static str, Statement>>,
    has_warning: Arc<AtomicBool>,
    has_timed_out: Cell<bool>,
    /// Dropped after the client, because it sends the client's termination message.
    driver: Driver,
}

/// The runtime that drives the connection.
struct Driver {
    runtime: Runtime,
    task: Option<JoinHandle<()>>,
}

impl BlockingConnection {
    /// Connects to the first host that accepts writes, and checks that its settings make commits durable.
    ///
    /// # Errors
    /// No host is usable.
    pub(super) fn open(target: &Target) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut driver = Driver { runtime, task: None };
        let warned = Arc::new(AtomicBool::new(false));
        let mut refused = None;
        for host in target.hosts() {
            match driver.runtime.block_on(connect(host, target, &warned)) {
                Ok((client, task)) => {
                    driver.task = Some(task);
                    let (statements, silent) = (RefCell::default(), Cell::new(false));
                    return Ok(Self {
                        client,
                        statements,
                        has_warning: warned,
                        has_timed_out: silent,
                        driver,
                    });
                }
                Err(error) => refused = Some(error),
            }
        }
        let refused = refused.unwrap_or_else(|| anyhow::anyhow!("the URL names no host"));
        Err(refused.context(format!("cannot use the database {target}")))
    }

    /// Blocks until `work` with the client has ended. Statements that are polled together are pipelined.
    ///
    /// # Errors
    /// The work failed or timed out. After a time-out the connection cannot be used any more.
    pub(super) fn run<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, Error>
    where
        Error: From<E>,
    {
        self.driver.runtime.block_on(async {
            match timeout(ANSWER_TIMEOUT, work).await {
                Ok(done) => Ok(done?),
                Err(_) => {
                    self.has_timed_out.set(true);
                    Err(Error::AnswerTimeout)
                }
            }
        })
    }

    /// The client, for use within [`BlockingConnection::run`].
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Blocks until `work` is done, without a time-out and with exclusive access to the client.
    pub(super) fn run_alone<T, E>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, E>,
    ) -> Result<T, E> {
        self.driver.runtime.block_on(work(&mut self.client))
    }

    /// A statement, prepared once per connection.
    pub(super) async fn prepared(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.borrow_mut().insert(sql, statement.clone());
        Ok(statement)
    }

    /// Queries a prepared statement, within [`BlockingConnection::run`].
    pub(super) async fn rows(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query(&self.prepared(sql).await?, parameters).await
    }

    /// Sends several statements in one round trip, in order. All must be prepared, because an unprepared one would run
    /// after the others.
    pub(super) fn run_pipelined(&self, asks: &[Pipelined<'_>]) -> Result<PipelinedResults, Error> {
        debug_assert!(asks.iter().all(|ask| self.statements.borrow().contains_key(ask.sql)), "prepared");
        let answers = asks.iter().map(|ask| self.rows(ask.sql, &ask.parameters));
        let answers = self.run(async { Ok::<_, Error>(join_all(answers).await) })?;
        Ok(answers.into_iter().map(|answer| answer.map_err(Error::from)).collect())
    }

    /// Prepares statements in one round trip.
    pub(super) fn prepare_all(&self, statements: &[&'static str]) -> Result<(), Error> {
        self.run(async {
            join_all(statements.iter().map(|sql| self.prepared(sql)))
                .await
                .into_iter()
                .try_for_each(|done| done.map(drop))
        })
    }

    /// Whether the connection can no longer be used.
    pub(super) fn is_closed(&self) -> bool {
        self.has_timed_out.get() || self.client.is_closed()
    }

    /// Whether the server sent a warning since the last call. It sends one if it gives up waiting for a standby and reports
    /// a commit all the same.
    pub(super) fn take_warning(&self) -> bool {
        self.has_warning.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            let _ = self.runtime.block_on(async { timeout(TERMINATE_TIMEOUT, task).await });
        }
    }
}

impl std::fmt::Debug for BlockingConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockingConnection")
    }
}

async fn connect(
    host: &Config,
    target: &Target,
    warned: &Arc<AtomicBool>,
) -> anyhow::Result<(Client, JoinHandle<()>)> {
    let ready = async {
        let connected = host.connect(target.tls()).await;
        let (client, connection) = connected.map_err(Error::from)?;
        #[expect(clippy::disallowed_methods, reason = "the runtime of the thread that waits for it owns it")]
        let driver = tokio::spawn(drive(connection, warned.clone()));
        client.batch_execute(SESSION_SETTINGS).await.map_err(Error::from)?;
        check_durability(&client).await?;
        Ok((client, driver))
    };
    timeout(HANDSHAKE_TIMEOUT, ready).await.context("the handshake timed out")?
}

/// Drives the connection until it ends.
async fn drive<S, T>(mut connection: Connection<S, T>, warned: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                if notice.parsed_severity() == Some(Severity::Warning) {
                    warned.store(true, Ordering::Release);
                    tracing::warn!(
                        code = notice.code().code(),
                        "warning of the database: {}",
                        notice.message()
                    );
                }
            }
            Ok(_) => {}
            // The connection has failed, and pending queries receive the error.
            Err(_) => break,
        }
    }
}

/// Refuses a database whose settings do not make commits durable, because `ok` promises durability.
async fn check_durability(client: &Client) -> anyhow::Result<()> {
    const SESSION_SETTINGS: &str =
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
        current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
        current_setting('synchronous_standby_names'), current_setting('server_encoding')";
    let row = client.query_one(SESSION_SETTINGS, &[]).await.map_err(Error::from)?;
    let text = |column: usize| row.try_get::<_, &str>(column).map_err(Error::from);
    let version: i32 = row.try_get(0).map_err(Error::from)?;
    if version < MIN_SERVER_VERSION {
        bail!("it is PostgreSQL {}; use 13 or newer", text(1)?);
    }
    if text(2)? != "on" {
        bail!("its `fsync` is off, so it may lose what it has committed; set fsync = on");
    }
    if text(3)? != "on" {
        bail!("its `full_page_writes` is off, so a power cut may damage it; set full_page_writes = on");
    }
    match text(4)? {
        "off" => bail!(
            "its `synchronous_commit` is off, so it says \"committed\" before it is; set synchronous_commit = on"
        ),
        "local" if !text(5)?.is_empty() => bail!(
            "its `synchronous_commit` is local, so nothing waits for the standby that `synchronous_standby_names` names; set synchronous_commit = on"
        ),
        _ => {}
    }
    ensure!(text(6)? == "UTF8", "its encoding is {}; create a database with ENCODING 'UTF8'", text(6)?);
    Ok(())
}
