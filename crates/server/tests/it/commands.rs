//! The operator's commands on a running server: `who`, `kick`, `rooms` and `sizes`.

use std::net::SocketAddr;

use serde_json::{Value, json};
use switchboard::config::{Config, Secret};
use switchboard_client::Client;
use switchboard_protocol::Hello;
use switchboard_store::clock::Clock;
use tokio::sync::Mutex;

use crate::operator::{run_successfully, run_to_failure};
use crate::support::log::{FORMATS, log_of_server, only_line};
use crate::support::{Answer, Cluster, Person, Server, SharedEngines, eventually, in_time};

/// The close code of a connection that an operator has closed.
const KICKED_CLOSE_CODE: Option<u16> = Some(4410);

const OPERATORS_TOKEN: &str = "a token of operators that is long enough";

fn with_operators_listener(config: &mut Config) {
    config.operator_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
}

/// Runs a command on a server, and reads its JSON.
async fn run_for_json(server: &Server, words: &[&str]) -> Value {
    let address = server.operators().to_string();
    let output = run_successfully(&[words, &["--operator-listen", &address, "--json"]].concat()).await;
    serde_json::from_str(&output).expect("JSON")
}

/// Runs a command on a server, and returns the text for people.
async fn run_for_text(server: &Server, words: &[&str]) -> String {
    let address = server.operators().to_string();
    run_successfully(&[words, &["--operator-listen", &address]].concat()).await
}

/// Connects a user on a device.
async fn connects_on_device(server: &Server, name: &str, device: &str) -> Person {
    let device = serde_json::from_value(json!(device)).expect("a device");
    let hello = Hello { device: Some(device), ..server.hello(name, &[]) };
    let (client, welcome) = in_time("welcome", Client::connect(&server.url(), hello)).await.expect("welcome");
    Person::new(client, welcome)
}

fn fields_of_list<'a>(answer: &'a Value, list: &str, field: &str) -> Vec<&'a Value> {
    answer[list].as_array().expect("a list").iter().map(|one| &one[field]).collect()
}

