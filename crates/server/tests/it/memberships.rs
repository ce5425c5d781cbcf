//! Users in very many conversations: they receive everything, and nobody waits for them.

mod rows;

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::CloseCode;
use tokio::task::JoinSet;

use crate::support::{Cluster, Shared, eventually};

#[tokio::test]
async fn a_revocation_closes_its_socket_on_another_node_while_memberships_cannot_be_read() {
    let shared = Shared::without_bus().await;
    let cluster = Cluster::start_on(shared.clone(), 2, |config| {
        config.cluster.as_mut().expect("a cluster").sweep = Duration::from_millis(100);
    })
    .await;
    let mut bob = cluster.node(0).connects("bob").await;
    let mut alice = cluster.node(0).connects("alice").await;
    let held = shared.clone();
    let mut lock = JoinSet::new();
    lock.spawn(async move { held.tries_sql(rows::HOLD_MEMBERS).await });
    eventually("the comparison waits for the lock", async || {
        (shared.sql(rows::WAITING_FOR_MEMBERS).await != "0").then_some(())
    })
    .await;
    cluster.node(1).posts("revoke", json!({"user": "bob"})).await;
    assert_eq!(bob.is_closed().await, Some(CloseCode::Revoked as u16));
    assert!(lock.try_join_next().is_none(), "the memberships cannot be read yet");
    shared.sql(rows::END_HOLDING).await;
    assert!(lock.join_next().await.expect("it ran").expect("no panic").is_err(), "it was ended");
    alice.hears_nothing().await;
}
