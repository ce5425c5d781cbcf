//! `switchboard migrate-store`: it copies every row from SQLite to PostgreSQL, also after interruptions.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use switchboard::config::{ClusterConfig, EngineUrl};
use tokio::process::Command;

use crate::check::assert_check_finds_no_problem;
use crate::support::{Person, Server, command, eventually, in_time};

/// The command `switchboard migrate-store`, in an environment without settings.
fn migrate_command(from: &Path, to: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(["migrate-store", "--json", "--to", to, "--from"]).arg(from).env_clear().kill_on_drop(true);
    command
}

async fn run_migration(from: &Path, to: &str) -> Output {
    in_time("the program ends", migrate_command(from, to).output()).await.expect("the program starts")
}

async fn migrate_successfully(from: &Path, to: &str) -> Value {
    let output = run_migration(from, to).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn migrate_to_failure(from: &Path, to: &str) -> String {
    let output = run_migration(from, to).await;
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).expect("UTF-8")
}

async fn new_database() -> String {
    let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
    postgres.new_database().await.expect("a database")
}

/// Starts a server on the migrated database.
async fn start_on_migrated(database: &str) -> Server {
    Server::start_with(|config| {
        config.cluster = Some(ClusterConfig::with_engines(EngineUrl::new(database), None));
    })
    .await
}

/// The counts of rows that the program printed for this table.
fn row_counts<'a>(output: &'a Value, table: &str) -> &'a Value {
    let tables = output["tables"].as_array().expect("a list");
    tables.iter().find(|moved| moved["table"] == table).expect("the table")
}

/// What a user sees of these conversations as JSON: summaries, logs, histories and members.
async fn visible_state(person: &mut Person, conversations: &[&str]) -> Vec<Value> {
    let mut all: Vec<_> = person.conversations().await.iter().map(|summary| json!(summary)).collect();
    for conversation in conversations {
        all.extend(person.log(conversation).await.iter().map(|event| json!(event)));
        all.extend(person.history(conversation).await.iter().map(|message| json!(message)));
        all.extend(person.members(conversation).await.iter().map(|member| json!(member)));
    }
    all
}

