//! The baselines of an acknowledgement by PostgreSQL: they change the rows that a message must change in Switchboard's tables,
//! without checks and a router. One baseline is a writer with group commit, which sends and commits a whole batch in one round
//! trip. The other is `pgbench`, with a connection for each sender and a transaction for each message, which PostgreSQL itself
//! commits in groups.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use super::append::{BatchCommit, TimedMessage};

/// A database for one measurement, which is deleted afterwards.
pub(crate) struct Database {
    server: DatabaseLink,
    name: String,
    url: String,
}

impl Database {
    /// Creates an empty database on the server of `store`, whose user must have the right to create databases.
    pub(crate) fn new(store: &str) -> anyhow::Result<Self> {
        let (server_url, _) = store.rsplit_once('/').context("the URL of a store ends with a database")?;
        let server = DatabaseLink::open(store)?;
        let name = format!("switchboard_bench_{:016x}", fastrand::u64(..));
        server.execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))?;
        let url = format!("{server_url}/{name}");
        Ok(Self { server, name, url })
    }

    /// The URL of this database.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Creates Switchboard's tables, with a conversation and a member for each sender. Returns a connection to the database.
    fn connect_and_insert_senders(&self, senders: usize) -> anyhow::Result<DatabaseLink> {
        let link = DatabaseLink::open(&self.url)?;
        link.execute(switchboard_store::postgres::SCHEMA)?;
        let last = senders.saturating_sub(1);
        link.execute(&format!(
            "INSERT INTO users (id, name) SELECT n, 'u' || n FROM generate_series(0, {last}) n;
             INSERT INTO conversations (id, name, public, head, messages, last_message, members, admins, at)
             SELECT n, '@u' || n || ':v' || n, false, 0, 0, 0, 2, 0, 0 FROM generate_series(0, {last}) n;
             INSERT INTO members (conversation, \"user\", role, since, read, received, sent, read_messages, read_sent)
             SELECT n, n, 1, 0, 0, 0, 0, 0, 0 FROM generate_series(0, {last}) n"
        ))?;
        Ok(link)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // FORCE closes connections that remain. If this fails, an unused database is left, which does no harm.
        let _ = self.server.execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// A database connection with the async runtime of the thread that blocks on it.
struct DatabaseLink {
    client: Client,
    runtime: Runtime,
}

impl DatabaseLink {
    fn open(url: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            #[expect(
                clippy::disallowed_methods,
                reason = "the runtime of the thread that waits for it owns it"
            )]
            tokio::spawn(connection);
            anyhow::Ok(client)
        });
        Ok(Self { client: client.context("cannot connect to the store")?, runtime })
    }

    fn execute(&self, sql: &str) -> anyhow::Result<()> {
        Ok(self.runtime.block_on(self.client.batch_execute(sql))?)
    }
}

/// The baseline with group commit: one writer commits a whole batch.
pub(crate) struct Postgres {
    link: DatabaseLink,
    statements: [Statement; 5],
    body: String,
}

const BEGIN: &str = "BEGIN";
const INSERT_EVENTS: &str = "INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
     SELECT c, s, 1, c, $3, s, s::text, $4 FROM unnest($1::bigint[], $2::bigint[]) AS m (c, s)";
const UPDATE_CONVERSATIONS: &str =
    "UPDATE conversations SET head = head + k, messages = messages + k, last_message = head + k, at = $3
     FROM unnest($1::bigint[], $2::bigint[]) AS m (c, k) WHERE id = c";
const UPDATE_MEMBERS: &str = "UPDATE members SET sent = sent + k
     FROM unnest($1::bigint[], $2::bigint[]) AS m (c, k) WHERE conversation = c AND \"user\" = c";
const COMMIT: &str = "COMMIT";

