//! A data directory that contains the database of another program.

use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::Process;

/// Starts a server, which must fail to start, and returns its standard error.
fn start_error(data: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    let output = command.output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn a_server_refuses_another_programs_database_and_leaves_it_unchanged() {
    for made in [
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)",
        // The database of another chat program, with tables of the same names.
        "CREATE TABLE users (id INTEGER, name TEXT, last_seen INTEGER); CREATE TABLE events (id INTEGER)",
        "CREATE TABLE notes (text TEXT); PRAGMA user_version = 2",
        "CREATE TABLE notes (text TEXT); PRAGMA user_version = 99",
        "CREATE TABLE notes (text TEXT); PRAGMA application_id = 252006674",
        "PRAGMA journal_mode = WAL; CREATE TABLE notes (text TEXT)",
    ] {
        let data = TempDir::new().expect("a directory");
        let path = data.path().join("switchboard.db");
        Connection::open(&path).expect("a database").execute_batch(made).expect(made);
        let before = std::fs::read(&path).expect("its bytes");
        let error = start_error(data.path());
        assert!(error.contains("another program's database"), "{made}: {error}");
        assert!(std::fs::read(&path).expect("its bytes") == before, "{made}");
    }
}

#[tokio::test]
async fn a_new_database_has_the_application_id() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    server.connects("alice").await.says("@bob", "hi").await;
    let db = Connection::open(data.path().join("switchboard.db")).expect("a database");
    let id: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0)).expect("a number");
    assert_eq!(id.to_be_bytes(), *b"swbd");
}
