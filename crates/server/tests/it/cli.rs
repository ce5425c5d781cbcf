//! The command line: output, refusals and exit codes.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use switchboard_client::Client;
use switchboard_protocol::{Hello, Limits, SUBPROTOCOL};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::support::{Person, in_time, user};

pub(crate) const TOKEN_SECRET: &str = "a secret of the tests that is long enough";

/// The program `switchboard` with these arguments, in an environment without settings.
pub(crate) fn switchboard_command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(words).env_clear().kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command until it exits, and returns its output.
pub(crate) async fn run_command(command: &mut Command) -> Output {
    in_time("the program ends", command.output()).await.expect("the program starts")
}

pub(crate) async fn run_successfully(command: &mut Command) -> String {
    let output = run_command(command).await;
    let (stdout, stderr) = stdout_and_stderr(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

/// Runs a command, which must fail, and returns its standard error.
pub(crate) async fn run_to_failure(command: &mut Command) -> String {
    let output = run_command(command).await;
    let (stdout, stderr) = stdout_and_stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    assert_eq!(stdout, "", "{stderr}");
    stderr
}

pub(crate) fn stdout_and_stderr(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (text(&output.stdout), text(&output.stderr))
}

/// A running program whose standard output the test reads line by line.
struct RunningCommand {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl RunningCommand {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::null()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self { child, lines }
    }

    /// Reads the next line that the program prints.
    async fn next_line(&mut self) -> String {
        let line = in_time("a line", self.lines.next_line()).await.expect("readable");
        line.expect("it still runs")
    }

    async fn next_json_line(&mut self) -> Value {
        let line = self.next_line().await;
        serde_json::from_str(&line).expect(&line)
    }

    /// Reads lines until one starts with `beginning`.
    async fn lines_until(&mut self, beginning: &str) -> Vec<String> {
        let mut lines = vec![self.next_line().await];
        while lines.last().is_some_and(|line| !line.starts_with(beginning)) {
            lines.push(self.next_line().await);
        }
        lines
    }

    /// Sends SIGTERM to the program and returns its exit code.
    async fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().expect("it runs");
        let kill = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().await;
        assert!(kill.expect("a shell").success());
        in_time("the program ends", self.child.wait()).await.expect("it ran").code()
    }
}

/// A running program that serves as a chat server.
struct DevServer {
    running: RunningCommand,
    address: String,
    greeting: Vec<String>,
}

impl DevServer {
    async fn start_dev(data: &Path) -> Self {
        Self::start_dev_at("127.0.0.1:0", data).await
    }

    async fn start_dev_at(address: &str, data: &Path) -> Self {
        let data = data.to_str().expect("UTF-8");
        let mut running =
            RunningCommand::start(&mut switchboard_command(&["dev", "--listen", address, "--data", data]));
        let first = running.next_line().await;
        let address = first.strip_prefix("listening on http://").expect(&first).to_owned();
        let greeting = running.lines_until("  curl").await;
        Self { running, address, greeting }
    }

    fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    /// Connects a user to this server.
    async fn connects(&self, name: &str) -> Person {
        let hello = Hello { token: None, user: Some(user(name)), device: None, cursors: Default::default() };
        let (client, welcome) =
            in_time("welcome", Client::connect(&self.url(), hello)).await.expect("welcome");
        Person::new(client, welcome)
    }

    /// The number of messages in `#general` and the head of its log.
    async fn count_general_messages(&self) -> (usize, u64) {
        let mut bob = self.connects("bob").await;
        let head = bob.summary("#general").await.head.0;
        (bob.history("#general").await.len(), head)
    }
}

#[tokio::test]
async fn dev_prints_its_address_and_reuses_existing_data() {
    let data = TempDir::new().expect("a directory");
    let server = DevServer::start_dev(data.path()).await;
    let greeting = server.greeting.join("\n");
    assert!(greeting.contains("NOT FOR PRODUCTION"), "{greeting}");
    for name in ["alice", "bob"] {
        assert!(greeting.contains(&format!("http://{}/#user={name}", server.address)), "{greeting}");
    }
    assert!(greeting.contains(&format!("websocat {}", server.url())), "{greeting}");
    let before = server.count_general_messages().await;
    assert_eq!(before, (3, 4), "a room with a few messages in it");
    let url = server.url();
    run_successfully(&mut switchboard_command(&["send", "#general", "hi", "--user", "alice", "--url", &url]))
        .await;
    assert_eq!(server.running.terminate().await, Some(0));

    let server = DevServer::start_dev(data.path()).await;
    assert_eq!(
        server.count_general_messages().await,
        (4, 5),
        "no message is lost, and the initial ones are not added again"
    );
    assert_eq!(server.running.terminate().await, Some(0));
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_or_port_does_not_start() {
    let data = TempDir::new().expect("a directory");
    let server = DevServer::start_dev(data.path()).await;
    let path = data.path().to_str().expect("UTF-8");
    let output =
        run_to_failure(&mut switchboard_command(&["dev", "--listen", "127.0.0.1:0", "--data", path])).await;
    assert!(output.contains("another switchboard server uses") && output.contains("--data"), "{output}");
    let taken =
        run_to_failure(&mut switchboard_command(&["dev", "--listen", &server.address, "--data", path])).await;
    assert!(taken.contains("another program listens there") && taken.contains("--listen"), "{taken}");
    assert_eq!(server.count_general_messages().await.0, 3, "the first server still works");
}

#[tokio::test]
async fn dev_refuses_to_listen_on_another_address_than_loopback() {
    let data = TempDir::new().expect("a directory");
    let path = data.path().to_str().expect("UTF-8");
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9501"] {
        let output =
            run_to_failure(&mut switchboard_command(&["dev", "--listen", address, "--data", path])).await;
        assert!(output.contains("loopback") && output.contains("switchboard serve"), "{output}");
    }
    assert_eq!(std::fs::read_dir(data.path()).expect("the directory").count(), 0, "no file was created");
}

#[tokio::test]
async fn serve_without_a_secret_fails_with_instructions() {
    let data = TempDir::new().expect("a directory");
    let path = data.path().to_str().expect("UTF-8");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", path];
    let output = run_to_failure(&mut switchboard_command(&serve)).await;
    for word in ["SWITCHBOARD_AUTH_SECRET_FILE", "openssl rand", "switchboard dev"] {
        assert!(output.contains(word), "{output}");
    }
    let output = run_to_failure(switchboard_command(&serve).env("SWITCHBOARD_AUTH_SECRET", "hunter2")).await;
    assert!(output.contains("at least 32 bytes") && !output.contains("hunter2"), "{output}");
}

#[tokio::test]
async fn send_and_tail_print_the_frames_of_the_protocol() {
    let data = TempDir::new().expect("a directory");
    let server = DevServer::start_dev(data.path()).await;
    let url = server.url();
    let mut tail = RunningCommand::start(&mut switchboard_command(&[
        "tail", "#general", "--after", "2", "--json", "--user", "bob", "--url", &url,
    ]));
    for seq in [3, 4] {
        assert_eq!(tail.next_json_line().await["seq"], seq, "a stored event");
    }
    let words = ["send", "#general", "hi\nthere", "--key", "k", "--json", "--user", "alice", "--url", &url];
    let ok: Value =
        serde_json::from_str(&run_successfully(&mut switchboard_command(&words)).await).expect("JSON");
    assert_eq!((&ok["type"], &ok["conversation"], &ok["seq"]), (&json!("ok"), &json!("#general"), &json!(5)));
    let event = tail.next_json_line().await;
    let expected = json!({"type": "message", "conversation": "#general", "seq": 5, "from": "alice",
                        "at": ok["at"], "key": "k", "text": "hi\nthere"});
    assert_eq!(event, expected, "a new event");
    let again: Value =
        serde_json::from_str(&run_successfully(&mut switchboard_command(&words)).await).expect("JSON");
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(5), &json!(true)));

    let other = ["send", "#general", "ho", "--key", "k", "--json", "--user", "alice", "--url", &url];
    let output = run_command(&mut switchboard_command(&other)).await;
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stdout).expect("an error frame");
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("key_conflict")));
    let output = run_to_failure(&mut switchboard_command(&[
        "send", "#nowhere", "hi", "--user", "alice", "--url", &url,
    ]))
    .await;
    assert!(output.starts_with("error: not_found"), "{output}");
}

