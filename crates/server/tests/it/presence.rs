//! Who is online, and who is told.

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::{ErrorCode, Signal, Timestamp};

use crate::support::{Person, Server, eventually, user};

/// A server on which somebody without a connection is offline at once.
async fn without_grace() -> Server {
    Server::start_with(|config| config.presence_grace = Duration::ZERO).await
}

/// A server on which nobody goes offline while a test runs.
async fn with_grace() -> Server {
    Server::start_with(|config| config.presence_grace = Duration::from_secs(3_600)).await
}

async fn watches(person: &mut Person, users: &[&str]) {
    person.does("watch", json!({"users": users})).await;
}

fn online(name: &str) -> Signal {
    Signal::Presence { user: user(name), online: true, last_seen: None }
}

/// The next frame says that somebody is offline; since when.
async fn notices_gone(person: &mut Person, name: &str) -> Option<Timestamp> {
    match person.notices().await {
        Signal::Presence { user, online: false, last_seen } if user.as_str() == name => last_seen,
        other => panic!("{other:?}"),
    }
}

async fn connections(server: &Server, wanted: f64) {
    eventually("the connection is gone", || async {
        (server.metric("switchboard_connections").await == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watcher_is_told_how_things_stand_and_what_changes() {
    let server = without_grace().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    watches(&mut alice, &["bob"]).await;
    assert_eq!(notices_gone(&mut alice, "bob").await, None, "never seen");
    let mut laptop = server.connects("bob").await;
    assert_eq!(alice.notices().await, online("bob"));
    let mut phone = server.connects("bob").await;
    drop(laptop);
    connections(&server, 2.0).await;
    alice.hears_nothing().await;
    phone.hears_nothing().await;
    drop(phone);
    let first = notices_gone(&mut alice, "bob").await.expect("a time");
    laptop = server.connects("bob").await;
    assert_eq!(alice.notices().await, online("bob"));
    drop(laptop);
    let second = notices_gone(&mut alice, "bob").await.expect("a time");
    assert!(second >= first);
}

#[tokio::test]
async fn whoever_asks_at_once_is_told_the_same_time() {
    let server = without_grace().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    watches(&mut alice, &["bob"]).await;
    notices_gone(&mut alice, "bob").await;
    for _ in 0..5 {
        let bob = server.connects("bob").await;
        assert_eq!(alice.notices().await, online("bob"));
        drop(bob);
        let seen = notices_gone(&mut alice, "bob").await;
        assert!(seen.is_some());
        // It need not be stored yet.
        watches(&mut alice, &["bob"]).await;
        assert_eq!(notices_gone(&mut alice, "bob").await, seen);
    }
}

#[tokio::test]
async fn last_seen_outlives_the_server() {
    let mut server = without_grace().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    watches(&mut alice, &["bob"]).await;
    notices_gone(&mut alice, "bob").await;
    drop(server.connects("bob").await);
    assert_eq!(alice.notices().await, online("bob"));
    let seen = notices_gone(&mut alice, "bob").await;
    assert!(seen.is_some());
    drop(alice);
    server.restart().await;
    let mut alice = server.connects("alice").await;
    watches(&mut alice, &["bob"]).await;
    assert_eq!(notices_gone(&mut alice, "bob").await, seen);
}

#[tokio::test]
async fn whoever_is_online_when_the_server_stops_was_seen_then() {
    let mut server = with_grace().await;
    let mut bob = server.connects("bob").await;
    bob.says("@alice", "hi").await;
    drop(bob);
    server.restart().await;
    let mut alice = server.connects("alice").await;
    watches(&mut alice, &["bob"]).await;
    assert!(notices_gone(&mut alice, "bob").await.is_some());
}

#[tokio::test]
async fn a_page_that_is_reloaded_does_not_make_its_user_blink() {
    let server = with_grace().await;
    let mut alice = server.connects("alice").await;
    let bob = server.connects("bob").await;
    alice.says("@bob", "hi").await;
    watches(&mut alice, &["bob"]).await;
    assert_eq!(alice.notices().await, online("bob"));
    drop(bob);
    connections(&server, 1.0).await;
    watches(&mut alice, &["bob"]).await;
    assert_eq!(alice.notices().await, online("bob"), "within the grace");
    let mut bob = server.connects("bob").await;
    bob.hears_nothing().await;
    alice.hears_nothing().await;
}

#[tokio::test]
async fn strangers_are_passed_over_in_silence() {
    let server = without_grace().await;
    let mut alice = server.connects("alice").await;
    let mut eve = server.connects("eve").await;
    alice.says("@bob", "hi").await;
    watches(&mut eve, &["alice", "bob", "nobody", "eve"]).await;
    assert_eq!(eve.notices().await, online("eve"), "of those only oneself is known");
    eve.hears_nothing().await;
    drop(alice);
    connections(&server, 1.0).await;
    eve.hears_nothing().await;
}

#[tokio::test]
async fn a_list_replaces_the_one_before() {
    let server = without_grace().await;
    let mut alice = server.connects("alice").await;
    let bob = server.connects("bob").await;
    let carol = server.connects("carol").await;
    alice.makes_room("ops", &["bob", "carol"]).await;
    watches(&mut alice, &["bob"]).await;
    assert_eq!(alice.notices().await, online("bob"));
    watches(&mut alice, &["carol", "carol"]).await;
    assert_eq!(alice.notices().await, online("carol"), "once, though named twice");
    drop(bob);
    connections(&server, 2.0).await;
    drop(carol);
    notices_gone(&mut alice, "carol").await;
    watches(&mut alice, &[]).await;
    drop(server.connects("carol").await);
    connections(&server, 1.0).await;
    alice.hears_nothing().await;
}

#[tokio::test]
async fn a_list_has_an_end() {
    let server = Server::start_with(|config| config.limits.watch = 2).await;
    let mut alice = server.connects("alice").await;
    watches(&mut alice, &["a", "b"]).await;
    let too_many = alice.tries("watch", json!({"users": ["a", "b", "c"]})).await.expect_err("too many");
    assert_eq!((too_many.code, too_many.field.as_deref()), (ErrorCode::TooLarge, Some("users")));
}
