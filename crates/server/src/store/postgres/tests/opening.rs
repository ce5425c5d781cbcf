//! What a store makes sure of before it is used.

use tempfile::TempDir;

use super::{Node, asks, new_database, settings};

async fn refused(url: &str) -> String {
    match Node::with(settings(url)).await {
        Ok(_) => panic!("{url} is taken"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn nodes_that_start_together_make_the_tables_once() {
    let url = new_database().await;
    let (one, two, three, four) =
        tokio::join!(Node::new(&url), Node::new(&url), Node::new(&url), Node::new(&url));
    for mut node in [one, two, three, four] {
        node.says("alice", "@bob", "hi").await;
    }
    assert_eq!(asks(&url, "SELECT head FROM conversations").await, [[Some("4".to_owned())]]);
}

#[tokio::test]
async fn tables_of_a_newer_version_are_left_alone() {
    let url = new_database().await;
    Node::new(&url).await.ends().await;
    asks(
        &url,
        "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
         VALUES (99, 'later', '2030-01-01T00:00:00Z', '1')",
    )
    .await;
    let error = refused(&url).await;
    assert!(error.contains("newer version of switchboard") && error.contains("schema 99"), "{error}");
}

#[tokio::test]
async fn a_database_that_does_not_keep_what_it_commits_is_refused() {
    let scratch = TempDir::new().expect("a directory");
    let settings = ["fsync=off"];
    let hasty = engines::Postgres::start(scratch.path(), &settings).await.expect("a PostgreSQL");
    let error = refused(&hasty.url()).await;
    assert!(error.contains("`fsync` is off"), "{error}");
}

#[tokio::test]
async fn a_session_that_does_not_wait_for_the_disk_is_refused() {
    let url = new_database().await;
    let error = refused(&format!("{url}?options=-c%20synchronous_commit%3Doff")).await;
    assert!(error.contains("`synchronous_commit` is off"), "{error}");
    // Nobody stands by, so there is nothing to wait for.
    Node::new(&format!("{url}?options=-c%20synchronous_commit%3Dlocal")).await.ends().await;
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let shared = engines::shared_postgres().await.expect("a PostgreSQL");
    shared.psql("CREATE DATABASE other TEMPLATE template0 ENCODING 'SQL_ASCII'").await.expect("a database");
    let url = shared.url();
    let url = url.strip_suffix("switchboard").map(|url| format!("{url}other")).expect("a database");
    let error = refused(&url).await;
    assert!(error.contains("its encoding is SQL_ASCII"), "{error}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_told_in_one_sentence() {
    let error = refused("postgres://switchboard:secret@127.0.0.1:1/nowhere").await;
    assert!(error.contains("postgres://127.0.0.1:1/nowhere") && !error.contains("secret"), "{error}");
}
