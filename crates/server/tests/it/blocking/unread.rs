//! Unread counts without the messages of blocked users, and what users have missed.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_store::grant::Scope;

use super::{blocks, start_on_postgresql};
use crate::keys::key_with;
use crate::support::{Server, SharedEngines, in_time};

/// The count in the summary, the one in `welcome`, and the one that a back end gets, which are the same.
async fn unread_of(server: &Server, key: &str) -> u64 {
    let mut bob = server.connects("bob").await;
    let summary = bob.summary("#room").await.unread;
    assert_eq!(bob.welcome.unread.map(|unread| unread.messages), Some(summary));
    let answer = server.posts_as(key, "unread", json!({"users": ["bob"]})).await.ok();
    assert_eq!(answer["users"][0]["messages"], json!(summary), "{answer}");
    summary
}

async fn unread_is_exact_up_to_its_limit(server: &Server) {
    let key = key_with(server, "people", |key| key.with_scopes([Scope::People]));
    let mut alice = server.connects("alice").await;
    let mut mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("room", &["mallory", "bob"]).await;
    blocks(&mut bob, "mallory", true).await;
    for _ in 0..3 {
        mallory.says("#room", "x").await;
        alice.says("#room", "y").await;
    }
    bob.says("#room", "z").await;
    assert_eq!(unread_of(server, &key).await, 3);
    // Reactions between them are no messages.
    for emoji in ["1", "2"] {
        mallory.does("react", json!({"conversation": "#room", "target": 3, "emoji": emoji})).await;
    }
    assert_eq!(unread_of(server, &key).await, 3);
    bob.does("read", json!({"conversation": "#room", "upto": 5})).await;
    assert_eq!(unread_of(server, &key).await, 1, "one of alice is left");
    // Up to the limit of 10 messages after the cursor; three are there.
    for _ in 0..7 {
        mallory.says("#room", "x").await;
    }
    assert_eq!(unread_of(server, &key).await, 1);
    mallory.says("#room", "x").await;
    assert_eq!(unread_of(server, &key).await, 10, "an upper figure beyond the limit");
    bob.does("read", json!({"conversation": "#room", "upto": 8})).await;
    assert_eq!(unread_of(server, &key).await, 0);
    blocks(&mut bob, "mallory", false).await;
    assert_eq!(unread_of(server, &key).await, 8);
}

/// The first entry of the feed of a type.
async fn reads_until(server: &Server, key: &str, kind: &str) -> Value {
    let mut after = "0".to_owned();
    loop {
        let body = json!({"after": after, "types": [kind], "wait": 10_000});
        let page = in_time("a page", server.posts_as(key, "feed", body)).await.ok();
        page["next"].as_str().expect("a cursor").clone_into(&mut after);
        if let Some(entry) = page["entries"].as_array().and_then(|entries| entries.first()) {
            return entry.clone();
        }
    }
}

async fn a_blocked_message_is_not_missed(server: &Server) {
    let key = key_with(server, "feed", |key| key.with_scopes([Scope::Feed]));
    let mut alice = server.connects("alice").await;
    let mut mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("room", &["mallory", "bob"]).await;
    blocks(&mut bob, "mallory", true).await;
    bob.client.close().await;
    reads_until(server, &key, "user.offline").await;
    mallory.says("@bob", "x").await;
    mallory.says("#room", "x").await;
    alice.says("#room", "y").await;
    mallory.says("#room", "x").await;
    let entry = reads_until(server, &key, "user.missed").await;
    assert_eq!(entry["user"], "bob");
    assert_eq!((&entry["conversations"], &entry["messages"]), (&json!(1), &json!(1)), "{entry}");
    assert_eq!(entry["latest"], json!({"conversation": "#room", "seq": 3}));
}

fn counts_few(config: &mut Config) {
    config.limits.unread = 10;
    config.presence_grace = Duration::from_millis(100);
    config.feed.missed_after = Duration::from_millis(300);
    if let Some(cluster) = &mut config.cluster {
        cluster.settings.lease = Duration::from_secs(1);
    }
}

async fn start() -> Server {
    Server::start_with_auth_and(counts_few).await
}

async fn start_on_postgres() -> Server {
    let shared = SharedEngines::new().await;
    Server::start_with_auth_and(|config| {
        shared.configure(config);
        counts_few(config);
    })
    .await
}

#[tokio::test]
async fn unread_leaves_blocked_messages_out_up_to_its_limit() {
    unread_is_exact_up_to_its_limit(&start().await).await;
}

#[tokio::test]
async fn unread_leaves_blocked_messages_out_up_to_its_limit_on_postgresql() {
    unread_is_exact_up_to_its_limit(&start_on_postgres().await).await;
}

#[tokio::test]
async fn a_blocked_message_is_missed_by_no_one() {
    a_blocked_message_is_not_missed(&start().await).await;
}

#[tokio::test]
async fn a_blocked_message_is_missed_by_no_one_on_postgresql() {
    a_blocked_message_is_not_missed(&start_on_postgres().await).await;
}

async fn many_reactions_do_not_make_the_count_wrong(server: &Server) {
    let mut alice = server.connects("alice").await;
    let mut mallory = server.connects("mallory").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("room", &["mallory", "bob"]).await;
    blocks(&mut bob, "mallory", true).await;
    mallory.says("#room", "x").await;
    alice.says("#room", "y").await;
    let toggles: Vec<_> = (0..5_100)
        .map(|n| {
            crate::support::command(
                "react",
                &json!({"conversation": "#room", "target": 3, "emoji": "1", "on": n % 2 == 0}),
            )
        })
        .collect();
    for some in toggles.chunks(500) {
        for _ in alice.client.submit_all(some.to_vec()).await.expect("sent") {
            alice.next().await;
        }
    }
    mallory.says("#room", "x").await;
    assert_eq!(server.connects("bob").await.welcome.unread.map(|unread| unread.messages), Some(1));
    let last = server.connects("bob").await.welcome.conversations[0].last.as_ref().map(|last| last.seq.0);
    assert_eq!(last, Some(3));
}

#[tokio::test]
async fn unread_is_exact_after_many_reactions() {
    many_reactions_do_not_make_the_count_wrong(&Server::start().await).await;
}

#[tokio::test]
async fn unread_is_exact_after_many_reactions_on_postgresql() {
    many_reactions_do_not_make_the_count_wrong(&start_on_postgresql().await).await;
}