#[tokio::test]
async fn tail_reconnects_after_a_restart_and_prints_each_event_once() {
    let data = TempDir::new().expect("a directory");
    let server = DevServer::start_dev(data.path()).await;
    let (url, address) = (server.url(), server.address.clone());
    let mut tail = RunningCommand::start(&mut switchboard_command(&[
        "tail", "#general", "--after", "3", "--json", "--user", "bob", "--url", &url,
    ]));
    assert_eq!(tail.next_json_line().await["seq"], 4);
    assert_eq!(server.running.terminate().await, Some(0));
    let path = data.path().to_str().expect("UTF-8");
    let mut again =
        RunningCommand::start(&mut switchboard_command(&["dev", "--listen", &address, "--data", path]));
    again.lines_until("  curl").await;
    for text in ["five", "six"] {
        run_successfully(&mut switchboard_command(&[
            "send", "#general", text, "--user", "alice", "--url", &url,
        ]))
        .await;
    }
    for (seq, text) in [(5, "five"), (6, "six")] {
        let event = tail.next_json_line().await;
        assert_eq!((&event["seq"], &event["text"]), (&json!(seq), &json!(text)));
    }
}

#[tokio::test]
async fn tail_prints_the_events_before_a_removal_that_it_missed() {
    let data = TempDir::new().expect("a directory");
    let server = DevServer::start_dev(data.path()).await;
    let (url, address) = (server.url(), server.address.clone());
    let mut alice = server.connects("alice").await;
    alice.makes_room("ops", &["bob"]).await;
    let mut tail =
        RunningCommand::start(&mut switchboard_command(&["tail", "--json", "--user", "bob", "--url", &url]));
    // When `tail` prints this message, it has connected.
    alice.submits("send", json!({"to": "#ops", "key": "first", "text": "two"})).await;
    let known = async {
        loop {
            tokio::select! {
                event = tail.next_json_line() => return event,
                // waits for: the time until the next attempt, in case `tail` was not connected yet
                () = tokio::time::sleep(Duration::from_millis(100)) => { alice.says("#ops", "again").await; }
            }
        }
    };
    let known = in_time("tail has connected", known).await["seq"].as_u64().expect("a seq");
    alice.client.close().await;
    assert_eq!(server.running.terminate().await, Some(0));

    // This server listens at another address than the one that `tail` uses, so `tail` cannot connect yet.
    let elsewhere = DevServer::start_dev(data.path()).await;
    let mut alice = elsewhere.connects("alice").await;
    let last = alice.says("#ops", "last").await;
    alice.does("remove", json!({"conversation": "#ops", "user": "bob"})).await;
    alice.says("#ops", "without bob").await;
    alice.client.close().await;
    assert_eq!(elsewhere.running.terminate().await, Some(0));

    let again = DevServer::start_dev_at(&address, data.path()).await;
    for seq in known + 1..=last + 1 {
        let event = tail.next_json_line().await;
        let kind = if seq > last { "remove" } else { "message" };
        assert_eq!((&event["seq"], &event["type"]), (&json!(seq), &json!(kind)));
    }
    let mut alice = again.connects("alice").await;
    alice.says("@bob", "elsewhere").await;
    assert_eq!(tail.next_json_line().await["text"], "elsewhere", "tail prints nothing that bob may not see");
}

