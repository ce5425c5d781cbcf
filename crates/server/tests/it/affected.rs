//! The log names every user and every address that a fault affects, and not only those who retry most.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;

use crate::support::log::{FORMATS, LogLine, log_of_server, only_line};
use crate::support::{Process, RawSocket, TextSocket, eventually};

/// The values of a field in the lines that have a message.
fn field_values(lines: &[LogLine], message: &str, field: &str) -> BTreeSet<String> {
    lines.iter().filter(|line| line.has_message(message)).filter_map(|line| line.field(field)).collect()
}

/// Waits until a metric of the server has a value.
async fn wait_for_metric(server: &Process, metric: &str, value: u64) {
    let line = format!("\n{metric} {value}\n");
    let there = async || server.gets("/metrics").await.text.contains(&line).then_some(());
    eventually(&line, there).await;
}

#[tokio::test]
async fn every_user_whose_commands_are_refused_is_named() {
    let users: BTreeSet<_> = (0..12).map(|number| format!("user{number}")).collect();
    let began = tokio::time::Instant::now();
    let lines = log_of_server("json", &[], async |server| {
        for _ in 0..3 {
            for user in &users {
                let answer = server.posts(&server.token(user), "send", json!({"to": 7}), &[]).await;
                assert_eq!(answer.status, 400, "{answer:?}");
            }
        }
        let mut sockets = Vec::new();
        for user in ["by_socket", "by_another"] {
            let mut person = server.connects(user).await;
            person.is_refused("send", json!({"to": "#nowhere", "text": "hi"})).await;
            sockets.push(person);
        }
        sockets
    })
    .await;
    assert_eq!(
        field_values(&lines, "refused a command", "user").intersection(&users).count(),
        12,
        "{lines:#?}"
    );
    let of_field = lines.iter().filter(|line| line.field("field").as_deref() == Some("to")).count() as u64;
    assert!(of_field <= 12 + began.elapsed().as_secs() + 1, "each once, and one line a second: {lines:#?}");
    let by_socket = field_values(&lines, "refused a command", "user");
    assert!(by_socket.contains("by_socket") && by_socket.contains("by_another"), "{by_socket:?}");
}

