//! What an operator finds in the server's log, in both of its formats.

use std::fs::File;
use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;

use crate::support::log::{FORMATS, LogLine, log_of_server, only_line, output_of_failed_start};
use crate::support::{Process, SharedEngines, eventually};

/// The password in every setting that may contain one; it must not appear in the log.
const URL_PASSWORD: &str = "geheim";

#[tokio::test]
async fn the_start_is_logged_with_the_settings_that_differ_and_without_secrets() {
    for format in FORMATS {
        let settings = [
            ("SWITCHBOARD_LIMITS_REPLAY", "77"),
            ("SWITCHBOARD_ALLOWED_ORIGINS", "https://chat.example.com"),
            ("SWITCHBOARD_OPERATOR_LISTEN", "127.0.0.1:0"),
        ];
        let mut address = String::new();
        let lines = log_of_server(format, &settings, async |server| {
            address = server.address().to_string();
        })
        .await;
        let started = only_line(&lines, "started");
        assert_eq!(started.field("version").as_deref(), Some(env!("CARGO_PKG_VERSION")), "{started:?}");
        assert_eq!(started.field("address"), Some(address.clone()), "{started:?}");
        assert!(started.field("operator_address").is_some_and(|at| at.starts_with("127.0.0.1:")));
        assert_eq!(started.field("mode").as_deref(), Some("serve"));
        let line = format!("{started:?}");
        for setting in ["limits.replay=77", "https://chat.example.com", "auth.secret=(hidden)"] {
            assert!(line.contains(setting), "{setting} in {line}");
        }
        assert!(!line.contains("limits.frame"), "a default in {line}");
        assert!(!format!("{lines:?}").contains("a secret of the tests"), "{lines:?}");
    }
}

#[test]
fn an_invalid_configuration_is_reported_in_the_log_format() {
    let data = TempDir::new().expect("a directory");
    let file = data.path().join("switchboard.toml");
    let path = file.to_str().expect("UTF-8");
    for (text, variables, format) in [
        ("limts = 1\n[log]\nformat = 'json'", vec![], "json"),
        ("[log]\nformat = 'json'\n[limits]\nframe = = 1", vec![], "json"),
        ("[limits]\nframe = 0", vec![("SWITCHBOARD_LOG_FORMAT", "json")], "json"),
        ("[log]\nformat = 'json'\n[limits]\nframe = 0", vec![("SWITCHBOARD_LOG_FORMAT", "text")], "text"),
        ("[limits]\nframe = 0", vec![], "text"),
    ] {
        std::fs::write(&file, text).expect("written");
        let output = output_of_failed_start(&["dev", "--config", path], &variables, data.path());
        match LogLine::read(&output, format).as_slice() {
            [LogLine::Text(line)] => assert!(line.starts_with("error: "), "{line}"),
            [LogLine::Json(line)] => {
                assert_eq!(line["level"], "ERROR", "{line}");
                assert!(
                    line["message"].as_str().is_some_and(
                        |text| text.contains("switchboard.toml") || text.contains("limits.frame")
                    )
                );
            }
            lines => panic!("{lines:?}"),
        }
    }
}

#[test]
fn no_output_contains_the_password_of_an_address() {
    let data = TempDir::new().expect("a directory");
    let stores = [
        "postgres://u:geheim@127.0.0.1:1/chat",
        "postgres://u:geheim@/chat",
        "postgres://u:x@geheim@127.0.0.1:1/chat",
        "postgres://u:x?geheim@127.0.0.1:1/chat",
        "postgres://u:x/geheim@127.0.0.1:1/chat",
        "postgres://127.0.0.1:1/chat?user=u&password=geheim",
        "postgres://127.0.0.1:1/chat?user=u&pass%77ord=geheim",
        "postgres://127.0.0.1:1/chat?sslmode=prefer&password=geheim",
        "postgres://u:geheim@127.0.0.1:99999/chat",
        "postgres://u:geheim",
        "postgresql:u:geheim@127.0.0.1/chat",
        "host=127.0.0.1 user=u password=geheim",
        "mysql://u:geheim@127.0.0.1/chat",
        "geheim",
    ];
    for format in FORMATS {
        for store in stores {
            let variables = [("SWITCHBOARD_LOG_FORMAT", format), ("SWITCHBOARD_STORE", store)];
            let output = output_of_failed_start(&["serve"], &variables, data.path());
            assert!(!output.contains(URL_PASSWORD) && !output.is_empty(), "{store}: {output}");
            let variables =
                [&variables[..], &[("SWITCHBOARD_AUTH_SECRET", "0123456789abcdef0123456789abcdef")]];
            let output = output_of_failed_start(&["serve"], &variables.concat(), data.path());
            assert!(!output.contains(URL_PASSWORD) && !output.is_empty(), "{store}: {output}");
        }
    }
    for bus in [
        "nats://u:geheim",
        "nats://u:x,geheim@127.0.0.1:4222",
        "nats://u:x/geheim@127.0.0.1:4222",
        "nats://u:x?geheim@127.0.0.1:4222",
        "nats://u:geheim@127.0.0.1:99999",
        "nats://u:x@geheim@bus:4222",
        "nats://127.0.0.1:4222?password=geheim",
        "u:geheim@127.0.0.1",
        "http://u:geheim@127.0.0.1",
    ] {
        let store = ("SWITCHBOARD_STORE", "postgres://u@127.0.0.1:1/chat");
        let variables = [store, ("SWITCHBOARD_BUS", bus)];
        let output = output_of_failed_start(&["config", "check"], &variables, data.path());
        assert!(!output.contains(URL_PASSWORD) && !output.is_empty(), "{bus}: {output}");
    }
}

