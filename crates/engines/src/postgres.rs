//! A PostgreSQL cluster: its data directory and processes.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};
use tokio::time::{sleep, timeout};

use crate::account::{Account, ServerDirectory};
use crate::port::Port;
use crate::programs;
use crate::server::{
    POLL_INTERVAL, START_TIMEOUT, Server, ShutdownPlan, command_with_minimal_environment, log_tail,
};

/// The name of the user and of the database in each cluster.
const DATABASE_AND_USER: &str = "switchboard";

/// The settings that differ from PostgreSQL's defaults, without the port. fsync stays on, so data are durable.
const SERVER_SETTINGS: &str = "listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
max_connections = 200
# A standby that was away for a while finds what it missed.
wal_keep_size = '256MB'
# In the data directory, so that one that is killed leaves nothing elsewhere.
dynamic_shared_memory_type = mmap
";

/// A PostgreSQL cluster. Dropping it kills its processes without a shutdown; its files stay in the directory of the caller.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    port: Port,
    programs: PathBuf,
    account: Option<Account>,
    directory: PathBuf,
    settings: Vec<String>,
    /// The names of the synchronous standbys.
    synchronous: Mutex<Vec<String>>,
}

impl Postgres {
    /// Creates a cluster in a directory below `scratch`, and starts it. It listens on a free port of 127.0.0.1 and accepts
    /// every client as `switchboard`, who has a database of that name. `settings` are further lines of its
    /// `postgresql.conf`, "name=value".
    pub async fn start(scratch: &Path, settings: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(scratch, settings, false).await
    }

    /// Like [`Postgres::start`]. If `disposable`, the cluster's files are deleted when it ends.
    pub(crate) async fn start_in(
        scratch: &Path,
        settings: &[&str],
        disposable: bool,
    ) -> anyhow::Result<Self> {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut postgres = Self::prepare(scratch, settings, disposable)?;
        let cluster =
            ["-U", DATABASE_AND_USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-clean"];
        postgres.run_program("initdb", &cluster).await?;
        postgres.start_again().await?;
        postgres
            .psql_in("postgres", &format!("CREATE DATABASE {DATABASE_AND_USER} TEMPLATE template0"))
            .await?;
        Ok(postgres)
    }

    /// Prepares a cluster whose data directory does not exist yet.
    fn prepare(scratch: &Path, settings: Vec<String>, disposable: bool) -> anyhow::Result<Self> {
        let programs = programs::find_postgres_directory()?;
        let account = Account::for_postgres();
        let ServerDirectory { path: directory, must_delete } =
            ServerDirectory::new(scratch, "postgres-", account)?;
        let data = directory.join("data");
        let delete = (must_delete || disposable).then_some(directory.as_path());
        let server = Server::new(ShutdownPlan { signal: "QUIT", data: Some(&data), delete })?;
        let port = Port::reserve()?;
        Ok(Self { server, port, programs, account, directory, settings, synchronous: Mutex::default() })
    }

    /// The cluster's address, which stays the same after a restart.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The URL of the cluster's database `switchboard`.
    pub fn url(&self) -> String {
        self.url_of(DATABASE_AND_USER)
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://{DATABASE_AND_USER}@{}/{database}", self.address())
    }

    /// Creates another database, which is empty, and returns its URL.
    pub async fn new_database(&self) -> anyhow::Result<String> {
        // The name is random, so that a standby has no database of this name either.
        let name = format!("database_{:016x}", fastrand::u64(..));
        // PostgreSQL allows no connections to template0; a connection to the template would block this statement.
        self.psql(&format!("CREATE DATABASE {name} TEMPLATE template0")).await?;
        Ok(self.url_of(&name))
    }

    /// Creates a standby with streaming replication and the same settings. If it is `synchronous`, each commit waits from now on
    /// until the standby has written it to disk.
    pub async fn start_standby(&self, scratch: &Path, synchronous: bool) -> anyhow::Result<Self> {
        let mut standby = Self::prepare(scratch, self.settings.clone(), false)?;
        let name = format!("standby_{:016x}", fastrand::u64(..));
        let address = self.address();
        let primary = format!(
            "host={} port={} user={DATABASE_AND_USER} application_name={name}",
            address.ip(),
            address.port()
        );
        let copy = ["-d", &primary, "-R", "-X", "stream", "-c", "fast", "--no-sync"];
        standby.run_program("pg_basebackup", &copy).await?;
        standby.start_again().await?;
        if synchronous {
            self.synchronous.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
            self.write_configuration()?;
            self.psql("SELECT pg_reload_conf()").await?;
        }
        let follows = format!(
            "SELECT sync_state FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming'"
        );
        self.wait_for_answer(&follows, if synchronous { "sync" } else { "async" }).await?;
        Ok(standby)
    }

    /// Promotes a standby. Returns when it accepts writes.
    pub async fn promote(&self) -> anyhow::Result<()> {
        // `false`: pg_promote() does not wait for the promotion, because a waiting query can itself block recovery.
        self.psql("SELECT pg_promote(false)").await?;
        self.wait_for_answer("SELECT pg_is_in_recovery()", "f").await
    }

    /// Kills all processes of the cluster at once. Unlike in a power cut, the page cache survives.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.server.kill().await
    }

