//! This version opens a database of the first schema: all data is there and can be changed, and a kill during the migration
//! loses nothing.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use faults::KillPoint;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::check::assert_clean;
use crate::support::{Answer, FailingDisk, Process, in_time};

const FIRST_SCHEMA_SQL: &str = include_str!("../fixtures/0001.sql");
const EXPECTED_ANSWERS: &str = include_str!("../fixtures/0001.jsonl");

/// The API key of the back end `shop` in that database.
const API_KEY: &str = "sbk_RAppqf8nncpLj0kuDAZg94Ye0YMV7TAGsKG0nXm50qs";

const SIGKILL: i32 = 9;

/// The test kills a server at every write of its start whose number is a multiple of this. A page of the write-ahead log is two
/// writes, a header and the page, so an odd number hits both.
const KILL_STEP: usize = 3;

/// A data directory with a database of the first schema, in the journal mode of that version.
fn first_schema_database() -> TempDir {
    let data = TempDir::new().expect("a directory");
    restore_first(data.path());
    data
}

fn restore_first(data: &Path) {
    let db = Connection::open(data.join("switchboard.db")).expect("a database");
    db.execute_batch(switchboard_store::sqlite::SETTINGS).expect("set up");
    db.execute_batch(FIRST_SCHEMA_SQL).expect("restored");
}

fn version(data: &Path) -> u32 {
    let db = Connection::open(data.join("switchboard.db")).expect("a database");
    db.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version")
}

async fn posts(server: &Process, command: &str, body: &Value, key: Option<&str>) -> Answer {
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let mut request = http.post(format!("http://{}/v1/{command}", server.address())).json(body);
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    in_time(command, Answer::of(request)).await
}

/// Whether `now` has every field of `once`; a later version may add fields.
fn has_fields_of(once: &Value, now: &Value) -> bool {
    match (once, now) {
        (Value::Object(once), Value::Object(now)) => {
            once.iter().all(|(name, once)| now.get(name).is_some_and(|now| has_fields_of(once, now)))
        }
        (Value::Array(once), Value::Array(now)) => {
            once.len() == now.len() && once.iter().zip(now).all(|(once, now)| has_fields_of(once, now))
        }
        (once, now) => once == now,
    }
}

/// Asserts that all queries are answered as by the first version.
async fn answers_as_before(server: &Process) {
    for line in EXPECTED_ANSWERS.lines() {
        let asked: Value = serde_json::from_str(line).expect("JSON");
        let command = asked["command"].as_str().expect("a command");
        let now = posts(server, command, &asked["body"], None).await.ok();
        assert!(
            has_fields_of(&asked["answer"], &now),
            "{command} {}\nonce {}\nnow  {now}",
            asked["body"],
            asked["answer"]
        );
    }
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_read_and_written() {
    let data = first_schema_database();
    assert_clean(data.path());
    let server = Process::start(data.path()).await;
    answers_as_before(&server).await;

    let again = json!({"as": "alice", "to": "#team", "key": "a1", "text": "Good morning"});
    let again = posts(&server, "send", &again, None).await.ok();
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(2), &json!(true)), "keys are kept: {again}");
    let order = json!({"as": "shop", "to": "@alice", "text": "on its way"});
    assert_eq!(posts(&server, "send", &order, Some(API_KEY)).await.ok()["seq"], 1, "API keys are kept");

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
    assert_clean(data.path());
}

async fn key(data: &Path, words: &[&str]) -> (bool, String) {
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
        let (done, output) = key(data.path(), words).await;
        assert!(done && output.contains(expected), "{words:?}: {output}");
        assert_eq!(version(data.path()), 1, "after {words:?}");
    }
    drop(lock);
    let server = Process::start(data.path()).await;
    answers_as_before(&server).await;
    assert!(version(data.path()) > 1, "a server migrates the database");
    server.kill().await;
    assert_clean(data.path());
}

#[tokio::test]
async fn key_create_makes_the_tables_unless_a_server_holds_the_lock() {
    let data = TempDir::new().expect("a directory");
    let lock = std::fs::File::create(data.path().join("lock")).expect("a lock");
    lock.lock().expect("no other process has the lock");
    let (done, output) = key(data.path(), &["create", "shop"]).await;
    assert!(!done && output.contains("another switchboard server uses"), "{output}");
    assert_eq!(version(data.path()), 0, "no table was created");
    drop(lock);
    assert!(key(data.path(), &["create", "shop"]).await.0);
    assert_clean(data.path());
}

/// Starts a server that is killed at a write to its files. Returns whether it had begun to listen.
async fn start_and_kill_at(disk: &FailingDisk, write: u64) -> bool {
    disk.control.set_kill(Some(KillPoint::InWrite(write)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command
        .args(["dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(disk.data())
        .envs(disk.environment().iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("the program starts");
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

/// Kills servers at later and later writes of their start, and asserts each time that the next server works. Returns how
/// many were killed.
async fn kill_at_every_write(make: impl Fn(&Path), then: impl AsyncFn(&Process)) -> u64 {
    let mut died = 0;
    for write in (1..).step_by(KILL_STEP) {
        let disk = FailingDisk::new();
        make(disk.data());
        let alive = start_and_kill_at(&disk, write).await;
        let server = Process::start(disk.data()).await;
        then(&server).await;
        server.kill().await;
        assert_clean(disk.data());
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
    kill_at_every_write(restore_first, async |server| answers_as_before(server).await).await;
}