/// Starts a scripted server, which answers every `hello` with `welcome` and then sends the frames `says`. It runs until the set of
/// tasks is dropped.
async fn start_scripted_server(says: &'static [&'static str], then_closes: bool) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}/v1/ws", listener.local_addr().expect("an address"));
    let mut running = JoinSet::new();
    running.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            #[expect(clippy::result_large_err, reason = "the shape that tungstenite calls")]
            let agree = |_: &Request, mut response: Response| {
                let agreed = SUBPROTOCOL.parse().expect("a header value");
                response.headers_mut().insert("sec-websocket-protocol", agreed);
                Ok(response)
            };
            let mut socket = accept_hdr_async(stream, agree).await.expect("a handshake");
            socket.next().await.expect("hello").expect("a frame");
            let welcome = json!({"type": "welcome", "user": "bob", "connection": "c", "server": "newer/9",
                                 "limits": Limits::default(), "conversations": [], "more": false});
            socket.send(Message::text(welcome.to_string())).await.expect("sent");
            for frame in says {
                socket.send(Message::text(*frame)).await.expect("sent");
            }
            if then_closes {
                drop(socket);
            } else {
                // Keeps the connection open until the client closes it; there is only one.
                while let Some(Ok(_)) = socket.next().await {}
                return;
            }
        }
    });
    (url, running)
}

#[tokio::test]
async fn tail_ignores_unknown_frames_of_a_newer_server() {
    let says = &[
        r##"{"type":"poll","question":"?","conversation":"#a","seq":5,"from":"alice","at":"2026-11-23T12:00:00.000Z"}"##,
        r#"{"type":"sparkle"}"#,
        r#"{"type":"gap"}"#,
        r##"{"type":"message","conversation":"#a","seq":6,"from":"alice","at":"2026-11-23T12:00:00.000Z","key":"k","text":"hi"}"##,
    ];
    let (url, _running) = start_scripted_server(says, false).await;
    let mut tail =
        RunningCommand::start(&mut switchboard_command(&["tail", "--json", "--user", "bob", "--url", &url]));
    let event = tail.next_json_line().await;
    assert_eq!((&event["type"], &event["seq"], &event["question"]), (&json!("poll"), &json!(5), &json!("?")));
    assert_eq!(tail.next_json_line().await["seq"], 6);
}

