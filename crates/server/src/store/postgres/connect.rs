//! One connection, used by one thread that waits for its answers.

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
use crate::store::change::StoreError;

/// How long a host may take from the first byte to being ready.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long we wait for an answer. A database that is stopped, or was cut off, gives none; what became of the
/// statement is then unknown. Longer than the server's own limits of [`SESSION`].
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// How long a connection that is given up may take to say so.
const PARTING: Duration = Duration::from_millis(200);

/// How a session is set up.
///
/// - `lock_timeout`: a row that another node has locked, and does not let go.
/// - `idle_in_transaction_session_timeout`: a node that stops in the middle of a batch holds up others no longer than this.
/// - `default_transaction_isolation`: row locks are what order rests on, and each statement is to see what others
///   committed before it.
pub(super) const SESSION: &str = "SET statement_timeout = '8s'; SET lock_timeout = '5s';
                       SET idle_in_transaction_session_timeout = '5s';
                       SET default_transaction_isolation = 'read committed';
                       SET client_encoding = 'UTF8'; SET standard_conforming_strings = on;";

/// The oldest PostgreSQL, as `server_version_num` has it: what is used here is in it, and older ones get no fixes any more.
const OLDEST: i32 = 130_000;

/// What went wrong with a database.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum Error {
    /// The database or the way to it.
    #[error("{}", told(.0))]
    Database(#[from] tokio_postgres::Error),
    /// There was no answer.
    #[error("the database does not answer")]
    Silent,
    /// The conversation is locked by another node, and was left out.
    #[error("another node holds up this conversation")]
    Busy,
    /// It says that it has committed, and warns that it is not so sure.
    #[error("the database gave up waiting for its standby")]
    Doubtful,
    /// An installation is being moved to the database.
    #[error("an installation is being moved to it; `switchboard migrate-store` says when that is done")]
    Moving,
    /// A row is not what it must be.
    #[error("a row is damaged: {0}")]
    Damaged(String),
    /// A row cannot be made.
    #[error("a row cannot be written: {0}")]
    Unwritable(String),
}

impl StoreError for Error {
    fn is_of_one(&self) -> bool {
        matches!(self, Self::Busy)
    }

    fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }

    fn unwritable(what: String) -> Self {
        Self::Unwritable(what)
    }
}

impl Error {
    /// The code that the database gave.
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            Self::Silent
            | Self::Busy
            | Self::Doubtful
            | Self::Moving
            | Self::Damaged(_)
            | Self::Unwritable(_) => None,
        }
    }

    /// Whether the connection is of no use any more.
    pub(super) fn is_lost(&self) -> bool {
        const ENDS: [SqlState; 4] = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ];
        match self {
            Self::Silent => true,
            // Without a code it is not an answer, but the end of the connection.
            Self::Database(error) => error.code().is_none_or(|code| ENDS.contains(code)),
            Self::Busy | Self::Doubtful | Self::Moving | Self::Damaged(_) | Self::Unwritable(_) => false,
        }
    }
}

/// An error without its details: those may have keys and texts in them.
fn told(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(database), _) => format!("{} (SQLSTATE {})", database.message(), database.code().code()),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}

/// One of several questions that are asked together.
pub(super) struct Ask<'a> {
    sql: &'static str,
    parameters: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(sql: &'static str, parameters: &[&'a (dyn ToSql + Sync)]) -> Self {
        Self { sql, parameters: parameters.to_vec() }
    }
}

/// What is answered to each of several questions.
pub(super) type Answers = Vec<Result<Vec<Row>, Error>>;

/// A connection with the runtime that moves its bytes. It lives and dies on a thread of its own: nothing happens on it but
/// while [`Link::run`] waits.
pub(super) struct Link {
    client: Client,
    statements: RefCell<FxHashMap<&'static str, Statement>>,
    warned: Arc<AtomicBool>,
    silent: Cell<bool>,
    /// Dropped after the client, whose end it tells the server.
    driver: Driver,
}

/// What moves the bytes.
struct Driver {
    runtime: Runtime,
    task: Option<JoinHandle<()>>,
}

