//! This version opens a database of the first schema: all data is there and can be changed, and if the server is killed during the
//! migration, nothing is lost.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use faults::KillPoint;
use rusqlite::Connection;
use serde_json::{Value, json};
use switchboard::config::{ClusterConfig, EngineUrl};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::check::assert_check_finds_no_problem;
use crate::support::{Answer, FailingDisk, Process, Server, in_time};

const FIRST_SCHEMA_SQL: &str = include_str!("../fixtures/0001.sql");
const EXPECTED_ANSWERS: &str = include_str!("../fixtures/0001.jsonl");

/// The API key of the back end `shop` in the database of the first schema.
const API_KEY: &str = "sbk_RAppqf8nncpLj0kuDAZg94Ye0YMV7TAGsKG0nXm50qs";

const SIGKILL: i32 = 9;

/// The test kills a server at every write of its start whose number is a multiple of this. A page of the write-ahead log is two
/// writes, a header and the page, so an odd number hits both.
const KILL_STEP: usize = 3;

/// Makes a data directory with a database of the first schema, in the journal mode of the version that created it.
fn first_schema_database() -> TempDir {
    let data = TempDir::new().expect("a directory");
    restore_first_schema(data.path());
    data
}

fn restore_first_schema(data: &Path) {
    let db = Connection::open(data.join("switchboard.db")).expect("a database");
    db.execute_batch(switchboard_store::sqlite::SETTINGS).expect("set up");
    db.execute_batch(FIRST_SCHEMA_SQL).expect("restored");
}

fn schema_version(data: &Path) -> u32 {
    let db = Connection::open(data.join("switchboard.db")).expect("a database");
    db.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version")
}

async fn posts(server: SocketAddr, command: &str, body: &Value, key: Option<&str>) -> Answer {
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let mut request = http.post(format!("http://{server}/v1/{command}")).json(body);
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    in_time(command, Answer::to(request)).await
}

/// Whether `now` has every field of `once`. It may have more fields, because a later version may add some.
fn contains_fields(once: &Value, now: &Value) -> bool {
    match (once, now) {
        (Value::Object(once), Value::Object(now)) => {
            once.iter().all(|(name, once)| now.get(name).is_some_and(|now| contains_fields(once, now)))
        }
        (Value::Array(once), Value::Array(now)) => {
            once.len() == now.len() && once.iter().zip(now).all(|(once, now)| contains_fields(once, now))
        }
        (once, now) => once == now,
    }
}

/// Asserts that the server answers all queries as the first version did.
async fn assert_same_answers(server: SocketAddr) {
    for line in EXPECTED_ANSWERS.lines() {
        let asked: Value = serde_json::from_str(line).expect("JSON");
        let command = asked["command"].as_str().expect("a command");
        let now = posts(server, command, &asked["body"], None).await.ok();
        assert!(
            contains_fields(&asked["answer"], &now),
            "{command} {}\nonce {}\nnow  {now}",
            asked["body"],
            asked["answer"]
        );
    }
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_read_and_written() {
    let data = first_schema_database();
    assert_check_finds_no_problem(data.path());
    let server = Process::start(data.path()).await;
    assert_same_answers(server.address()).await;

    let again = json!({"as": "alice", "to": "#team", "key": "a1", "text": "Good morning"});
    let again = posts(server.address(), "send", &again, None).await.ok();
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(2), &json!(true)), "keys are kept: {again}");
    let order = json!({"as": "shop", "to": "@alice", "text": "on its way"});
    assert_eq!(
        posts(server.address(), "send", &order, Some(API_KEY)).await.ok()["seq"],
        1,
        "API keys are kept"
    );

    let mut alice = server.connects("alice").await;
    let mut bob = server.resumes("bob", &[("#team", 19)]).await;
    assert_eq!(
        (bob.receives_event().await.seq.0, bob.receives_event().await.seq.0),
        (20, 21),
        "cursors are kept"
    );
    assert_eq!(bob.summary("#team").await.unread, 2);
    assert_eq!(alice.says("#team", "after the upgrade").await, 22);
    bob.receives_message("after the upgrade").await;
    alice.does("edit", json!({"conversation": "#team", "target": 2, "text": "Good evening"})).await;
    alice.does("delete", json!({"conversation": "#team", "target": 4})).await;
    bob.does("react", json!({"conversation": "#team", "target": 2, "emoji": "👍", "on": false})).await;
    bob.does("read", json!({"conversation": "#team", "upto": 25})).await;
    assert_eq!(bob.summary("#team").await.unread, 0);
    bob.does("invite", json!({"conversation": "#team", "user": "eve"})).await;
    bob.does("leave", json!({"conversation": "#team"})).await;
    server.kill().await;
    assert_check_finds_no_problem(data.path());
}