#[tokio::test]
async fn tail_backs_off_when_the_server_closes_each_connection() {
    let (url, _running) = start_scripted_server(&[], true).await;
    let mut child =
        switchboard_command(&["tail", "--user", "bob", "--url", &url]).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("its notes")).lines();
    let mut waits: Vec<u64> = Vec::new();
    while waits.len() < 3 {
        let line = in_time("a note", lines.next_line()).await.expect("readable").expect("it still runs");
        let wait = line.strip_prefix("reconnecting in ").and_then(|rest| rest.strip_suffix(" ms"));
        waits.extend(wait.map(|wait| wait.parse::<u64>().expect("a number")));
    }
    // Each delay is random, between half of a maximum and the maximum; the maximum doubles each time.
    for (wait, most) in waits.iter().zip([500, 1_000, 2_000]) {
        assert!((most / 2..=most).contains(wait), "{waits:?}");
    }
}

#[tokio::test]
async fn with_a_secret_the_program_makes_tokens_and_api_keys() {
    let data = TempDir::new().expect("a directory");
    let path = data.path().to_str().expect("UTF-8");
    let with_secret = |words: &[&str]| {
        let mut command = switchboard_command(words);
        command.env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET);
        command
    };
    let mut server =
        RunningCommand::start(&mut with_secret(&["serve", "--listen", "127.0.0.1:0", "--data", path]));
    let first = server.next_line().await;
    let address = first.strip_prefix("listening on http://").expect(&first).to_owned();
    let url = format!("ws://{address}/v1/ws");

    let output =
        run_to_failure(&mut switchboard_command(&["send", "@bob", "hi", "--user", "alice", "--url", &url]))
            .await;
    assert!(output.starts_with("error: unauthorized"), "{output}");
    let token = run_successfully(&mut with_secret(&["token", "alice", "--ttl", "1m"])).await;
    let mut send = switchboard_command(&["send", "@bob", "hi", "--json", "--url", &url]);
    let ok = run_successfully(send.env("SWITCHBOARD_TOKEN", token.trim())).await;
    let ok: Value = serde_json::from_str(&ok).expect("JSON");
    assert_eq!(ok["conversation"], "@alice:bob");
    let output: Value =
        serde_json::from_str(&run_successfully(&mut with_secret(&["token", "bob", "--json"])).await)
            .expect("JSON");
    assert_eq!(output["user"], "bob");
    assert!(output["expires"].is_string() && output["token"].is_string(), "{output}");
    let nothing = run_to_failure(&mut switchboard_command(&["token", "alice"])).await;
    assert!(nothing.contains("SWITCHBOARD_AUTH_SECRET_FILE"), "{nothing}");

    // The API key is created while the server is running.
    let made =
        run_successfully(&mut with_secret(&["key", "create", "billing", "--data", path, "--json"])).await;
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let key = made["key"].as_str().expect("a key");
    let page = format!("http://{address}/v1/send");
    let body = json!({"as": "carol", "to": "@bob", "text": "hi"});
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let sends =
        async || http.post(&page).bearer_auth(key).json(&body).send().await.expect("answered").status();
    assert_eq!(sends().await, 200);
    run_successfully(&mut with_secret(&["key", "revoke", "billing", "--data", path])).await;
    for scope in ["act", "feed,admin"] {
        let create = ["key", "create", "blind", "--scope", scope, "--no-text", "--data", path];
        let refused = run_to_failure(&mut with_secret(&create)).await;
        assert!(refused.contains("--no-text does not go with"), "{refused}");
    }
    assert_eq!(sends().await, 401);
    drop(http);
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test]
async fn an_empty_path_or_target_is_an_error() {
    for words in [
        &["serve", "--data", ""][..],
        &["dev", "--data", ""],
        &["backup", "--data", "", "x"],
        &["check", "--data", ""],
        &["key", "list", "--data", ""],
        &["send", "@bob", "--user", "alice", "--data-json", ""],
        &["send", "@bob", "--user", "alice", "--data-json", "[]"],
        &["send", "@bob", "--user", "alice", "--data", ""],
        &["send", "@bob", "hi", "--user", "alice", "--reply-to", "4.5"],
    ] {
        let mut command = switchboard_command(words);
        let output = run_command(command.env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET)).await;
        let (stdout, stderr) = stdout_and_stderr(&output);
        assert!(!output.status.success() && stdout.is_empty(), "{words:?}: {stdout}{stderr}");
        assert!(!stderr.is_empty(), "{words:?}");
    }
}
