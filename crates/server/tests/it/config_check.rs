//! `switchboard config`: what a check tries and finds, and what it never shows.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::cli::{
    TOKEN_SECRET, run_command, run_successfully, run_to_failure, stdout_and_stderr, switchboard_command,
};
use crate::support::{Process, SharedEngines};

#[tokio::test]
async fn config_check_and_config_show_hide_the_secret() {
    let mut check = switchboard_command(&["config", "check", "--offline"]);
    let good = run_successfully(check.env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET)).await;
    assert_eq!(good, "the configuration is good\n");
    run_to_failure(&mut switchboard_command(&["config", "check"])).await;
    let mut show = switchboard_command(&["config", "show", "--json"]);
    let shown = run_successfully(
        show.env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET).env("SWITCHBOARD_LIMITS_TEXT", "99"),
    )
    .await;
    assert!(!shown.contains(TOKEN_SECRET), "{shown}");
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["limits"]["text"], &shown["auth"]["secret"]), (&json!(99), &json!("(hidden)")));
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("switchboard.toml");
    std::fs::write(&file, run_successfully(&mut switchboard_command(&["config", "default"])).await)
        .expect("written");
    let path = file.to_str().expect("UTF-8");
    let mut check = switchboard_command(&["config", "check", "--offline", "--config", path]);
    run_successfully(check.env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET)).await;
}

#[tokio::test]
async fn config_check_finds_settings_that_cannot_work() {
    let dir = TempDir::new().expect("a directory");
    let (file, fresh) = (dir.path().join("file"), dir.path().join("a/b"));
    std::fs::write(&file, "x").expect("written");
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    for (name, value, words) in [
        ("STORE", "postgres://u:geheim@db/chat?sslmode=prefer".to_owned(), "sslmode=prefer"),
        ("STORE", "postgres://u:geheim@db/chat?sslmod=require".to_owned(), "sslmod"),
        ("STORE", "postgres://u:geheim@db:99999/chat".to_owned(), "port"),
        ("STORE", "host=db user=u password=geheim".to_owned(), "not the address of a PostgreSQL database"),
        ("LISTEN", "127.0.0.1:99999".to_owned(), "an IP address with a port"),
        ("DATA", path(&file), "is not a directory"),
        ("DATA", format!("{}/below", path(&file)), "is not a directory"),
        ("LOG_LEVEL", "info,swichboard=debug".to_owned(), "did you mean switchboard"),
        ("AUTH_SECRET", format!("{TOKEN_SECRET} "), "white space"),
        ("AUTH_SECRET", format!("\u{feff}{TOKEN_SECRET}"), "byte order mark"),
    ] {
        for words_of_command in [&["config", "check"][..], &["config", "check", "--offline"]] {
            let mut check = switchboard_command(words_of_command);
            check.env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET).env("SWITCHBOARD_LISTEN", "127.0.0.1:0");
            let output = run_command(check.env(format!("SWITCHBOARD_{name}"), &value)).await;
            let (stdout, stderr) = stdout_and_stderr(&output);
            assert!(!output.status.success(), "{value}: {stdout}");
            let error = stdout + &stderr;
            assert!(error.contains(words), "{value}: {error}");
            assert!(!error.contains("geheim") && !error.contains(TOKEN_SECRET), "{error}");
        }
    }
    let mut check = switchboard_command(&["config", "check"]);
    check
        .env("SWITCHBOARD_AUTH_SECRET", format!("{TOKEN_SECRET}\n"))
        .env("SWITCHBOARD_LISTEN", "127.0.0.1:0");
    run_successfully(check.env("SWITCHBOARD_DATA", &fresh)).await;
    assert!(!dir.path().join("a").exists(), "a check creates no file");
}

/// Runs a check with these settings. Returns whether it succeeded, and all that it printed.
async fn run_config_check(settings: &[(&str, &str)]) -> (bool, String) {
    let mut check = switchboard_command(&["config", "check"]);
    check.env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET).env("SWITCHBOARD_LISTEN", "127.0.0.1:0");
    let output = run_command(check.envs(settings.iter().copied())).await;
    let (stdout, stderr) = stdout_and_stderr(&output);
    (output.status.success(), stdout + &stderr)
}

#[tokio::test]
async fn config_check_tries_the_database_and_the_addresses_and_accepts_a_running_server() {
    let data = TempDir::new().expect("a directory");
    let path = data.path().to_str().expect("UTF-8");
    let (good, lines) = run_config_check(&[("SWITCHBOARD_DATA", path)]).await;
    assert!(good && lines.contains("does not exist yet"), "{lines}");
    let server = Process::start_production(data.path(), &[], Stdio::null()).await;
    let address = server.address().to_string();
    let settings = [("SWITCHBOARD_DATA", path), ("SWITCHBOARD_LISTEN", &address)];
    let (good, lines) = run_config_check(&settings).await;
    assert!(good && lines.ends_with("the configuration is good\n"), "{lines}");
    assert!(
        lines.contains(&format!("ok       listen: a running switchboard server has {address}")),
        "{lines}"
    );
    assert!(lines.contains("ok       data: ") && lines.contains("; a running server has it"), "{lines}");
    server.kill().await;
    std::fs::write(data.path().join("switchboard.db"), "no database at all, but text").expect("written");
    let other_program = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other_program.local_addr().expect("an address").to_string();
    let (good, lines) =
        run_config_check(&[("SWITCHBOARD_DATA", path), ("SWITCHBOARD_OPERATOR_LISTEN", &address)]).await;
    assert!(!good, "{lines}");
    for part in ["data", "operator.listen"] {
        assert!(lines.contains(&format!("FAILED   {part}: ")), "{lines}");
    }
    assert!(lines.contains("ok       listen: ") && lines.contains("2 of the lines above FAILED"), "{lines}");
}

#[tokio::test]
async fn config_check_connects_to_the_store_and_the_bus_and_shows_no_password() {
    let shared = SharedEngines::new().await;
    let bus = shared.bus.as_ref().expect("a bus");
    let (good, lines) =
        run_config_check(&[("SWITCHBOARD_STORE", shared.store.expose()), ("SWITCHBOARD_BUS", bus.expose())])
            .await;
    assert!(good, "{lines}");
    assert!(
        lines.contains("it has no tables yet") && lines.contains("ok       bus: connected to"),
        "{lines}"
    );
    let nowhere = [
        ("SWITCHBOARD_STORE", "postgres://u:geheim@127.0.0.1:1/chat"),
        ("SWITCHBOARD_BUS", "nats://u:geheim@127.0.0.1:1"),
    ];
    let (good, lines) = run_config_check(&nowhere).await;
    assert!(!good && lines.contains("FAILED   store: ") && lines.contains("FAILED   bus: "), "{lines}");
    assert!(!lines.contains("geheim"), "{lines}");
}

#[tokio::test]
async fn config_check_warns_if_few_files_may_be_open() {
    let mut check = Command::new("sh");
    check.args(["-c", r#"ulimit -n 256; exec "$0" config check"#, env!("CARGO_BIN_EXE_switchboard")]);
    check.env_clear().env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET).env("SWITCHBOARD_LISTEN", "127.0.0.1:0");
    let lines = run_successfully(&mut check).await;
    assert!(
        lines.contains("WARNING  descriptors: the limit of 256 open files lowers limits.connections"),
        "{lines}"
    );
}