#[tokio::test]
async fn who_lists_the_connections_of_a_user_with_what_waits_for_each() {
    let server = Server::start_with(|config| {
        with_operators_listener(config);
        config.node_name = "chat-1".parse().ok();
        config.limits.queue = 40_000;
    })
    .await;
    let alice = Mutex::new(connects_on_device(&server, "alice", "phone").await);
    let stalled = server.open_socket_as("bob").await;
    let answer = run_for_json(&server, &["who", "alice"]).await;
    let [one] = answer["connections"].as_array().expect("a list").as_slice() else { panic!("{answer}") };
    assert_eq!((&one["user"], &one["device"]), (&json!("alice"), &json!("phone")), "{one}");
    assert_eq!((&one["node"], &one["address"]), (&json!("chat-1"), &json!("127.0.0.1")), "{one}");
    assert_eq!((&one["waiting_bytes"], &one["lag_events"]), (&json!(0), &json!(0)), "{one}");
    assert!(one["idle_ms"].as_u64().is_some_and(|ms| ms < 20_000) && one["since"].is_string(), "{one}");
    let text = "x".repeat(10_000);
    let lag = eventually("bob reads too slowly", async || {
        alice.lock().await.says("@bob", &text).await;
        let answer = run_for_json(&server, &["who"]).await;
        let slowest = answer["connections"][0].clone();
        (slowest["lag_events"].as_u64()? > 0).then_some((answer, slowest))
    });
    let (answer, slowest) = lag.await;
    assert_eq!((&slowest["user"], &slowest["lag_conversations"]), (&json!("bob"), &json!(1)), "{slowest}");
    assert!(slowest["waiting_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{slowest}");
    assert_eq!((&answer["totals"]["connections"], &answer["totals"]["users"]), (&json!(2), &json!(2)));
    let table = run_for_text(&server, &["who", "--limit", "1"]).await;
    assert!(table.starts_with("node chat-1: 2 connections of 2 users; "), "{table}");
    assert!(table.contains("\nUSER  NODE    CONNECTION ") && table.contains("\nbob   chat-1  "), "{table}");
    assert!(!table.contains("alice"), "{table}");
    drop(stalled);
    assert_eq!(run_for_text(&server, &["who", "nobody"]).await, "no connections\n");
}

#[tokio::test]
async fn kick_closes_the_connections_of_a_user_with_4410() {
    let server = Server::start_with(with_operators_listener).await;
    let mut phone = connects_on_device(&server, "alice", "phone").await;
    let mut laptop = connects_on_device(&server, "alice", "laptop").await;
    let mut other = server.connects("bob").await;
    let answer = run_for_json(&server, &["kick", "alice", "--device", "phone", "--reason", "a loop"]).await;
    assert_eq!(fields_of_list(&answer, "closed", "device"), [&json!("phone")], "{answer}");
    assert_eq!(phone.is_closed().await, KICKED_CLOSE_CODE);
    laptop.says("@bob", "still here").await;
    let id = run_for_json(&server, &["who", "alice"]).await["connections"][0]["connection"].clone();
    let id = id.as_str().expect("an id");
    let said = run_for_text(&server, &["kick", "alice", "--connection", id]).await;
    assert_eq!(said, "closed 1 connections of alice\n");
    assert_eq!(laptop.is_closed().await, KICKED_CLOSE_CODE);
    let address = server.operators().to_string();
    let (_, error) = run_to_failure(&["kick", "alice", "--operator-listen", &address]).await;
    assert!(error.contains("alice has no such connection"), "{error}");
    assert_eq!(server.connects("alice").await.says("@bob", "back").await, 2, "the client may reconnect");
    other.receives_message("still here").await;
    let metrics = server.gets_as_operator("/metrics").await.text;
    assert!(metrics.contains(r#"switchboard_dropped_total{reason="kicked"} 2"#), "{metrics}");
}

#[tokio::test]
async fn a_kick_is_logged_in_one_line_with_its_reason() {
    for format in FORMATS {
        // The port is free now, and nothing else on this machine asks for it by number.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let settings = [("SWITCHBOARD_OPERATOR_LISTEN", &*address), ("SWITCHBOARD_NAME", "chat-1")];
        let lines = log_of_server(format, &settings, async |server| {
            let mut alice = server.connects("alice").await;
            run_successfully(&["kick", "alice", "--reason", "a loop", "--operator-listen", &address]).await;
            assert_eq!(alice.is_closed().await, KICKED_CLOSE_CODE);
        })
        .await;
        let line = only_line(&lines, "an operator closed connections");
        let field = |name| line.field(name).unwrap_or_default();
        assert_eq!((field("user"), field("why")), ("alice".into(), "a loop".into()), "{line:?}");
        assert_eq!((field("node"), field("connections")), ("chat-1".into(), "1".into()), "{line:?}");
        let closed = only_line(&lines, "connection closed");
        assert_eq!(closed.field("reason").as_deref(), Some("kicked"), "{closed:?}");
    }
}

#[tokio::test]
async fn who_and_kick_reach_the_connections_on_other_nodes() {
    let shared = SharedEngines::new().await;
    let first = Cluster::start_on(shared, 1, |config| {
        with_operators_listener(config);
        config.node_name = "chat-1".parse().ok();
    })
    .await;
    let second = Server::start_with(|config| {
        first.shared.configure(config);
        config.node_name = "chat-2".parse().ok();
    })
    .await;
    let (here, mut there) = (first.node(0).connects("alice").await, second.connects("alice").await);
    let nodes = eventually("the nodes know each other", async || {
        let answer = run_for_json(first.node(0), &["who", "alice"]).await;
        (answer["connections"].as_array()?.len() == 2).then(|| answer.clone())
    });
    let nodes = nodes.await;
    assert_eq!(
        fields_of_list(&nodes, "connections", "node"),
        [&json!("chat-1"), &json!("chat-2")],
        "{nodes}"
    );
    assert_eq!(nodes["nodes_without_answer"], json!([]), "{nodes}");
    let id = nodes["connections"][1]["connection"].as_str().expect("an id");
    let answer = run_for_json(first.node(0), &["kick", "alice", "--connection", id]).await;
    assert_eq!(fields_of_list(&answer, "closed", "node"), [&json!("chat-2")], "{answer}");
    assert_eq!(there.is_closed().await, KICKED_CLOSE_CODE);
    drop(here);
}

/// Checks the answers of `rooms` and `sizes`, which are the same on both stores.
async fn assert_rooms_and_sizes(server: &Server) {
    let mut alice = server.connects("alice").await;
    alice.makes_room("large", &["bob", "carol", "dora"]).await;
    alice.makes_room("small", &[]).await;
    for number in 0..5 {
        alice.says("#small", &format!("{number}")).await;
    }
    alice.says("@bob", "not a room").await;
    let answer = run_for_json(server, &["rooms", "--by", "members", "--limit", "2"]).await;
    let rooms = fields_of_list(&answer, "rooms", "name");
    assert!(rooms.contains(&&json!("#large")) && rooms.len() == 2, "{answer}");
    let answer = run_for_json(server, &["rooms", "--by", "events", "--limit", "1"]).await;
    let small = &answer["rooms"][0];
    assert_eq!((&small["name"], &small["last_seq"]), (&json!("#small"), &json!(6)), "{answer}");
    assert_eq!((&small["members"], &small["online_here"]), (&json!(1), &json!(1)), "{answer}");
    assert_eq!(answer["more"], true, "{answer}");
    let answer = run_for_json(server, &["rooms", "--by", "name", "--after", "#large"]).await;
    assert_eq!(fields_of_list(&answer, "rooms", "name"), [&json!("#small")], "{answer}");
    let table = run_for_text(server, &["rooms", "--by", "recent", "--limit", "1"]).await;
    assert!(table.starts_with("ROOM    MEMBERS  ") && table.contains("\n#small  1        1 "), "{table}");

    let sizes = run_for_json(server, &["sizes"]).await;
    assert!(sizes["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{sizes}");
    let database = &sizes["database"];
    assert!(database["database_bytes"].as_u64().is_some_and(|bytes| bytes > 4_096), "{sizes}");
    let names = fields_of_list(database, "tables", "name");
    assert!(names.contains(&&json!("events")) && names.contains(&&json!("members")), "{sizes}");
    let largest = database["largest_conversations"].as_array().expect("a list");
    assert!(largest.iter().any(|one| one["name"] == "#small" && one["events"] == 6), "{sizes}");
    let text = run_for_text(server, &["sizes"]).await;
    assert!(
        text.starts_with("database") && text.contains("\nCONVERSATION ") && text.contains("\nevents "),
        "{text}"
    );
}

#[tokio::test]
async fn rooms_and_sizes_show_what_sqlite_stores() {
    let server = Server::start_with(|config| {
        with_operators_listener(config);
        config.cluster = None;
    })
    .await;
    assert_rooms_and_sizes(&server).await;
    let sizes = run_for_json(&server, &["sizes"]).await;
    let rows = |table: &str| {
        let tables = sizes["database"]["tables"].as_array().expect("a list");
        tables.iter().find(|one| one["name"] == table).expect("the table")["rows"].clone()
    };
    assert!(sizes["database"]["wal_bytes"].is_u64() && rows("users").as_u64() >= Some(4), "{sizes}");
}

#[tokio::test]
async fn rooms_and_sizes_show_what_postgresql_stores() {
    let cluster = Cluster::start_on(SharedEngines::new().await, 1, with_operators_listener).await;
    assert_rooms_and_sizes(cluster.node(0)).await;
}

/// Requests a path of the operators' listener with headers.
async fn gets_as_operator_with_headers(server: &Server, path: &str, headers: &[(&str, &str)]) -> Answer {
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let mut request = http.get(format!("http://{}{path}", server.operators()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    in_time("an answer", Answer::to(request)).await
}

#[tokio::test]
async fn operator_commands_need_the_operators_listener_and_a_local_program_or_the_token() {
    const OPERATORS_PATHS: [&str; 3] = ["/connections", "/rooms", "/sizes"];
    let server = Server::start_with(with_operators_listener).await;
    for path in OPERATORS_PATHS {
        assert_eq!(server.gets(path).await.status, 404, "{path} is not for clients");
        assert_eq!(gets_as_operator_with_headers(&server, path, &[]).await.status, 200, "{path}");
        for (name, value) in [
            ("origin", "http://127.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("host", "rebound.example"),
        ] {
            // A `dev` server answers 421 to a foreign host.
            let status = gets_as_operator_with_headers(&server, path, &[(name, value)]).await.status;
            assert!(matches!(status, 403 | 421), "{path} {name}: {status}");
        }
    }
    // A form of a web page cannot send JSON.
    let form = reqwest::Client::new().post(format!("http://{}/connections/close", server.operators()));
    assert_eq!(in_time("an answer", Answer::to(form.body("{\"user\":\"alice\"}"))).await.status, 415);
    assert_eq!(gets_as_operator_with_headers(&server, "/connections?limit=x", &[]).await.status, 400);
    let server = Server::start_with(|config| {
        with_operators_listener(config);
        config.operator_token = Some(Secret::new(OPERATORS_TOKEN).expect("long enough"));
    })
    .await;
    let right = format!("Bearer {OPERATORS_TOKEN}");
    for path in OPERATORS_PATHS {
        assert_eq!(gets_as_operator_with_headers(&server, path, &[]).await.status, 401, "{path}");
        assert_eq!(
            gets_as_operator_with_headers(&server, path, &[("authorization", "Bearer wrong")]).await.status,
            401,
            "{path}"
        );
        assert_eq!(
            gets_as_operator_with_headers(&server, path, &[("authorization", &right)]).await.status,
            200,
            "{path}"
        );
    }
    let address = server.operators().to_string();
    let (_, error) = run_to_failure(&["who", "--operator-listen", &address]).await;
    assert!(error.contains("401") && error.contains("operators' token"), "{error}");
    assert_eq!(
        gets_as_operator_with_headers(&server, "/livez", &[]).await.status,
        200,
        "probes need no token"
    );
}

#[tokio::test]
async fn both_listeners_answer_with_their_version() {
    let server = Server::start_with(with_operators_listener).await;
    for answer in [server.gets("/version").await, server.gets_as_operator("/version").await] {
        assert_eq!(answer.status, 200);
        let version: Value = serde_json::from_str(&answer.text).expect("JSON");
        assert_eq!(version, json!({"version": env!("CARGO_PKG_VERSION")}));
    }
}

#[tokio::test]
async fn metrics_have_the_sizes_the_limits_the_queues_and_the_age_of_the_backup() {
    let server = Server::start_with(|config| {
        with_operators_listener(config);
        config.cluster = None;
        config.limits.connections = 321;
        config.limits.queue = 40_000;
    })
    .await;
    let metrics = async || server.gets_as_operator("/metrics").await.text;
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|line| line.parse::<f64>().ok())
    };
    let text = metrics().await;
    assert_eq!(value(&text, "switchboard_connections_limit"), Some(321.0), "{text}");
    for name in ["switchboard_replay_lag_events", "switchboard_holes_filled_total"] {
        assert_eq!(value(&text, name), Some(0.0), "{name} in {text}");
    }
    // The server has writes of its own at the start.
    eventually("no write waits", async || {
        (value(&metrics().await, "switchboard_queued_writes") == Some(0.0)).then_some(())
    })
    .await;
    assert!(value(&text, "switchboard_database_size_bytes") > Some(4_096.0), "{text}");
    assert!(value(&text, "switchboard_wal_size_bytes").is_some(), "{text}");
    assert_eq!(value(&text, "switchboard_backup_timestamp_seconds"), None, "there is no backup");
    let place = tempfile::TempDir::new().expect("a directory");
    let (to, data) = (place.path().join("a.db"), server.data().to_str().expect("UTF-8"));
    let to = to.to_str().expect("UTF-8");
    let before = i32::try_from(Clock::system().now().as_millis() / 1_000).expect("before 2038");
    run_successfully(&["backup", to, "--data", data]).await;
    let made = value(&metrics().await, "switchboard_backup_timestamp_seconds").expect("the time");
    let age = made - f64::from(before);
    assert!((0.0..=20.0).contains(&age), "{age}");
    let stalled = server.open_socket_as("bob").await;
    let alice = Mutex::new(server.connects("alice").await);
    let text = "x".repeat(10_000);
    let lag = eventually("bob reads too slowly", async || {
        alice.lock().await.says("@bob", &text).await;
        value(&metrics().await, "switchboard_replay_lag_events").filter(|lag| *lag > 0.0)
    });
    lag.await;
    drop(stalled);
}
