//! The write-ahead log: it stays short, nobody waits for it, and an orderly stop leaves none.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use faults::{Dropped, Syncs};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde_json::json;
use switchboard_protocol::ErrorCode;
use switchboard_protocol::reply::Reply;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::is_clean;
use crate::support::{FailingDisk, Server, command, eventually, text_of};

const LOG: &str = "switchboard.db-wal";

/// At how many bytes the log is moved into the database.
const CHECKPOINT: u64 = 32 * 1024 * 1024;

fn log_length(data: &Path) -> u64 {
    std::fs::metadata(data.join(LOG)).map_or(0, |log| log.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_short_under_one_who_writes_and_many_who_come_to_read() {
    const TEXT: usize = 16 * 1024;
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
    let messages = 2 * usize::try_from(CHECKPOINT).expect("small") / TEXT;
    for _ in 0..messages / 100 {
        let send = || command("send", &json!({"to": "@bob", "text": "x".repeat(TEXT)}));
        for _ in alice.client.submit_all((0..100).map(|_| send())).await.expect("sent") {
            assert!(matches!(alice.is_told().await, Reply::Ok(_)));
        }
        longest = longest.max(log_length(server.data()));
    }
    reading.shutdown().await;
    println!("{longest} bytes at most, of {} written", messages * TEXT);
    assert!(longest > CHECKPOINT / 2, "{longest}: much was written");
    assert!(longest < 2 * CHECKPOINT, "{longest}");
}

/// A program that reads the database for long, as a backup does, begins to.
fn begins_to_read(db: &mut Connection) -> rusqlite::Transaction<'_> {
    let reading = db.transaction().expect("a transaction");
    let version: i64 = reading.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a read");
    assert!(version > 0);
    reading
}

#[tokio::test]
async fn a_long_read_and_a_deletion_keep_nobody_waiting() {
    const MESSAGES: usize = 20;
    /// Whoever waited for the backup would wait for 5 s.
    const AT_ONCE: Duration = Duration::from_secs(4);
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "to be deleted").await;
    let mut backup = Connection::open(server.data().join("switchboard.db")).expect("the database");
    let reading = begins_to_read(&mut backup);
    alice.does("delete", json!({"conversation": "@bob", "target": 1})).await;
    for _ in 0..MESSAGES {
        let said = Instant::now();
        alice.says("@bob", "hi").await;
        assert!(said.elapsed() < AT_ONCE, "{:?}", said.elapsed());
    }
    assert!(log_length(server.data()) > 0);
    drop(reading);
    eventually("the log is emptied", async || (log_length(server.data()) == 0).then_some(())).await;
}

/// A commit whose fsync failed is in the system's cache, and a program that reads while the server starts again keeps it in
/// the log. Later commits are written behind it, so the disk must have it, too.
#[tokio::test]
async fn what_is_written_behind_a_commit_whose_fsync_failed_outlives_a_power_cut() {
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    disk.control.fail_sync(1, Syncs::Wal, Dropped::Later);
    let refusal = alice.is_refused("send", json!({"to": "@bob", "text": "x".repeat(16 * 1024)})).await;
    assert_eq!(refusal, ErrorCode::Unavailable);
    server.dies().await;

    // It comes first, so it is the one that finds what the log has.
    let mut backup = Connection::open(disk.data().join("switchboard.db")).expect("the database");
    backup.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("the log stays");
    let reading = begins_to_read(&mut backup);
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    let seq = alice.says("@bob", "acknowledged").await;
    server.dies().await;
    drop(reading);
    drop(backup);
    let cut = disk.control.cut_power(&mut fastrand::Rng::with_seed(1)).expect("a power cut");
    println!("{cut:?}");

    let server = disk.starts().await;
    let log = server.connects("alice").await.log("@bob").await;
    let last = log.last().expect("events");
    assert_eq!((last.seq.0, text_of(last)), (seq, Some("acknowledged")));
    server.dies().await;
    is_clean(disk.data());
}

/// The files of a data directory, the lock's aside.
fn files(data: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(data).expect("the directory").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> =
        names.map(|name| name.into_string().expect("UTF-8")).filter(|name| name != "lock").collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_orderly_stop_leaves_only_the_database() {
    let mut server = Server::start().await;
    for round in 0..10 {
        let mut alice = server.connects("alice").await;
        let seq = alice.says("@bob", &format!("secret {round}")).await;
        alice.does("delete", json!({"conversation": "@bob", "target": seq})).await;
        assert_eq!(alice.log("@bob").await.len(), 2 * (round + 1));
        // More that the readers are still at when the end comes.
        for _ in 0..20 {
            alice.submits("sync", json!({"conversation": "@bob", "after": 0})).await;
        }
        server.begins_to_stop();
        if round == 0 {
            // Cut when the time for stopping is over.
            server.has_stopped().await;
            drop(alice);
        } else {
            alice.is_closed().await;
            drop(alice);
            server.has_stopped().await;
        }
        assert_eq!(files(server.data()), ["switchboard.db"], "in round {round}");
        let database = std::fs::read(server.data().join("switchboard.db")).expect("the database");
        assert!(!database.windows(7).any(|bytes| bytes == b"secret "), "in round {round}");
        server.starts_again().await;
    }
}

#[tokio::test]
async fn a_stop_during_a_backup_leaves_the_log_to_the_next_start() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    let mut backup = Connection::open(server.data().join("switchboard.db")).expect("the database");
    let reading = begins_to_read(&mut backup);
    alice.says("@bob", "meanwhile").await;
    server.restart().await;
    assert_eq!(server.connects("alice").await.log("@bob").await.len(), 2);
    drop(reading);
    drop(backup);
    server.begins_to_stop();
    server.has_stopped().await;
    assert_eq!(files(server.data()), ["switchboard.db"]);
}
