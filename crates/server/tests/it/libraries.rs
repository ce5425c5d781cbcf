//! Input as JSON and HTTP libraries of other languages send it: whole numbers with a decimal point, empty lists for empty
//! objects, byte order marks, texts that end inside a character.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::auth::ApiKey;
use switchboard_protocol::Limits;
use switchboard_store::keys;

use crate::support::{Answer, RawSocket, Server};

/// Sends a command over HTTP with this text as its body.
async fn post_json_text(server: &Server, command: &str, body: &str) -> Answer {
    let token = server.token("alice", Duration::from_secs(60));
    let request = server.asks("POST", &format!("/v1/{command}")).bearer_auth(token);
    server.request(request.header("content-type", "application/json").body(body.to_owned())).await
}

#[tokio::test]
async fn whole_numbers_are_read_in_every_json_notation() {
    let server =
        Server::start_with_auth_and(|config| config.limits = config.limits.clone().without_rates()).await;
    server.connects("alice").await.says("@bob", "the first").await;
    server.connects("bob").await.says("@alice", "the second").await;
    let mut alice = server.open_socket_as("alice").await;
    for two in ["2", "2.0", "20e-1", "0.2e1", "2E0"] {
        for (command, fields) in [
            ("read", format!(r#""conversation":"@bob","upto":{two}"#)),
            ("received", format!(r#""conversation":"@bob","upto":{two}"#)),
            ("sync", format!(r#""conversation":"@bob","after":{two},"limit":{two}"#)),
            ("history", format!(r#""conversation":"@bob","before":{two},"limit":{two}"#)),
            ("conversations", format!(r#""limit":{two}"#)),
            ("members", format!(r#""conversation":"@bob","limit":{two}"#)),
            ("react", format!(r#""conversation":"@bob","target":{two},"emoji":"x""#)),
            ("send", format!(r#""to":"@bob","key":"{two}","text":"hi","reply_to":{two}"#)),
        ] {
            post_json_text(&server, command, &format!("{{{fields}}}")).await.ok();
            alice.says(&format!(r#"{{"type":"{command}","id":{two},{fields}}}"#)).await;
            let answer = loop {
                let frame = alice.receives_json().await;
                // If the posted command causes an event or a signal, that frame arrives first.
                if frame.get("id").is_some() {
                    break frame;
                }
            };
            let answered = (&answer["type"], &answer["id"]);
            assert_eq!(answered, (&json!("ok"), &json!(2)), "{command} {fields}: {answer}");
        }
        let mut again = server.open_socket().await;
        let token = server.token("alice", Duration::from_secs(60));
        again
            .says(&format!(r#"{{"type":"hello","token":"{token}","cursors":{{"@alice:bob":{two}}}}}"#))
            .await;
        assert_eq!(again.receives_json().await["type"], "welcome", "{two}");
        assert_eq!(again.receives_json().await["seq"], 3, "{two}: the replay begins after the cursor");
    }
    let mut none = server.open_socket_as("alice").await;
    for zero in ["-0", "0.0", "-0.0", "0e5"] {
        let page =
            none.asks(&format!(r#"{{"type":"sync","conversation":"@bob","after":{zero},"limit":1}}"#)).await;
        assert_eq!(page["events"][0]["seq"], 1, "{page}");
    }
}

#[tokio::test]
async fn an_invalid_cursor_is_named_before_the_connection_closes() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", Duration::from_secs(60));
    for cursors in
        [r##"{"#a":1.5}"##, r##"{"#a":"1"}"##, r##"{"#b":1,"#a":9007199254740992.0}"##, r##"{"#a":null}"##]
    {
        let mut socket = server.open_socket().await;
        socket.says(&format!(r#"{{"type":"hello","token":"{token}","cursors":{cursors}}}"#)).await;
        let (error, close) = socket.error_and_close_code().await;
        let error = error.expect("an error");
        assert_eq!((&error["code"], &error["field"]), (&json!("bad_field"), &json!("cursors.#a")), "{error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains("whole number")), "{error}");
        assert_eq!(close, 1008);
    }
}

#[tokio::test]
async fn an_empty_list_of_cursors_is_accepted() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", Duration::from_secs(60));
    let mut socket = server.open_socket().await;
    let welcome = socket.asks(&format!(r#"{{"type":"hello","token":"{token}","cursors":[]}}"#)).await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
}

#[tokio::test]
async fn a_byte_order_mark_before_the_json_is_skipped() {
    let server = Server::start_with_auth().await;
    post_json_text(&server, "send", "\u{feff}{\"to\":\"@bob\",\"text\":\"hi\"}").await.ok();
    let mut alice = server.open_socket_as("alice").await;
    let pong = alice.asks("\u{feff}{\"type\":\"ping\",\"id\":1}").await;
    assert_eq!((&pong["type"], &pong["id"]), (&json!("pong"), &json!(1)));
}

/// A command, its invalid fields, the field that the error must name, and a part of the error's message.
const BAD_FIELDS: [(&str, &str, &str, &str); 9] = [
    ("send", r#""to":"@bob","text":"cut \ud83d""#, "text", "surrogate pair"),
    ("send", r#""to":"@bob","data":{"a":["\ude00"]}"#, "data.a[0]", "surrogate pair"),
    ("send", r#""to":"@bob","data":[]"#, "data", "expected an object `{…}`, not a list"),
    ("history", r#""conversation":"@bob","limit":"50""#, "limit", "a whole number"),
    ("history", r#""conversation":"@bob","limit":4.5"#, "limit", "not the number 4.5"),
    ("create", r#""members":{"0":"bob","2":"carol"}"#, "members", "expected a list `[…]`, not an object"),
    ("create", r#""public":"yes""#, "public", "expected true or false, not a string"),
    ("send", r#""to":"bob","text":"hi""#, "to", "write `@bob` for the user or `#bob` for the room"),
    ("invite", r##""conversation":"#ops","user":"@bob""##, "user", "without the `@`"),
];

#[tokio::test]
async fn errors_about_fields_name_types_of_json() {
    let server =
        Server::start_with_auth_and(|config| config.limits = config.limits.clone().without_rates()).await;
    let mut alice = server.open_socket_as("alice").await;
    let check = |error: &Value, text: &str, field: &str, said: &str| {
        assert_eq!((&error["code"], &error["field"]), (&json!("bad_field"), &json!(field)), "{error}");
        let message = error[text].as_str().unwrap_or_default();
        assert!(message.starts_with(&format!("{field}: ")) && message.contains(said), "{message}");
    };
    for (command, fields, field, said) in BAD_FIELDS {
        let error = alice.asks(&format!(r#"{{"type":"{command}","id":7,{fields}}}"#)).await;
        assert_eq!(error["id"], 7, "{error}");
        check(&error, "message", field, said);
        check(
            &post_json_text(&server, command, &format!("{{{fields}}}")).await.problem(),
            "detail",
            field,
            said,
        );
    }
    let half = post_json_text(&server, "send", r#"{"as":"\ud83d","to":"@bob","text":"hi"}"#).await;
    check(&half.problem(), "detail", "as", "surrogate pair");
}

#[tokio::test]
async fn an_unknown_path_or_method_is_answered_with_the_valid_ones() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", Duration::from_secs(60));
    for (method, path, status, words) in [
        ("POST", "/v1/send/", 404, "/v1/send,"),
        ("POST", "/v1//send", 404, "/v1/send,"),
        ("POST", "//v1/send", 404, "/v1/send,"),
        ("GET", "/v1/openapi.json/", 404, "/v1/openapi.json,"),
        ("GET", "/metrics/", 404, "/metrics,"),
        ("GET", "/embed/", 404, "/embed,"),
        ("POST", "/chat/v1/send", 404, "must strip that path"),
        ("POST", "/send", 404, "/v1/send"),
        ("POST", "/revoke", 404, "/v1/revoke"),
        ("POST", "/api/send", 404, "/v1/<command>"),
        ("GET", "/v1", 404, "/v1/<command>"),
        ("GET", "/v1/send", 405, "POST"),
        ("PUT", "/v1/send", 405, "POST"),
        ("OPTIONS", "/v1/send", 405, "CORS is not offered"),
        ("OPTIONS", "/", 405, "CORS is not offered"),
    ] {
        let answer = server.request(server.asks(method, path).bearer_auth(&token)).await;
        let problem = answer.problem();
        assert_eq!(answer.status, status, "{method} {path}: {problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(words), "{method} {path}: {detail}");
        assert_eq!(!answer.header("allow").is_empty(), status == 405, "{method} {path}: {answer:?}");
    }
    let preflight = server.asks("OPTIONS", "/v1/send").header("origin", "https://shop.example");
    let answer = server.request(preflight.header("access-control-request-method", "POST")).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    assert!(answer.text.contains("CORS is not offered"), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn a_compressed_body_is_refused_with_a_reason() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", Duration::from_secs(60));
    let post = |coding: &str| {
        let request = server.asks("POST", "/v1/ping").bearer_auth(&token).header("content-encoding", coding);
        request.header("content-type", "application/json").body("{}")
    };
    for coding in ["gzip", "br", "deflate", "identity, gzip", "GZIP"] {
        let answer = server.request(post(coding)).await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "bad_frame"), "{coding}");
        assert!(answer.text.contains("not decompressed"), "{answer:?}");
    }
    server.request(post("identity")).await.ok();
    let packed =
        server.asks("POST", "/v1/ping").bearer_auth(&token).header("content-type", "application/json");
    let answer = server.request(packed.body(vec![0x1f, 0x8b, 8, 0, 0, 0])).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_frame"));
    assert!(answer.text.contains("not compressed"), "{answer:?}");
}

#[tokio::test]
async fn an_unknown_command_is_answered_with_the_commands_of_its_interface() {
    let server = Server::start_with_auth().await;
    let detail = post_json_text(&server, "nonsense", "{}").await.problem()["detail"].to_string();
    for (name, listed) in [("revoke", true), ("send", true), ("hello", false), ("watch", false)] {
        assert_eq!(detail.contains(name), listed, "{name} in {detail}");
    }
    let mut alice = server.open_socket_as("alice").await;
    let message = alice.asks(r#"{"type":"nonsense"}"#).await["message"].to_string();
    assert!(message.contains("watch") && !message.contains("revoke"), "{message}");
}

/// The statuses of a WebSocket handshake and of a POST by a page of `origin`, sent with the header `host`.
async fn handshake_and_post_status(server: &Server, origin: &str, host: &str) -> (u16, u16) {
    let mut raw = RawSocket::connect(server.address()).await;
    let own = format!("{}", server.address());
    raw.writes(format!("{}Origin: {origin}\r\n\r\n", raw.handshake().replace(&own, host))).await;
    let head = raw.read_head().await;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let token = server.token("alice", Duration::from_secs(60));
    let post =
        server.asks("POST", "/v1/ping").bearer_auth(token).header("host", host).header("origin", origin);
    (status, server.request(post.json(&json!({}))).await.status)
}

#[tokio::test]
async fn a_host_with_the_default_port_is_the_same_origin() {
    let server = Server::start_with_auth().await;
    for (origin, host, accepted) in [
        ("https://chat.example", "chat.example:443", true),
        ("https://chat.example", "chat.example", true),
        ("http://chat.example", "chat.example:80", true),
        ("https://chat.example", "chat.example:80", false),
        ("http://chat.example", "chat.example:443", false),
        ("https://chat.example:8443", "chat.example:443", false),
        ("null", "chat.example", false),
        ("https://evil.example", "chat.example:443", false),
    ] {
        let wanted = if accepted { (101, 200) } else { (403, 403) };
        assert_eq!(handshake_and_post_status(&server, origin, host).await, wanted, "{origin} at {host}");
    }
    let open = Server::start_with_auth_and(|config| config.allowed_origins = vec!["null".to_owned()]).await;
    assert_eq!(handshake_and_post_status(&open, "null", "chat.example").await, (101, 200));
    assert_eq!(handshake_and_post_status(&open, "https://evil.example", "chat.example").await, (403, 403));
    let policy = open.gets("/embed").await.header("content-security-policy").to_owned();
    assert!(!policy.contains("null"), "{policy}");
}

#[tokio::test]
async fn a_back_end_can_add_a_user_to_an_empty_room() {
    let server = Server::start_with_auth().await;
    let key = ApiKey::generate().expect("random bytes");
    keys::create(&server.keys(), &keys::NewKey::new("shop", ApiKey::hash(key.expose()))).expect("stored");
    let mut alice = server.connects("alice").await;
    alice.makes_room("ops", &[]).await;
    alice.does("leave", json!({"conversation": "#ops"})).await;
    let invite = json!({"as": "shop", "conversation": "#ops", "user": "alice"});
    let by_user = json!({"conversation": "#ops", "user": "alice"});
    let token = server.token("shop", Duration::from_secs(60));
    assert_eq!(server.posts_as(&token, "invite", by_user).await.status, 404, "a user may not");
    assert_eq!(server.posts_as(key.expose(), "invite", invite.clone()).await.ok()["seq"], 3);
    let again = server.posts_as(key.expose(), "invite", invite).await.ok();
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(3), &json!(true)));
    let back = alice.receives_event().await;
    assert_eq!((back.seq.0, back.from.as_str()), (3, "shop"), "the event of coming in");
    alice.says("#ops", "here again").await;
    alice.does("rename", json!({"conversation": "#ops", "title": "An admin"})).await;
}

#[tokio::test]
async fn no_frame_is_larger_than_documented() {
    let server = Server::start_with_auth_and(|config| {
        let limits = config.limits.clone().without_rates();
        config.limits = Limits { text: 500, page_bytes: 4_000, reactions: 12, create_members: 20, ..limits };
    })
    .await;
    let most =
        Limits { text: 500, page_bytes: 4_000, reactions: 12, create_members: 20, ..Limits::default() }
            .largest_frame();
    let mut alice = server.open_socket_as("alice").await;
    let members: Vec<_> = (0..20).map(|n| format!("{n:x>64}")).collect();
    alice.asks(&json!({"type": "create", "room": "r", "members": members}).to_string()).await;
    // JSON needs six bytes for nearly every byte of this text, because it escapes control characters.
    let text = "\u{1}".repeat(499) + "x";
    let data = json!({"a": "x".repeat(400)});
    for _ in 0..12 {
        let ok =
            alice.asks(&json!({"type": "send", "to": "#r", "text": text, "data": data}).to_string()).await;
        for n in 0..12 {
            let emoji = format!("{n:\"<64}");
            let react = json!({"type": "react", "conversation": "#r", "target": ok["seq"], "emoji": emoji});
            assert_eq!(alice.asks(&react.to_string()).await["type"], "ok");
        }
    }
    for command in ["history", "sync", "members"] {
        alice.says(&json!({"type": command, "conversation": "#r", "limit": 200}).to_string()).await;
        let frame = alice.receives_text().await;
        assert!(
            frame.contains(r#""type":"ok""#) && frame.len() <= most,
            "{command}: {} > {most}",
            frame.len()
        );
    }
    alice.says(r#"{"type":"conversations"}"#).await;
    let frame = alice.receives_text().await;
    assert!(
        frame.contains(r#""type":"ok""#) && frame.len() <= most,
        "conversations: {} > {most}",
        frame.len()
    );
    let mut again = server.open_socket().await;
    let token = server.token("alice", Duration::from_secs(60));
    again.says(&format!(r##"{{"type":"hello","token":"{token}","cursors":{{"#r":0}}}}"##)).await;
    for _ in 0..12 * 13 + 2 {
        let frame = again.receives_text().await;
        assert!(frame.len() <= most, "a replay: {} > {most}", frame.len());
    }
}