    /// Starts the cluster again after [`Postgres::kill`], with its data and on the same port. Returns when it accepts connections.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.server.exit_status()?;
        self.write_configuration()?;
        self.start_program("postgres", &[])?;
        let (data, log) = (self.data_directory(), self.log_file());
        self.server.becomes_ready("postgres", &log, |id| std::future::ready(is_ready(&data, id))).await
    }

    /// Suspends all processes of the cluster. Connections stay open, but the cluster does not answer.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.server.pause()
    }

    /// Resumes all processes of the cluster.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.server.resume()
    }

    /// Runs SQL in the database `switchboard` with psql. Returns only the rows, one on each line, with `|` between columns.
    pub async fn psql(&self, sql: &str) -> anyhow::Result<String> {
        self.psql_in(DATABASE_AND_USER, sql).await
    }

    /// Runs SQL like [`Postgres::psql`], in the database `database`.
    pub async fn psql_in(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let mut psql = command_with_minimal_environment(&self.programs.join("psql"), self.account);
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &self.url_of(database), "-c", sql]);
        psql.current_dir(&self.directory).stdin(Stdio::null());
        let output = tokio::process::Command::from(psql).kill_on_drop(true).output().await;
        let output = output.context("cannot start psql")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "psql failed ({}): {}", output.status, errors.trim());
        let rows = String::from_utf8(output.stdout).context("psql printed something that is not UTF-8")?;
        Ok(rows.trim_end_matches('\n').to_owned())
    }

    /// Polls until a query returns the expected answer.
    async fn wait_for_answer(&self, query: &str, expected: &str) -> anyhow::Result<()> {
        let poll = async {
            // An error is no reason to stop: a standby may cancel a query because of what it replays from its primary.
            while !self.psql(query).await.is_ok_and(|answer| answer == expected) {
                // waits for: a state of the database, which announces no change
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(START_TIMEOUT, poll).await.with_context(|| format!("timed out: {query} = {expected}"))
    }

    /// Runs a program of PostgreSQL on the data directory and waits until it exits.
    async fn run_program(&mut self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        self.start_program(program, arguments)?;
        loop {
            if let Some(status) = self.server.exit_status()? {
                ensure!(status.success(), "{program} failed ({status}):\n{}", log_tail(&self.log_file()));
                return Ok(());
            }
            // waits for: the exit of a process whose id the watchdog has, so that only `Server` may reap it
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Starts a program of PostgreSQL on the data directory.
    fn start_program(&mut self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let (program, data) = (self.programs.join(program), self.data_directory());
        let program = program.to_str().context("the program's path is not UTF-8")?;
        let data = data.to_str().context("the directory's path is not UTF-8")?;
        let command = [&[program, "-D", data], arguments].concat();
        self.server.start(&command, &self.directory, self.account, &self.log_file())
    }

    /// Writes the configuration. A standby must not keep the one that it copied from its primary, because it has its own port.
    fn write_configuration(&self) -> anyhow::Result<()> {
        let mut lines = format!("{SERVER_SETTINGS}port = {}\n", self.address().port());
        for setting in &self.settings {
            writeln!(lines, "{setting}")?;
        }
        let synchronous = self.synchronous.lock().unwrap_or_else(PoisonError::into_inner);
        if !synchronous.is_empty() {
            let names = synchronous.join(", ");
            writeln!(lines, "synchronous_standby_names = 'FIRST {} ({names})'", synchronous.len())?;
        }
        fs::write(self.data_directory().join("postgresql.conf"), lines).context("cannot write the settings")
    }

    fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }
}

/// Whether the postmaster of a data directory accepts connections, according to the status line in its lock file.
fn is_ready(data: &Path, process: u32) -> bool {
    let lock = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let lines: Vec<&str> = lock.lines().map(str::trim).collect();
    lines.first() == Some(&process.to_string().as_str()) && lines.get(7) == Some(&"ready")
}
