//! What the server's log says about connections, in both of its formats.

use serde_json::json;

use crate::support::log::{FORMATS, LogLine, log_of_server, only_line};
use crate::support::{Process, RawSocket, TextSocket, eventually};

/// Waits until the server has `count` open connections.
async fn wait_for_connections(server: &Process, count: usize) {
    let line = format!("\nswitchboard_connections {count}\n");
    let there = async || server.gets("/metrics").await.text.contains(&line).then_some(());
    eventually(&format!("{count} connections"), there).await;
}

/// The log line about this connection that has this message.
fn line_about_connection<'a>(lines: &'a [LogLine], message: &str, connection: &str) -> &'a LogLine {
    let of_connection = |line: &&LogLine| line.field("connection").as_deref() == Some(connection);
    let found: Vec<_> = lines.iter().filter(|line| line.has_message(message)).filter(of_connection).collect();
    assert_eq!(found.len(), 1, "{message} of {connection} in {lines:#?}");
    found[0]
}

fn number_field(line: &LogLine, field: &str) -> u64 {
    let value = line.field(field).unwrap_or_else(|| panic!("{field} in {line:?}"));
    value.parse().unwrap_or_else(|e| panic!("{e}: {field} in {line:?}"))
}

#[tokio::test]
async fn the_end_of_a_connection_is_logged_with_its_code_reason_user_address_and_counts() {
    for format in FORMATS {
        let (mut of_alice, mut of_bob) = (String::new(), String::new());
        let lines = log_of_server(format, &[], async |server| {
            let mut alice = server.connects("alice").await;
            let mut bob = server.connects("bob").await;
            (of_alice, of_bob) = (alice.welcome.connection.clone(), bob.welcome.connection.clone());
            alice.says("@bob", "one").await;
            alice.says("@bob", "two").await;
            bob.receives_message("one").await;
            bob.receives_message("two").await;
            drop(alice);
            wait_for_connections(server, 1).await;
            bob
        })
        .await;
        for (connection, user, code, reason, received, sent) in [
            (&of_alice, "alice", "1006", "disconnected", 3, 3),
            (&of_bob, "bob", "1012", "server_stops", 1, 4),
        ] {
            let line = line_about_connection(&lines, "connection closed", connection);
            for (field, value) in [
                ("user", user),
                ("address", "127.0.0.1"),
                ("code", code),
                ("reason", reason),
                ("suppressed", "0"),
            ] {
                assert_eq!(line.field(field).as_deref(), Some(value), "{field} of {line:?}");
            }
            assert!(
                number_field(line, "received") >= received && number_field(line, "sent") >= sent,
                "{line:?}"
            );
            assert!(number_field(line, "duration_ms") < 60_000, "{line:?}");
        }
    }
}

#[tokio::test]
async fn each_refusal_of_a_connection_is_logged_with_its_id_user_and_address() {
    for format in FORMATS {
        let mut connection = String::new();
        let lines = log_of_server(format, &[("SWITCHBOARD_LOG_LEVEL", "info")], async |server| {
            let mut alice = server.connects("alice").await;
            connection.clone_from(&alice.welcome.connection);
            // The session itself refuses the first of these commands; the store's writer refuses the second.
            alice.is_refused("history", json!({"conversation": "#nowhere"})).await;
            alice.is_refused("edit", json!({"conversation": "#nowhere", "target": 1, "text": "x"})).await;
            alice.is_refused("send", json!({"to": "#nowhere", "text": " "})).await;
        })
        .await;
        let refused: Vec<_> = lines.iter().filter(|line| line.has_message("refused a command")).collect();
        let codes: Vec<_> = refused.iter().filter_map(|line| line.field("code")).collect();
        assert_eq!(codes, ["not_found", "bad_field"], "one line a second for each code: {refused:?}");
        for line in refused {
            assert_eq!(line.field("connection"), Some(connection.clone()), "{line:?}");
            assert_eq!(line.field("user").as_deref(), Some("alice"), "{line:?}");
            assert_eq!(line.field("address").as_deref(), Some("127.0.0.1"), "{line:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_by_the_writer_is_logged_although_the_log_shows_warnings_only() {
    for format in FORMATS {
        let settings = [("SWITCHBOARD_LOG_LEVEL", "warn"), ("SWITCHBOARD_LIMITS_DIRECTS_PER_MINUTE", "1")];
        let mut connection = String::new();
        let lines = log_of_server(format, &settings, async |server| {
            let mut alice = server.connects("alice").await;
            connection.clone_from(&alice.welcome.connection);
            alice.says("@bob", "hi").await;
            while alice.tries("send", json!({"to": "@carol", "text": "hi"})).await.is_ok() {}
        })
        .await;
        let line = line_about_connection(&lines, "a limit refused a command", &connection);
        assert_eq!(line.field("code").as_deref(), Some("rate_limited"), "{line:?}");
        assert_eq!(line.field("user").as_deref(), Some("alice"), "{line:?}");
    }
}

#[tokio::test]
async fn a_failed_login_is_logged_with_the_connection() {
    for format in FORMATS {
        let lines = log_of_server(format, &[("SWITCHBOARD_LOG_LEVEL", "debug")], async |server| {
            let mut socket = TextSocket::open(&format!("ws://{}/v1/ws", server.address())).await;
            socket.says(r#"{"type":"hello","token":"in-confidence"}"#).await;
            socket.error_and_close_code().await;
        })
        .await;
        let line = only_line(&lines, "a client was turned away");
        let connection = line.field("connection").expect("a connection");
        assert_eq!(line.field("reason").as_deref(), Some("malformed_token"), "{line:?}");
        let end = line_about_connection(&lines, "unauthenticated connection closed", &connection);
        assert_eq!(end.field("code").as_deref(), Some("4501"), "{end:?}");
        assert_eq!(end.field("reason").as_deref(), Some("unauthorized"), "{end:?}");
        assert!(!format!("{lines:?}").contains("in-confidence"), "{lines:?}");
    }
}

#[tokio::test]
async fn a_slow_consumer_is_logged_with_its_lag() {
    let settings = [
        ("SWITCHBOARD_LIMITS_SENDS_PER_USER", "0"),
        ("SWITCHBOARD_LIMITS_SENDS_PER_CONNECTION", "0"),
        ("SWITCHBOARD_LIMITS_FRAMES_PER_CONNECTION", "0"),
    ];
    let text = "x".repeat(16_000);
    for format in FORMATS {
        let lines = log_of_server(format, &settings, async |server| {
            let mut bob = RawSocket::connect_with_buffer(server.address(), 4_096).await;
            bob.says_hello_with(&server.token("bob")).await;
            let mut alice = server.connects("alice").await;
            while server.gets("/metrics").await.text.contains("\nswitchboard_catching_up 0\n") {
                alice.says("@bob", &text).await;
            }
            alice.says("@bob", &text).await;
        })
        .await;
        let line = only_line(&lines, "slow consumer");
        assert_eq!(line.field("user").as_deref(), Some("bob"), "{line:?}");
        assert_eq!(line.field("address").as_deref(), Some("127.0.0.1"), "{line:?}");
        assert!(line.field("connection").is_some_and(|id| !id.is_empty()), "{line:?}");
        assert_eq!(number_field(line, "lag_conversations"), 1, "{line:?}");
        assert!(number_field(line, "lag_events") >= 1, "{line:?}");
    }
}
