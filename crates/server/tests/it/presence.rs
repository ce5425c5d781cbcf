//! Presence: who is online, and which watchers receive it.

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::{ErrorCode, Signal, Timestamp};

use crate::support::{Person, Server, eventually, user};

/// Starts a server on which a user goes offline at once when the last connection ends.
async fn server_without_offline_grace() -> Server {
    Server::start_with(|config| config.presence_grace = Duration::ZERO).await
}

/// Starts a server on which no user goes offline during a test, because the grace period is an hour.
async fn server_with_long_offline_grace() -> Server {
    Server::start_with(|config| config.presence_grace = Duration::from_secs(3_600)).await
}

async fn watches_users(person: &mut Person, users: &[&str]) {
    person.does("watch", json!({"users": users})).await;
}

fn online_signal(name: &str) -> Signal {
    Signal::Presence { user: user(name), online: true, last_seen: None }
}

/// Receives the next frame, which says that a user is offline, and returns `last_seen`.
async fn receives_offline(person: &mut Person, name: &str) -> Option<Timestamp> {
    match person.receives_signal().await {
        Signal::Presence { user, online: false, last_seen } if user.as_str() == name => last_seen,
        other => panic!("{other:?}"),
    }
}

async fn wait_for_connections(server: &Server, expected: f64) {
    eventually("the number of connections", || async {
        (server.metric("switchboard_connections").await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watcher_receives_the_current_presence_and_its_changes() {
    let server = server_without_offline_grace().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("friends", &["bob"]).await;
    watches_users(&mut alice, &["bob"]).await;
    assert_eq!(receives_offline(&mut alice, "bob").await, None, "never seen");
    let mut laptop = server.connects("bob").await;
    assert_eq!(alice.receives_signal().await, online_signal("bob"));
    let mut phone = server.connects("bob").await;
    drop(laptop);
    wait_for_connections(&server, 2.0).await;
    alice.receives_nothing().await;
    phone.receives_nothing().await;
    drop(phone);
    let first = receives_offline(&mut alice, "bob").await.expect("a time");
    laptop = server.connects("bob").await;
    assert_eq!(alice.receives_signal().await, online_signal("bob"));
    drop(laptop);
    let second = receives_offline(&mut alice, "bob").await.expect("a time");
    assert!(second >= first);
}

#[tokio::test]
async fn watchers_receive_the_same_last_seen_immediately() {
    let server = server_without_offline_grace().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("friends", &["bob"]).await;
    watches_users(&mut alice, &["bob"]).await;
    receives_offline(&mut alice, "bob").await;
    for _ in 0..5 {
        let bob = server.connects("bob").await;
        assert_eq!(alice.receives_signal().await, online_signal("bob"));
        drop(bob);
        let seen = receives_offline(&mut alice, "bob").await;
        assert!(seen.is_some());
        // The store may not have written `last_seen` yet, but the answer to `watch` must already have it.
        watches_users(&mut alice, &["bob"]).await;
        assert_eq!(receives_offline(&mut alice, "bob").await, seen);
    }
}

#[tokio::test]
async fn last_seen_survives_a_restart() {
    let mut server = server_without_offline_grace().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("friends", &["bob"]).await;
    watches_users(&mut alice, &["bob"]).await;
    receives_offline(&mut alice, "bob").await;
    drop(server.connects("bob").await);
    assert_eq!(alice.receives_signal().await, online_signal("bob"));
    let seen = receives_offline(&mut alice, "bob").await;
    assert!(seen.is_some());
    drop(alice);
    server.restart().await;
    let mut alice = server.connects("alice").await;
    watches_users(&mut alice, &["bob"]).await;
    assert_eq!(receives_offline(&mut alice, "bob").await, seen);
}

#[tokio::test]
async fn users_online_at_a_stop_have_its_time_as_last_seen() {
    let mut server = server_with_long_offline_grace().await;
    let mut bob = server.connects("bob").await;
    bob.makes_room("friends", &["alice"]).await;
    drop(bob);
    server.restart().await;
    let mut alice = server.connects("alice").await;
    watches_users(&mut alice, &["bob"]).await;
    assert!(receives_offline(&mut alice, "bob").await.is_some());
}

#[tokio::test]
async fn a_quick_reconnect_does_not_show_the_user_offline() {
    let server = server_with_long_offline_grace().await;
    let mut alice = server.connects("alice").await;
    let bob = server.connects("bob").await;
    alice.makes_room("friends", &["bob"]).await;
    watches_users(&mut alice, &["bob"]).await;
    assert_eq!(alice.receives_signal().await, online_signal("bob"));
    drop(bob);
    wait_for_connections(&server, 1.0).await;
    watches_users(&mut alice, &["bob"]).await;
    assert_eq!(alice.receives_signal().await, online_signal("bob"), "still online within the grace period");
    let mut bob = server.connects("bob").await;
    bob.receives_nothing().await;
    alice.receives_nothing().await;
}

#[tokio::test]
async fn watching_users_without_a_shared_conversation_is_silently_ignored() {
    let server = server_without_offline_grace().await;
    let mut alice = server.connects("alice").await;
    let mut eve = server.connects("eve").await;
    alice.says("@bob", "hi").await;
    watches_users(&mut eve, &["alice", "bob", "nobody", "eve"]).await;
    assert_eq!(eve.receives_signal().await, online_signal("eve"), "of these users eve may only see herself");
    eve.receives_nothing().await;
    drop(alice);
    wait_for_connections(&server, 1.0).await;
    eve.receives_nothing().await;
}

#[tokio::test]
async fn a_watch_list_replaces_the_earlier_one() {
    let server = server_without_offline_grace().await;
    let mut alice = server.connects("alice").await;
    let bob = server.connects("bob").await;
    let carol = server.connects("carol").await;
    alice.makes_room("ops", &["bob", "carol"]).await;
    watches_users(&mut alice, &["bob"]).await;
    assert_eq!(alice.receives_signal().await, online_signal("bob"));
    watches_users(&mut alice, &["carol", "carol"]).await;
    assert_eq!(
        alice.receives_signal().await,
        online_signal("carol"),
        "one signal for a user that is named twice"
    );
    drop(bob);
    wait_for_connections(&server, 2.0).await;
    drop(carol);
    receives_offline(&mut alice, "carol").await;
    watches_users(&mut alice, &[]).await;
    drop(server.connects("carol").await);
    wait_for_connections(&server, 1.0).await;
    alice.receives_nothing().await;
}

#[tokio::test]
async fn a_watch_list_that_is_too_long_is_refused() {
    let server = Server::start_with(|config| config.limits.watch = 2).await;
    let mut alice = server.connects("alice").await;
    watches_users(&mut alice, &["a", "b"]).await;
    let too_many = alice.tries("watch", json!({"users": ["a", "b", "c"]})).await.expect_err("too many");
    assert_eq!((too_many.code, too_many.field.as_deref()), (ErrorCode::TooLarge, Some("users")));
}
