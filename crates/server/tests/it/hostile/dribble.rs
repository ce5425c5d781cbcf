//! Bytes that come one at a time, and bodies that nobody may send: what the server keeps of them.

use std::time::Duration;

use serde_json::json;
use switchboard::auth::ApiKey;
use switchboard_store::keys;

use crate::support::{Raw, Server, every_dribble_is_cheap};

const MINUTE: Duration = Duration::from_secs(60);

/// Bytes that each connection says.
const BYTES: usize = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_01_bytes_that_come_one_by_one_cost_no_more_than_a_buffer_of_them() {
    println!("{}", every_dribble_is_cheap(BYTES, BYTES).await);
}

/// The head of a command over HTTP whose body has so many bytes.
fn post(path: &str, headers: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn hostile_01_a_request_that_is_refused_is_answered_before_its_body_comes() {
    let server = Server::serves().await;
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
            let mut raw = Raw::connect(server.address()).await;
            raw.writes(post(path, headers, length)).await;
            let head = raw.head().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {head}");
        }
    }
}

#[tokio::test]
async fn hostile_01_a_client_that_is_still_writing_reads_why_it_is_refused() {
    let server = Server::serves().await;
    let mut raw = Raw::connect(server.address()).await;
    raw.writes(post("/v1/send", "", 60_000)).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    raw.reads_body(&head).await;
    raw.writes(vec![b' '; 60_000]).await;
    // The same connection takes the next request.
    raw.writes("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

/// Requests at a time of a user and of a key.
const OF_A_USER: usize = 4;
const OF_A_KEY: usize = 6;

#[tokio::test]
async fn hostile_24_a_user_has_so_many_requests_at_a_time_and_a_key_has_its_own() {
    let server = Server::serves_with(|config| {
        config.limits.requests_per_user = OF_A_USER as u32;
        config.limits.requests_per_key = OF_A_KEY as u32;
    })
    .await;
    let key = ApiKey::generate().expect("random bytes");
    keys::create(&server.keys(), "back end", &ApiKey::hash(key.expose())).expect("stored");
    let (token, other) = (server.token("alice", MINUTE), server.token("bob", MINUTE));
    for (bearer, most) in [(token.as_str(), OF_A_USER), (key.expose(), OF_A_KEY)] {
        let mut begun = Vec::new();
        for _ in 0..most {
            let mut raw = Raw::connect(server.address()).await;
            raw.writes(post(
                "/v1/ping",
                &format!("Authorization: Bearer {bearer}\r\nExpect: 100-continue\r\n"),
                14,
            ))
            .await;
            // The server asks for the body when it has checked the credentials.
            let head = raw.head().await;
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
            let head = raw.head().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
        server.posts_as(bearer, "ping", json!({"as": "alice"})).await.ok();
    }
}

#[tokio::test]
async fn hostile_22_a_token_that_is_revoked_while_its_request_dribbles_in_is_refused() {
    let server = Server::serves().await;
    let token = server.token("alice", MINUTE);
    server.connects("alice").await;
    let key = ApiKey::generate().expect("random bytes");
    keys::create(&server.keys(), "back end", &ApiKey::hash(key.expose())).expect("stored");
    let body = json!({"to": "@bob", "text": "hi"}).to_string();
    let mut raw = Raw::connect(server.address()).await;
    raw.writes(post("/v1/send", &format!("Authorization: Bearer {token}\r\n"), body.len())).await;
    raw.writes(&body.as_bytes()[..5]).await;
    // waits for: the time after which credentials are checked again
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.posts_as(key.expose(), "revoke", json!({"user": "alice"})).await.ok();
    raw.writes(&body.as_bytes()[5..]).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
}
