//! `switchboard webhook listen`: the entries of a webhook, for a program that the server cannot reach.

use std::process::Stdio;

use switchboard_store::grant::Scope;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::is_signed;
use crate::keys::key_with;
use crate::support::{Receiver, Reply, Server, in_time};

/// The program, which listens to a server.
struct Listening {
    child: Child,
    printed: Lines<BufReader<ChildStdout>>,
    said: Lines<BufReader<ChildStderr>>,
}

impl Listening {
    fn start(server: &Server, key: &str, flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_switchboard"))
            .args(["webhook", "listen", "--url", &server.page("")])
            .args(flags)
            .env("SWITCHBOARD_TOKEN", key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let printed = BufReader::new(child.stdout.take().expect("its output")).lines();
        let said = BufReader::new(child.stderr.take().expect("its messages")).lines();
        Self { child, printed, said }
    }

    async fn prints(&mut self) -> String {
        in_time("a line", self.printed.next_line()).await.expect("text").expect("a line")
    }

    async fn says(&mut self) -> String {
        in_time("a message", self.said.next_line()).await.expect("text").expect("a line")
    }
}

#[tokio::test]
async fn entries_are_printed_and_sent_on_signed_and_one_that_is_not_taken_holds_up_no_other() {
    let server = Server::start_with_auth().await;
    let key = key_with(&server, "reader", |key| key.with_scopes([Scope::Feed]));
    let mut receiver = Receiver::start().await;
    receiver.answers(|request| Reply::Status(if request.text() == "one" { 500 } else { 204 }));
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &[]).await;
    alice.says("#general", "not in a direct conversation").await;
    alice.says("@bob", "one").await;
    let flags = ["--from", "0", "--types", "message", "--only", "@*", "--forward", receiver.url()];
    let mut listening = Listening::start(&server, &key, &flags);
    let first = listening.says().await;
    let secret = first.strip_prefix("requests are signed with ").expect("the secret").to_owned();
    for (text, status) in [("one", "500"), ("two", "204")] {
        if text == "two" {
            alice.says("@bob", text).await;
        }
        let (line, received) = (listening.prints().await, receiver.next().await);
        assert_eq!((&line, received.text()), (&received.body, text.to_owned()));
        assert!(is_signed(&received, &secret), "{received:?}");
        let said = listening.says().await;
        assert!(said.starts_with(&format!("{}: {status} in ", received.id)), "{said}");
    }
    assert!(receiver.rest().is_empty(), "each once");
}

#[tokio::test]
async fn a_key_that_may_not_read_the_feed_ends_the_program() {
    let server = Server::start_with_auth().await;
    let key = key_with(&server, "actor", |key| key.with_scopes([Scope::Act]));
    let mut listening = Listening::start(&server, &key, &[]);
    let said = listening.says().await;
    assert!(said.starts_with("error: cannot listen to ") && said.contains("forbidden"), "{said}");
    assert!(!in_time("the end", listening.child.wait()).await.expect("it ran").success());
}
