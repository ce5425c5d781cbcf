//! `switchboard import`: it streams files of any size, goes on after a kill, and reads CSV and exports.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{Server, message};
use crate::support::{Process, eventually, in_time, text_of};

fn import(url: &str, source: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.arg("import").arg(source).args(["--url", url]).args(args).kill_on_drop(true);
    command
        .env_remove("SWITCHBOARD_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs an import to its end. Returns whether it succeeded, its report and what it said on stderr.
async fn runs(mut command: Command) -> (bool, String, String) {
    let output = in_time("the import ends", command.output()).await.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

async fn reports(command: Command) -> Value {
    let (is_ok, report, errors) = runs(command).await;
    assert!(is_ok, "{report} {errors}");
    serde_json::from_str(&report).unwrap_or_else(|_| panic!("{report} {errors}"))
}

/// A file of messages into some rooms, the oldest first.
fn write_history(path: &Path, messages: usize) {
    let mut lines = String::new();
    for room in 0..10 {
        let create = json!({"create": format!("#r{room}"), "at": "2019-01-01T00:00:00Z", "from": "shop", "members": ["bob"]});
        writeln!(lines, "{create}").expect("a string");
    }
    for n in 0..messages {
        let at = format!("2019-02-01T{:02}:{:02}:{:02}Z", n / 3_600 % 24, n / 60 % 60, n % 60);
        let line = message(
            &format!("#r{}", n % 10),
            ["bob", "shop"][n / 10 % 2],
            &at,
            &format!("k{n}"),
            &format!("text {n}"),
        );
        writeln!(lines, "{line}").expect("a string");
    }
    std::fs::write(path, lines).expect("written");
}

#[tokio::test]
async fn an_import_goes_on_after_it_and_the_server_were_killed() {
    let (data, files) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let source = files.path().join("history.jsonl");
    write_history(&source, 3_000);
    let server = Process::start(data.path()).await;
    let url = format!("http://{}", server.address());
    let imported = async |server: &Process| {
        let metrics = server.gets("/metrics").await.text;
        let line = metrics.lines().find_map(|line| line.strip_prefix("switchboard_imported_lines_total "));
        line.and_then(|count| count.parse::<f64>().ok()).unwrap_or_default()
    };
    // The importer is killed: the next one goes on, and what was sent twice is a duplicate.
    let mut killed = import(&url, &source, &["--chunk", "5"]).spawn().expect("it runs");
    eventually("some are stored", || async { (imported(&server).await >= 200.0).then_some(()) }).await;
    killed.kill().await.expect("it ran");
    // The server is killed while another one sends.
    let going_on = import(&url, &source, &["--chunk", "5"]).spawn().expect("it runs");
    let before = imported(&server).await;
    eventually("more are stored", || async { (imported(&server).await > before + 100.0).then_some(()) })
        .await;
    server.kill().await;
    drop(going_on);
    let server = Process::start(data.path()).await;
    let url = format!("http://{}", server.address());
    let report = reports(import(&url, &source, &["--json"])).await;
    assert!(report["duplicates"].as_u64() >= Some(300), "{report}");
    let count = |name: &str| report[name].as_u64().unwrap_or_default();
    assert_eq!(count("stored") + count("duplicates"), 3_010, "{report}");
    let mut bob = server.connects("bob").await;
    for room in 0..10 {
        let log = bob.log(&format!("#r{room}")).await;
        let texts: Vec<_> = log.iter().filter_map(text_of).map(ToOwned::to_owned).collect();
        let expected: Vec<_> = (0..300).map(|n| format!("text {}", n * 10 + room)).collect();
        assert_eq!(texts, expected);
    }
    assert_eq!(
        std::fs::read_dir(files.path()).expect("a directory").count(),
        1,
        "no file of positions is left"
    );
}

#[tokio::test]
async fn a_file_of_positions_spares_what_was_sent() {
    let server = Server::start().await;
    let url = server.page("");
    let files = TempDir::new().expect("a directory");
    let source = files.path().join("history.jsonl");
    write_history(&source, 100);
    let whole = std::fs::read_to_string(&source).expect("a file");
    std::fs::write(&source, format!("{whole}no line\n")).expect("written");
    let (is_ok, report, errors) = runs(import(&url, &source, &["--chunk", "7"])).await;
    assert!(!is_ok && errors.contains("line 111"), "{report} {errors}");
    assert!(report.starts_with("110 lines stored, 0 duplicates"), "{report}");
    let report = reports_failure(import(&url, &source, &["--json"])).await;
    assert_eq!((report["skipped"].as_u64(), report["stored"].as_u64()), (Some(110), Some(0)), "{report}");
    // With a file for refused lines it goes on.
    let rejects = files.path().join("rejects.jsonl");
    let rejects_flag = rejects.to_str().expect("UTF-8");
    let report = reports_failure(import(&url, &source, &["--json", "--rejects", rejects_flag])).await;
    assert_eq!(report["refused"], 1, "{report}");
    assert_eq!(std::fs::read_to_string(&rejects).expect("a file"), "no line\n");
}

async fn reports_failure(command: Command) -> Value {
    let (is_ok, report, errors) = runs(command).await;
    assert!(!is_ok, "{report} {errors}");
    serde_json::from_str(&report).unwrap_or_else(|_| panic!("{report} {errors}"))
}

#[tokio::test]
async fn a_csv_file_is_imported_once_and_says_which_line_is_wrong() {
    let server = Server::start().await;
    let url = server.page("");
    let files = TempDir::new().expect("a directory");
    let source = files.path().join("messages.csv");
    let rows = "room,author,created,body,extra\n#c1,bob,2019-01-01 00:00:00,\"hi, all\",1\n#c1,ana,1546300801,hello,2\n#c1,ana,1546300801,hello,2\n@bob,ana,1546300802,psst,3\n";
    std::fs::write(&source, rows).expect("written");
    let columns = "--columns=to=room,from=author,at=created,text=body";
    let args = ["--csv", columns, "--create-rooms", "--json"];
    let report = reports(import(&url, &source, &args)).await;
    assert_eq!((report["stored"].as_u64(), report["duplicates"].as_u64()), (Some(5), Some(0)), "{report}");
    let report = reports(import(&url, &source, &args)).await;
    assert_eq!((report["stored"].as_u64(), report["duplicates"].as_u64()), (Some(0), Some(5)), "{report}");
    let texts: Vec<_> = server
        .connects("ana")
        .await
        .log("#c1")
        .await
        .iter()
        .filter_map(text_of)
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(texts, ["hi, all", "hello", "hello"]);
    std::fs::write(&source, format!("{rows}#c1,bob,tomorrow,x,4\n")).expect("written");
    let (is_ok, _, errors) = runs(import(&url, &source, &args)).await;
    assert!(!is_ok && errors.contains("line 6: at"), "{errors}");
}

/// A small export of a Slack workspace.
fn write_slack(directory: &Path) {
    let write = |path: &str, content: Value| {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, content.to_string()).expect("written");
    };
    write(
        "channels.json",
        json!([{"id": "C1", "name": "general", "created": 1_550_000_000, "creator": "U1", "members": ["U1", "U2"]}]),
    );
    write("dms.json", json!([{"id": "D1", "created": 1_550_000_000, "members": ["U1", "U2"]}]));
    write("users.json", json!([{"id": "U1", "name": "ana"}, {"id": "U2", "name": "bob"}]));
    write(
        "general/2019-02-13.json",
        json!([
            {"type": "message", "subtype": "channel_join", "user": "U2", "text": "<@U2> has joined", "ts": "1550050000.000100"},
            {"type": "message", "user": "U2", "text": "see <https://example.com|this> &amp; <#C1|general>, <@U1>", "ts": "1550050002.000200",
                "reactions": [{"name": "thumbsup", "users": ["U1"], "count": 1}, {"name": "our-own", "users": ["U1", "U2"], "count": 2}]},
            {"type": "message", "user": "U1", "text": "first", "ts": "1550050001.000200"},
        ]),
    );
    write(
        "general/2019-02-14.json",
        json!([
            {"type": "message", "user": "U1", "text": "an answer", "ts": "1550140000.000100", "thread_ts": "1550050002.000200"},
            {"type": "message", "subtype": "bot_message", "bot_id": "B7", "text": "beep", "ts": "1550140001.000100",
                "files": [{"name": "a.png", "url_private": "https://files.slack.com/a.png"}]},
        ]),
    );
    write(
        "D1/2019-02-13.json",
        json!([{"type": "message", "user": "U1", "text": "in private", "ts": "1550050000.000100"}]),
    );
}

#[tokio::test]
async fn an_export_of_slack_becomes_rooms_and_direct_conversations() {
    let server = Server::start().await;
    let files = TempDir::new().expect("a directory");
    let (export, users) = (files.path().join("export"), files.path().join("users.csv"));
    write_slack(&export);
    std::fs::write(&users, "U1,ana\nU2,bob\n").expect("written");
    let args = ["--from", "slack", "--users", users.to_str().expect("UTF-8"), "--json"];
    let report = reports(import(&server.page(""), &export, &args)).await;
    assert_eq!((report["stored"].as_u64(), report["duplicates"].as_u64()), (Some(9), Some(0)), "{report}");
    let report = reports(import(&server.page(""), &export, &args)).await;
    assert_eq!(report["stored"], 0, "{report}");
    let mut ana = server.connects("ana").await;
    let history = serde_json::to_value(ana.history("#general").await).expect("JSON");
    let texts: Vec<_> = history.as_array().expect("messages").iter().map(|one| one["text"].clone()).collect();
    assert_eq!(texts, ["first", "see this (https://example.com) & #general, @ana", "an answer", "beep"]);
    assert_eq!(history[1]["from"], "bob");
    assert!(history[1]["reactions"].to_string().contains("👍"), "{history}");
    assert!(history[1]["reactions"].to_string().contains(":our-own:"), "{history}");
    assert_eq!(history[2]["reply_to"], history[1]["seq"]);
    assert_eq!(
        (&history[3]["from"], &history[3]["data"]["slack"]["files"][0]["name"]),
        (&json!("B7"), &json!("a.png"))
    );
    let direct = ana.log("@ana:bob").await;
    assert_eq!(direct.iter().filter_map(text_of).collect::<Vec<_>>(), ["in private"]);
}

#[tokio::test]
async fn channels_of_stream_become_rooms_and_direct_conversations() {
    let server = Server::start().await;
    let files = TempDir::new().expect("a directory");
    let export = files.path().join("export.json");
    let said = |id: &str, user: &str, second: u32, text: &str| json!({"id": id, "text": text, "type": "regular", "user": {"id": user}, "created_at": format!("2021-02-17T08:17:{second:02}.745857Z")});
    let mut first = said("m1", "ana", 10, "hello");
    first["latest_reactions"] =
        json!([{"type": "love", "user_id": "bob", "created_at": "2021-02-17T08:18:00Z"}]);
    let mut second = said("m2", "bob", 20, "an answer");
    second["parent_id"] = "m1".into();
    second["type"] = "reply".into();
    second["attachments"] =
        json!([{"type": "image", "title": "a cat", "image_url": "https://example.com/cat"}]);
    let mut deleted = said("m3", "bob", 30, "");
    deleted["type"] = "deleted".into();
    let states = json!([
        {
            "channel": {"id": "white-room", "type": "messaging", "name": "White", "created_at": "2021-02-17T08:00:00Z", "created_by": {"id": "ana"}},
            "members": [{"user_id": "ana"}, {"user": {"id": "bob"}}],
            "messages": [second, first, deleted, said("m4", "ana", 40, "late")],
            "read": [{"user": {"id": "bob"}, "last_read": "2021-02-17T08:17:25Z"}],
        },
        {
            "channel": {"id": "!members-x7", "type": "messaging", "created_at": "2021-02-17T08:00:00Z"},
            "members": [{"user_id": "ana"}, {"user_id": "bob"}],
            "messages": [said("m5", "bob", 50, "psst")],
        },
    ]);
    std::fs::write(&export, states.to_string()).expect("written");
    let args = ["--from", "stream", "--json"];
    let report = reports(import(&server.page(""), &export, &args)).await;
    assert_eq!(report["stored"], 7, "{report}");
    assert_eq!(reports(import(&server.page(""), &export, &args)).await["stored"], 0);
    let mut bob = server.connects("bob").await;
    let history = serde_json::to_value(bob.history("#white-room").await).expect("JSON");
    let texts: Vec<_> = history.as_array().expect("messages").iter().map(|one| one["text"].clone()).collect();
    assert_eq!(texts, ["hello", "an answer", "late"]);
    assert_eq!(history[1]["reply_to"], history[0]["seq"]);
    assert!(history[0]["reactions"].to_string().contains('❤'), "{history}");
    assert_eq!(bob.summary("#white-room").await.unread, 1);
    assert_eq!(bob.summary("@ana:bob").await.unread, 0);
}
