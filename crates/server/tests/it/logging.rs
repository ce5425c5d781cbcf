//! A log that cannot be written, and output that nobody reads: the server goes on, and stops in order when it is asked to.

use std::fs::OpenOptions;
use std::io::{Write as _, pipe};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use switchboard_protocol::reply::{Reply, ServerFrame};
use tempfile::TempDir;

use crate::support::{Person, Process, eventually};

/// More connections than files can be open: a line of the log at the start.
const WARNS_AT_THE_START: (&str, &str) = ("SWITCHBOARD_LIMITS_CONNECTIONS", "4000000000");

const EVERYTHING: (&str, &str) = ("SWITCHBOARD_LOG_LEVEL", "trace");

/// Serves, writes and stops in order.
async fn serves_and_stops(mut server: Process, signal: &str) {
    let mut alice = server.connects("alice").await;
    alice.says("@alice", "hi").await;
    server.signal(signal).await;
    stops(&mut server, &mut alice).await;
}

/// The server says goodbye and ends well.
async fn stops(server: &mut Process, person: &mut Person) {
    while !matches!(person.next().await, ServerFrame::Reply(Reply::Bye { .. })) {}
    assert_eq!(person.is_closed().await, Some(1012));
    assert_eq!(server.ends().await.code(), Some(0));
}

/// A value of `/metrics`.
async fn metric(server: &Process, name: &str) -> u64 {
    let text = server.gets("/metrics").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    line.trim().parse().expect("a number")
}

#[tokio::test]
async fn a_log_without_a_reader_ends_nothing() {
    let data = TempDir::new().expect("a directory");
    let (reader, log) = pipe().expect("a pipe");
    drop(reader);
    let settings = [WARNS_AT_THE_START, EVERYTHING];
    let server = Process::serves(data.path(), &settings, Stdio::from(log)).await;
    serves_and_stops(server, "TERM").await;
}

#[tokio::test]
async fn a_reader_of_the_log_that_goes_away_ends_nothing() {
    let data = TempDir::new().expect("a directory");
    let (reader, log) = pipe().expect("a pipe");
    let server = Process::serves(data.path(), &[EVERYTHING], Stdio::from(log)).await;
    drop(reader);
    serves_and_stops(server, "TERM").await;
}

#[tokio::test]
async fn a_log_on_a_full_disk_ends_nothing_and_lost_lines_are_counted() {
    let data = TempDir::new().expect("a directory");
    let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let server = Process::serves(data.path(), &[WARNS_AT_THE_START], Stdio::from(full)).await;
    let lost = async || (metric(&server, "switchboard_log_lines_dropped_total").await > 0).then_some(());
    eventually("a lost line is counted", lost).await;
    serves_and_stops(server, "TERM").await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_delays_nothing() {
    /// What a pipe holds (pipe(7)).
    const FULL: usize = 65_536;
    for signal in ["TERM", "HUP"] {
        let data = TempDir::new().expect("a directory");
        let (_unread, mut log) = pipe().expect("a pipe");
        log.write_all(&[b'\n'; FULL]).expect("room for it");
        let server = Process::serves(data.path(), &[WARNS_AT_THE_START, EVERYTHING], Stdio::from(log)).await;
        serves_and_stops(server, signal).await;
    }
}

#[tokio::test]
async fn output_that_is_read_no_more_ends_nothing() {
    let data = TempDir::new().expect("a directory");
    let (reader, log) = pipe().expect("a pipe");
    let mut server = Process::start_with_log(data.path(), &[EVERYTHING], Stdio::from(log)).await;
    server.stops_being_read();
    drop(reader);
    serves_and_stops(server, "TERM").await;
}

#[tokio::test]
async fn a_terminal_that_goes_stops_the_server_in_order() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    serves_and_stops(server, "HUP").await;
}

#[tokio::test]
async fn a_terminal_that_is_closed_stops_a_server_that_logs_to_it() {
    let data = TempDir::new().expect("a directory");
    let (emulator, terminal) = pseudoterminal();
    let mut server = Process::serves_in_terminal(data.path(), &[EVERYTHING], terminal).await;
    let mut alice = server.connects("alice").await;
    // The kernel sends SIGHUP, and from now on each write of the log fails.
    drop(emulator);
    stops(&mut server, &mut alice).await;
}

/// A pseudoterminal: the side of the terminal emulator, and the side of the programs that run in it.
fn pseudoterminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let emulator = openpt(flags).expect("a pseudoterminal");
    grantpt(&emulator).expect("access to it");
    unlockpt(&emulator).expect("its other side can be opened");
    let programs = ioctl_tiocgptpeer(&emulator, flags).expect("its other side");
    (emulator, programs)
}

#[tokio::test]
async fn a_start_that_fails_says_so_in_the_format_of_the_log() {
    let data = TempDir::new().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(["dev", "--listen", &taken.local_addr().expect("an address").to_string(), "--data"]);
    command.arg(data.path());
    let text = command.output().expect("it runs");
    assert_eq!(text.status.code(), Some(1));
    let log = String::from_utf8(text.stderr).expect("UTF-8");
    assert!(log.lines().last().is_some_and(|line| line.starts_with("error: cannot listen on ")), "{log}");
    let json = command.env("SWITCHBOARD_LOG_FORMAT", "json").output().expect("it runs");
    assert_eq!(json.status.code(), Some(1));
    let log = String::from_utf8(json.stderr).expect("UTF-8");
    // Each line is JSON; the last says why it did not start.
    let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let line = lines.next_back().expect("a line");
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().is_some_and(|text| text.starts_with("cannot listen on ")), "{line}");
}
