//! What a store checks and migrates when it is opened.

use refinery::Target as Version;
use serde_json::json;
use switchboard_protocol::{ErrorCode, UserId};
use tempfile::TempDir;

use super::{Node, assert_sound, new_database, query_texts, settings};
use crate::postgres::connect::BlockingConnection;
use crate::postgres::schema;
use crate::postgres::target::Target;
use crate::postgres::{PostgresStore, Settings};
use crate::{Committed, Request, Store as _};

/// Rows of the first schema: a room of alice and bob with two messages.
const FIRST_ROWS: &str = r#"
    INSERT INTO users (name) VALUES ('alice'), ('bob');
    INSERT INTO conversations (name, title, public, head, messages, last_message, members, admins, at)
        VALUES ('#old', 'Old', false, 4, 2, 4, 2, 1, 1004);
    INSERT INTO members (conversation, "user", role, since, until, read, received, sent, read_messages, read_sent)
        VALUES (1, 1, 2, 1, NULL, 1, 1, 1, 0, 0), (1, 2, 1, 2, NULL, 3, 3, 1, 1, 0);
    INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body) VALUES
        (1, 1, 5, 1, 1001, 0, NULL, '{"members":[],"public":false,"title":"Old"}'),
        (1, 2, 8, 1, 1002, 0, NULL, '{"user":"bob","role":"member"}'),
        (1, 3, 1, 1, 1003, 1, 'a1', '{"text":"first"}'),
        (1, 4, 1, 2, 1004, 2, 'b1', '{"text":"second"}');
    INSERT INTO rooms_by_choice ("user", conversation) VALUES (1, 1);"#;

/// Creates a database with the tables of the first schema and some rows. Returns its URL.
async fn database_of_the_first_schema() -> String {
    let url = new_database().await;
    let target = Target::new(&url, None).expect("a target");
    let make = move || {
        let mut link = BlockingConnection::open(&target).expect("connected");
        link.run_alone(async |client| {
            let runner = schema::migrations::runner().set_target(Version::Version(1));
            runner.run_async(client).await.expect("the first schema");
            client.batch_execute(FIRST_ROWS).await
        })
        .expect("rows");
    };
    tokio::task::spawn_blocking(make).await.expect("no panic");
    url
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_migrated_and_usable() {
    let url = database_of_the_first_schema().await;
    let mut node = Node::new(&url).await;
    let again = node.stores("alice", "send", json!({"to": "#old", "text": "first", "key": "a1"})).await;
    assert_eq!((again.seq.0, again.event.is_some()), (3, false), "its keys are known");
    assert_eq!(node.says("bob", "#old", "third").await.seq.0, 5);
    let moved = node.tries("alice", "read", json!({"conversation": "#old", "upto": 5})).await;
    assert!(matches!(moved, Ok(Committed::Cursor(cursor)) if cursor.has_moved));
    let refused = node.tries("carol", "send", json!({"to": "#old", "text": "no"})).await;
    assert_eq!(refused.map(drop).map_err(|refusal| refusal.code), Err(ErrorCode::NotFound));
    let history = json!({"conversation": "#old"}).to_string();
    let history = switchboard_protocol::decode_named("history", &history).expect("a command").command;
    let Request::Query(history) = Request::from(history) else { panic!("it reads") };
    let history = node.store.query(&UserId::parse("bob").expect("a user id"), history).await;
    let page = serde_json::to_value(history.expect("a page")).expect("JSON");
    let texts: Vec<_> = page["messages"].as_array().expect("messages").iter().map(|m| &m["text"]).collect();
    assert_eq!(texts, ["first", "second", "third"]);
    let latest = schema::migrations::runner();
    let latest = latest.get_migrations().iter().map(refinery::Migration::version).max();
    let version = query_texts(&url, "SELECT max(version) FROM refinery_schema_history").await;
    assert_eq!(version, [[latest.map(|version| version.to_string())]]);
    assert_sound(&url).await;
}

async fn opening_error(url: &str) -> String {
    match Node::start_with(settings(url)).await {
        Ok(_) => panic!("{url} is taken"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn nodes_that_start_at_the_same_time_migrate_once() {
    let url = new_database().await;
    let (one, two, three, four) =
        tokio::join!(Node::new(&url), Node::new(&url), Node::new(&url), Node::new(&url));
    for mut node in [one, two, three, four] {
        node.says("alice", "@bob", "hi").await;
    }
    assert_eq!(query_texts(&url, "SELECT head FROM conversations").await, [[Some("4".to_owned())]]);
}

#[tokio::test]
async fn a_schema_of_a_newer_version_is_refused_unchanged() {
    let url = new_database().await;
    Node::new(&url).await.stop().await;
    query_texts(
        &url,
        "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
         VALUES (99, 'later', '2030-01-01T00:00:00Z', '1')",
    )
    .await;
    let error = opening_error(&url).await;
    assert!(error.contains("newer version of switchboard") && error.contains("schema 99"), "{error}");
}

#[tokio::test]
async fn a_database_without_fsync_is_refused() {
    let scratch = TempDir::new().expect("a directory");
    let settings = ["fsync=off"];
    let hasty = engines::Postgres::start(scratch.path(), &settings).await.expect("a PostgreSQL");
    let error = opening_error(&hasty.url()).await;
    assert!(error.contains("`fsync` is off"), "{error}");
}

#[tokio::test]
async fn synchronous_commit_off_is_refused() {
    let url = new_database().await;
    let error = opening_error(&format!("{url}?options=-c%20synchronous_commit%3Doff")).await;
    assert!(error.contains("`synchronous_commit` is off"), "{error}");
    // `local` is accepted without a standby, because then a commit has no other server to wait for.
    Node::new(&format!("{url}?options=-c%20synchronous_commit%3Dlocal")).await.stop().await;
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let shared = engines::shared_postgres().await.expect("a PostgreSQL");
    shared.psql("CREATE DATABASE other TEMPLATE template0 ENCODING 'SQL_ASCII'").await.expect("a database");
    let url = shared.url();
    let url = url.strip_suffix("switchboard").map(|url| format!("{url}other")).expect("a database");
    let error = opening_error(&url).await;
    assert!(error.contains("its encoding is SQL_ASCII"), "{error}");
}

#[tokio::test]
async fn a_missing_database_is_an_error_of_one_sentence() {
    let error = opening_error("postgres://switchboard:secret@127.0.0.1:1/nowhere").await;
    assert!(error.contains("postgres://127.0.0.1:1/nowhere") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn the_database_lists_connections_with_the_name_of_the_node() {
    let url = new_database().await;
    let named = Settings { name: Some("chat-1".to_owned()), ..settings(&url) };
    let opened = tokio::task::spawn_blocking(|| PostgresStore::open(named)).await.expect("no panic");
    let _open = opened.expect("a store");
    let database = url.split('?').next().and_then(|url| url.rsplit('/').next()).expect("a database");
    let names = "SELECT string_agg(DISTINCT application_name, ',') FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'switchboard%'";
    let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
    assert_eq!(postgres.psql_in(database, names).await.expect("a row"), "switchboard chat-1");
}