async fn run_key_command(data: &Path, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.arg("key").args(words).arg("--data").arg(data).env_clear().kill_on_drop(true);
    let output = in_time("the program ends", command.output()).await.expect("the program starts");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    (output.status.success(), text)
}

#[tokio::test]
async fn key_commands_work_beside_a_server_of_the_first_version() {
    let data = first_schema_database();
    // A server of any version holds this lock while it runs.
    let lock = std::fs::File::create(data.path().join("lock")).expect("a lock");
    lock.lock().expect("no other process has the lock");
    for (words, expected) in [
        (&["create", "mail"][..], "sbk_"),
        (&["list"], "mail"),
        (&["revoke", "mail"], "revoked mail"),
        (&["list"], "shop"),
    ] {
        let (done, output) = run_key_command(data.path(), words).await;
        assert!(done && output.contains(expected), "{words:?}: {output}");
        assert_eq!(schema_version(data.path()), 1, "after {words:?}");
    }
    drop(lock);
    let server = Process::start(data.path()).await;
    assert_same_answers(server.address()).await;
    assert!(schema_version(data.path()) > 1, "a server migrates the database");
    server.kill().await;
    assert_check_finds_no_problem(data.path());
}

#[tokio::test]
async fn key_create_makes_the_tables_unless_a_server_holds_the_lock() {
    let data = TempDir::new().expect("a directory");
    let lock = std::fs::File::create(data.path().join("lock")).expect("a lock");
    lock.lock().expect("no other process has the lock");
    let (done, output) = run_key_command(data.path(), &["create", "shop"]).await;
    assert!(!done && output.contains("another switchboard server uses"), "{output}");
    assert_eq!(schema_version(data.path()), 0, "no table was created");
    drop(lock);
    assert!(run_key_command(data.path(), &["create", "shop"]).await.0);
    assert_check_finds_no_problem(data.path());
}

