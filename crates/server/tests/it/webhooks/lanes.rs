//! One conversation holds up no other, whether its entries are refused or it is busier than the endpoint.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard_store::grant::Scope;
use tokio::time::Instant;

use super::{adds, by_conversation, listed, listed_when, server, with_webhooks};
use crate::keys::key_with;
use crate::support::{Receiver, Reply, Server};

/// How many entries wait in the conversation: more than a queue had in memory.
const MANY: usize = 3_000;

async fn fast_server() -> (Server, String) {
    let server = Server::start_with_auth_and(|config| {
        with_webhooks(config);
        config.limits = config.limits.clone().without_rates();
    })
    .await;
    let key = key_with(&server, "admin", |key| key.with_scopes([Scope::Admin]));
    (server, key)
}

#[tokio::test]
async fn a_conversation_that_is_refused_and_goes_on_for_long_holds_up_no_other() {
    let (mut server, key) = fast_server().await;
    let mut receiver = Receiver::start().await;
    receiver.answers(|request| Reply::Status(if request.text() == "bad" { 400 } else { 200 }));
    adds(&server, &key, &receiver).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "bad").await;
    receiver.next().await;
    for n in 0..MANY {
        alice.says("@bob", &n.to_string()).await;
    }
    alice.says("@carol", "another").await;
    let next = loop {
        // The one that is refused may have been tried again.
        let next = receiver.next().await;
        if next.text() != "bad" {
            break next;
        }
    };
    assert_eq!(next.text(), "another");
    let is_past = |webhook: &Value| webhook["lag"] == 0;
    let webhook = listed_when(&server, &key, "the position is past it", is_past).await;
    assert!(webhook["held"].as_array().is_some_and(|held| held.len() < 100), "{webhook}");
    // After a restart it goes on in order, each once.
    receiver.answers_with(200);
    server.restart().await;
    server.posts_as(&key, "resume_webhook", json!({"name": "shop"})).await.ok();
    let mut texts = Vec::new();
    while texts.len() <= MANY {
        texts.push(receiver.next().await.text());
    }
    assert_eq!(texts[0], "bad");
    assert_eq!(texts[1..], (0..MANY).map(|n| n.to_string()).collect::<Vec<_>>());
    listed_when(&server, &key, "nothing is held", |webhook| webhook["held"] == json!([])).await;
    assert_eq!(listed(&server, &key).await["lag"], 0);
}

#[tokio::test]
async fn a_conversation_that_is_busier_than_the_endpoint_holds_up_no_other() {
    let (server, key) = fast_server().await;
    let mut receiver = Receiver::start().await;
    let mut alice = server.connects("alice").await;
    for n in 0..MANY {
        alice.says("@bob", &n.to_string()).await;
    }
    for n in 0..50 {
        alice.says(&format!("@quiet-{n}"), "hi").await;
    }
    // At this pace the busy conversation alone takes a minute.
    receiver.answers(|_| Reply::Slow(Duration::from_millis(20)));
    let began = Instant::now();
    adds(&server, &key, &receiver).await;
    let mut quiet = HashSet::new();
    let mut received = Vec::new();
    while quiet.len() < 50 {
        let next = receiver.next().await;
        if next.text() == "hi" {
            quiet.insert(next.id.clone());
        }
        received.push(next);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(received.len() < 1_000, "{} requests came before", received.len());
    let busy = by_conversation(&received).remove("@alice:bob").unwrap_or_default();
    assert_eq!(busy, (1..=busy.len() as u64).collect::<Vec<_>>(), "in order");
}

#[tokio::test]
async fn a_user_whose_entry_is_refused_holds_up_no_other_user() {
    let ((server, key), mut receiver) = (server().await, Receiver::start().await);
    receiver.answers(|request| Reply::Status(if request.body.contains("alice") { 400 } else { 200 }));
    let body = json!({"name": "shop", "url": receiver.url(), "types": ["user.new"], "from": "0"});
    server.posts_as(&key, "add_webhook", body).await.ok();
    for name in ["alice", "bob"] {
        server.connects(name).await.says("@carol", "hi").await;
    }
    while !receiver.next().await.body.contains("bob") {}
}
