//! Invalid input on the WebSocket and over HTTP: it gets an error with a code, stores nothing, and the server keeps working.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Answer, RawSocket, Server, TextSocket};

/// A command, its fields as JSON text, the expected error code, and the field that the error must name.
type BadCommand = (&'static str, String, &'static str, Option<&'static str>);

/// Commands with invalid fields. The WebSocket and HTTP must answer them with the same errors.
fn bad_fields() -> Vec<BadCommand> {
    let mut cases = Vec::new();
    let mut add = |command, fields: &str, code, field| {
        cases.push((command, fields.to_owned(), code, field));
    };
    // Fields that are missing or have a wrong name or type.
    add("send", r#""text":"hi""#, "bad_field", Some("to"));
    add("send", r#""to":"@bob""#, "bad_field", Some("text"));
    add("send", r#""to":"@bob","text":"""#, "bad_field", Some("text"));
    add("send", r#""to":7,"text":"hi""#, "bad_field", Some("to"));
    add("send", r#""to":"@bob","text":7"#, "bad_field", Some("text"));
    add("send", r#""to":"@bob","text":["hi"]"#, "bad_field", Some("text"));
    add("send", r#""to":"@bob","data":[1]"#, "bad_field", Some("data"));
    add("send", r#""to":"@bob","text":"hi","reply_to":"1""#, "bad_field", Some("reply_to"));
    add("send", r#""to":"@bob","text":"hi","reply_to":-1"#, "bad_field", Some("reply_to"));
    add("send", r#""to":"@bob","text":"hi","reply_to":1.5"#, "bad_field", Some("reply_to"));
    add("send", r#""to":"@bob","text":"hi","reply_to":99"#, "bad_field", Some("reply_to"));
    add("send", r#""to":"@bob","text":"hi","key":7"#, "bad_field", Some("key"));
    add("edit", r#""conversation":"@bob","text":"hi""#, "bad_field", Some("target"));
    add("edit", r#""conversation":"@bob","target":1"#, "bad_field", Some("text"));
    add("react", r#""conversation":"@bob","target":1,"emoji":"👍","on":"yes""#, "bad_field", Some("on"));
    add("sync", r#""conversation":"@bob","after":9007199254740992"#, "bad_field", Some("after"));
    add("sync", r#""conversation":"@bob","after":9007199254740992.0"#, "bad_field", Some("after"));
    add("sync", r#""conversation":"@bob","limit":-1"#, "bad_field", Some("limit"));
    add("sync", r#""conversation":"@bob","limit":"50""#, "bad_field", Some("limit"));
    add("read", r#""conversation":"@bob","upto":0.5"#, "bad_field", Some("upto"));
    add("send", r#""to":"@bob","data":[]"#, "bad_field", Some("data"));
    add("create", r#""room":"new","members":{"1":"bob"}"#, "bad_field", Some("members"));
    add("create", r#""room":"new","public":1"#, "bad_field", Some("public"));
    add("create", r#""room":"new","members":"bob""#, "bad_field", Some("members"));
    add("invite", r##""conversation":"#ops","user":"carol","role":"king""##, "bad_field", Some("role"));
    add("history", "", "bad_field", Some("conversation"));
    // Ids with characters that an id may not have.
    for to in ["bob", "", "@", "#", "@a b", "@bob:alice", "#a*b", "#a>", "@é", "#-a", "@a/b", "@a:b:c"] {
        add("send", &format!(r#""to":"{to}","text":"hi""#), "bad_field", Some("to"));
    }
    add("send", &format!(r#""to":"@{}","text":"hi""#, "x".repeat(65)), "bad_field", Some("to"));
    add("create", r#""room":"a b""#, "bad_field", Some("room"));
    add("create", r#""room":"new","members":["bob","a:b"]"#, "bad_field", Some("members[1]"));
    add("remove", r##""conversation":"#ops","user":"@bob""##, "bad_field", Some("user"));
    // Fields that only the server may set.
    for (field, value) in [("from", r#""eve""#), ("seq", "7"), ("at", r#""2020-01-01T00:00:00.000Z""#)] {
        add("send", &format!(r#""to":"@bob","text":"hi","{field}":{value}"#), "bad_field", Some(field));
    }
    cases
}

/// Content that is too long, that a store or a terminal cannot represent, or that JSON parsers read differently.
fn bad_content() -> Vec<BadCommand> {
    let mut cases = Vec::new();
    let mut add = |command, fields: &str, code, field| {
        cases.push((command, fields.to_owned(), code, field));
    };
    add("send", r#""to":"@bob","text":"a\u0000b""#, "bad_field", Some("text"));
    add("send", r#""to":"@bob","data":{"a":"\u0000"}"#, "bad_field", Some("data"));
    add("send", r#""to":"@bob","text":"hi","key":"a\nb""#, "bad_field", Some("key"));
    add("send", r#""to":"@bob","text":"hi","key":"""#, "bad_field", Some("key"));
    add("rename", r##""conversation":"#ops","title":"a\u001bb""##, "bad_field", Some("title"));
    add("react", r#""conversation":"@bob","target":1,"emoji":"a b""#, "bad_field", Some("emoji"));
    let long = |bytes| "x".repeat(bytes);
    add("send", &format!(r#""to":"@bob","text":"hi","key":"{}""#, long(129)), "bad_field", Some("key"));
    add("rename", &format!(r##""conversation":"#ops","title":"{}""##, long(201)), "bad_field", Some("title"));
    let text = long(16 * 1024 + 1);
    add("send", &format!(r#""to":"@bob","text":"{text}""#), "too_large", Some("text"));
    add("edit", &format!(r#""conversation":"@bob","target":1,"text":"{text}""#), "too_large", Some("text"));
    add("send", &format!(r#""to":"@bob","data":{{"a":"{text}"}}"#), "too_large", Some("data"));
    let members: Vec<_> = (0..1_001).map(|n| format!(r#""u{n}""#)).collect();
    let members = format!(r#""room":"new","members":[{}]"#, members.join(","));
    add("create", &members, "too_large", Some("members"));
    // JSON that different parsers read differently, such as a repeated name.
    add("send", r#""to":"@bob","text":"hi","text":"ho""#, "bad_field", Some("text"));
    add("send", r#""to":"@bob","data":{"a":1,"a":2}"#, "bad_field", Some("data"));
    add(
        "send",
        &format!(r#""to":"@bob","data":{{"a":{}1{}}}"#, "[".repeat(70), "]".repeat(70)),
        "bad_field",
        Some("data"),
    );
    add(
        "send",
        &format!(r#""to":"@bob","data":{}1{}"#, r#"{"a":"#.repeat(6_000), "}".repeat(6_000)),
        "bad_field",
        Some("data"),
    );
    add("send", r#""to":"@bob","text":"\ud800""#, "bad_field", Some("text"));
    add("send", r#""to":"@bob","text":"cut \ud83d","key":"k""#, "bad_field", Some("text"));
    add("send", r#""to":"@bob","data":{"a":["\ud83d"]}"#, "bad_field", Some("data"));
    add("send", r#""to":"@bob","text":"hi","key":"\ude00""#, "bad_field", Some("key"));
    add("rename", r##""conversation":"#ops","title":"\ud83d""##, "bad_field", Some("title"));
    add("send", r#""to":"@bob","data":{"a":1e999}"#, "bad_field", Some("data"));
    add("sync", r#""conversation":"@bob","after":1e999"#, "bad_field", Some("after"));
    add("send", "\"to\":\"@bob\",\"text\":\"a\nb\"", "bad_frame", None);
    add("send", r#""to":"@bob","text":"hi""text":"ho""#, "bad_frame", None);
    // References to objects that do not exist.
    add("send", r##""to":"#nowhere","text":"hi""##, "not_found", None);
    add("edit", r#""conversation":"@bob","target":9,"text":"hi""#, "not_found", None);
    add("sync", r#""conversation":"@bob","after":9"#, "bad_cursor", None);
    cases
}

/// Texts that are not JSON objects.
fn bad_frames() -> [String; 9] {
    ["hi", "[1]", "[\"ping\",3]", "7", "null", "\"send\"", "{", r#"{"to":"@bob"}{"#, &"[".repeat(10_000)]
        .map(str::to_owned)
}

/// A server with a message from alice to bob and a room of alice's. The test asserts that invalid input changes neither log.
struct UnchangedServer {
    server: Server,
    state_before: String,
}

impl UnchangedServer {
    async fn new() -> Self {
        let server =
            Server::start_with_auth_and(|config| config.limits = config.limits.clone().without_rates()).await;
        let mut alice = server.connects("alice").await;
        alice.says("@bob", "the only message").await;
        alice.makes_room("ops", &["bob"]).await;
        let before = Self::stored_state_as_text(&server).await;
        Self { server, state_before: before }
    }

    async fn stored_state_as_text(server: &Server) -> String {
        let mut alice = server.connects("alice").await;
        let logs = [alice.log("@bob").await, alice.log("#ops").await];
        format!("{logs:?} {:?} {:?}", alice.history("@bob").await, alice.conversations().await)
    }

    /// Asserts that nothing has changed, and that a valid message is stored.
    async fn assert_unchanged(self) {
        assert_eq!(Self::stored_state_as_text(&self.server).await, self.state_before);
        let mut alice = self.server.connects("alice").await;
        assert_eq!(alice.says("@bob", "the second").await, 2);
    }
}

/// The part of a field's path before the first dot, such as `data` of `data.a[0]`. An index before the dot is kept.
fn top_level_field(field: &str) -> &str {
    field.split('.').next().unwrap_or(field)
}

fn assert_error_frame(error: &Value, code: &str, field: Option<&str>, said: &str) {
    let said: String = said.chars().take(200).collect();
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{said} {error}");
    assert_eq!(error["field"].as_str().map(top_level_field), field, "{said} {error}");
    assert_eq!(error["retryable"], false, "{said} {error}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{said} {error}");
}

fn assert_problem(answer: &Answer, code: &str, field: Option<&str>, said: &str) {
    let said: String = said.chars().take(200).collect();
    let problem = answer.problem();
    assert_eq!(problem["code"], code, "{said} {problem}");
    assert_eq!(problem["field"].as_str().map(top_level_field), field, "{said} {problem}");
    assert_eq!(problem["retryable"], false, "{said} {problem}");
    let status = match code {
        "bad_frame" | "bad_field" | "bad_cursor" => 400,
        "not_found" | "unknown_type" => 404,
        "too_large" => 413,
        other => panic!("{other}"),
    };
    assert_eq!(answer.status, status, "{said}");
}

#[tokio::test]
async fn hostile_14_on_the_websocket_bad_fields_are_named_and_the_connection_stays_open() {
    let unchanged = UnchangedServer::new().await;
    let mut alice = unchanged.server.open_socket_as("alice").await;
    for (n, (command, fields, code, field)) in bad_fields().into_iter().chain(bad_content()).enumerate() {
        let comma = if fields.is_empty() { "" } else { "," };
        let frame = format!(r#"{{"type":"{command}","id":{n}{comma}{fields}}}"#);
        let error = alice.asks(&frame).await;
        assert_error_frame(&error, code, field, &frame);
        if code != "bad_frame" {
            assert_eq!(error["id"], n, "{frame}");
        }
        alice.receives_nothing().await;
    }
    unchanged.assert_unchanged().await;
}

#[tokio::test]
async fn hostile_14_over_http_bad_fields_are_named() {
    let unchanged = UnchangedServer::new().await;
    let token = unchanged.server.token("alice", std::time::Duration::from_secs(60));
    for (command, fields, code, field) in bad_fields().into_iter().chain(bad_content()) {
        let body = format!("{{{fields}}}");
        let answer = post_as(&unchanged.server, &token, command, body.clone()).await;
        assert_problem(&answer, code, field, &body);
    }
    unchanged.assert_unchanged().await;
}

async fn post_as(server: &Server, token: &str, command: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = server.asks("POST", &format!("/v1/{command}")).bearer_auth(token);
    server.request(request.header("content-type", "application/json").body(body)).await
}

#[tokio::test]
async fn hostile_14_on_the_websocket_a_frame_that_is_no_command_is_an_error() {
    let unchanged = UnchangedServer::new().await;
    let mut alice = unchanged.server.open_socket_as("alice").await;
    for frame in bad_frames() {
        assert_error_frame(&alice.asks(&frame).await, "bad_frame", None, &frame);
        alice.receives_nothing().await;
    }
    for (frame, code, field) in [
        ("", "bad_frame", None),
        (r#"{"id":1}"#, "bad_frame", None),
        (r#"{"type":7}"#, "bad_field", Some("type")),
        (r#"{"type":"nonsense","id":1}"#, "unknown_type", None),
        (r#"{"type":"SEND"}"#, "unknown_type", None),
        (r#"{"type":"ping","id":{}}"#, "bad_field", Some("id")),
        (r#"{"type":"ping","id":18446744073709551616}"#, "bad_field", Some("id")),
        (r#"{"type":"ping","id":1.5}"#, "bad_field", Some("id")),
        (r#"{"type":"ping","type":"ping"}"#, "bad_frame", None),
        (r#"{"type":"ping","as":"bob"}"#, "bad_field", Some("as")),
        (r#"{"type":"hello","user":"bob"}"#, "bad_frame", None),
        (r#"{"type":"watch","users":["bob","a b"]}"#, "bad_field", Some("users[1]")),
    ] {
        assert_error_frame(&alice.asks(frame).await, code, field, frame);
        alice.receives_nothing().await;
    }
    alice.writes(Message::binary(r#"{"type":"ping"}"#)).await;
    assert_error_frame(&alice.receives_json().await, "bad_frame", None, "a binary frame");
    alice.receives_nothing().await;
    unchanged.assert_unchanged().await;
}

#[tokio::test]
async fn hostile_14_over_http_a_body_that_is_no_command_is_an_error() {
    let unchanged = UnchangedServer::new().await;
    let server = &unchanged.server;
    let token = server.token("alice", std::time::Duration::from_secs(60));
    for body in bad_frames() {
        let answer = post_as(server, &token, "send", body.clone()).await;
        assert_problem(&answer, "bad_frame", None, &body);
    }
    let not_utf8 = post_as(server, &token, "send", b"{\"to\":\"@bob\",\"text\":\"\xff\"}".to_vec()).await;
    assert_problem(&not_utf8, "bad_frame", None, "not UTF-8");
    let too_long = post_as(server, &token, "send", vec![b' '; 64 * 1024 + 1]).await;
    assert_problem(&too_long, "too_large", None, "a body over the limit");
    for command in ["nonsense", "SEND", "hello", "watch"] {
        let answer = post_as(server, &token, command, "{}").await;
        assert_problem(&answer, "unknown_type", None, command);
    }
    let form = server.asks("POST", "/v1/send").bearer_auth(&token).body(r#"{"to":"@bob","text":"hi"}"#);
    for request in [
        form.try_clone().expect("a copy"),
        form.try_clone().expect("a copy").header("content-type", "text/plain"),
        form.header("content-type", "application/x-www-form-urlencoded"),
    ] {
        let answer = server.request(request).await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "bad_frame"));
    }
    unchanged.assert_unchanged().await;
}

/// Sends the first frame of a connection. Returns the error that answers it, if any, and the close code.
async fn send_first_frame(server: &Server, frame: Message) -> (Option<Value>, u16) {
    let mut socket: TextSocket = server.open_socket().await;
    socket.writes(frame).await;
    socket.error_and_close_code().await
}

#[tokio::test]
async fn hostile_04_a_first_frame_other_than_hello_closes_the_connection() {
    let unchanged = UnchangedServer::new().await;
    let server = &unchanged.server;
    for (frame, code, close) in [
        (r#"{"type":"send","id":1,"to":"@bob","text":"hi"}"#, "unauthorized", 1008),
        (r#"{"type":"ping"}"#, "unauthorized", 1008),
        (r#"{"type":"nonsense"}"#, "unknown_type", 1008),
        ("{", "bad_frame", 1008),
        (r#"{"type":"hello","tokn":"x"}"#, "bad_field", 1008),
        (r##"{"type":"hello","cursors":{"#a":-1}}"##, "bad_field", 1008),
        (r##"{"type":"hello","cursors":{"#a":1,"#a":2}}"##, "bad_field", 1008),
        (r#"{"type":"hello","device":""}"#, "bad_field", 1008),
        (r#"{"type":"hello"}"#, "unauthorized", 4501),
        (r#"{"type":"hello","user":"alice"}"#, "unauthorized", 4501),
        (r#"{"type":"hello","user":"alice","token":"x"}"#, "bad_field", 4501),
        (r#"{"type":"hello","token":"x"}"#, "unauthorized", 4501),
    ] {
        let (error, closed) = send_first_frame(server, Message::text(frame)).await;
        let error = error.expect(frame);
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{frame}");
        assert_eq!(closed, close, "{frame}");
    }
    assert_eq!(send_first_frame(server, Message::binary("{}")).await, (None, 1008));
    let long = format!(
        r#"{{"type":"hello","token":"{}"}}"#,
        "x".repeat(switchboard_protocol::Limits::default().hello_frame as usize)
    );
    assert_eq!(send_first_frame(server, Message::text(long)).await, (None, 1009));
    unchanged.assert_unchanged().await;
}

#[tokio::test]
async fn hostile_14_malicious_json_is_answered_with_an_error_code() {
    let server = Server::start().await;
    let mut raw = RawSocket::connect(server.address()).await;
    raw.says_hello_as("alice").await;
    let deep = |open: &str, close: &str| {
        format!(
            r#"{{"type":"send","to":"@bob","data":{{"a":{}1{}}}}}"#,
            open.repeat(10_000),
            close.repeat(10_000)
        )
    };
    for text in [deep("[", "]"), deep("{\"a\":", ""), "[".repeat(60_000), "{\"type\":".repeat(6_000)] {
        let (code, _) = raw.is_refused(&text).await;
        assert!(["bad_frame", "bad_field"].contains(&code.as_str()), "{code}");
    }
    for (fields, field) in [
        (r#""to":"@bob","text":"a","text":"b""#, "text"),
        (r#""to":"@bob","data":{"a":1,"a":2}"#, "data"),
        (r#""to":"@bob","data":{"a":"x\u0000y"}"#, "data.a"),
        (r#""to":"@bob","text":"x\u0000y""#, "text"),
        (r#""to":"@bob","text":"hi","reply_to":18446744073709551616"#, "reply_to"),
        (r#""to":"@bob","text":"hi","reply_to":1.5"#, "reply_to"),
        (r#""to":"@bob","text":"hi","unknown":1"#, "unknown"),
        // Fields of messages that only the server may set.
        (r#""to":"@bob","text":"hi","from":"bob""#, "from"),
        (r#""to":"@bob","text":"hi","seq":7"#, "seq"),
        (r#""to":"@bob","text":"hi","at":"2000-01-01T00:00:00.000Z""#, "at"),
        (r#""to":"@bob","text":"hi","conversation":"@bob:carol""#, "conversation"),
        (r#""to":"@bob:carol""#, "text"),
    ] {
        let refused = raw.is_refused(&format!(r#"{{"type":"send",{fields}}}"#)).await;
        assert_eq!(refused, ("bad_field".to_owned(), Some(field.to_owned())), "{fields}");
    }
    for fields in [r#""data":{"a":1e999}"#, r#""text":"\ud800""#, r#""data":{"a":"\udc00x"}"#] {
        let (code, _) = raw.is_refused(&format!(r#"{{"type":"send","to":"@bob",{fields}}}"#)).await;
        assert!(["bad_frame", "bad_field"].contains(&code.as_str()), "{fields}: {code}");
    }
    let (code, field) = raw.is_refused(r#"{"type":"ping","id":18446744073709551616}"#).await;
    assert_eq!((code.as_str(), field.as_deref()), ("bad_field", Some("id")));
    raw.is_still_open().await;
    let mut alice = server.connects("alice").await;
    assert!(alice.conversations().await.is_empty(), "nothing was stored");
    assert_eq!(alice.stores("send", json!({"to": "@bob", "text": "hi"})).await.seq, 1);
}
