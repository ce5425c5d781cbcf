//! Tokens, keys and message texts appear in no log, metric or error text.

use std::process::Stdio;

use serde_json::json;
use switchboard::auth::ApiKey;
use switchboard_client::ClientError;
use switchboard_store::keys;
use tempfile::TempDir;

use crate::support::{Process, RawSocket, TextSocket};

#[tokio::test]
async fn hostile_06_tokens_keys_and_texts_are_in_no_log_and_no_metric() {
    let data = TempDir::new().expect("a directory");
    let log = data.path().join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let settings = [("SWITCHBOARD_LOG_LEVEL", "trace")];
    let mut server = Process::start_production(data.path(), &settings, Stdio::from(file)).await;
    let (token, key) = (server.token("alice"), ApiKey::generate().expect("random bytes"));
    let bad_token = format!("{}tampered", server.token("mallory"));
    let text = "a text in confidence";
    keys::create(
        &keys::KeyStore::Directory(data.path().to_owned()),
        &keys::NewKey::new("billing", ApiKey::hash(key.expose())),
    )
    .expect("stored");

    let mut alice = server.connects("alice").await;
    alice.says_with_key("@bob", "k", text).await;
    alice.is_refused("send", json!({"to": "@bob", "key": "k", "text": "another text in confidence"})).await;
    let mut socket = TextSocket::open(&format!("ws://{}/v1/ws", server.address())).await;
    socket.says(&json!({"type": "hello", "token": bad_token}).to_string()).await;
    let (refused, code) = socket.error_and_close_code().await;
    assert_eq!(code, 4501);
    let mut errors = vec![refused.expect("an error").to_string()];
    for secret in [&token, &bad_token, key.expose()] {
        let mut raw = RawSocket::connect(server.address()).await;
        let request = raw.handshake().replace("/v1/ws", &format!("/v1/ws?token={secret}"));
        raw.writes(format!("{request}\r\n")).await;
        errors.push(raw.read_head().await);
        errors.push(server.gets(&format!("/?key={secret}")).await.text);
        // The input is invalid and contains the secret, which the error must not repeat.
        let body = format!(r#"{{"as":"alice","to":"@bob","text":"{text}","{secret}":"#);
        let head = format!("host: {}\r\nauthorization: Bearer {secret}", server.address());
        let mut raw = RawSocket::connect(server.address()).await;
        let length = body.len();
        raw.writes(format!(
            "POST /v1/send HTTP/1.1\r\n{head}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
        errors.push(raw.read_head().await);
    }
    errors.push(server.gets("/metrics").await.text);
    let closed = switchboard_client::Client::connect(
        &format!("ws://{}/v1/ws?jwt={token}", server.address()),
        switchboard_protocol::Hello { token: None, user: None, device: None, cursors: Default::default() },
    )
    .await;
    assert!(matches!(closed, Err(ClientError::Handshake { status: 401, .. })));
    let log = server.log_after_stop(&log).await;
    // The server logs this line at a level below `info`, so the log is at that level. Whether libraries log at `trace` depends on
    // the features of the whole build.
    assert!(log.contains("connection opened"), "the log has what its level lets through: {log}");
    let signature = token.rsplit('.').next().expect("the last part").to_owned();
    for secret in [&token, &bad_token, key.expose(), text, "another text in confidence", &signature] {
        for said in errors.iter().chain([&log]) {
            assert!(!said.contains(secret), "{secret} in {said}");
        }
    }
}
