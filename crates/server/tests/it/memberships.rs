//! Users in very many conversations receive every event, and delay no other user.

pub(crate) mod rows;

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::CloseCode;
use switchboard_protocol::reply::{OkBody, Unread};
use tokio::task::JoinSet;

use crate::support::{Cluster, Person, Server, SharedEngines, eventually};

#[tokio::test]
async fn a_revocation_closes_its_socket_on_another_node_while_memberships_cannot_be_read() {
    let shared = SharedEngines::without_bus().await;
    let cluster = Cluster::start_on(shared.clone(), 2, |config| {
        config.cluster.as_mut().expect("a cluster").settings.sweep = Duration::from_millis(100);
    })
    .await;
    let mut bob = cluster.node(0).connects("bob").await;
    let mut alice = cluster.node(0).connects("alice").await;
    let held = shared.clone();
    let mut lock = JoinSet::new();
    lock.spawn(async move { held.tries_sql(rows::LOCK_MEMBERS).await });
    eventually("the comparison waits for the lock", async || {
        (shared.sql(rows::COUNT_WAITING_FOR_MEMBERS).await != "0").then_some(())
    })
    .await;
    cluster.node(1).posts("revoke", json!({"user": "bob"})).await;
    assert_eq!(bob.is_closed().await, Some(CloseCode::Revoked as u16));
    assert!(lock.try_join_next().is_none(), "the memberships cannot be read yet");
    shared.sql(rows::TERMINATE_LOCK_HOLDER).await;
    assert!(lock.join_next().await.expect("it ran").expect("no panic").is_err(), "it was ended");
    alice.receives_nothing().await;
}

/// Conversations of the shop: more than one page of memberships, and a last page that is not full.
const CUSTOMER_COUNT: usize = 4_500;

/// Requests a page of the user's conversations, from the beginning or after `before`. Also returns whether there are more.
async fn list_conversations(person: &mut Person, before: Option<&str>, limit: u32) -> (Vec<String>, bool) {
    match person.does("conversations", json!({"before": before, "limit": limit})).await {
        OkBody::Conversations { conversations, more } => {
            (conversations.iter().map(|one| one.conversation.to_string()).collect(), more)
        }
        other => panic!("{other:?}"),
    }
}

/// The id of the shop's direct conversation with a customer.
fn direct_with_customer(number: usize) -> String {
    format!("@{}:shop", rows::customer_id(number))
}

async fn assert_latest_conversations(shop: &mut Person, customers: usize) {
    let listed = shop.welcome.conversations.iter().map(|one| one.conversation.to_string());
    let latest: Vec<_> = (1..=customers).rev().take(100).map(direct_with_customer).collect();
    assert_eq!(listed.collect::<Vec<_>>(), latest);
    assert!(shop.welcome.more);
    // The unread count covers only the latest 200 conversations, each of which has one unread message.
    let unread = Unread { messages: 200, conversations: 200, more: true };
    assert_eq!(shop.welcome.unread, Some(unread));
    let (last, more) = list_conversations(shop, Some(&direct_with_customer(3)), 10).await;
    assert_eq!((last, more), (vec![direct_with_customer(2), direct_with_customer(1)], false));
    assert_eq!(
        list_conversations(shop, None, 2).await,
        (vec![direct_with_customer(customers), direct_with_customer(customers - 1)], true)
    );
}

/// Adds the rows of the shop's conversations while the server is stopped.
async fn add_customers_of_the_shop(server: &mut Server) {
    server.begin_shutdown();
    server.wait_until_stopped().await;
    rows::fill_sqlite(server.data(), "shop", CUSTOMER_COUNT);
    server.start_again().await;
}

#[tokio::test]
async fn a_user_with_very_many_conversations_lists_the_latest_and_receives_from_the_oldest() {
    let mut server = Server::start().await;
    if std::env::var_os("TEST_STORE").is_some() {
        return;
    }
    add_customers_of_the_shop(&mut server).await;
    let mut shop = server.connects("shop").await;
    assert_latest_conversations(&mut shop, CUSTOMER_COUNT).await;
    let mut second = server.resumes("shop", &[(&direct_with_customer(2), 0)]).await;
    second.receives_message("hi").await;
    for number in [1, CUSTOMER_COUNT / 2, CUSTOMER_COUNT] {
        let mut customer = server.connects(&rows::customer_id(number)).await;
        customer.says("@shop", "is this live?").await;
        shop.receives_message("is this live?").await;
        second.receives_message("is this live?").await;
    }
    let mut stranger = server.connects("stranger").await;
    stranger.says("@shop", "a new one").await;
    shop.receives_message("a new one").await;
    second.receives_message("a new one").await;
    second.receives_nothing().await;
}

#[tokio::test]
async fn a_user_with_very_many_conversations_receives_from_the_oldest_over_another_node() {
    let shared = SharedEngines::new().await;
    drop(Cluster::start_on(shared.clone(), 1, |_| {}).await);
    shared.sql(&rows::fill_postgres("shop", CUSTOMER_COUNT)).await;
    let cluster = Cluster::start_on(shared.clone(), 2, |_| {}).await;
    let mut shop = cluster.node(0).connects("shop").await;
    assert_latest_conversations(&mut shop, CUSTOMER_COUNT).await;
    let mut second = cluster.node(0).resumes("shop", &[(&direct_with_customer(2), 0)]).await;
    second.receives_message("hi").await;
    for number in [1, CUSTOMER_COUNT / 2, CUSTOMER_COUNT] {
        let mut customer = cluster.node(1).connects(&rows::customer_id(number)).await;
        customer.says("@shop", "is this live?").await;
        shop.receives_message("is this live?").await;
        second.receives_message("is this live?").await;
    }
    let mut stranger = cluster.node(1).connects("stranger").await;
    stranger.says("@shop", "a new one").await;
    shop.receives_message("a new one").await;
    second.receives_message("a new one").await;
}

#[tokio::test]
async fn a_reconnecting_user_with_very_many_conversations_keeps_all_memberships() {
    let mut server = Server::start_with(|config| config.presence_grace = Duration::from_millis(1)).await;
    if std::env::var_os("TEST_STORE").is_some() {
        return;
    }
    add_customers_of_the_shop(&mut server).await;
    let mut customer = server.connects(&rows::customer_id(1)).await;
    for round in 0..10 {
        let mut shop = server.connects("shop").await;
        let text = format!("round {round}");
        customer.says("@shop", &text).await;
        shop.receives_message(&text).await;
    }
}