#[tokio::test]
async fn a_refused_command_is_logged_with_its_request_user_address_and_code() {
    const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    for format in FORMATS {
        let (mut id, mut token) = (String::new(), String::new());
        let lines = log_of_server(format, &[], async |server| {
            token = server.token("alice");
            let trace = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
            let refused = server.posts(&token, "send", json!({"to": 7}), &[("traceparent", &trace)]).await;
            assert_eq!(refused.status, 400, "{refused:?}");
            id = refused.header("x-request-id").to_owned();
        })
        .await;
        let line = only_line(&lines, "refused a command");
        for (field, value) in [
            ("request", id.as_str()),
            ("trace", TRACE_ID),
            ("method", "POST"),
            ("path", "/v1/{command}"),
            ("command", "send"),
            ("user", "alice"),
            ("address", "127.0.0.1"),
            ("code", "bad_field"),
            ("field", "to"),
            ("suppressed", "0"),
        ] {
            assert_eq!(line.field(field).as_deref(), Some(value), "{field} of {line:?}");
        }
        assert!(!id.is_empty() && !format!("{lines:?}").contains(&token), "{lines:?}");
    }
}

#[tokio::test]
async fn a_failed_login_is_logged_with_its_request_and_address_and_without_the_token() {
    const TOKEN: &str = "eyJ-in-confidence";
    for format in FORMATS {
        let lines = log_of_server(format, &[], async |server| {
            assert_eq!(server.posts(TOKEN, "ping", json!({}), &[]).await.status, 401);
        })
        .await;
        let line = only_line(&lines, "a client was turned away");
        assert_eq!(line.field("reason").as_deref(), Some("malformed_token"), "{line:?}");
        assert_eq!(line.field("address").as_deref(), Some("127.0.0.1"), "{line:?}");
        assert!(line.field("request").is_some_and(|id| !id.is_empty()), "{line:?}");
        assert!(!format!("{lines:?}").contains(TOKEN), "{lines:?}");
    }
}

#[tokio::test]
async fn a_flood_over_a_limit_is_logged_once_a_second_and_hides_no_other_code() {
    let limits = [("SWITCHBOARD_LIMITS_SENDS_PER_USER", "1")];
    for format in FORMATS {
        let began = tokio::time::Instant::now();
        let lines = log_of_server(format, &limits, async |server| {
            let token = server.token("alice");
            for _ in 0..60 {
                server.posts(&token, "send", json!({"to": "@bob", "text": "hi"}), &[]).await;
            }
            server.posts(&token, "send", json!({"to": 7}), &[]).await;
        })
        .await;
        let limited: Vec<_> =
            lines.iter().filter(|line| line.has_message("a limit refused a command")).collect();
        assert!(!limited.is_empty() && limited.len() as u64 <= began.elapsed().as_secs() + 1, "{limited:?}");
        assert_eq!(limited[0].field("code").as_deref(), Some("rate_limited"));
        assert_eq!(limited[0].field("user").as_deref(), Some("alice"), "{limited:?}");
        only_line(&lines, "refused a command");
    }
}

#[tokio::test]
async fn a_node_that_joins_is_lost_comes_back_and_stops_is_logged_by_the_others() {
    let shared = SharedEngines::new().await;
    let bus = shared.bus.as_ref().expect("a bus");
    for format in FORMATS {
        let data = TempDir::new().expect("a directory");
        let settings = [
            ("SWITCHBOARD_LOG_FORMAT", format),
            ("SWITCHBOARD_STORE", shared.store.expose()),
            ("SWITCHBOARD_BUS", bus.expose()),
            ("SWITCHBOARD_CLUSTER_BUS_PREFIX", &shared.prefix),
            ("SWITCHBOARD_CLUSTER_LEASE", "1000"),
        ];
        let log = async |name: &str| {
            let log = data.path().join(name);
            let file = Stdio::from(File::create(&log).expect("a file"));
            let named = [&settings[..], &[("SWITCHBOARD_NAME", name)]].concat();
            (Process::start_production(data.path(), &named, file).await, log)
        };
        let (mut observer, log_of_observer) = log("observer").await;
        let seen = async |message: &str| {
            let there = async || {
                let text = std::fs::read_to_string(&log_of_observer).expect("the log");
                let lines =
                    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect::<String>();
                LogLine::read(&lines, format)
                    .into_iter()
                    .find(|line| line.has_message(message))?
                    .field("node")
            };
            eventually(message, there).await
        };
        let (mut other, log_of_other) = log("other").await;
        assert_eq!(seen("node joined").await, "other");
        other.signal("STOP").await;
        assert_eq!(seen("node lost").await, "other");
        other.signal("CONT").await;
        assert_eq!(seen("node is back").await, "other");
        let started = LogLine::read(&other.log_after_stop(&log_of_other).await, format);
        for line in ["started in cluster mode", "started"] {
            let line = started.iter().rfind(|found| found.has_message(line)).expect("the line");
            assert_eq!(line.field("node").as_deref(), Some("other"), "{line:?}");
        }
        assert_eq!(seen("node stopped").await, "other");
        observer.log_after_stop(&log_of_observer).await;
    }
}
