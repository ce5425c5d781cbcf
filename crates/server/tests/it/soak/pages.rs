//! Users in very many conversations, at full size: they delay no other user and receive every event.

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::CloseCode;
use tokio::time::Instant;

use crate::memberships::rows;
use crate::support::{Cluster, Person, Server, SharedEngines};

/// Direct conversations of each of the two users.
const CONVERSATIONS: usize = 300_000;

/// How long the users repeat `hello`.
const ATTACK_TIME: Duration = Duration::from_secs(60);

/// The longest allowed time of another user's read.
const MAX_READ_TIME: Duration = Duration::from_millis(150);

/// Sends `sync` repeatedly until `end`. Returns the longest time until the answer, and the number of reads.
async fn sync_until(end: Instant, person: &mut Person) -> (Duration, usize) {
    let (mut worst, mut count) = (Duration::ZERO, 0);
    while Instant::now() < end {
        let begun = Instant::now();
        person.does("sync", json!({"conversation": "@bystander", "after": 0, "limit": 1})).await;
        worst = worst.max(begun.elapsed());
        count += 1;
        // waits for: the pause between two reads
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (worst, count)
}

/// Connects and sends `hello` repeatedly until `end`. Returns the longest time until `welcome`, and the number of connections.
async fn hello_until(end: Instant, server: &Server, name: &str) -> (Duration, usize) {
    let (mut worst, mut count) = (Duration::ZERO, 0);
    while Instant::now() < end {
        let begun = Instant::now();
        drop(server.connects(name).await);
        worst = worst.max(begun.elapsed());
        count += 1;
    }
    (worst, count)
}

/// Runs the attack and returns a line with the measurements.
async fn assert_reads_not_delayed(server: &Server) -> String {
    let mut bystander = server.connects("bystander").await;
    bystander.says("@bystander", "hi").await;
    let (quiet, _) = sync_until(Instant::now() + Duration::from_secs(5), &mut bystander).await;
    let end = Instant::now() + ATTACK_TIME;
    let ((worst, reads), one, other) = tokio::join!(
        sync_until(end, &mut bystander),
        hello_until(end, server, "shop"),
        hello_until(end, server, "whale"),
    );
    assert!(worst <= MAX_READ_TIME, "{worst:?}");
    format!(
        "sync at worst {quiet:?} before, {worst:?} of {reads} meanwhile; hello at worst, and how many: {one:?}, {other:?}"
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn users_with_300_000_conversations_delay_no_other_user() {
    let mut server = Server::start().await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    for owner in ["shop", "whale"] {
        rows::fill_sqlite(server.data(), owner, CONVERSATIONS);
    }
    server.start_again().await;
    let measured = Box::pin(assert_reads_not_delayed(&server)).await;
    println!("SQLite: {measured}");
    let mut shop = server.connects("shop").await;
    let mut oldest = server.connects(&rows::customer_id(1)).await;
    oldest.says("@shop", "is this live?").await;
    shop.receives_message("is this live?").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn users_with_300_000_conversations_delay_no_other_user_on_postgresql() {
    let shared = SharedEngines::new().await;
    drop(Cluster::start_on(shared.clone(), 1, |_| {}).await);
    for owner in ["shop", "whale"] {
        shared.sql(&rows::fill_postgres(owner, CONVERSATIONS)).await;
    }
    let cluster = Cluster::start_on(shared, 2, |_| {}).await;
    let mut bob = cluster.node(0).connects("bob").await;
    let revoked = async {
        // waits for: the middle of the attack
        tokio::time::sleep(ATTACK_TIME / 2).await;
        let begun = Instant::now();
        cluster.node(1).posts("revoke", json!({"user": "bob"})).await;
        assert_eq!(bob.is_closed().await, Some(CloseCode::Revoked as u16));
        println!(
            "PostgreSQL: a revocation on one node closes its socket on the other after {:?}",
            begun.elapsed()
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
    };
    let (measured, ()) = tokio::join!(Box::pin(assert_reads_not_delayed(cluster.node(0))), revoked);
    println!("PostgreSQL: {measured}");
    let mut shop = cluster.node(0).connects("shop").await;
    for node in [0, 1] {
        let mut oldest = cluster.node(node).connects(&rows::customer_id(1)).await;
        let text = format!("live from node {node}?");
        oldest.says("@shop", &text).await;
        shop.receives_message(&text).await;
    }
}
