//! A database of the first schema, opened by this version: everything is there, everything can be changed, and a process
//! that dies while it brings the schema up to date has harmed nothing.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use faults::KillPoint;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::check::is_clean;
use crate::support::{Answer, FailingDisk, Process, soon};

const FIRST: &str = include_str!("../fixtures/0001.sql");
const ANSWERS: &str = include_str!("../fixtures/0001.jsonl");

/// The key of the back end `shop` in it. It is good for nothing else.
const KEY: &str = "sbk_RAppqf8nncpLj0kuDAZg94Ye0YMV7TAGsKG0nXm50qs";

const SIGKILL: i32 = 9;

/// Every so many writes a server is killed. A page of the write-ahead log is two writes, its header and itself, so an odd number
/// hits both.
const STEP: usize = 3;

/// A directory with the database of the first schema, in the journal mode that it had.
fn first() -> TempDir {
    let data = TempDir::new().expect("a directory");
    restore_first(data.path());
    data
}

fn restore_first(data: &Path) {
    let db = Connection::open(data.join("switchboard.db")).expect("a database");
    db.execute_batch(switchboard_store::sqlite::SETTINGS).expect("set up");
    db.execute_batch(FIRST).expect("restored");
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
    soon(command, Answer::of(request)).await
}

/// Whether everything that was answered once still is; a later version may say more.
fn holds(once: &Value, now: &Value) -> bool {
    match (once, now) {
        (Value::Object(once), Value::Object(now)) => {
            once.iter().all(|(name, once)| now.get(name).is_some_and(|now| holds(once, now)))
        }
        (Value::Array(once), Value::Array(now)) => {
            once.len() == now.len() && once.iter().zip(now).all(|(once, now)| holds(once, now))
        }
        (once, now) => once == now,
    }
}

/// Everything is answered as it was.
async fn answers_as_before(server: &Process) {
    for line in ANSWERS.lines() {
        let asked: Value = serde_json::from_str(line).expect("JSON");
        let command = asked["command"].as_str().expect("a command");
        let now = posts(server, command, &asked["body"], None).await.ok();
        assert!(
            holds(&asked["answer"], &now),
            "{command} {}\nonce {}\nnow  {now}",
            asked["body"],
            asked["answer"]
        );
    }
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_read_and_written() {
    let data = first();
    is_clean(data.path());
    let server = Process::start(data.path()).await;
    answers_as_before(&server).await;

    let again = json!({"as": "alice", "to": "#team", "key": "a1", "text": "Good morning"});
    let again = posts(&server, "send", &again, None).await.ok();
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(2), &json!(true)), "keys are kept: {again}");
    let order = json!({"as": "shop", "to": "@alice", "text": "on its way"});
    assert_eq!(posts(&server, "send", &order, Some(KEY)).await.ok()["seq"], 1, "API keys are kept");

    let mut alice = server.connects("alice").await;
    let mut bob = server.resumes("bob", &[("#team", 19)]).await;
    assert_eq!((bob.sees().await.seq.0, bob.sees().await.seq.0), (20, 21), "cursors are kept");
    assert_eq!(bob.summary("#team").await.unread, 2);
    assert_eq!(alice.says("#team", "after the upgrade").await, 22);
    bob.hears("after the upgrade").await;
    alice.does("edit", json!({"conversation": "#team", "target": 2, "text": "Good evening"})).await;
    alice.does("delete", json!({"conversation": "#team", "target": 4})).await;
    bob.does("react", json!({"conversation": "#team", "target": 2, "emoji": "👍", "on": false})).await;
    bob.does("read", json!({"conversation": "#team", "upto": 25})).await;
    assert_eq!(bob.summary("#team").await.unread, 0);
    bob.does("invite", json!({"conversation": "#team", "user": "eve"})).await;
    bob.does("leave", json!({"conversation": "#team"})).await;
    server.dies().await;
    is_clean(data.path());
}

async fn key(data: &Path, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.arg("key").args(words).arg("--data").arg(data).env_clear().kill_on_drop(true);
    let output = soon("the program ends", command.output()).await.expect("the program starts");
    let told = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    (output.status.success(), told)
}

#[tokio::test]
async fn keys_are_managed_beside_a_server_of_the_first_version() {
    let data = first();
    // What a server of any version holds for as long as it runs.
    let lock = std::fs::File::create(data.path().join("lock")).expect("a lock");
    lock.lock().expect("nobody has it");
    for (words, wanted) in [
        (&["create", "mail"][..], "sbk_"),
        (&["list"], "mail"),
        (&["revoke", "mail"], "revoked mail"),
        (&["list"], "shop"),
    ] {
        let (done, told) = key(data.path(), words).await;
        assert!(done && told.contains(wanted), "{words:?}: {told}");
        assert_eq!(version(data.path()), 1, "after {words:?}");
    }
    drop(lock);
    let server = Process::start(data.path()).await;
    answers_as_before(&server).await;
    assert!(version(data.path()) > 1, "a server brings it up to date");
    server.dies().await;
    is_clean(data.path());
}

#[tokio::test]
async fn the_first_key_makes_the_tables_unless_a_server_is_about_to() {
    let data = TempDir::new().expect("a directory");
    let lock = std::fs::File::create(data.path().join("lock")).expect("a lock");
    lock.lock().expect("nobody has it");
    let (done, told) = key(data.path(), &["create", "shop"]).await;
    assert!(!done && told.contains("another switchboard server uses"), "{told}");
    assert_eq!(version(data.path()), 0, "nothing was made");
    drop(lock);
    assert!(key(data.path(), &["create", "shop"]).await.0);
    is_clean(data.path());
}

/// Starts a server that is killed in the middle of a write to its files; whether it came so far as to listen.
async fn starts_until(disk: &FailingDisk, write: u64) -> bool {
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
    let line = soon("a line or the end", output.next_line()).await.expect("readable");
    if line.is_some() {
        child.kill().await.expect("it ran");
        return true;
    }
    let status = soon("the end", child.wait()).await.expect("it ran");
    assert_eq!(status.signal(), Some(SIGKILL), "{status}");
    false
}

/// Kills servers at ever later writes of their start, and looks each time whether the next one goes on. How many died.
async fn dies_at_every_write(make: impl Fn(&Path), then: impl AsyncFn(&Process)) -> u64 {
    let mut died = 0;
    for write in (1..).step_by(STEP) {
        let disk = FailingDisk::new();
        make(disk.data());
        let alive = starts_until(&disk, write).await;
        let server = Process::start(disk.data()).await;
        then(&server).await;
        server.dies().await;
        is_clean(disk.data());
        if alive {
            return died;
        }
        died += 1;
        assert!(write < 1_000, "it never starts");
    }
    died
}

#[tokio::test]
async fn a_process_that_dies_while_it_makes_the_tables_has_harmed_nothing() {
    let died = dies_at_every_write(
        |_| {},
        async |server| {
            assert_eq!(server.connects("alice").await.says("@bob", "hi").await, 1);
        },
    )
    .await;
    assert!(died > 5, "it died {died} times");
}

#[tokio::test]
async fn a_process_that_dies_while_it_changes_the_tables_has_harmed_nothing() {
    dies_at_every_write(restore_first, async |server| answers_as_before(server).await).await;
}
