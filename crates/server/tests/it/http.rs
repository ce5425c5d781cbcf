//! Commands over HTTP, and requests of browsers that the server refuses.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::auth::ApiKey;
use switchboard_protocol::Command;
use switchboard_store::keys;

use crate::support::{Answer, Server};

const MINUTE: Duration = Duration::from_secs(60);

/// Creates an API key.
pub(crate) fn create_api_key(server: &Server, name: &str) -> String {
    let key = ApiKey::generate().expect("random bytes");
    keys::create(&server.keys(), &keys::NewKey::new(name, ApiKey::hash(key.expose()))).expect("stored");
    key.expose().to_owned()
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
}

#[tokio::test]
async fn an_api_key_acts_for_the_user_that_it_names() {
    let server = Server::start_with_auth().await;
    let mut bob = server.connects("bob").await;
    let key = create_api_key(&server, "billing");
    let ok =
        server.posts_as(&key, "send", json!({"as": "alice", "to": "@bob", "key": "k", "text": "hi"})).await;
    let at = ok.json()["at"].clone();
    let expected = format!(r#"{{"type":"ok","conversation":"@alice:bob","seq":1,"at":{at}}}"#);
    assert_eq!(ok.text, expected, "the documented frame");
    assert_eq!(bob.receives_message("hi").await.from.as_str(), "alice");

    let nobody = server.posts_as(&key, "send", json!({"to": "@bob", "text": "hi"})).await;
    assert_refused(&nobody, 400, "bad_field");
    assert_eq!(nobody.json()["field"], "as");
    let nonsense = server.posts_as(&key, "send", json!({"as": "a b", "to": "@bob", "text": "hi"})).await;
    assert_refused(&nonsense, 400, "bad_field");
    let other = ApiKey::generate().expect("random bytes");
    let hi = json!({"as": "alice", "to": "@bob", "text": "hi"});
    assert_refused(&server.posts_as(other.expose(), "send", hi.clone()).await, 401, "unauthorized");
    keys::revoke(&server.keys(), "billing").expect("the database").expect("the key");
    let revoked = server.posts_as(&key, "send", hi).await;
    assert_refused(&revoked, 401, "unauthorized");
    assert!(!revoked.text.contains(&key));
    bob.receives_nothing().await;
}

#[tokio::test]
async fn a_users_token_acts_for_that_user_only() {
    let server = Server::start_with_auth().await;
    let alice = server.token("alice", MINUTE);
    let hi = |user: &str| json!({"as": user, "to": "@bob", "text": "hi"});
    server.posts_as(&alice, "send", hi("alice")).await.ok();
    server.posts_as(&alice, "send", json!({"to": "@bob", "text": "hi"})).await.ok();
    assert_refused(&server.posts_as(&alice, "send", hi("bob")).await, 403, "forbidden");
    for authorization in ["Basic YWxpY2U6eA==", "Bearer", "hunter2"] {
        let request = server.asks("POST", "/v1/send").header("authorization", authorization);
        assert_refused(&server.request(request.json(&hi("alice"))).await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn every_command_except_the_socket_only_ones_has_a_route() {
    let server = Server::start().await;
    let bodies = json!({
        "profile": {"name": "Alice"},
        "users": {"users": ["bob"]},
        "find_users": {"query": "bo"},
        "create": {"room": "ops", "public": true, "members": ["bob"]},
        "send": {"to": "#ops", "key": "k", "text": "hi"},
        "edit": {"conversation": "#ops", "target": 2, "text": "ho"},
        "react": {"conversation": "#ops", "target": 2, "emoji": "👍"},
        "delete": {"conversation": "#ops", "target": 2},
        "rename": {"conversation": "#ops", "title": "Ops"},
        "settings": {"conversation": "#ops", "slow": 0, "rejoin": true},
        "invite": {"conversation": "#ops", "user": "carol"},
        "role": {"conversation": "#ops", "user": "carol", "role": "reader"},
        "remove": {"conversation": "#ops", "user": "carol"},
        "block": {"user": "carol", "on": true},
        "report": {"user": "carol", "reason": "other"},
        "blocks": {},
        "join": {"conversation": "#ops"},
        "read": {"conversation": "#ops", "upto": 2},
        "received": {"conversation": "#ops", "upto": 3},
        "typing": {"conversation": "#ops"},
        "sync": {"conversation": "#ops"},
        "history": {"conversation": "#ops"},
        "conversations": {},
        "members": {"conversation": "#ops"},
        "ping": {},
        "leave": {"conversation": "#solo"},
    });
    server.posts("create", json!({"as": "alice", "room": "solo"})).await.ok();
    // The commands run in an order in which each one finds the room, the members and the messages that it needs.
    let order =
        ["create", "send", "edit", "react", "delete", "rename", "settings", "invite", "role", "remove"];
    let names = Command::NAMES.iter().filter(|name| !order.contains(name));
    for name in order.iter().chain(names) {
        let mut body = bodies[*name].clone();
        if Command::SOCKET_ONLY.contains(name) {
            let answer = server.posts(name, json!({"as": "alice", "users": []})).await;
            assert_refused(&answer, 404, "unknown_type");
            continue;
        }
        body["as"] = json!("alice");
        let answer = server.posts(name, body).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        answer.ok();
    }
    let log = server.posts("sync", json!({"as": "bob", "conversation": "#ops"})).await.ok();
    let types: Vec<_> = log["events"].as_array().expect("events").iter().map(|e| e["type"].clone()).collect();
    assert_eq!(
        types,
        ["create", "message", "edit", "react", "delete", "rename", "settings", "invite", "role", "remove"]
    );
}

#[tokio::test]
async fn a_page_of_history_around_a_message_has_both_sides_over_http() {
    let server = Server::start().await;
    server.posts("create", json!({"as": "alice", "room": "ops"})).await.ok();
    for number in 0..6 {
        let text = format!("message {number}");
        server.posts("send", json!({"as": "alice", "to": "#ops", "text": text})).await.ok();
    }
    let history = json!({"as": "alice", "conversation": "#ops", "around": 4, "limit": 3});
    let page = server.posts("history", history.clone()).await.ok();
    let seqs: Vec<_> =
        page["messages"].as_array().expect("messages").iter().map(|m| m["seq"].clone()).collect();
    assert_eq!(
        (seqs, &page["more"], &page["more_after"]),
        (vec![json!(3), json!(4), json!(5)], &json!(true), &json!(true))
    );
    let mut both = history;
    both["before"] = json!(5);
    assert_refused(&server.posts("history", both).await, 400, "bad_field");
}

#[tokio::test]
async fn the_idempotency_key_header_is_the_commands_key() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", MINUTE);
    let send = async |header: &str, body: Value| {
        let request = server.asks("POST", "/v1/send").bearer_auth(&token).header("idempotency-key", header);
        server.request(request.json(&body)).await
    };
    let hi = json!({"to": "@bob", "text": "hi"});
    assert_eq!(send("k1", hi.clone()).await.ok()["seq"], 1);
    for again in ["k1", "\"k1\""] {
        let ok = send(again, hi.clone()).await.ok();
        assert_eq!((&ok["seq"], &ok["duplicate"]), (&json!(1), &json!(true)), "{again}");
    }
    let both = json!({"to": "@bob", "text": "hi", "key": "k1"});
    assert_eq!(send("k1", both.clone()).await.ok()["duplicate"], true);
    for (header, body) in [("k2", both), ("", hi.clone()), (&*"x".repeat(129), hi)] {
        let answer = send(header, body).await;
        assert_refused(&answer, 400, "bad_field");
        assert_eq!(answer.json()["field"], "key", "{header}");
    }
    let conflict = send("k1", json!({"to": "@bob", "text": "ho"})).await;
    assert_refused(&conflict, 409, "key_conflict");
}

#[tokio::test]
async fn every_refusal_is_a_problem_document_with_its_status() {
    let server = Server::start().await;
    server.posts("create", json!({"as": "alice", "room": "ops", "members": ["bob"]})).await.ok();
    for (command, body, status, code) in [
        ("send", json!({"as": "alice"}), 400, "bad_field"),
        ("sync", json!({"as": "alice", "conversation": "#ops", "after": 9}), 400, "bad_cursor"),
        ("send", json!({"to": "@bob", "text": "hi"}), 401, "unauthorized"),
        ("rename", json!({"as": "bob", "conversation": "#ops", "title": "Mine"}), 403, "forbidden"),
        ("sync", json!({"as": "eve", "conversation": "#ops"}), 404, "not_found"),
        ("nonsense", json!({"as": "alice"}), 404, "unknown_type"),
        ("create", json!({"as": "bob", "room": "ops"}), 409, "already_exists"),
        ("send", json!({"as": "alice", "to": "@bob", "text": "x".repeat(20_000)}), 413, "too_large"),
    ] {
        let answer = server.posts(command, body).await;
        assert_refused(&answer, status, code);
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(server.gets("/v1/send").await.status, 405);
    let empty = server.asks("POST", "/v1/conversations").header("content-type", "application/json");
    assert_refused(&server.request(empty).await, 401, "unauthorized");
}

#[tokio::test]
async fn a_body_that_is_not_json_is_reported_to_authenticated_clients_only() {
    let dev = Server::start().await;
    let serve = Server::start_with_auth().await;
    let (key, token) = (create_api_key(&serve, "billing"), serve.token("alice", MINUTE));
    for body in [
        "{",
        "hi",
        "[1]",
        "[\"alice\"]",
        "\"alice\"",
        "null",
        r#"{"as":"alice","to":}"#,
        r#"{"as":"alice","to":"@bob","text":"hi"} x"#,
    ] {
        let request = |server: &Server| {
            server.asks("POST", "/v1/send").header("content-type", "application/json").body(body)
        };
        let stranger = serve.request(request(&serve)).await;
        assert_refused(&stranger, 401, "unauthorized");
        for answer in [
            dev.request(request(&dev)).await,
            serve.request(request(&serve).bearer_auth(&key)).await,
            serve.request(request(&serve).bearer_auth(&token)).await,
        ] {
            assert_refused(&answer, 400, "bad_frame");
            assert!(
                answer.json()["detail"].as_str().is_some_and(|d| d.contains("JSON object")),
                "{answer:?}"
            );
        }
    }
}

/// Sends a WebSocket handshake with additional headers.
async fn request_upgrade(server: &Server, headers: &[(&str, &str)]) -> Answer {
    let mut request = server.asks("GET", "/v1/ws");
    let usual = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (name, value) in usual.iter().filter(|(name, _)| headers.iter().all(|(other, _)| other != name)) {
        request = request.header(*name, *value);
    }
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(*name, *value);
    }
    server.handshake(request).await
}

#[tokio::test]
async fn a_dev_server_refuses_other_host_names_than_loopback() {
    let server = Server::start().await;
    let port = server.address().port();
    for (host, status) in [
        (format!("localhost:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        ("evil.example".to_owned(), 421),
        (format!("127.0.0.1.evil.example:{port}"), 421),
    ] {
        for path in ["/", "/livez"] {
            let answer = server.request(server.asks("GET", path).header("host", &host)).await;
            assert_eq!(answer.status, status, "{host}");
        }
        let answer = request_upgrade(&server, &[("host", &host)]).await;
        assert_eq!(answer.status == 101, status == 200, "{host}: {answer:?}");
    }
}

#[tokio::test]
async fn a_websocket_handshake_follows_the_rfc() {
    let server = Server::start().await;
    let answer = request_upgrade(&server, &[("sec-websocket-protocol", "chat, switchboard.v1")]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, "switchboard.v1"));
    assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let answer = request_upgrade(&server, &[("sec-websocket-protocol", "chat")]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, ""));
    let answer = request_upgrade(&server, &[("sec-websocket-extensions", "permessage-deflate")]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-extensions")), (101, ""), "not configured");
    let answer = request_upgrade(&server, &[("upgrade", "")]).await;
    assert_eq!((answer.status, answer.header("upgrade")), (426, "websocket"), "a browser's address bar");
    let answer = request_upgrade(&server, &[("sec-websocket-version", "8")]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, "13"));
    for key in ["", "dGhl", "not base64!"] {
        let answer = request_upgrade(&server, &[("sec-websocket-key", key)]).await;
        assert_refused(&answer, 400, "bad_frame");
    }
}

#[tokio::test]
async fn health_probes_and_metrics_are_served() {
    let server = Server::start_with(|config| config.limits.sends_per_connection = 1).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    for _ in 0..5 {
        alice.is_refused("send", json!({"to": "#nowhere", "text": "hi"})).await;
    }
    assert_eq!((server.gets("/livez").await.status, server.gets("/readyz").await.status), (200, 200));
    let metrics = server.gets_with("/metrics", "accept", "application/openmetrics-text;version=1.0.0").await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"), "{metrics:?}");
    assert!(metrics.text.ends_with("# EOF\n"));
    assert_eq!(server.metric("switchboard_connections").await, 1.0);
    assert_eq!(server.metric("switchboard_accepted_total").await, 1.0);
    assert_eq!(server.metric(r#"switchboard_refused_total{code="not_found"}"#).await, 4.0);
    assert_eq!(server.metric(r#"switchboard_refused_total{code="rate_limited"}"#).await, 1.0);
    assert_eq!(server.metric(r#"switchboard_dropped_total{reason="rate_limit"}"#).await, 1.0);
    assert!(server.metric("switchboard_commit_seconds_count").await >= 1.0);
    for word in ["delivered", "replayed", "catching_up", "commit", "delivery"] {
        assert!(metrics.text.contains(&format!("# HELP switchboard_{word}")), "{word} in {}", metrics.text);
    }
    assert!(!metrics.text.contains("alice") && !metrics.text.contains("bob"), "no metric has a user's name");
}

#[tokio::test]
async fn the_page_has_a_content_security_policy_and_an_etag() {
    let server = Server::start().await;
    let page = server.gets("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    for rule in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let tag = page.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() > 20, "{tag}");
    let again = server.request(server.asks("GET", "/").header("if-none-match", &tag)).await;
    assert_eq!((again.status, again.text.as_str(), again.header("etag")), (304, "", tag.as_str()));
    let other = server.request(server.asks("GET", "/").header("if-none-match", "\"old\"")).await;
    assert_eq!((other.status, other.text), (200, page.text));
    let missing = server.gets("/../../etc/passwd").await;
    assert_eq!(missing.status, 404);
    assert_eq!(server.gets("/nothing.html").await.status, 404);
}
