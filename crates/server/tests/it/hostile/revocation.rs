//! A revocation (log out everywhere) closes all connections of a user, and a newer token works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde_json::json;
use switchboard::auth::ApiKey;
use switchboard::config::Config;
use switchboard_client::ClientError;
use switchboard_protocol::{ErrorCode, Hello, Timestamp};
use switchboard_store::clock::Clock;
use switchboard_store::grant::Scope;
use switchboard_store::keys;
use tokio::time::Instant;

use crate::support::raw::{CLOSE, FIN, TEXT, frame};
use crate::support::{RawSocket, Server, eventually};

/// The documented time within which a revocation closes all connections.
const MAX_REVOCATION_TIME: Duration = Duration::from_secs(5);

const REVOKED_CODE: u16 = 4502;

/// Starts a server whose clock only the test advances. Returns it with the clock's time and an API key.
async fn server_with_clock() -> (Server, Arc<AtomicI64>, String) {
    server_with_clock_and_settings(|_| {}).await
}

/// Like [`server`], with settings that `settings` changes.
async fn server_with_clock_and_settings(
    settings: impl FnOnce(&mut Config),
) -> (Server, Arc<AtomicI64>, String) {
    let now = Arc::new(AtomicI64::new(1_800_000_000_500));
    let clock_now = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(clock_now.load(Ordering::Relaxed)));
    let server = Server::start_with_auth_and_clock(clock, settings).await;
    let key = ApiKey::generate().expect("random bytes");
    let new = keys::NewKey::new("backend", ApiKey::hash(key.expose()));
    keys::create(&server.keys(), &new.with_scopes([Scope::Act, Scope::Moderate])).expect("stored");
    (server, now, key.expose().to_owned())
}

fn hello_with_token(token: &str) -> Hello {
    Hello { token: Some(token.to_owned()), user: None, device: None, cursors: Default::default() }
}

/// Asserts that a token is refused on the WebSocket and over HTTP.
async fn assert_token_refused(server: &Server, token: &str) {
    match server.tries_to_connect(hello_with_token(token)).await {
        Err(ClientError::Refused(failure)) => {
            assert_eq!((failure.code, failure.retryable), (ErrorCode::Unauthorized, false));
            assert!(failure.message.contains("logged out"), "{}", failure.message);
        }
        Err(other) => panic!("{other}"),
        Ok(person) => panic!("{} is connected", person.name()),
    }
    let mut socket = server.open_socket().await;
    socket.says(&json!({"type": "hello", "token": token}).to_string()).await;
    let (error, code) = socket.error_and_close_code().await;
    assert_eq!((error.expect("an error")["code"].as_str(), code), (Some("unauthorized"), REVOKED_CODE));
    for command in ["send", "sync", "ping", "typing"] {
        let answer = server.posts_as(token, command, json!({})).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{command}");
    }
}

#[tokio::test]
async fn hostile_22_a_revocation_closes_all_connections_within_five_seconds() {
    let (mut server, now, key) = server_with_clock().await;
    let old = server.token("alice", Duration::from_secs(3_600));
    let mut alice = server.tries_to_connect(hello_with_token(&old)).await.expect("welcome");
    let mut phone = server.tries_to_connect(hello_with_token(&old)).await.expect("welcome");
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "stored").await;
    bob.receives_message("stored").await;
    // This connection does not read while events arrive.
    let mut deaf = RawSocket::connect_with_buffer(server.address(), 4_096).await;
    deaf.upgrades().await;
    deaf.says(&json!({"type": "hello", "token": old}).to_string()).await;
    for _ in 0..60 {
        bob.says("@alice", &"x".repeat(16 * 1024)).await;
    }

    let asked = Instant::now();
    server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
    assert_eq!((alice.is_closed().await, phone.is_closed().await), (Some(REVOKED_CODE), Some(REVOKED_CODE)));
    let only_bob = async || (server.metric("switchboard_connections").await == 1.0).then_some(());
    eventually("the connection that does not read is closed, too", only_bob).await;
    assert!(asked.elapsed() < MAX_REVOCATION_TIME, "{:?}", asked.elapsed());
    assert_eq!(server.metric(r#"switchboard_dropped_total{reason="revoked"}"#).await, 3.0);
    assert_token_refused(&server, &old).await;
    server.restart().await;
    assert_token_refused(&server, &old).await;

    // A token of the same second is refused, because it may be older than the revocation.
    assert_token_refused(&server, &server.token("alice", Duration::from_secs(3_600))).await;
    now.fetch_add(1_000, Ordering::Relaxed);
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.log("@bob").await.len(), 61, "acknowledged messages stay");
    let again = server.token("alice", Duration::from_secs(3_600));
    server.posts_as(&again, "ping", json!({})).await.ok();
    server.connects("bob").await.says("@alice", "others are not concerned").await;
    alice.receives_message("others are not concerned").await;
}

