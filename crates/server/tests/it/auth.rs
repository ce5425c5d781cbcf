//! Authentication: valid, invalid and expired tokens.

use std::time::Duration;

use serde_json::json;
use switchboard::auth::Authenticator;
use switchboard::config::{AuthConfig, AuthKey, Secret};
use switchboard_client::ClientError;
use switchboard_protocol::reply::{Failure, OkBody};
use switchboard_protocol::{CloseCode, ErrorCode, Hello, Timestamp};
use switchboard_store::clock::Clock;
use switchboard_store::grant::Scope;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Server, user};

const HOUR: Duration = Duration::from_secs(3_600);

fn hello_with_token(token: String) -> Hello {
    Hello { token: Some(token), user: None, device: None, cursors: Default::default() }
}

/// Connects with a token that is refused and returns the error.
async fn expect_hello_refused(server: &Server, token: &str) -> Failure {
    match server.tries_to_connect(hello_with_token(token.to_owned())).await {
        Err(ClientError::Refused(failure)) => *failure,
        Err(other) => panic!("{other}"),
        Ok(person) => panic!("{token} is {}", person.name()),
    }
}

/// Invalid tokens: a description, the token, and the close code that the server must use.
fn bad_tokens(server: &Server) -> Vec<(&'static str, String, u16)> {
    let key = Secret::new("another secret that is just as long").expect("long enough");
    let foreign = AuthConfig { keys: vec![AuthKey::Secret(key)], ..AuthConfig::default() };
    let foreign =
        Authenticator::new(&foreign).expect("a secret").mint(&user("alice"), HOUR).expect("a token");
    let good = server.token("alice", HOUR);
    let parts: Vec<&str> = good.split('.').collect();
    // The first part is {"alg":"none","typ":"JWT"} in Base64.
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
    let others: Vec<_> = server.token("bob", HOUR).split('.').map(str::to_owned).collect();
    let altered = format!("{}.{}.{}", parts[0], others[1], parts[2]);
    let yesterday =
        Clock::from_fn(|| Timestamp::from_millis(Clock::system().now().as_millis() - 24 * 3_600 * 1_000));
    vec![
        ("expired", server.token_at(yesterday, "alice", HOUR), 4401),
        ("of another secret", foreign, 4501),
        ("altered", altered, 4501),
        ("unsigned", unsigned, 4501),
        ("no token", "hunter2hunter2".to_owned(), 4501),
        ("empty", String::new(), 4501),
    ]
}

#[tokio::test]
async fn a_token_determines_the_user() {
    let server = Server::start_with_auth().await;
    let person =
        server.tries_to_connect(hello_with_token(server.token("alice", HOUR))).await.expect("welcome");
    assert_eq!(person.name().as_str(), "alice");
}

#[tokio::test]
async fn an_invalid_token_is_refused_on_the_websocket_and_over_http() {
    let server = Server::start_with_auth().await;
    for (what, token, close) in bad_tokens(&server) {
        let failure = expect_hello_refused(&server, &token).await;
        assert_eq!((failure.code, failure.retryable), (ErrorCode::Unauthorized, false), "{what}");
        assert!(token.is_empty() || !failure.message.contains(&token), "{what}: {}", failure.message);

        let mut socket = server.open_socket().await;
        socket.writes(Message::text(json!({"type": "hello", "token": token}).to_string())).await;
        let (error, code) = socket.error_and_close_code().await;
        assert_eq!(
            (error.expect("an error")["code"].as_str(), code),
            (Some("unauthorized"), close),
            "{what}"
        );

        let answer = server.posts_as(&token, "send", json!({"to": "@bob", "text": "hi"})).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{what}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert!(token.is_empty() || !answer.text.contains(&token), "{what}: {}", answer.text);
    }
    let nothing = server.posts("send", json!({"to": "@bob", "text": "hi"})).await;
    assert_eq!((nothing.status, nothing.code().as_str()), (401, "unauthorized"));
    let named = server.posts("send", json!({"as": "alice", "to": "@bob", "text": "hi"})).await;
    assert_eq!(named.status, 401, "only a dev server accepts a name without a token");
    let mut bob = server.connects("bob").await;
    assert!(bob.conversations().await.is_empty(), "nothing was stored");
}

#[tokio::test]
async fn a_token_with_a_very_late_expiry_is_accepted() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", Duration::from_secs(1_000 * 365 * 24 * 3_600));
    let mut alice = server.tries_to_connect(hello_with_token(token)).await.expect("welcome");
    alice.receives_nothing().await;
}

#[tokio::test]
async fn a_token_with_another_issuer_or_audience_is_refused() {
    let mut server =
        Server::start_with_auth_and(|config| config.auth.issuer = Some("https://a.example".into())).await;
    let token = server.token("alice", HOUR);
    server.tries_to_connect(hello_with_token(token.clone())).await.expect("welcome");
    server.restart_with(|config| config.auth.issuer = Some("https://b.example".into())).await;
    assert_eq!(expect_hello_refused(&server, &token).await.code, ErrorCode::Unauthorized);
    server
        .restart_with(|config| {
            config.auth.issuer = None;
            config.auth.audience = Some("chat".into());
        })
        .await;
    assert_eq!(
        expect_hello_refused(&server, &token).await.code,
        ErrorCode::Unauthorized,
        "it has no audience"
    );
    server.connects("alice").await;
}

#[tokio::test]
async fn a_dev_server_without_a_secret_accepts_names_and_refuses_tokens() {
    let server = Server::start().await;
    let failure = expect_hello_refused(&server, "hunter2hunter2").await;
    assert_eq!(failure.code, ErrorCode::Unauthorized);
    assert!(failure.message.contains("SWITCHBOARD_AUTH_SECRET_FILE"), "{}", failure.message);
}

#[tokio::test]
async fn a_newer_token_of_the_same_user_renews_a_live_connection() {
    let server = Server::start_with_auth().await;
    let hello = hello_with_token;
    let mut alice =
        server.tries_to_connect(hello(server.token("alice", Duration::from_secs(3)))).await.expect("welcome");
    let mut short =
        server.tries_to_connect(hello(server.token("alice", Duration::from_secs(3)))).await.expect("welcome");
    for wrong in [server.token("bob", Duration::from_secs(60)), "no token".to_owned()] {
        assert_eq!(alice.is_refused("token", json!({ "token": wrong })).await.as_str(), "unauthorized");
    }
    let token = server.token("alice", Duration::from_secs(3_600));
    let renewed = alice.does("token", json!({ "token": token })).await;
    assert!(matches!(renewed, OkBody::Token { .. }), "{renewed:?}");
    // The token of the other connection has expired when it is closed, and so has the first one of this connection.
    assert_eq!(short.is_closed().await, Some(CloseCode::TokenExpired.number()));
    alice.says("@bob", "still here").await;
    let old = server.token_at(
        Clock::from_fn(|| Timestamp::from_millis(Clock::system().now().as_millis() - 60_000)),
        "alice",
        Duration::from_secs(3_600),
    );
    let key = crate::keys::key_with(&server, "admin", |key| key.with_scopes([Scope::Moderate]));
    let mut other = server.connects("carol").await;
    server.posts_as(&key, "revoke", json!({"user": "carol"})).await.ok();
    assert_eq!(other.is_closed().await, Some(CloseCode::Revoked.number()));
    server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
    assert_eq!(alice.is_closed().await, Some(CloseCode::Revoked.number()));
    assert!(server.tries_to_connect(hello(old)).await.is_err(), "a revoked token is no way back");
}
