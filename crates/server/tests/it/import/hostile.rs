//! Lines that are refused: each is named, and nothing of its call is stored.

use serde_json::{Value, json};
use switchboard_protocol::Limits;
use switchboard_store::grant::Scope;

use super::{admin, body_of, imports, imports_body, is_refused, message, refusal, servers, visit};
use crate::keys::{for_shop_users, key_with};
use crate::support::Server;

fn at(seconds: i64) -> String {
    format!("2019-03-01T09:00:{seconds:02}Z")
}

/// A line that is good after the visit.
fn good_line() -> Value {
    message("#visit-9", "bob", &at(50), "new", "new")
}

/// Lines that are refused after the visit, each with the code and the field.
fn wrong_lines() -> Vec<(Value, &'static str, &'static str)> {
    let ok = good_line();
    let with = |field: &str, value: Value| {
        let mut line = ok.clone();
        line[field] = value;
        line
    };
    let reference = json!({"from": "bob", "key": "nothing"});
    vec![
        (with("at", json!("2999-01-01T00:00:00Z")), "bad_field", "at"),
        (with("at", json!(at(1))), "bad_field", "at"),
        (with("at", json!(17)), "bad_field", "at"),
        (with("at", json!("yesterday")), "bad_field", "at"),
        (with("at", Value::Null), "bad_field", "at"),
        (with("from", json!("é")), "bad_field", "from"),
        (with("from", json!(["bob"])), "bad_field", "from"),
        (with("to", json!("visit-9")), "bad_field", "to"),
        (with("to", json!("#nowhere")), "not_found", "to"),
        (with("to", json!("@ana:carl")), "not_found", "from"),
        (with("key", json!("")), "bad_field", "key"),
        (with("key", json!("m1")), "key_conflict", "key"),
        (with("text", json!("")), "bad_field", "text"),
        (with("text", json!("a\0b")), "bad_field", "text"),
        (with("text", json!("x".repeat(20_000))), "too_large", "text"),
        (with("data", json!("no object")), "bad_field", "data"),
        (with("reply_to", reference.clone()), "bad_field", "reply_to"),
        (with("reply_to", json!(3)), "bad_field", "reply_to"),
        (with("files", json!(["f_1"])), "bad_field", "files"),
        (json!({"create": "#visit-9", "at": at(50), "from": "eve"}), "already_exists", "create"),
        (json!({"create": "@bob:shop", "at": at(50), "from": "bob"}), "bad_field", "create"),
        (json!({"create": "#r", "at": "2999-01-01T00:00:00Z", "from": "bob"}), "bad_field", "at"),
        (json!({"create": "#r", "at": at(1), "from": "bob", "members": [7]}), "bad_field", "members[0]"),
        (
            json!({"react": "👍", "to": "#visit-9", "from": "bob", "at": at(50), "target": reference}),
            "bad_field",
            "target",
        ),
        (
            json!({"react": "a b", "to": "#visit-9", "from": "bob", "at": at(50), "target": {"from": "bob", "key": "m1"}}),
            "bad_field",
            "react",
        ),
        (
            json!({"read": "#visit-9", "from": "nobody", "upto": {"from": "bob", "key": "m1"}}),
            "not_found",
            "from",
        ),
        (
            json!({"read": "#nowhere", "from": "bob", "upto": {"from": "bob", "key": "m1"}}),
            "not_found",
            "read",
        ),
        (
            json!({"read": "#visit-9", "from": "bob", "upto": {"from": "shop", "key": "d1"}}),
            "bad_field",
            "upto",
        ),
    ]
}

#[tokio::test]
async fn a_line_that_is_wrong_is_named_and_nothing_of_its_call_is_stored() {
    let (ok, wrong) = (good_line(), wrong_lines());
    for server in servers().await {
        let key = admin(&server);
        imports(&server, &key, &visit()).await;
        let mut bob = server.connects("bob").await;
        let before = bob.log("#visit-9").await.len();
        for (line, code, field) in &wrong {
            let create = json!({"create": "#fresh", "at": at(40), "from": "zoe", "members": ["bob"]});
            let other = message("#visit-9", "bob", &at(50), "other", "other");
            let lines = [create, other, line.clone(), ok.clone()];
            let refused = is_refused(&server, &key, &lines).await;
            assert_eq!(refused, ((*code).to_owned(), (*field).to_owned(), 3), "{line}");
        }
        assert_eq!(bob.log("#visit-9").await.len(), before);
        assert!(bob.tries("members", json!({"conversation": "#fresh"})).await.is_err());
        assert_eq!(imports(&server, &key, std::slice::from_ref(&ok)).await, (1, 0), "and the writer goes on");
    }
}

#[tokio::test]
async fn bytes_that_are_no_lines_are_refused_with_the_line() {
    let server = Server::start_with_auth().await;
    let key = admin(&server);
    let create = json!({"create": "#r", "at": at(1), "from": "bob"}).to_string();
    let line = |text: &[u8]| [create.as_bytes(), b"\r\n\n", text, b"\n"].concat();
    for text in [
        &b"{"[..],
        b"[]",
        b"null",
        b"hello",
        b"{\"to\":\"#r\"}{}",
        b"\xff\xfe",
        b"{\"to\":\"#r\",\"from\":\"bob\",\"at\":\"2019-01-01T00:00:00Z\",\"key\":\"k\",\"text\":\"\xc3\x28\"}",
        br##"{"to":"#r","from":"bob","at":"2019-03-02T00:00:00Z","key":"k","text":"\ud800"}"##,
        br##"{"to":"#r","from":"bob","at":"2019-03-02T00:00:00Z","key":"k","text":"a","text":"b"}"##,
    ] {
        let answer = imports_body(&server, &key, line(text)).await;
        assert_eq!(answer.problem()["line"], 3, "{:?}", String::from_utf8_lossy(text));
        assert!(matches!(answer.code().as_str(), "bad_frame" | "bad_field"), "{answer:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(imports_body(&server, &key, deep).await.status, 400);
    // Nothing at all is nothing.
    for empty in ["", "\n\n\r\n", "  \n"] {
        let answer = imports_body(&server, &key, empty).await.ok();
        assert_eq!((answer["stored"].as_u64(), answer["duplicates"].as_u64()), (Some(0), Some(0)));
    }
}

#[tokio::test]
async fn a_call_is_bounded_and_needs_the_scope_before_its_body_is_read() {
    let server = Server::start_with_auth().await;
    let key = admin(&server);
    let many: Vec<_> =
        (0..=Limits::IMPORT_LINES).map(|n| message("@bob", "ana", &at(1), &format!("k{n}"), "x")).collect();
    assert_eq!(is_refused(&server, &key, &many).await, ("too_large".to_owned(), String::new(), 1_001));
    assert_eq!(imports(&server, &key, &many[..1_000]).await, (1_000, 0));
    let long = "x".repeat(8 * 1024 * 1024 + 1);
    assert_eq!(imports_body(&server, &key, long.clone()).await.status, 413);
    let others = [
        key_with(&server, "act", |key| {
            key.with_scopes([Scope::Act, Scope::People, Scope::Moderate, Scope::Feed])
        }),
        key_with(&server, "shop", |key| for_shop_users(key.with_scopes([Scope::Admin]))),
        server.token("bob", std::time::Duration::from_secs(60)),
    ];
    for other in others {
        let answer = imports_body(&server, &other, body_of(&visit())).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{answer:?}");
    }
    let json = server.posts_as(&key, "import", json!({})).await;
    assert_eq!(json.status, 415);
    assert_eq!(refusal(&json).0, "bad_frame");
}