#[tokio::test]
async fn hostile_22_tokens_of_a_clock_that_is_ahead_are_revoked_too() {
    const SECOND_MS: i64 = 1_000;
    let (server, now, key) = server_with_clock().await;
    // Makes a token as an issuer does whose clock is ahead of the server's by this many milliseconds.
    let minted_ahead = |ahead: i64| {
        now.fetch_add(ahead, Ordering::Relaxed);
        let token = server.token("alice", Duration::from_secs(36_000));
        now.fetch_sub(ahead, Ordering::Relaxed);
        token
    };
    let (near, far) = (minted_ahead(45 * SECOND_MS), minted_ahead(7_200 * SECOND_MS));
    for token in [&near, &far] {
        server.posts_as(token, "ping", json!({})).await.ok();
    }
    server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
    // A token with the same `iat` as the revoked one is refused. A token of the next second is valid.
    assert_token_refused(&server, &minted_ahead(45 * SECOND_MS)).await;
    now.fetch_add(SECOND_MS, Ordering::Relaxed);
    server.posts_as(&minted_ahead(45 * SECOND_MS), "ping", json!({})).await.ok();
    for _ in 0..3 {
        assert_token_refused(&server, &near).await;
        assert_token_refused(&server, &far).await;
        // In the third round the server's clock has passed the `iat` of the token `near`, but the token must stay refused.
        now.fetch_add(30 * SECOND_MS, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn hostile_22_a_revocation_by_a_clock_that_was_ahead_can_be_replaced() {
    const DAY_MS: i64 = 86_400_000;
    let (server, now, key) = server_with_clock().await;
    let before = server.token("alice", Duration::from_secs(360_000));
    now.fetch_add(DAY_MS, Ordering::Relaxed);
    server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
    now.fetch_sub(DAY_MS - 5_000, Ordering::Relaxed);
    server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
    now.fetch_add(1_000, Ordering::Relaxed);
    assert_token_refused(&server, &server.token("alice", Duration::from_secs(60))).await;
    server.posts_as(&key, "revoke", json!({"user": "alice", "replace": true})).await.ok();
    now.fetch_add(1_000, Ordering::Relaxed);
    assert_token_refused(&server, &before).await;
    assert_eq!(server.connects("alice").await.says("@bob", "in again").await, 1);
}

#[tokio::test]
async fn hostile_22_a_closing_slow_reader_does_not_survive_a_revocation() {
    // The queue is larger than the system's buffers, so that the client needs long to read it.
    let (server, _, key) =
        server_with_clock_and_settings(|config| config.limits.queue = 64 * 1024 * 1024).await;
    let token = server.token("alice", Duration::from_secs(3_600));
    let mut bob = server.connects("bob").await;
    for _ in 0..32 {
        bob.says("@alice", &"x".repeat(16 * 1024)).await;
    }
    let mut slow = RawSocket::connect_with_buffer(server.address(), 64 * 1024).await;
    slow.upgrades().await;
    slow.says(&json!({"type": "hello", "token": token}).to_string()).await;
    for _ in 0..50 {
        slow.says(r#"{"type":"history","conversation":"@bob","limit":32}"#).await;
    }
    let last = frame(FIN | TEXT, br#"{"type":"send","to":"@bob","text":"goodbye"}"#);
    slow.writes([last, frame(FIN | CLOSE, &1000_u16.to_be_bytes())].concat()).await;
    bob.receives_message("goodbye").await;

    let asked = Instant::now();
    server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
    let only_bob = async || (server.metric("switchboard_connections").await == 1.0).then_some(());
    tokio::select! {
        () = slow.reads_slowly() => unreachable!(),
        () = eventually("the slow reader is disconnected", only_bob) => {}
    }
    assert!(asked.elapsed() < MAX_REVOCATION_TIME, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn hostile_22_only_a_back_end_can_revoke() {
    let (server, _, key) = server_with_clock().await;
    let mut alice = server.connects("alice").await;
    let token = server.token("alice", Duration::from_secs(60));
    let body = || json!({"user": "alice"});
    let nobody = server.posts("revoke", body()).await;
    assert_eq!((nobody.status, nobody.code().as_str()), (401, "unauthorized"));
    let user = server.posts_as(&token, "revoke", body()).await;
    assert_eq!((user.status, user.code().as_str()), (403, "forbidden"));
    let unknown = server.posts_as("sbk_wrong", "revoke", body()).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (401, "unauthorized"));
    for body in [json!({}), json!({"user": "a b"}), json!({"user": 7}), json!({"user": "alice", "as": "bob"})]
    {
        let answer = server.posts_as(&key, "revoke", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_field"));
    }
    alice.receives_nothing().await;
    server.posts_as(&key, "revoke", json!({"user": "never-seen"})).await.ok();
    alice.receives_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_22_a_connection_made_during_a_revocation_is_closed() {
    let (server, now, key) = server_with_clock().await;
    let server = Arc::new(server);
    for _ in 0..20 {
        let token = server.token("alice", Duration::from_secs(3_600));
        let done = Arc::new(AtomicBool::new(false));
        let mut coming = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (server, token, done) = (server.clone(), token.clone(), done.clone());
            coming.spawn(async move {
                let mut let_in = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let_in.extend(server.tries_to_connect(hello_with_token(&token)).await.ok());
                    let_in.truncate(3);
                }
                let_in
            });
        }
        server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
        done.store(true, Ordering::Relaxed);
        for mut person in coming.join_all().await.into_iter().flatten() {
            assert_eq!(person.is_closed().await, Some(REVOKED_CODE));
        }
        now.fetch_add(1_000, Ordering::Relaxed);
    }
}
