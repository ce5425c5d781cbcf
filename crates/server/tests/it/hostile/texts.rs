//! Texts with markup or control characters, and ids outside their alphabet. The test of the page is in `e2e/chat.test.js`:
//! "hostile texts are texts".

use serde_json::json;
use switchboard_protocol::reply::OkBody;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::{Server, in_time, text_of};

const UNUSUAL_TEXTS: [&str; 8] = [
    "<img src=x onerror=alert(1)></div><script>alert(1)</script>",
    "\u{202E}right to left\u{2066} and isolated\u{2067}",
    "a line\r\nSet-Cookie: x=y\r\n\r\n{\"type\":\"ok\"}",
    "\u{1B}[2J\u{1B}]0;title\u{7}\u{9B}31m",
    "\"},{\"type\":\"message\",\"seq\":99",
    "' OR 1=1; DROP TABLE events; --",
    "${jndi:ldap://x} %s%n {{7*7}} ../../etc/passwd",
    "\u{FEFF}\u{FFFF}\u{10FFFF}\u{2028}\u{85}",
];

#[tokio::test]
async fn hostile_27_a_text_is_delivered_unchanged_on_the_websocket_and_over_http() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    for text in UNUSUAL_TEXTS {
        alice.does("send", json!({"to": "@bob", "text": text, "data": {text: [text]}})).await;
        bob.receives_message(text).await;
    }
    let log = bob.log("@alice").await;
    let history = bob.history("@alice").await;
    let page = json!({"as": "bob", "conversation": "@alice"});
    let over_http = server.posts("history", page).await.ok();
    for (number, text) in UNUSUAL_TEXTS.iter().enumerate() {
        assert_eq!(text_of(&log[number]), Some(*text));
        assert_eq!(history[number].text.as_ref().map(|text| text.as_str()), Some(*text));
        let message = &over_http["messages"][number];
        assert_eq!((&message["text"], &message["data"]), (&json!(text), &json!({*text: [text]})));
    }
    let OkBody::Conversations { .. } = bob.does("conversations", json!({})).await else {
        panic!("no conversations")
    };
}

#[tokio::test]
async fn hostile_27_tail_prints_each_message_on_one_line_without_control_characters() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    for text in UNUSUAL_TEXTS {
        alice.says("@bob", text).await;
    }
    let mut tail = Command::new(env!("CARGO_BIN_EXE_switchboard"))
        .args(["tail", "@alice", "--after", "0", "--user", "bob", "--url", &server.url()])
        .env_clear()
        .kill_on_drop(true)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(tail.stdout.take().expect("its output")).split(b'\n');
    for seq in 1..=UNUSUAL_TEXTS.len() {
        let line = in_time("a line", lines.next_segment()).await.expect("readable").expect("it still runs");
        let line = String::from_utf8(line).expect("UTF-8");
        assert!(line.contains(&format!(" @alice:bob {seq} alice: ")), "{line:?}");
        let hostile =
            |c: char| c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        assert!(!line.contains(hostile), "{line:?}");
    }
}

#[tokio::test]
async fn hostile_27_ids_outside_their_alphabet_are_refused() {
    let server = Server::start().await;
    let mut eve = server.open_socket_as("eve").await;
    let ascii = (0..128_u8).map(char::from);
    for letter in ascii.chain("é\u{202E}\u{200B}ａ\u{FEFF}".chars()) {
        let allowed = letter.is_ascii_alphanumeric() || "._~+=|@-".contains(letter);
        for (command, field) in [
            (json!({"type": "send", "to": format!("@a{letter}b"), "text": "hi"}), "to"),
            (json!({"type": "create", "room": format!("a{letter}b")}), "room"),
            (json!({"type": "create", "members": [format!("a{letter}b")]}), "members[0]"),
        ] {
            let answer = eve.asks(&command.to_string()).await;
            if allowed {
                assert_eq!(answer["type"], "ok", "{command} {answer}");
            } else if command["to"] == "@a:b" {
                // This is the direct conversation of two other users, so the user may not see it.
                assert_eq!(answer["code"], "not_found", "{answer}");
            } else {
                assert_eq!(
                    (&answer["code"], &answer["field"]),
                    (&json!("bad_field"), &json!(field)),
                    "{command}"
                );
            }
        }
    }
    eve.receives_nothing().await;
}

#[tokio::test]
async fn hostile_27_an_invisible_text_or_title_is_refused() {
    let server =
        Server::start_with_auth_and(|config| config.limits = config.limits.clone().without_rates()).await;
    let token = server.token("alice", std::time::Duration::from_secs(60));
    let mut alice = server.open_socket_as("alice").await;
    alice.asks(r#"{"type":"send","to":"@bob","text":"\u200b.\u200b"}"#).await;
    alice.asks(r#"{"type":"create","room":"r","title":" x "}"#).await;
    for blank in [
        " ",
        "\n\t",
        "\u{a0}\u{2003}\u{3000}",
        "\u{200b}",
        "\u{200d}\u{feff}",
        "\u{2060}\u{ad} ",
        "\u{3164}",
        "\u{fe0f}",
    ] {
        for (command, field, fields) in [
            ("send", "text", json!({"to": "@bob", "text": blank})),
            ("send", "text", json!({"to": "@bob", "text": blank, "data": {"a": 1}})),
            ("edit", "text", json!({"conversation": "@bob", "target": 1, "text": blank})),
            ("create", "title", json!({"room": "new", "title": blank})),
            ("rename", "title", json!({"conversation": "#r", "title": blank})),
            ("react", "emoji", json!({"conversation": "@bob", "target": 1, "emoji": blank})),
        ] {
            let mut frame = fields.clone();
            frame["type"] = json!(command);
            let error = alice.asks(&frame.to_string()).await;
            assert_eq!(
                (&error["code"], &error["field"]),
                (&json!("bad_field"), &json!(field)),
                "{frame} {error}"
            );
            let problem = server.posts_as(&token, command, fields).await.problem();
            assert_eq!(
                (&problem["code"], &problem["field"]),
                (&json!("bad_field"), &json!(field)),
                "{frame}"
            );
        }
    }
    let page = alice.asks(r#"{"type":"sync","conversation":"@bob"}"#).await;
    assert_eq!(page["head"], 1, "nothing was stored: {page}");
    let missing = alice.asks(r##"{"type":"sync","conversation":"#new"}"##).await;
    assert_eq!(missing["code"], "not_found");
}