fn start_on(disk: &FailingDisk) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command
        .args(["dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(disk.data())
        .envs(disk.environment().iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command.spawn().expect("the program starts")
}

/// Starts a server that is killed at a write to its files. Returns whether it had begun to listen.
async fn start_and_kill_at(disk: &FailingDisk, write: u64) -> bool {
    disk.control.set_kill(Some(KillPoint::InWrite(write)));
    let mut child = start_on(disk);
    let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = in_time("a line or the end", output.next_line()).await.expect("readable");
    if line.is_some() {
        child.kill().await.expect("it ran");
        return true;
    }
    let status = in_time("the end", child.wait()).await.expect("it ran");
    assert_eq!(status.signal(), Some(SIGKILL), "{status}");
    false
}

/// Kills servers at ever later writes of their start, and asserts after each kill that the next server works. Returns the number of
/// killed servers.
async fn kill_at_every_write(make: impl Fn(&Path), then: impl AsyncFn(&Process)) -> u64 {
    let mut died = 0;
    for write in (1..).step_by(KILL_STEP) {
        let disk = FailingDisk::new();
        make(disk.data());
        let alive = start_and_kill_at(&disk, write).await;
        let server = Process::start(disk.data()).await;
        then(&server).await;
        server.kill().await;
        assert_check_finds_no_problem(disk.data());
        if alive {
            return died;
        }
        died += 1;
        assert!(write < 1_000, "the server does not start");
    }
    died
}

#[tokio::test]
async fn a_kill_while_the_tables_are_created_loses_nothing() {
    let died = kill_at_every_write(
        |_| {},
        async |server| {
            assert_eq!(server.connects("alice").await.says("@bob", "hi").await, 1);
        },
    )
    .await;
    assert!(died > 5, "the server was killed {died} times");
}

#[tokio::test]
async fn a_kill_while_the_tables_are_migrated_loses_nothing() {
    kill_at_every_write(restore_first_schema, async |server| assert_same_answers(server.address()).await)
        .await;
}

/// SQL that adds so many rooms, each with an event that the migration must rewrite, that the migration needs several batches.
const INSERT_MORE_ROOMS: &str = r#"
    INSERT INTO users (id, name) VALUES (1001, 'kim'), (1002, 'lee');
    WITH RECURSIVE room (n) AS (SELECT 1001 UNION ALL SELECT n + 1 FROM room WHERE n < 3500)
    INSERT INTO conversations (id, name, public, head, messages, last_message, members, admins, at)
    SELECT n, '#room' || n, 0, 1, 0, 0, 2, 1, 1001 FROM room;
    INSERT INTO events (conversation, seq, kind, sender, at, messages, body)
    SELECT id, 1, 5, 1001, 1001, 0, '{"public":false,"members":["lee"]}' FROM conversations WHERE id > 1000;
    INSERT INTO members SELECT id, 1001, 2, 1, NULL, 1, 1, 0, 0, 0 FROM conversations WHERE id > 1000;
    INSERT INTO members SELECT id, 1002, 1, 1, NULL, 1, 1, 0, 0, 0 FROM conversations WHERE id > 1000"#;

/// The test kills a server at every write whose number is a multiple of this, before and during the rewrite.
const REWRITE_KILL_STEP: usize = 41;

/// Whether the background rewrite of a database is complete.
fn is_rewritten(db: &Connection) -> bool {
    db.query_row("SELECT NOT EXISTS (SELECT 1 FROM rewrite)", [], |row| row.get(0)).expect("a row")
}

/// Starts a server that is killed at a write to its files. Returns whether the rewrite was complete before the kill.
async fn rewrite_and_kill_at(disk: &FailingDisk, write: u64) -> bool {
    disk.control.set_kill(Some(KillPoint::InWrite(write)));
    let mut child = start_on(disk);
    let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
    if in_time("a line or the end", output.next_line()).await.expect("readable").is_some() {
        let db = Connection::open(disk.data().join("switchboard.db")).expect("a database");
        while child.try_wait().expect("it ran").is_none() {
            if is_rewritten(&db) {
                child.kill().await.expect("it ran");
                return true;
            }
            tokio::task::yield_now().await;
        }
    }
    let status = in_time("the end", child.wait()).await.expect("it ran");
    assert_eq!(status.signal(), Some(SIGKILL), "{status}");
    false
}

#[tokio::test]
async fn a_kill_while_old_events_are_rewritten_loses_nothing() {
    let (mut died, mut halfway) = (0, 0);
    for write in (1..).step_by(REWRITE_KILL_STEP) {
        let disk = FailingDisk::new();
        restore_first_schema(disk.data());
        let db = Connection::open(disk.data().join("switchboard.db")).expect("a database");
        db.execute_batch(INSERT_MORE_ROOMS).expect("more rooms");
        drop(db);
        let done = rewrite_and_kill_at(&disk, write).await;
        let db = Connection::open(disk.data().join("switchboard.db")).expect("a database");
        if schema_version(disk.data()) > 5 {
            let rewritten =
                "SELECT count(*) FROM events WHERE body = '{\"public\":false,\"members\":[1002]}'";
            let rewritten: u32 = db.query_row(rewritten, [], |row| row.get(0)).expect("a count");
            halfway += u32::from(rewritten > 0 && rewritten < 2_500);
        }
        drop(db);
        let server = Process::start(disk.data()).await;
        assert_same_answers(server.address()).await;
        let db = Connection::open(disk.data().join("switchboard.db")).expect("a database");
        in_time("rewritten", async {
            while !is_rewritten(&db) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_same_answers(server.address()).await;
        server.kill().await;
        assert_check_finds_no_problem(disk.data());
        if done {
            break;
        }
        died += 1;
    }
    assert!(died > 5 && halfway > 0, "killed {died} times, {halfway} of them between two portions");
}

#[tokio::test]
async fn a_database_of_the_first_schema_moves_to_postgresql_with_old_events() {
    let data = first_schema_database();
    let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
    let database = postgres.new_database().await.expect("a database");
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(["migrate-store", "--to", &database, "--from"]).arg(data.path()).env_clear();
    let output = in_time("the program ends", command.kill_on_drop(true).output()).await.expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = database.split('?').next().and_then(|url| url.rsplit('/').next()).expect("a database");
    let old = "SELECT count(*) FROM events WHERE kind IN (8, 9, 10) AND body LIKE '%\"user\":\"%'";
    assert_ne!(postgres.psql_in(name, old).await.expect("a count"), "0", "they were copied as they were");
    let server = Server::start_with(|config| {
        config.cluster = Some(ClusterConfig::with_engines(EngineUrl::new(database.clone()), None));
    })
    .await;
    assert_same_answers(server.address()).await;
    in_time("rewritten", async {
        while postgres.psql_in(name, "SELECT count(*) FROM rewrite").await.expect("a count") != "0" {}
    })
    .await;
    assert_eq!(postgres.psql_in(name, old).await.expect("a count"), "0");
    assert_same_answers(server.address()).await;
}
