//! Requests whose bytes arrive slowly, one by one, or that the server refuses before their body.

use std::time::Duration;

use serde_json::json;
use switchboard::auth::ApiKey;
use switchboard_store::grant::Scope;
use switchboard_store::keys;

use crate::support::{RawSocket, Server, assert_single_bytes_are_cheap};

const MINUTE: Duration = Duration::from_secs(60);

/// The number of bytes that each connection sends.
const REQUEST_BYTES: usize = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_01_bytes_in_segments_of_their_own_cost_little_memory() {
    println!("{}", assert_single_bytes_are_cheap(REQUEST_BYTES, REQUEST_BYTES).await);
}

/// The request head of a command over HTTP with a body of this length.
fn post_request_head(path: &str, headers: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn hostile_01_a_refused_request_is_answered_before_its_body_arrives() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", MINUTE);
    let other = ApiKey::generate().expect("random bytes");
    let token = format!("Authorization: Bearer {token}\r\n");
    let wrong_token = "Authorization: Bearer a.b.c\r\n".to_owned();
    let wrong_key = format!("Authorization: Bearer {}\r\n", other.expose());
    for path in ["/v1/send", "/v1/revoke", "/v1/nonsense"] {
        for (headers, length, status) in [
            ("", 1_000, "401"),
            (wrong_token.as_str(), 1_000, "401"),
            (wrong_key.as_str(), 1_000, "401"),
            (token.as_str(), 70_000, "413"),
            ("", 70_000, "413"),
        ] {
            let mut raw = RawSocket::connect(server.address()).await;
            raw.writes(post_request_head(path, headers, length)).await;
            let head = raw.read_head().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {head}");
        }
    }
}

#[tokio::test]
async fn hostile_01_a_client_that_is_still_sending_receives_the_refusal() {
    let server = Server::start_with_auth().await;
    let mut raw = RawSocket::connect(server.address()).await;
    raw.writes(post_request_head("/v1/send", "", 60_000)).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    raw.reads_body(&head).await;
    raw.writes(vec![b' '; 60_000]).await;
    // The client can send the next request on the same connection.
    raw.writes("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

/// How many concurrent requests the limits allow for a user and for an API key.
const REQUESTS_PER_USER: usize = 4;
const REQUESTS_PER_KEY: usize = 6;

#[tokio::test]
async fn hostile_24_concurrent_requests_are_limited_per_user_and_per_key() {
    let server = Server::start_with_auth_and(|config| {
        config.limits.requests_per_user = REQUESTS_PER_USER as u32;
        config.limits.requests_per_key = REQUESTS_PER_KEY as u32;
    })
    .await;
    let key = ApiKey::generate().expect("random bytes");
    keys::create(&server.keys(), &keys::NewKey::new("back end", ApiKey::hash(key.expose()))).expect("stored");
    let (token, other) = (server.token("alice", MINUTE), server.token("bob", MINUTE));
    for (bearer, most) in [(token.as_str(), REQUESTS_PER_USER), (key.expose(), REQUESTS_PER_KEY)] {
        let mut begun = Vec::new();
        for _ in 0..most {
            let mut raw = RawSocket::connect(server.address()).await;
            raw.writes(post_request_head(
                "/v1/ping",
                &format!("Authorization: Bearer {bearer}\r\nExpect: 100-continue\r\n"),
                14,
            ))
            .await;
            // The server sends 100 Continue only after it has checked the credentials.
            let head = raw.read_head().await;
            assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
            begun.push(raw);
        }
        let refused = server.posts_as(bearer, "ping", json!({"as": "alice"})).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
        assert!(
            refused.json()["retry_after"].is_u64() && !refused.header("retry-after").is_empty(),
            "{refused:?}"
        );
        server.posts_as(&other, "ping", json!({})).await.ok();
        for mut raw in begun {
            raw.writes(r#"{"as":"alice"}"#).await;
            let head = raw.read_head().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
        server.posts_as(bearer, "ping", json!({"as": "alice"})).await.ok();
    }
}

#[tokio::test]
async fn hostile_22_a_token_that_is_revoked_during_a_slow_request_is_refused() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", MINUTE);
    server.connects("alice").await;
    let key = ApiKey::generate().expect("random bytes");
    let new = keys::NewKey::new("back end", ApiKey::hash(key.expose()));
    keys::create(&server.keys(), &new.with_scopes([Scope::Act, Scope::Moderate])).expect("stored");
    let body = json!({"to": "@bob", "text": "hi"}).to_string();
    let mut raw = RawSocket::connect(server.address()).await;
    raw.writes(post_request_head("/v1/send", &format!("Authorization: Bearer {token}\r\n"), body.len()))
        .await;
    raw.writes(&body.as_bytes()[..5]).await;
    // waits for: the time after which the server checks the credentials of a waiting request again
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.posts_as(key.expose(), "revoke", json!({"user": "alice"})).await.ok();
    raw.writes(&body.as_bytes()[5..]).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
}