impl Link {
    /// Connects to the first host that takes writes, and makes sure that it keeps what it is told to keep.
    ///
    /// # Errors
    /// No host can be used.
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
                    return Ok(Self { client, statements, warned, silent, driver });
                }
                Err(error) => refused = Some(error),
            }
        }
        let refused = refused.unwrap_or_else(|| anyhow::anyhow!("no host is named"));
        Err(refused.context(format!("cannot use the database {target}")))
    }

    /// Waits for something to be done with the client. What is polled together is sent together.
    ///
    /// # Errors
    /// It failed, or there was no answer for long. Then the connection is good for nothing more.
    pub(super) fn run<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, Error>
    where
        Error: From<E>,
    {
        self.driver.runtime.block_on(async {
            match timeout(SILENCE, work).await {
                Ok(done) => Ok(done?),
                Err(_) => {
                    self.silent.set(true);
                    Err(Error::Silent)
                }
            }
        })
    }

    /// The client, for use within [`Link::run`].
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The same, for whoever needs it alone.
    pub(super) fn run_alone<T, E>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, E>,
    ) -> Result<T, E> {
        self.driver.runtime.block_on(work(&mut self.client))
    }

    /// A statement, prepared once a connection.
    pub(super) async fn prepared(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.borrow_mut().insert(sql, statement.clone());
        Ok(statement)
    }

    /// The rows of a prepared statement, within [`Link::run`].
    pub(super) async fn rows(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query(&self.prepared(sql).await?, parameters).await
    }

    /// Asks several things in one round trip; they are done in their order. All of them have been prepared before, or those
    /// that were not would come last.
    pub(super) fn all(&self, asks: &[Ask<'_>]) -> Result<Answers, Error> {
        debug_assert!(asks.iter().all(|ask| self.statements.borrow().contains_key(ask.sql)), "prepared");
        let answers = asks.iter().map(|ask| self.rows(ask.sql, &ask.parameters));
        let answers = self.run(async { Ok::<_, Error>(join_all(answers).await) })?;
        Ok(answers.into_iter().map(|answer| answer.map_err(Error::from)).collect())
    }

    /// Prepares statements ahead of their use, all in one round trip.
    pub(super) fn prepare_all(&self, statements: &[&'static str]) -> Result<(), Error> {
        self.run(async {
            join_all(statements.iter().map(|sql| self.prepared(sql)))
                .await
                .into_iter()
                .try_for_each(|done| done.map(drop))
        })
    }

    /// Whether it can be used no more.
    pub(super) fn is_closed(&self) -> bool {
        self.silent.get() || self.client.is_closed()
    }

    /// Whether the server has warned of anything since the last call: it does when it gives up waiting for a standby, and
    /// says "committed" all the same.
    pub(super) fn take_warning(&self) -> bool {
        self.warned.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            let _ = self.runtime.block_on(async { timeout(PARTING, task).await });
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
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
        client.batch_execute(SESSION).await.map_err(Error::from)?;
        check_promises(&client).await?;
        Ok((client, driver))
    };
    timeout(HANDSHAKE, ready).await.context("it does not answer")?
}

/// Moves the bytes, until the connection ends.
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
                    tracing::warn!(code = notice.code().code(), "the database warns: {}", notice.message());
                }
            }
            Ok(_) => {}
            // Whoever waits for an answer is told.
            Err(_) => break,
        }
    }
}

/// What `ok` rests on: a database that does not keep what it has committed is refused.
async fn check_promises(client: &Client) -> anyhow::Result<()> {
    const SETTINGS: &str =
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
        current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
        current_setting('synchronous_standby_names'), current_setting('server_encoding')";
    let row = client.query_one(SETTINGS, &[]).await.map_err(Error::from)?;
    let text = |column: usize| row.try_get::<_, &str>(column).map_err(Error::from);
    let version: i32 = row.try_get(0).map_err(Error::from)?;
    if version < OLDEST {
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
    ensure!(text(6)? == "UTF8", "its encoding is {}; make a database with ENCODING 'UTF8'", text(6)?);
    Ok(())
}
