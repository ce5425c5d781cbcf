//! The write-ahead log: it stays short, delays no client, and a graceful stop removes it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use faults::{DroppedPages, SyncFilter};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde_json::json;
use switchboard_protocol::ErrorCode;
use switchboard_protocol::reply::Reply;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::assert_check_finds_no_problem;
use crate::support::{FailingDisk, Server, command, eventually, text_of};

const WRITE_AHEAD_LOG: &str = "switchboard.db-wal";

/// The length in bytes from which on the server checkpoints the write-ahead log.
const CHECKPOINT_BYTES: u64 = 32 * 1024 * 1024;

fn log_length(data: &Path) -> u64 {
    std::fs::metadata(data.join(WRITE_AHEAD_LOG)).map_or(0, |log| log.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_stays_short_under_a_writer_and_many_readers() {
    const TEXT_BYTES: usize = 16 * 1024;
    let server = Arc::new(Server::start().await);
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    let mut reading = JoinSet::new();
    for _ in 0..2 {
        let server = server.clone();
        reading.spawn(async move {
            loop {
                server.posts("history", json!({"as": "bob", "conversation": "@alice"})).await.ok();
            }
        });
    }
    let mut longest = 0;
    let messages = 2 * usize::try_from(CHECKPOINT_BYTES).expect("small") / TEXT_BYTES;
    for _ in 0..messages / 100 {
        let send = || command("send", &json!({"to": "@bob", "text": "x".repeat(TEXT_BYTES)}));
        for _ in alice.client.submit_all((0..100).map(|_| send())).await.expect("sent") {
            assert!(matches!(alice.receives_reply().await, Reply::Ok(_)));
        }
        longest = longest.max(log_length(server.data()));
    }
    reading.shutdown().await;
    println!("{longest} bytes at most, of {} written", messages * TEXT_BYTES);
    assert!(longest > CHECKPOINT_BYTES / 2, "the writer must fill the log: {longest}");
    assert!(longest < 2 * CHECKPOINT_BYTES, "{longest}");
}

/// Begins a long read of the database, as a backup program does.
fn begin_read(db: &mut Connection) -> rusqlite::Transaction<'_> {
    let reading = db.transaction().expect("a transaction");
    let version: i64 = reading.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a read");
    assert!(version > 0);
    reading
}

#[tokio::test]
async fn a_long_read_and_a_deletion_delay_no_write() {
    const MESSAGES: usize = 20;
    /// The longest time that a write may take. A write that waited for the backup would take 5 s.
    const MAX_WRITE_TIME: Duration = Duration::from_secs(4);
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "to be deleted").await;
    let mut backup = Connection::open(server.data().join("switchboard.db")).expect("the database");
    let reading = begin_read(&mut backup);
    alice.does("delete", json!({"conversation": "@bob", "target": 1})).await;
    for _ in 0..MESSAGES {
        let said = Instant::now();
        alice.says("@bob", "hi").await;
        assert!(said.elapsed() < MAX_WRITE_TIME, "{:?}", said.elapsed());
    }
    assert!(log_length(server.data()) > 0);
    drop(reading);
    eventually("the log is emptied", async || (log_length(server.data()) == 0).then_some(())).await;
}

/// A commit whose fsync failed stays in the system's cache, and also in the log if another program reads the database while the
/// server restarts. Later commits follow it in the log, so the server must also make the failed commit durable.
#[tokio::test]
async fn a_commit_after_one_with_a_failed_fsync_survives_a_power_cut() {
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    disk.control.fail_sync(1, SyncFilter::Wal, DroppedPages::Later);
    let refusal = alice.is_refused("send", json!({"to": "@bob", "text": "x".repeat(16 * 1024)})).await;
    assert_eq!(refusal, ErrorCode::Unavailable);
    server.kill().await;

    // This is the first connection to the database after the restart, so it recovers the write-ahead log.
    let mut backup = Connection::open(disk.data().join("switchboard.db")).expect("the database");
    backup.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("the log stays");
    let reading = begin_read(&mut backup);
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    let seq = alice.says("@bob", "acknowledged").await;
    server.kill().await;
    drop(reading);
    drop(backup);
    let cut = disk.control.cut_power(&mut fastrand::Rng::with_seed(1)).expect("a power cut");
    println!("{cut:?}");

    let server = disk.starts().await;
    let log = server.connects("alice").await.log("@bob").await;
    let last = log.last().expect("events");
    assert_eq!((last.seq.0, text_of(last)), (seq, Some("acknowledged")));
    server.kill().await;
    assert_check_finds_no_problem(disk.data());
}

/// The files of a data directory, except the lock.
fn data_files(data: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(data).expect("the directory").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> =
        names.map(|name| name.into_string().expect("UTF-8")).filter(|name| name != "lock").collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_graceful_stop_leaves_only_the_database_file() {
    let mut server = Server::start().await;
    for round in 0..10 {
        let mut alice = server.connects("alice").await;
        let seq = alice.says("@bob", &format!("spoken {round}")).await;
        alice.does("delete", json!({"conversation": "@bob", "target": seq})).await;
        assert_eq!(alice.log("@bob").await.len(), 2 * (round + 1));
        // The store still runs these queries when the server begins to stop.
        for _ in 0..20 {
            alice.submits("sync", json!({"conversation": "@bob", "after": 0})).await;
        }
        server.begin_shutdown();
        if round == 0 {
            // The server cancels the running query at the shutdown deadline.
            server.wait_until_stopped().await;
            drop(alice);
        } else {
            alice.is_closed().await;
            drop(alice);
            server.wait_until_stopped().await;
        }
        assert_eq!(data_files(server.data()), ["switchboard.db"], "in round {round}");
        let database = std::fs::read(server.data().join("switchboard.db")).expect("the database");
        assert!(!database.windows(7).any(|bytes| bytes == b"spoken "), "in round {round}");
        server.start_again().await;
    }
}

#[tokio::test]
async fn a_stop_during_a_backup_leaves_the_write_ahead_log_to_the_next_start() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    let mut backup = Connection::open(server.data().join("switchboard.db")).expect("the database");
    let reading = begin_read(&mut backup);
    alice.says("@bob", "meanwhile").await;
    server.restart().await;
    assert_eq!(server.connects("alice").await.log("@bob").await.len(), 2);
    drop(reading);
    drop(backup);
    server.begin_shutdown();
    server.wait_until_stopped().await;
    assert_eq!(data_files(server.data()), ["switchboard.db"]);
}
