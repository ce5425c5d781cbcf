//! `switchboard audit`: the audit log of a running server.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use switchboard_store::grant::Scope;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::keys::key_with;
use crate::support::{Server, in_time};

fn program(server: &Server, key: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(["audit", "--url", &server.page("")]).args(flags).env("SWITCHBOARD_TOKEN", key);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn output(server: &Server, key: &str, flags: &[&str]) -> Output {
    in_time("the end", program(server, key, flags).output()).await.expect("it ran")
}

fn lines(output: &Output) -> Vec<&str> {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).expect("UTF-8").lines().collect()
}

#[tokio::test]
async fn the_audit_log_names_what_was_changed_by_which_key_and_from_where() {
    let server = Server::start_with_auth().await;
    let admin = key_with(&server, "root", |key| key.with_scopes([Scope::Admin]));
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "not in the audit log").await;
    let revoked = server.posts_as(&admin, "revoke", json!({"user": "alice"})).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let printed = output(&server, &admin, &[]).await;
    let [created, logged_out] = lines(&printed)[..] else { panic!("{printed:?}") };
    assert!(created.ends_with("audit.key by cli from - action=create key=root"), "{created}");
    assert!(logged_out.ends_with("audit.revoke by root from 127.0.0.1 user=alice"), "{logged_out}");

    let as_json = output(&server, &admin, &["--json"]).await;
    let entries: Vec<Value> =
        lines(&as_json).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(entries[1]["type"], "audit.revoke", "{entries:?}");
    let from = entries[0]["id"].as_str().expect("an id");
    assert_eq!(lines(&output(&server, &admin, &["--from", from]).await), [logged_out]);
}

#[tokio::test]
async fn what_is_changed_later_is_printed_as_it_happens() {
    let server = Server::start_with_auth().await;
    let admin = key_with(&server, "root", |key| key.with_scopes([Scope::Admin]));
    let mut following = program(&server, &admin, &["--follow"]).spawn().expect("the program starts");
    let mut printed = BufReader::new(following.stdout.take().expect("its output")).lines();
    let mut next = async || in_time("a line", printed.next_line()).await.expect("text").expect("a line");
    assert!(next().await.contains("key=root"));
    assert_eq!(server.posts_as(&admin, "revoke", json!({"user": "bob"})).await.status, 200);
    assert!(next().await.ends_with("user=bob"));
}

#[tokio::test]
async fn a_key_without_the_scope_admin_reads_no_audit_log() {
    let server = Server::start_with_auth().await;
    let reader = key_with(&server, "reader", |key| key.with_scopes([Scope::Feed]));
    for key in [reader.as_str(), "sb_not-a-key"] {
        let refused = output(&server, key, &[]).await;
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("cannot read the audit log"),
            "{refused:?}"
        );
    }
}
