//! A PostgreSQL whose disk fills up and is freed: first it has no room for rows, then none for its write-ahead log, which ends it.

use std::time::Duration;

use engines::Postgres;
use serde_json::json;
use switchboard::config::EngineUrl;
use tokio::time::Instant;

use super::small_disk::SmallDisk;
use crate::memberships::rows;
use crate::support::{Cluster, Person, Server, Shared, eventually};

/// Room for an empty cluster, two segments of the write-ahead log and some messages.
const DISK: u64 = 160 * 1024 * 1024;

/// How long the probes are watched while the disk is full: longer than several tries of the writer.
const WATCHED: Duration = Duration::from_secs(10);

async fn says(server: &Server, path: &str, status: u16, reason: &str) {
    let asks = async || {
        let answer = server.gets(path).await;
        (answer.status == status && answer.text.contains(reason)).then_some(())
    };
    eventually(&format!("{path} says {status} {reason:?}"), asks).await;
}

/// All nodes say why they take no writes.
async fn all_say(cluster: &Cluster, reason: &str) {
    for node in [0, 1] {
        for path in ["/readyz", "/healthz"] {
            says(cluster.node(node), path, 503, reason).await;
        }
    }
}

async fn all_are_well(cluster: &Cluster) {
    for node in [0, 1] {
        for path in ["/readyz", "/healthz"] {
            says(cluster.node(node), path, 200, "").await;
        }
    }
}

/// Sends until one message is refused; how many were stored.
async fn sends_until_refused(person: &mut Person) -> u64 {
    let mut stored = 0;
    while person.tries("send", json!({"to": "@bob", "text": "x".repeat(4_000)})).await.is_ok() {
        stored += 1;
    }
    stored
}

/// Watches a server that has no room; how often it said that it is ready all the same.
async fn readiness_while_full(server: &Server) -> (usize, usize) {
    let (end, mut wrong, mut asked) = (Instant::now() + WATCHED, 0, 0);
    while Instant::now() < end {
        wrong += usize::from(server.gets("/readyz").await.status == 200);
        asked += 1;
        assert_eq!(server.gets("/readyz?exclude=writes").await.status, 200, "reads go on");
        // waits for: the next look
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (wrong, asked)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn nodes_say_that_the_disk_of_postgresql_is_full_and_come_back_by_themselves() {
    let Some(disk) = SmallDisk::mount(DISK) else {
        println!("not run: it mounts a file system, which needs root");
        return;
    };
    let settings = ["wal_keep_size=0", "min_wal_size=32MB", "max_wal_size=32MB"];
    let mut postgres = Postgres::start(disk.root(), &settings).await.expect("a PostgreSQL");
    let shared = Shared { store: EngineUrl::new(postgres.url()), ..Shared::without_bus().await };
    let cluster = Cluster::start_on(shared, 2, |_| {}).await;
    let mut alice = cluster.node(0).connects("alice").await;
    let mut stored = alice.says("@bob", "before").await;
    // What is stored next takes new pages.
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
    all_say(&cluster, "the disk is full").await;
    println!("no room for rows: refused, and said so, after {:?}", begun.elapsed());
    let (wrong, asked) = readiness_while_full(cluster.node(0)).await;
    println!("/readyz was asked {asked} times while there was no room, and said yes {wrong} times");
    assert_eq!(wrong, 0);
    assert_eq!(cluster.node(1).connects("bob").await.log("@alice").await.len() as u64, stored, "reads go on");
    disk.free();
    let begun = Instant::now();
    all_are_well(&cluster).await;
    println!("both nodes are back by themselves after {:?}", begun.elapsed());
    stored += 1;
    assert_eq!(alice.says("@bob", "after").await, stored);

    disk.fill();
    // The next segment of its log has no room, without which it cannot go on.
    postgres.psql(rows::NEXT_SEGMENT).await.ok();
    let begun = Instant::now();
    let refused = alice.tries("send", json!({"to": "@bob", "text": "no room for the log"})).await;
    refused.expect_err("no room");
    all_say(&cluster, "the database cannot be reached").await;
    println!("no room for the log: refused, and said so, after {:?}", begun.elapsed());
    disk.free();
    let begun = Instant::now();
    postgres.kill().await.expect("it may have ended");
    postgres.start_again().await.expect("it recovers");
    all_are_well(&cluster).await;
    println!("both nodes are back {:?} after a start of PostgreSQL", begun.elapsed());
    stored += 1;
    assert_eq!(
        alice.says("@bob", "after").await,
        stored,
        "nothing is lost, and nothing was stored that was refused"
    );
}
