//! PostgreSQL's disk is filled and freed: once by rows, and once by its write-ahead log, without space for which PostgreSQL exits.

use std::time::Duration;

use engines::Postgres;
use serde_json::json;
use switchboard::config::EngineUrl;
use tokio::time::Instant;

use super::small_disk::SmallDisk;
use crate::memberships::rows;
use crate::support::{Cluster, Person, Server, SharedEngines, eventually};

/// The size of the disk: room for an empty database, two segments of the write-ahead log and some messages.
const DISK_BYTES: u64 = 160 * 1024 * 1024;

/// How long the test polls the probes while the disk is full: longer than several retries of the writer.
const READINESS_POLL_TIME: Duration = Duration::from_secs(10);

async fn assert_status(server: &Server, path: &str, status: u16, reason: &str) {
    let asks = async || {
        let answer = server.gets(path).await;
        (answer.status == status && answer.text.contains(reason)).then_some(())
    };
    eventually(&format!("{path} says {status} {reason:?}"), asks).await;
}

/// Asserts that all nodes report the reason why they refuse writes.
async fn wait_until_all_report(cluster: &Cluster, reason: &str) {
    for node in [0, 1] {
        for path in ["/readyz", "/healthz"] {
            assert_status(cluster.node(node), path, 503, reason).await;
        }
    }
}

async fn wait_until_all_recover(cluster: &Cluster) {
    for node in [0, 1] {
        for path in ["/readyz", "/healthz"] {
            assert_status(cluster.node(node), path, 200, "").await;
        }
    }
}

/// Sends messages until the server refuses one. Returns how many were stored.
async fn sends_until_refused(person: &mut Person) -> u64 {
    let mut stored = 0;
    while person.tries("send", json!({"to": "@bob", "text": "x".repeat(4_000)})).await.is_ok() {
        stored += 1;
    }
    stored
}

/// Polls the readiness of a server whose database has no space. Returns how often the server was ready, and the number of polls.
async fn count_ready_polls_while_full(server: &Server) -> (usize, usize) {
    let (end, mut wrong, mut asked) = (Instant::now() + READINESS_POLL_TIME, 0, 0);
    while Instant::now() < end {
        wrong += usize::from(server.gets("/readyz").await.status == 200);
        asked += 1;
        assert_eq!(server.gets("/readyz?exclude=writes").await.status, 200, "reads work");
        // waits for: the next poll
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (wrong, asked)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn nodes_report_a_full_postgresql_disk_and_recover() {
    let Some(disk) = SmallDisk::mount(DISK_BYTES) else {
        println!("not run: it mounts a file system, which needs root");
        return;
    };
    let settings = ["wal_keep_size=0", "min_wal_size=32MB", "max_wal_size=32MB"];
    let mut postgres = Postgres::start(disk.root(), &settings).await.expect("a PostgreSQL");
    let shared =
        SharedEngines { store: EngineUrl::new(postgres.url()), ..SharedEngines::without_bus().await };
    let cluster = Cluster::start_on(shared, 2, |_| {}).await;
    let mut alice = cluster.node(0).connects("alice").await;
    let mut stored = alice.says("@bob", "before").await;
    // The disk is full, and the next messages need new database pages.
    disk.fill();
    let begun = Instant::now();
    stored += sends_until_refused(&mut alice).await;
    cluster
        .node(1)
        .connects("carol")
        .await
        .tries("send", json!({"to": "@bob", "text": "x".repeat(9_000)}))
        .await
        .expect_err("no room");
    wait_until_all_report(&cluster, "the disk is full").await;
    println!("no room for rows: refused, and said so, after {:?}", begun.elapsed());
    let (wrong, asked) = count_ready_polls_while_full(cluster.node(0)).await;
    println!("/readyz was asked {asked} times while there was no room, and said yes {wrong} times");
    assert_eq!(wrong, 0);
    assert_eq!(cluster.node(1).connects("bob").await.log("@alice").await.len() as u64, stored, "reads work");
    disk.free();
    let begun = Instant::now();
    wait_until_all_recover(&cluster).await;
    println!("both nodes are back by themselves after {:?}", begun.elapsed());
    stored += 1;
    assert_eq!(alice.says("@bob", "after").await, stored);

    disk.fill();
    // There is no room for the next segment of the write-ahead log, so PostgreSQL exits.
    postgres.psql(rows::SWITCH_WAL_SEGMENT).await.ok();
    let begun = Instant::now();
    let refused = alice.tries("send", json!({"to": "@bob", "text": "no room for the log"})).await;
    refused.expect_err("no room");
    wait_until_all_report(&cluster, "the database cannot be reached").await;
    println!("no room for the log: refused, and said so, after {:?}", begun.elapsed());
    disk.free();
    let begun = Instant::now();
    postgres.kill().await.expect("it may have ended");
    postgres.start_again().await.expect("it recovers");
    wait_until_all_recover(&cluster).await;
    println!("both nodes are back {:?} after a start of PostgreSQL", begun.elapsed());
    stored += 1;
    assert_eq!(
        alice.says("@bob", "after").await,
        stored,
        "nothing is lost, and nothing was stored that was refused"
    );
}
