//! The log says the cause of a fault in the words of the system, with the address or the path.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;

use crate::support::log::{LogLine, only_line};
use crate::support::{Process, RawSocket, SharedEngines, eventually};

/// A log in a directory, and the standard error of a server that writes it.
fn open_log_file(data: &Path, name: &str) -> (std::path::PathBuf, Stdio) {
    let log = data.join(name);
    let file = File::create(&log).expect("a file");
    (log, Stdio::from(file))
}

#[tokio::test]
async fn the_start_logs_what_the_database_contains_and_whether_the_last_run_was_killed() {
    let data = TempDir::new().expect("a directory");
    let database = data.path().join("data");
    let settings = [("SWITCHBOARD_LOG_FORMAT", "json")];
    let mut logs = Vec::new();
    for (number, kill) in [true, false, false].into_iter().enumerate() {
        let (log, stderr) = open_log_file(data.path(), &format!("log{number}"));
        let mut server = Process::start_production(&database, &settings, stderr).await;
        server.connects("alice").await.says("@bob", "hi").await;
        let text = if kill {
            server.kill().await;
            std::fs::read_to_string(&log).expect("the log")
        } else {
            let page = server.gets("/metrics").await.text;
            let bytes = |name: &str| {
                let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
                value.unwrap_or_else(|| panic!("{name} in {page}"))
            };
            let (free, size) = (bytes("switchboard_disk_free_bytes"), bytes("switchboard_disk_size_bytes"));
            assert!(free > 0.0 && free < size, "{free} of {size}");
            server.log_after_stop(&log).await
        };
        logs.push(LogLine::read(&text, "json"));
    }
    let unclean =
        |lines: &[LogLine]| lines.iter().any(|line| line.has_message("the last run did not stop cleanly"));
    assert_eq!(logs.iter().map(|lines| unclean(lines)).collect::<Vec<_>>(), [false, true, false]);
    let third = only_line(&logs[2], "the database is open");
    for (field, value) in [("events", "2"), ("conversations", "1")] {
        assert_eq!(third.field(field).as_deref(), Some(value), "{third:?}");
    }
    assert!(third.field("newest_event").is_some_and(|at| at.ends_with('Z')), "{third:?}");
    let first = only_line(&logs[0], "the database is open");
    assert_eq!(
        (first.field("events").as_deref(), first.field("newest_event")),
        (Some("0"), None),
        "{first:?}"
    );
}

#[tokio::test]
async fn the_log_says_when_the_limit_of_open_files_has_lowered_the_limit_of_connections() {
    let data = TempDir::new().expect("a directory");
    let (log, stderr) = open_log_file(data.path(), "log");
    let settings = [("SWITCHBOARD_LOG_FORMAT", "json")];
    // 64 descriptors and 16 for refused connections are reserved.
    let mut server =
        Process::start_production_with_descriptors(90, &data.path().join("data"), &settings, stderr).await;
    let mut people = Vec::new();
    for number in 0..10 {
        people.push(server.connects(&format!("user{number}")).await);
    }
    let mut refused = RawSocket::connect(server.address()).await;
    assert_eq!(refused.upgrade_status("").await, 503);
    drop(people);
    let lines = LogLine::read(&server.log_after_stop(&log).await, "json");
    let line = only_line(&lines, "limits.connections is reached");
    for (field, value) in [("connections", "10"), ("lowered_from", "100000"), ("open_files", "90")] {
        assert_eq!(line.field(field).as_deref(), Some(value), "{field} of {line:?}");
    }
    let settings = only_line(&lines, "started").field("settings").expect("settings");
    assert!(!settings.contains("limits.connections"), "the operator has not set it: {settings}");
}

#[tokio::test]
async fn a_lost_bus_is_logged_with_its_server_and_the_words_of_the_system() {
    let shared = SharedEngines::without_bus().await;
    let data = TempDir::new().expect("a directory");
    let (log, stderr) = open_log_file(data.path(), "log");
    // The port is free, and stays bound to nobody: nothing listens there.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let bus = format!("nats://user:geheim@{free}");
    let settings = [
        ("SWITCHBOARD_LOG_FORMAT", "json"),
        ("SWITCHBOARD_STORE", shared.store.expose()),
        ("SWITCHBOARD_BUS", &bus),
    ];
    let mut server = Process::start_production(data.path(), &settings, stderr).await;
    let is_logged = async || {
        let text = std::fs::read_to_string(&log).expect("the log");
        text.contains("cannot connect to NATS").then_some(())
    };
    eventually("the cause", is_logged).await;
    let text = server.log_after_stop(&log).await;
    assert!(!text.contains("geheim"), "{text}");
    let lines = LogLine::read(&text, "json");
    let line = lines.iter().find(|line| line.field("link").as_deref() == Some("bus")).expect("a line");
    assert!(
        line.has_message(&format!("cannot connect to NATS: nats://{free}: Connection refused")),
        "{line:?}"
    );
    assert_eq!(line.field("servers"), Some(format!("nats://{free}")), "{line:?}");
    assert!(line.field("for_seconds").is_some(), "{line:?}");
}

#[tokio::test]
async fn a_lost_node_is_logged_with_its_users() {
    let shared = SharedEngines::new().await;
    let bus = shared.bus.as_ref().expect("a bus");
    let data = TempDir::new().expect("a directory");
    let start = async |name: &str| {
        let (log, stderr) = open_log_file(data.path(), name);
        let settings = [
            ("SWITCHBOARD_LOG_FORMAT", "json"),
            ("SWITCHBOARD_NAME", name),
            ("SWITCHBOARD_STORE", shared.store.expose()),
            ("SWITCHBOARD_BUS", bus.expose()),
            ("SWITCHBOARD_CLUSTER_BUS_PREFIX", &shared.prefix),
            ("SWITCHBOARD_CLUSTER_LEASE", "1000"),
        ];
        (Process::start_production(data.path(), &settings, stderr).await, log)
    };
    let (mut observer, log) = start("observer").await;
    let (killed, _) = start("killed").await;
    let mut alice = observer.connects("alice").await;
    alice.makes_room("friends", &["bob", "carol"]).await;
    let (bob, carol) = (killed.connects("bob").await, killed.connects("carol").await);
    alice.does("watch", json!({"users": ["bob", "carol"]})).await;
    for _ in 0..2 {
        while !matches!(
            alice.receives_signal().await,
            switchboard_protocol::Signal::Presence { online: true, .. }
        ) {}
    }
    killed.kill().await;
    let is_logged =
        async || std::fs::read_to_string(&log).expect("the log").contains("node lost").then_some(());
    eventually("the lost node", is_logged).await;
    drop((bob, carol));
    let lines = LogLine::read(&observer.log_after_stop(&log).await, "json");
    let line = only_line(&lines, "node lost: no heartbeat for a lease");
    for (field, value) in [("node", "killed"), ("users", "2"), ("names", "bob, carol")] {
        assert_eq!(line.field(field).as_deref(), Some(value), "{field} of {line:?}");
    }
}
