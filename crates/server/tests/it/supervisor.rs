//! The server notifies systemd over a socket: sd_notify(3).

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use switchboard_client::Client;
use switchboard_protocol::Hello;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};

use crate::support::{in_time, user};

fn dev_command(data: &Path, socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command
        .args(["dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .env("NOTIFY_SOCKET", socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

fn start(data: &Path, socket: &Path) -> Child {
    dev_command(data, socket).spawn().expect("the program starts")
}

async fn receives_notification(supervisor: &UnixDatagram) -> String {
    let mut message = [0; 256];
    let length = in_time("word from the server", supervisor.recv(&mut message)).await.expect("received");
    String::from_utf8(message[..length].to_vec()).expect("UTF-8")
}

async fn wait_for_exit(child: &mut Child) -> ExitStatus {
    in_time("the program ends", child.wait()).await.expect("it ran")
}

#[tokio::test]
async fn systemd_is_notified_of_ready_and_stopping() {
    let place = TempDir::new().expect("a directory");
    let socket = place.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket).expect("a socket");
    let mut child = start(&place.path().join("data"), &socket);
    assert_eq!(receives_notification(&supervisor).await, "READY=1\n");
    // The server has notified that it is ready, so a client can connect at once.
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = in_time("a line", lines.next_line()).await.expect("readable").expect("it said before where");
    let address = line.strip_prefix("listening on http://").expect(&line);
    let hello = Hello { token: None, user: Some(user("alice")), device: None, cursors: Default::default() };
    let url = format!("ws://{address}/v1/ws");
    let (client, _) = in_time("welcome", Client::connect(&url, hello)).await.expect("welcome");

    let kill = format!("kill -TERM {}", child.id().expect("it runs"));
    assert!(Command::new("sh").args(["-c", &kill]).status().await.expect("a shell").success());
    assert_eq!(receives_notification(&supervisor).await, "STOPPING=1\n");
    drop(client);
    assert!(wait_for_exit(&mut child).await.success());
}

#[tokio::test]
async fn systemd_is_notified_as_often_as_its_watchdog_requires() {
    let place = TempDir::new().expect("a directory");
    let socket = place.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket).expect("a socket");
    let mut command = dev_command(&place.path().join("data"), &socket);
    let _child = command.env("WATCHDOG_USEC", "100000").spawn().expect("the program starts");
    assert_eq!(receives_notification(&supervisor).await, "READY=1\n");
    for _ in 0..3 {
        assert_eq!(receives_notification(&supervisor).await, "WATCHDOG=1\n");
    }
}

#[tokio::test]
async fn a_server_that_fails_to_start_never_notifies_ready() {
    let place = TempDir::new().expect("a directory");
    let socket = place.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket).expect("a socket");
    let lock = std::fs::File::create(place.path().join("lock")).expect("a file");
    lock.try_lock().expect("no other process has the lock");
    let mut child = start(place.path(), &socket);
    assert_eq!(wait_for_exit(&mut child).await.code(), Some(1));
    let mut message = [0; 256];
    let nothing = supervisor.try_recv(&mut message).expect_err("nothing was said");
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_supervisor_that_does_not_read_does_not_block_the_server() {
    let place = TempDir::new().expect("a directory");
    let mut child = start(&place.path().join("data"), &place.path().join("nobody"));
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = in_time("a line", lines.next_line()).await.expect("readable").expect("it starts");
    assert!(line.starts_with("listening on "), "{line}");
}