impl Postgres {
    /// Creates the tables and prepares the statements; `len` is the length of a message's text in bytes.
    pub(crate) fn new(database: &Database, senders: usize, len: usize) -> anyhow::Result<Self> {
        let link = database.connect_and_insert_senders(senders)?;
        let client = &link.client;
        let statements = link.runtime.block_on(async {
            let mut statements = Vec::new();
            for sql in [BEGIN, INSERT_EVENTS, UPDATE_CONVERSATIONS, UPDATE_MEMBERS, COMMIT] {
                statements.push(client.prepare(sql).await?);
            }
            anyhow::Ok(statements)
        })?;
        let statements = statements.try_into().map_err(|_| anyhow::anyhow!("five statements"))?;
        Ok(Self { link, statements, body: random_text(len) })
    }
}

impl BatchCommit for Postgres {
    fn commit(&mut self, batch: &[TimedMessage]) -> anyhow::Result<()> {
        let at = 1_763_899_200_000_i64;
        let senders: Vec<_> = batch.iter().map(|message| message.sender as i64).collect();
        let seqs: Vec<_> = batch.iter().map(|message| message.number as i64 + 1).collect();
        // A sender waits for each acknowledgement, so a batch contains at most one message of each sender.
        let ones = vec![1_i64; batch.len()];
        let [begin, events, conversations, members, commit] = &self.statements;
        let client = &self.link.client;
        let run = async |statement, values: &[&(dyn ToSql + Sync)]| client.execute(statement, values).await;
        self.link.runtime.block_on(async {
            // The futures are polled together, so that the statements are sent together, in one round trip.
            tokio::try_join!(
                async { run(begin, &[]).await },
                async { run(events, &[&senders, &seqs, &at, &self.body]).await },
                async { run(conversations, &[&senders, &ones, &at]).await },
                async { run(members, &[&senders, &ones]).await },
                async { run(commit, &[]).await },
            )
        })?;
        Ok(())
    }
}

fn random_text(len: usize) -> String {
    format!(r#"{{"text":"{}"}}"#, "x".repeat(len))
}

/// The measured results of `pgbench`.
pub(crate) struct PgbenchResult {
    /// Transactions per second.
    pub(crate) rate: f64,
    /// The mean duration of a transaction, in milliseconds.
    pub(crate) mean: f64,
}

/// Runs `pgbench`: a transaction for each message, and a connection for each sender. Returns no results if it is not installed.
pub(crate) fn run_pgbench(
    database: &Database,
    senders: usize,
    len: usize,
    time: Duration,
) -> anyhow::Result<Option<PgbenchResult>> {
    let Some(program) = find_program("pgbench") else { return Ok(None) };
    database.connect_and_insert_senders(senders)?;
    let mut script = tempfile::NamedTempFile::new()?;
    write!(
        script,
        "BEGIN;
UPDATE conversations SET head = head + 1, messages = messages + 1, last_message = head + 1, at = 1763899200000 WHERE id = :client_id RETURNING head AS seq \\gset
INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body) VALUES (:client_id, :seq, 1, :client_id, 1763899200000, :seq, (:seq)::text, '{}');
UPDATE members SET sent = sent + 1 WHERE conversation = :client_id AND \"user\" = :client_id;
COMMIT;
",
        random_text(len)
    )?;
    let seconds = time.as_secs().max(1).to_string();
    let output = Command::new(program)
        .args(["-n", "-M", "prepared", "-j", "2", "-T", &seconds, "-c", &senders.to_string(), "-f"])
        .arg(script.path())
        .arg(database.url())
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let number = |before: &str| -> Option<f64> {
        printed.lines().find_map(|line| line.strip_prefix(before))?.split_whitespace().next()?.parse().ok()
    };
    let (rate, mean) = (number("tps = "), number("latency average = "));
    let (rate, mean) =
        rate.zip(mean).with_context(|| format!("cannot parse the output of pgbench: {printed}"))?;
    Ok(Some(PgbenchResult { rate, mean }))
}

/// Finds a program of PostgreSQL: in PATH, or in Debian's directories, where the newest version comes first.
fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    places.extend(versions.into_iter().rev());
    places.into_iter().map(|place| place.join(program)).find(|program| program.exists())
}