#[tokio::test]
async fn every_address_that_is_turned_away_is_named_once() {
    let addresses: BTreeSet<_> = (1..=12).map(|last| Ipv4Addr::new(127, 0, 9, last)).collect();
    let lines = log_of_server("text", &[], async |server| {
        for _ in 0..2 {
            for address in &addresses {
                let mut raw = RawSocket::connect_from(*address, server.address()).await;
                raw.upgrades().await;
                raw.says(r#"{"type":"hello","token":"garbage"}"#).await;
                raw.wait_for_end().await;
            }
        }
    })
    .await;
    let named = field_values(&lines, "a client was turned away", "address");
    assert_eq!(named, addresses.iter().map(ToString::to_string).collect(), "{lines:#?}");
    let doubled = lines.iter().filter(|line| format!("{line:?}").matches("address=").count() > 1).count();
    assert_eq!(doubled, 0, "a line has one address: {lines:#?}");
}

#[tokio::test]
async fn a_token_refused_after_its_signature_was_verified_names_its_user_and_how_late_it_is() {
    const TWO_HOURS: Duration = Duration::from_secs(7_200);
    for format in FORMATS {
        let lines = log_of_server(format, &[("SWITCHBOARD_AUTH_AUDIENCE", "chat")], async |server| {
            assert_eq!(server.posts(&server.token("claire"), "ping", json!({}), &[]).await.status, 401);
        })
        .await;
        let line = only_line(&lines, "a client was turned away");
        assert_eq!(line.field("reason").as_deref(), Some("wrong_claim"), "{line:?}");
        assert_eq!(line.field("user").as_deref(), Some("claire"), "{line:?}");

        let lines = log_of_server(format, &[], async |server| {
            assert_eq!(
                server
                    .posts(&server.token_of_slow_clock("oskar", TWO_HOURS), "ping", json!({}), &[])
                    .await
                    .status,
                401
            );
            let mut socket = TextSocket::open(&format!("ws://{}/v1/ws", server.address())).await;
            let token = server.token_of_slow_clock("amara", TWO_HOURS);
            socket.says(&json!({"type": "hello", "token": token}).to_string()).await;
            assert_eq!(socket.error_and_close_code().await.1, 4401);
            // The signature is wrong, so its claims are not believed.
            let (content, _) = token.rsplit_once('.').expect("a signature");
            let forged = format!("{content}.{}", "A".repeat(43));
            assert_eq!(server.posts(&forged, "ping", json!({}), &[]).await.status, 401);
        })
        .await;
        for (user, reason) in
            [(Some("oskar"), "expired_token"), (Some("amara"), "expired_token"), (None, "wrong_signature")]
        {
            let of_reason = |line: &&LogLine| line.field("reason").as_deref() == Some(reason);
            let of_user = |line: &&LogLine| line.field("user").as_deref() == user;
            let line = lines.iter().filter(of_reason).find(of_user);
            let line = line.unwrap_or_else(|| panic!("{reason} of {user:?} in {lines:#?}"));
            let seconds =
                line.field("expired_seconds").map(|seconds| seconds.parse::<u64>().expect("a number"));
            // Tokens of the tests are valid for an hour.
            assert_eq!(
                seconds.is_some_and(|seconds| (3_600..3_700).contains(&seconds)),
                user.is_some(),
                "{line:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_client_ahead_of_the_log_is_logged_with_its_cursor_and_counted() {
    for format in FORMATS {
        let lines = log_of_server(format, &[], async |server| {
            server.connects("alice").await.says("@bob", "the only message in the backup").await;
            wait_for_metric(server, "switchboard_cursors_ahead_total", 0).await;
            let bob = server.resumes("bob", &[("@alice:bob", 41)]).await;
            let at_head = server.resumes("alice", &[("@alice:bob", 1)]).await;
            wait_for_metric(server, "switchboard_cursors_ahead_total", 1).await;
            (bob, at_head)
        })
        .await;
        let line = only_line(&lines, "a client is ahead of the log: the database was restored from a backup");
        for (field, value) in [
            ("user", "bob"),
            ("conversation", "@alice:bob"),
            ("cursor", "41"),
            ("head", "1"),
            ("address", "127.0.0.1"),
        ] {
            assert_eq!(line.field(field).as_deref(), Some(value), "{field} of {line:?}");
        }
        assert!(format!("{line:?}").contains("WARN"), "{line:?}");
    }
}

#[tokio::test]
async fn connections_that_send_no_hello_are_logged_with_their_addresses() {
    let addresses: BTreeSet<_> = (1..=5).map(|last| Ipv4Addr::new(127, 0, 66, last)).collect();
    let lines = log_of_server("json", &[("SWITCHBOARD_LIMITS_HELLO_TIMEOUT", "50")], async |server| {
        for address in addresses.iter().chain(&addresses) {
            let mut raw = RawSocket::connect_from(*address, server.address()).await;
            raw.upgrades().await;
            assert_eq!(raw.is_closed().await, 4408);
        }
        wait_for_metric(server, "switchboard_dropped_total{reason=\"no_hello\"}", 10).await;
        wait_for_metric(server, "switchboard_dropped_total{reason=\"silent_connection\"}", 0).await;
    })
    .await;
    let named = field_values(&lines, "a client sent no hello in time", "address");
    assert_eq!(named, addresses.iter().map(ToString::to_string).collect(), "{lines:#?}");
    let count = lines.iter().filter(|line| line.has_message("a client sent no hello in time")).count();
    assert_eq!(count, addresses.len(), "each address has one line a minute: {lines:#?}");
}

#[tokio::test]
async fn evicted_strangers_are_logged_with_their_address_and_its_connections() {
    let stranger = Ipv4Addr::new(127, 0, 66, 9);
    let lines = log_of_server("json", &[("SWITCHBOARD_LIMITS_CONNECTIONS", "3")], async |server| {
        let mut open = Vec::new();
        for _ in 0..5 {
            let mut raw = RawSocket::connect_from(stranger, server.address()).await;
            raw.upgrades().await;
            open.push(raw);
        }
        open[0].is_disconnected().await;
        open
    })
    .await;
    let line = lines.iter().find(|line| line.has_message("too many unauthenticated connections"));
    let line = line.unwrap_or_else(|| panic!("no line in {lines:#?}"));
    assert_eq!(line.field("address"), Some(stranger.to_string()), "{line:?}");
    let of_address = line.field("of_address").and_then(|count| count.parse().ok());
    assert!(of_address.is_some_and(|count: u32| (2..=3).contains(&count)), "{line:?}");
}
