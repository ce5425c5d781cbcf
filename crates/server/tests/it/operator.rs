//! The operator's commands: `backup` while the server writes, `check` and `health`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use switchboard_protocol::reply::Reply;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::check::assert_check_finds_no_problem;
use crate::support::{Person, Process, Server, command, eventually, in_time};

/// Runs the program until it exits, in an environment without settings.
pub(crate) async fn run_switchboard(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(words).env_clear().kill_on_drop(true);
    in_time("the program ends", command.output()).await.expect("the program starts")
}

pub(crate) async fn run_successfully(words: &[&str]) -> String {
    let output = run_switchboard(words).await;
    let (stdout, stderr) = stdout_and_stderr(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

pub(crate) async fn run_to_failure(words: &[&str]) -> (String, String) {
    let output = run_switchboard(words).await;
    let (stdout, stderr) = stdout_and_stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    (stdout, stderr)
}

fn stdout_and_stderr(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (text(&output.stdout), text(&output.stderr))
}

fn utf8_path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Copies a backup to a new data directory.
fn copy_backup_to_new_directory(backup: &Path) -> TempDir {
    let data = TempDir::new().expect("a directory");
    std::fs::copy(backup, data.path().join("switchboard.db")).expect("copied");
    data
}

/// The log of a conversation as JSON.
async fn log_as_json(person: &mut Person, conversation: &str) -> Vec<Value> {
    person.log(conversation).await.iter().map(|event| json!(event)).collect()
}

/// Writes so many messages into another room that the backup copies the database in more than one step.
async fn write_large_room(person: &mut Person) {
    person.makes_room("full", &[]).await;
    let send = || command("send", &json!({"to": "#full", "text": "x".repeat(12_000)}));
    for _ in 0..20 {
        let ids = person.client.submit_all((0..50).map(|_| send())).await.expect("sent");
        for _ in ids {
            assert!(matches!(person.receives_reply().await, Reply::Ok(_)));
        }
    }
}

/// Sends messages to a room until `stop`, and counts the acknowledged ones.
async fn write_until_stopped(mut person: Person, acknowledged: Arc<AtomicU64>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let seq = person.says("#r", "on and on").await;
        acknowledged.fetch_max(seq, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_backup_during_writes_has_every_acknowledged_event_and_a_server_starts_from_it() {
    let (data, place) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &["bob", "carol", "dora"]).await;
    write_large_room(&mut alice).await;
    let (stop, stopped) = watch::channel(false);
    let (acknowledged, mut writing) = (Arc::new(AtomicU64::new(1)), JoinSet::new());
    for name in ["bob", "carol", "dora"] {
        writing.spawn(write_until_stopped(
            server.connects(name).await,
            acknowledged.clone(),
            stopped.clone(),
        ));
    }
    for number in 0..5 {
        let file = place.path().join(format!("{number}.db"));
        alice.says("@bob", "now").await;
        let before = acknowledged.load(Ordering::SeqCst);
        let words = ["backup", utf8_path(&file), "--data", utf8_path(data.path()), "--json"];
        let output: Value = serde_json::from_str(&run_successfully(&words).await).expect("JSON");
        let after = acknowledged.load(Ordering::SeqCst);
        assert!(after > before, "messages were stored during the backup");
        assert_check_finds_no_problem(&file);
        let restored = copy_backup_to_new_directory(&file);
        let second = Process::start(restored.path()).await;
        let mut bob = second.connects("bob").await;
        let copied = log_as_json(&mut bob, "#r").await;
        let head = copied.len() as u64;
        assert!(head >= before, "{before} events were acknowledged, and {head} are there");
        assert_eq!(copied[..], log_as_json(&mut alice, "#r").await[..copied.len()], "the same events");
        assert_eq!(bob.log("@alice").await.len() as u64, number + 1);
        // The backup also has the events of the other room: `create` and a thousand messages.
        let events = head + number + 1 + bob.log("#general").await.len() as u64 + 1_001;
        assert_eq!((&output["events"], &output["conversations"]), (&json!(events), &json!(4)), "{output}");
        assert_eq!(bob.says("#r", "elsewhere").await, head + 1, "the new server continues the log");
        second.kill().await;
        assert_check_finds_no_problem(restored.path());
    }
    stop.send(true).expect("the writers run");
    writing.join_all().await;
    server.kill().await;
    assert_check_finds_no_problem(data.path());
}

#[tokio::test]
async fn a_backup_is_one_private_file_and_replaces_another_only_with_force() {
    let server = Server::start().await;
    server.connects("alice").await.says("@bob", "precious").await;
    let place = TempDir::new().expect("a directory");
    let file = place.path().join("a.db");
    let words = ["backup", utf8_path(&file), "--data", utf8_path(server.data())];
    let output = run_successfully(&words).await;
    assert!(output.contains("1 messages among 1 events in 1 conversations, schema "), "{output}");
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let (_, error) = run_to_failure(&words).await;
    assert!(error.contains("--force"), "{error}");
    let first = std::fs::read(&file).expect("readable");
    server.connects("alice").await.says("@bob", "more").await;
    assert!(
        run_to_failure(&words).await.1.contains("--force")
            && std::fs::read(&file).expect("readable") == first
    );
    let output = run_successfully(&[&words[..], &["--force"]].concat()).await;
    assert!(output.contains("2 messages"), "{output}");
    let names: Vec<_> =
        std::fs::read_dir(place.path()).expect("there").map(|f| f.expect("one").file_name()).collect();
    assert_eq!(names, ["a.db"], "no other file remains");

    let database = server.data().join("switchboard.db");
    let (_, error) =
        run_to_failure(&["backup", utf8_path(&database), "--data", utf8_path(server.data()), "--force"])
            .await;
    assert!(error.contains("the database itself"), "{error}");
    let copy = server.data().join("copy.db");
    run_successfully(&["backup", utf8_path(&copy), "--data", utf8_path(server.data()), "--force"]).await;
    assert!(
        run_to_failure(&["backup", utf8_path(place.path()), "--data", utf8_path(server.data())])
            .await
            .1
            .contains("no file")
    );
    let nowhere = place.path().join("nowhere");
    assert!(
        run_to_failure(&["backup", utf8_path(&file), "--data", utf8_path(&nowhere), "--force"])
            .await
            .1
            .contains("switchboard.db")
    );
    assert!(!nowhere.exists(), "a wrong name creates no file");
    assert!(
        run_to_failure(&["backup", utf8_path(&nowhere.join("a.db")), "--data", utf8_path(server.data())])
            .await
            .1
            .contains("nowhere")
    );
}

#[tokio::test]
async fn a_backup_refuses_to_replace_a_file_of_the_server() {
    let data = TempDir::new().expect("a directory");
    let place = TempDir::new().expect("a directory");
    let link = place.path().join("link");
    std::os::unix::fs::symlink(data.path(), &link).expect("a link");
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "in the write-ahead log").await;
    for directory in [data.path(), &link] {
        for name in
            ["switchboard.db", "switchboard.db-wal", "switchboard.db-shm", "switchboard.db-journal", "lock"]
        {
            let to = directory.join(name);
            for words in [&["--force"][..], &[]] {
                let words = [&["backup", utf8_path(&to), "--data", utf8_path(data.path())], words].concat();
                let (_, error) = run_to_failure(&words).await;
                assert!(error.contains("the database itself"), "{name}: {error}");
            }
        }
    }
    server.kill().await;
    let server = Process::start(data.path()).await;
    assert_eq!(
        server.connects("alice").await.log("@bob").await.len(),
        1,
        "the acknowledged message is there"
    );
}

#[tokio::test]
async fn a_damaged_database_is_backed_up_only_with_unchecked() {
    let mut server = Server::start().await;
    server.connects("alice").await.says("@bob", "hi").await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    crate::check::damage_first_conversation(server.data());
    let place = TempDir::new().expect("a directory");
    let file = place.path().join("a.db");
    let words = ["backup", utf8_path(&file), "--data", utf8_path(server.data())];
    let (stdout, stderr) = run_to_failure(&words).await;
    assert!(stdout.contains("@alice:bob: its head is kept as 7, and is 1"), "{stdout}");
    assert!(stderr.contains("--unchecked"), "{stderr}");
    assert_eq!(std::fs::read_dir(place.path()).expect("there").count(), 0, "no file remains");
    run_successfully(&[&words[..], &["--unchecked"]].concat()).await;
    let (stdout, _) = run_to_failure(&["check", utf8_path(&file)]).await;
    assert!(stdout.contains("1 problems; 1 messages among 1 events"), "{stdout}");
}

#[tokio::test]
async fn check_reports_problems_as_lines_or_as_json() {
    let mut server = Server::start().await;
    server.connects("alice").await.says("@bob", "hi").await;
    let output = run_successfully(&["check", "--data", utf8_path(server.data())]).await;
    assert!(
        output.contains(": all is well; 1 messages among 1 events in 1 conversations, schema "),
        "{output}"
    );
    server.begin_shutdown();
    server.wait_until_stopped().await;
    crate::check::damage_first_conversation(server.data());
    let (stdout, _) = run_to_failure(&["check", "--data", utf8_path(server.data()), "--json"]).await;
    let output: Value = serde_json::from_str(&stdout).expect("one object");
    let problem = json!({"conversation": "@alice:bob", "what": "its head is kept as 7, and is 1"});
    assert_eq!((&output["clean"], &output["problems"]), (&json!(false), &json!([problem])), "{output}");
}

#[tokio::test]
async fn health_queries_the_server_on_this_machine() {
    let mut server = Server::start().await;
    let address = server.address().to_string();
    assert_eq!(run_successfully(&["health", "--listen", &address]).await, "ready\n");
    let output = run_successfully(&["health", "--delivery", "--listen", &address]).await;
    assert!(output.contains(r#""delivers":true"#) && output.contains("milliseconds"), "{output}");
    let hold = server.lock_for_writing();
    // The server caches the answer of `/healthz` for a second, so the test polls.
    let held = eventually("the writer is held up", async || {
        let answer = server.gets("/healthz").await;
        (answer.status == 503).then_some(answer.text)
    });
    assert!(held.await.contains("no answer within 2s"));
    assert_eq!(server.gets("/readyz").await.status, 200, "the server still serves reads");
    drop(hold);
    server.begin_shutdown();
    server.wait_until_stopped().await;
    let (_, error) = run_to_failure(&["health", "--listen", &address]).await;
    assert!(error.contains(&address), "{error}");
}
