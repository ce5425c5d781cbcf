//! The commands of an operator: a backup made beside a server that writes is whole, and another server goes on from it;
//! `check` and `health` say what is wrong.

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

use crate::check::is_clean;
use crate::support::{Person, Process, Server, command, eventually, soon};

/// Runs the program to its end, in an environment without settings.
async fn run(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(words).env_clear().kill_on_drop(true);
    soon("the program ends", command.output()).await.expect("the program starts")
}

async fn succeeds(words: &[&str]) -> String {
    let output = run(words).await;
    let (stdout, stderr) = said(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

async fn fails(words: &[&str]) -> (String, String) {
    let output = run(words).await;
    let (stdout, stderr) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    (stdout, stderr)
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (text(&output.stdout), text(&output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Puts a backup where a server finds it.
fn restore(backup: &Path) -> TempDir {
    let data = TempDir::new().expect("a directory");
    std::fs::copy(backup, data.path().join("switchboard.db")).expect("copied");
    data
}

/// The log in JSON, without what is the connection's own.
async fn log(person: &mut Person, conversation: &str) -> Vec<Value> {
    person.log(conversation).await.iter().map(|event| json!(event)).collect()
}

/// Writes so much into another room that a copy is made in more than one step.
async fn fills(person: &mut Person) {
    person.makes_room("full", &[]).await;
    let send = || command("send", &json!({"to": "#full", "text": "x".repeat(12_000)}));
    for _ in 0..20 {
        let ids = person.client.submit_all((0..50).map(|_| send())).await.expect("sent");
        for _ in ids {
            assert!(matches!(person.is_told().await, Reply::Ok(_)));
        }
    }
}

/// Writes to a room until it is told to stop, and counts what is acknowledged.
async fn writes(mut person: Person, acknowledged: Arc<AtomicU64>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let seq = person.says("#r", "on and on").await;
        acknowledged.fetch_max(seq, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_backup_beside_a_writing_server_has_what_was_acknowledged_and_another_server_goes_on() {
    let (data, place) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &["bob", "carol", "dora"]).await;
    fills(&mut alice).await;
    let (stop, stopped) = watch::channel(false);
    let (acknowledged, mut writing) = (Arc::new(AtomicU64::new(1)), JoinSet::new());
    for name in ["bob", "carol", "dora"] {
        writing.spawn(writes(server.connects(name).await, acknowledged.clone(), stopped.clone()));
    }
    for number in 0..5 {
        let file = place.path().join(format!("{number}.db"));
        alice.says("@bob", "now").await;
        let before = acknowledged.load(Ordering::SeqCst);
        let words = ["backup", text(&file), "--data", text(data.path()), "--json"];
        let told: Value = serde_json::from_str(&succeeds(&words).await).expect("JSON");
        let after = acknowledged.load(Ordering::SeqCst);
        assert!(after > before, "the others went on writing");
        is_clean(&file);
        let restored = restore(&file);
        let second = Process::start(restored.path()).await;
        let mut bob = second.connects("bob").await;
        let copied = log(&mut bob, "#r").await;
        let head = copied.len() as u64;
        assert!(head >= before, "{before} events were acknowledged, and {head} are there");
        assert_eq!(copied[..], log(&mut alice, "#r").await[..copied.len()], "the same history");
        assert_eq!(bob.log("@alice").await.len() as u64, number + 1);
        // And the room's `create` with its thousand messages.
        let events = head + number + 1 + bob.log("#general").await.len() as u64 + 1_001;
        assert_eq!((&told["events"], &told["conversations"]), (&json!(events), &json!(4)), "{told}");
        assert_eq!(bob.says("#r", "elsewhere").await, head + 1, "and it goes on");
        second.dies().await;
        is_clean(restored.path());
    }
    stop.send(true).expect("they listen");
    writing.join_all().await;
    server.dies().await;
    is_clean(data.path());
}

#[tokio::test]
async fn a_backup_is_one_file_for_its_owner_and_replaces_none_unasked() {
    let server = Server::start().await;
    server.connects("alice").await.says("@bob", "precious").await;
    let place = TempDir::new().expect("a directory");
    let file = place.path().join("a.db");
    let words = ["backup", text(&file), "--data", text(server.data())];
    let told = succeeds(&words).await;
    assert!(told.contains("1 messages among 1 events in 1 conversations, schema "), "{told}");
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let (_, error) = fails(&words).await;
    assert!(error.contains("--force"), "{error}");
    let first = std::fs::read(&file).expect("readable");
    server.connects("alice").await.says("@bob", "more").await;
    assert!(fails(&words).await.1.contains("--force") && std::fs::read(&file).expect("readable") == first);
    let told = succeeds(&[&words[..], &["--force"]].concat()).await;
    assert!(told.contains("2 messages"), "{told}");
    let names: Vec<_> =
        std::fs::read_dir(place.path()).expect("there").map(|f| f.expect("one").file_name()).collect();
    assert_eq!(names, ["a.db"], "and nothing beside it");

    let database = server.data().join("switchboard.db");
    let (_, error) = fails(&["backup", text(&database), "--data", text(server.data()), "--force"]).await;
    assert!(error.contains("the database itself"), "{error}");
    let copy = server.data().join("copy.db");
    succeeds(&["backup", text(&copy), "--data", text(server.data()), "--force"]).await;
    assert!(
        fails(&["backup", text(place.path()), "--data", text(server.data())]).await.1.contains("no file")
    );
    let nowhere = place.path().join("nowhere");
    assert!(
        fails(&["backup", text(&file), "--data", text(&nowhere), "--force"])
            .await
            .1
            .contains("switchboard.db")
    );
    assert!(!nowhere.exists(), "nothing is made of a wrong name");
    assert!(
        fails(&["backup", text(&nowhere.join("a.db")), "--data", text(server.data())])
            .await
            .1
            .contains("nowhere")
    );
}

#[tokio::test]
async fn a_backup_does_not_take_the_place_of_a_file_that_the_server_uses() {
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
                let words = [&["backup", text(&to), "--data", text(data.path())], words].concat();
                let (_, error) = fails(&words).await;
                assert!(error.contains("the database itself"), "{name}: {error}");
            }
        }
    }
    server.dies().await;
    let server = Process::start(data.path()).await;
    assert_eq!(server.connects("alice").await.log("@bob").await.len(), 1, "what was acknowledged is there");
}

#[tokio::test]
async fn of_a_damaged_database_a_backup_is_made_only_if_told_so() {
    let mut server = Server::start().await;
    server.connects("alice").await.says("@bob", "hi").await;
    server.begins_to_stop();
    server.has_stopped().await;
    crate::check::damage(server.data());
    let place = TempDir::new().expect("a directory");
    let file = place.path().join("a.db");
    let words = ["backup", text(&file), "--data", text(server.data())];
    let (stdout, stderr) = fails(&words).await;
    assert!(stdout.contains("@alice:bob: its head is kept as 7, and is 1"), "{stdout}");
    assert!(stderr.contains("--unchecked"), "{stderr}");
    assert_eq!(std::fs::read_dir(place.path()).expect("there").count(), 0, "nothing is left of it");
    succeeds(&[&words[..], &["--unchecked"]].concat()).await;
    let (stdout, _) = fails(&["check", text(&file)]).await;
    assert!(stdout.contains("1 problems; 1 messages among 1 events"), "{stdout}");
}

#[tokio::test]
async fn check_says_what_is_wrong_by_lines_or_as_json() {
    let mut server = Server::start().await;
    server.connects("alice").await.says("@bob", "hi").await;
    let told = succeeds(&["check", "--data", text(server.data())]).await;
    assert!(told.contains(": all is well; 1 messages among 1 events in 1 conversations, schema "), "{told}");
    server.begins_to_stop();
    server.has_stopped().await;
    crate::check::damage(server.data());
    let (stdout, _) = fails(&["check", "--data", text(server.data()), "--json"]).await;
    let told: Value = serde_json::from_str(&stdout).expect("one object");
    let problem = json!({"conversation": "@alice:bob", "what": "its head is kept as 7, and is 1"});
    assert_eq!((&told["clean"], &told["problems"]), (&json!(false), &json!([problem])), "{told}");
}

#[tokio::test]
async fn health_is_that_of_the_server_on_this_machine() {
    let mut server = Server::start().await;
    let address = server.address().to_string();
    assert_eq!(succeeds(&["health", "--listen", &address]).await, "ready\n");
    let told = succeeds(&["health", "--delivery", "--listen", &address]).await;
    assert!(told.contains(r#""delivers":true"#) && told.contains("milliseconds"), "{told}");
    let hold = server.holds_up_writes();
    // The answer of before counts for a second.
    let held = eventually("the writer is held up", async || {
        let answer = server.gets("/healthz").await;
        (answer.status == 503).then_some(answer.text)
    });
    assert!(held.await.contains("no answer within 2s"));
    assert_eq!(server.gets("/readyz").await.status, 200, "it still reads");
    drop(hold);
    server.begins_to_stop();
    server.has_stopped().await;
    let (_, error) = fails(&["health", "--listen", &address]).await;
    assert!(error.contains(&address), "{error}");
}
