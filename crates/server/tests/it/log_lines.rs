//! What an operator finds in the log of the real program, in both of its formats.

use tempfile::TempDir;

use crate::support::log::{FORMATS, LogLine, log_of_server, only_line, output_of_failed_start};

/// Stands for a password wherever one can be.
const PASSWORD: &str = "geheim";

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
            assert!(!output.contains(PASSWORD) && !output.is_empty(), "{store}: {output}");
            let variables =
                [&variables[..], &[("SWITCHBOARD_AUTH_SECRET", "0123456789abcdef0123456789abcdef")]];
            let output = output_of_failed_start(&["serve"], &variables.concat(), data.path());
            assert!(!output.contains(PASSWORD) && !output.is_empty(), "{store}: {output}");
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
        assert!(!output.contains(PASSWORD) && !output.is_empty(), "{bus}: {output}");
    }
}
