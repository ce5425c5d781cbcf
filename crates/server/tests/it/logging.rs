//! The server keeps running and stops gracefully, even if its log cannot be written or its output is not read.

use std::fs::OpenOptions;
use std::io::{Write as _, pipe};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use switchboard_protocol::reply::{Reply, ServerFrame};
use tempfile::TempDir;

use crate::support::{Person, Process, eventually};

/// This setting allows more connections than the limit of open files, so the server logs a warning at its start.
const WARNING_AT_START: (&str, &str) = ("SWITCHBOARD_LIMITS_CONNECTIONS", "4000000000");

const TRACE_LOG_LEVEL: (&str, &str) = ("SWITCHBOARD_LOG_LEVEL", "trace");

/// Asserts that the server stores a message and stops gracefully.
async fn assert_serves_and_stops(mut server: Process, signal: &str) {
    let mut alice = server.connects("alice").await;
    alice.says("@alice", "hi").await;
    server.signal(signal).await;
    stop_and_expect_bye(&mut server, &mut alice).await;
}

/// Asserts that the server sends `bye` and exits with 0.
async fn stop_and_expect_bye(server: &mut Process, person: &mut Person) {
    while !matches!(person.next().await, ServerFrame::Reply(Reply::Bye { .. })) {}
    assert_eq!(person.is_closed().await, Some(1012));
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}

/// The value of a metric in `/metrics`.
async fn metric_value(server: &Process, name: &str) -> u64 {
    let text = server.gets("/metrics").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    line.trim().parse().expect("a number")
}

#[tokio::test]
async fn the_server_runs_on_when_its_log_has_no_reader() {
    let data = TempDir::new().expect("a directory");
    let (reader, log) = pipe().expect("a pipe");
    drop(reader);
    let settings = [WARNING_AT_START, TRACE_LOG_LEVEL];
    let server = Process::start_production(data.path(), &settings, Stdio::from(log)).await;
    assert_serves_and_stops(server, "TERM").await;
}

#[tokio::test]
async fn the_server_runs_on_when_the_reader_of_its_log_exits() {
    let data = TempDir::new().expect("a directory");
    let (reader, log) = pipe().expect("a pipe");
    let server = Process::start_production(data.path(), &[TRACE_LOG_LEVEL], Stdio::from(log)).await;
    drop(reader);
    assert_serves_and_stops(server, "TERM").await;
}

#[tokio::test]
async fn the_server_runs_on_with_its_log_on_a_full_disk_and_counts_lost_lines() {
    let data = TempDir::new().expect("a directory");
    let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let server = Process::start_production(data.path(), &[WARNING_AT_START], Stdio::from(full)).await;
    let lost =
        async || (metric_value(&server, "switchboard_log_lines_dropped_total").await > 0).then_some(());
    eventually("a lost line is counted", lost).await;
    assert_serves_and_stops(server, "TERM").await;
}

#[tokio::test]
async fn a_full_log_pipe_delays_nothing() {
    /// The capacity of a pipe (pipe(7)).
    const PIPE_BYTES: usize = 65_536;
    for signal in ["TERM", "HUP"] {
        let data = TempDir::new().expect("a directory");
        let (_unread, mut log) = pipe().expect("a pipe");
        log.write_all(&[b'\n'; PIPE_BYTES]).expect("room for it");
        let server =
            Process::start_production(data.path(), &[WARNING_AT_START, TRACE_LOG_LEVEL], Stdio::from(log))
                .await;
        assert_serves_and_stops(server, signal).await;
    }
}

#[tokio::test]
async fn the_server_runs_on_when_its_output_is_closed() {
    let data = TempDir::new().expect("a directory");
    let (reader, log) = pipe().expect("a pipe");
    let mut server = Process::start_with_log(data.path(), &[TRACE_LOG_LEVEL], Stdio::from(log)).await;
    server.close_output();
    drop(reader);
    assert_serves_and_stops(server, "TERM").await;
}

#[tokio::test]
async fn sighup_stops_the_server_gracefully() {
    let data = TempDir::new().expect("a directory");
    let server = Process::start(data.path()).await;
    assert_serves_and_stops(server, "HUP").await;
}

#[tokio::test]
async fn closing_the_terminal_stops_a_server_that_logs_to_it() {
    let data = TempDir::new().expect("a directory");
    let (emulator, terminal) = pseudoterminal();
    let mut server = Process::start_production_in_terminal(data.path(), &[TRACE_LOG_LEVEL], terminal).await;
    let mut alice = server.connects("alice").await;
    // Closing the terminal makes the kernel send SIGHUP to the server; later writes to the log fail.
    drop(emulator);
    stop_and_expect_bye(&mut server, &mut alice).await;
}

/// Opens a pseudoterminal. Returns the end of the terminal emulator, and the end of the programs that run in the terminal.
fn pseudoterminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let emulator = openpt(flags).expect("a pseudoterminal");
    grantpt(&emulator).expect("access to it");
    unlockpt(&emulator).expect("its other side can be opened");
    let programs = ioctl_tiocgptpeer(&emulator, flags).expect("its other side");
    (emulator, programs)
}

#[tokio::test]
async fn a_failed_start_is_reported_in_the_log_format() {
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
    // Each line of the log is JSON; the last line has the reason for the exit.
    let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let line = lines.next_back().expect("a line");
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().is_some_and(|text| text.starts_with("cannot listen on ")), "{line}");
}