#[tokio::test]
async fn migrate_store_copies_everything_and_the_new_server_continues() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says_with_key("@bob", "first", "hi").await;
    alice.makes_public_room("room", &["bob", "carol"]).await;
    let target = bob.says("#room", "with \u{1f600}, \"quotes\" and \\ backslashes").await;
    alice.does("react", json!({"conversation": "#room", "target": target, "emoji": "👍", "on": true})).await;
    bob.does("edit", json!({"conversation": "#room", "target": target, "text": "better"})).await;
    alice.says("#room", "deleted").await;
    alice.does("delete", json!({"conversation": "#room", "target": 5})).await;
    alice.does("remove", json!({"conversation": "#room", "user": "carol"})).await;
    alice.does("rename", json!({"conversation": "#room", "title": "Räume"})).await;
    bob.does("read", json!({"conversation": "#room", "upto": 2})).await;
    let (alices, bobs) = (
        visible_state(&mut alice, &["@bob", "#room"]).await,
        visible_state(&mut bob, &["@alice", "#room"]).await,
    );
    server.begin_shutdown();
    server.wait_until_stopped().await;

    let database = new_database().await;
    let output = migrate_successfully(server.data(), &database).await;
    assert_eq!(row_counts(&output, "events")["rows"], 9);
    assert_eq!(row_counts(&output, "users")["rows"], 3);
    let mut node = start_on_migrated(&database).await;
    let mut alice = node.connects("alice").await;
    let mut bob = node.connects("bob").await;
    assert_eq!(visible_state(&mut alice, &["@bob", "#room"]).await, alices);
    assert_eq!(visible_state(&mut bob, &["@alice", "#room"]).await, bobs);
    assert!(alice.says_with_key("@bob", "first", "hi").await.duplicate, "idempotency keys were copied");
    assert_eq!(alice.says("@bob", "another").await, 2);
    bob.receives_message("another").await;
    alice.says("@dora", "a new conversation").await;
    assert_eq!(node.connects("dora").await.summary("@alice:dora").await.unread, 1);

    node.begin_shutdown();
    node.wait_until_stopped().await;
    let again = migrate_to_failure(server.data(), &database).await;
    assert!(again.contains("was already migrated there"), "{again}");

    // While the directory has the mark of a migration, no server starts on it and no API key is created in it.
    for words in [&["dev"][..], &["key", "create", "lost"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
        command.args(words).arg("--data").arg(server.data()).env_clear().kill_on_drop(true);
        let output = in_time("the program ends", command.output()).await.expect("the program starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("was moved to postgres://"), "{error}");
        assert!(error.contains("remove"), "how to go back: {error}");
    }
    std::fs::remove_file(server.data().join("MOVED")).expect("removed");
    server.start_again().await;
}

#[tokio::test]
async fn an_event_of_a_newer_version_is_served_and_moved() {
    let mut server = Server::start().await;
    server.connects("alice").await.makes_room("room", &["bob"]).await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    let db = rusqlite::Connection::open(server.data().join("switchboard.db")).expect("the database");
    db.execute_batch(
        r#"INSERT INTO kinds (number, name, users) VALUES (99, 'pin', '["by"]');
           INSERT INTO events (conversation, seq, kind, sender, at, messages, body)
           SELECT c.id, 2, 99, u.id, c.at, 0, '{"why":"for all","by":' || u.id || '}'
           FROM conversations c, users u WHERE c.name = '#room' AND u.name = 'bob';
           UPDATE conversations SET head = 2 WHERE name = '#room'"#,
    )
    .expect("stored");
    drop(db);
    server.start_again().await;
    let mut alice = server.connects("alice").await;
    let before = visible_state(&mut alice, &["#room"]).await;
    let pins = before.iter().filter(|item| item["type"] == "pin" && item["by"] == "bob").count();
    assert_eq!(pins, 1, "{before:?}");
    alice.client.close().await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    assert_check_finds_no_problem(server.data());
    let database = new_database().await;
    migrate_successfully(server.data(), &database).await;
    let node = start_on_migrated(&database).await;
    assert_eq!(visible_state(&mut node.connects("alice").await, &["#room"]).await, before);
}

/// The number of rows that one transaction copies: `CHUNK` in the program.
const ROWS_PER_TRANSACTION: usize = 5_000;

#[tokio::test]
async fn an_interrupted_migration_resumes() {
    const MESSAGES: usize = 2 * ROWS_PER_TRANSACTION;
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    for _ in 0..MESSAGES / 500 {
        let sends = (0..500).map(|_| command("send", &json!({"to": "@bob", "text": "x"})));
        for _ in alice.client.submit_all(sends).await.expect("sent") {
            alice.receives_reply().await;
        }
    }
    let database = new_database().await;
    let used = migrate_to_failure(server.data(), &database).await;
    assert!(used.contains("another switchboard server uses"), "{used}");
    server.begin_shutdown();
    server.wait_until_stopped().await;

    // A node creates the tables. A trigger then blocks the first run in its second transaction, where the test kills it.
    let mut node = start_on_migrated(&database).await;
    node.begin_shutdown();
    node.wait_until_stopped().await;
    let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
    let name = database.rsplit('/').next().expect("a name").to_owned();
    let hold = format!(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_sleep(3600); RETURN NEW; END $$;
         CREATE TRIGGER hold BEFORE UPDATE ON moved FOR EACH ROW
             WHEN (NEW.name = 'events' AND NEW.rows > {ROWS_PER_TRANSACTION}) EXECUTE FUNCTION hold()"
    );
    postgres.psql_in(&name, &hold).await.expect("made");
    let mut first = migrate_command(server.data(), &database)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    eventually("the first run is held", async || {
        let held = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event = 'PgSleep'";
        (postgres.psql_in(&name, held).await.expect("an answer") == "1").then_some(())
    })
    .await;
    first.start_kill().expect("it runs");
    in_time("its end", first.wait()).await.expect("it ended");
    let others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                  AND backend_type = 'client backend'";
    postgres.psql_in(&name, &format!("SELECT pg_terminate_backend(pid) {others}")).await.expect("ended");
    eventually("its connection has ended", async || {
        let left = postgres.psql_in(&name, &format!("SELECT count(*) {others}")).await.expect("an answer");
        (left == "0").then_some(())
    })
    .await;
    postgres.psql_in(&name, "DROP FUNCTION hold CASCADE").await.expect("dropped");

    let output = migrate_successfully(server.data(), &database).await;
    let events = row_counts(&output, "events");
    assert_eq!(events["rows"], MESSAGES);
    assert_eq!(
        events["before"], ROWS_PER_TRANSACTION,
        "rows of the first run are not copied again: {events}"
    );
    let mut bob = start_on_migrated(&database).await.connects("bob").await;
    assert_eq!(bob.log("@alice").await.len(), MESSAGES);
}

#[tokio::test]
async fn migrate_store_needs_an_empty_database_and_a_server_needs_a_finished_migration() {
    let mut server = Server::start().await;
    server.connects("alice").await.says("@bob", "hi").await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    let used = new_database().await;
    let mut node = start_on_migrated(&used).await;
    node.connects("dora").await.says("@dora", "note").await;
    node.begin_shutdown();
    node.wait_until_stopped().await;
    assert!(migrate_to_failure(server.data(), &used).await.contains("is not empty"));

    let served = new_database().await;
    let node = start_on_migrated(&served).await;
    assert!(migrate_to_failure(server.data(), &served).await.contains("a node serves from that database"));
    drop(node);

    let half = new_database().await;
    migrate_successfully(server.data(), &half).await;
    let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
    let name = half.rsplit('/').next().expect("a name");
    postgres.psql_in(name, "UPDATE moves SET finished = false").await.expect("an answer");
    let config = {
        let mut config = switchboard::config::Config::for_dev(server.data().to_owned());
        config.cluster = Some(ClusterConfig::with_engines(EngineUrl::new(half.as_str()), None));
        config
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refused =
        switchboard::Server::start(listener, config, switchboard_store::clock::Clock::system()).await;
    let refused = format!("{:#}", refused.expect_err("it is not finished"));
    assert!(refused.contains("migrate-store"), "{refused}");

    std::fs::remove_file(server.data().join("MOVED")).expect("the mark of the migration");
    server.start_again().await;
    server.connects("alice").await.says("@bob", "once more").await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    assert!(migrate_to_failure(server.data(), &half).await.contains("changed since"));
}
