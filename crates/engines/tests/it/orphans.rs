//! When the owner of a server ends, no process, file or shared memory of the server remains.

use std::path::Path;
use std::process::Stdio;

use engines::{Nats, Postgres};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::processes;

#[tokio::test]
async fn dropping_a_server_ends_all_its_processes() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let postgres = Postgres::start(&path, &[]).await.unwrap();
    let standby = postgres.start_standby(&path, true).await.unwrap();
    let nats = Nats::start(&path, &[]).await.unwrap();
    assert!(
        processes::processes_in_directory(&path).len() >= 12,
        "{:#?}",
        processes::processes_in_directory(&path)
    );
    // Suspended servers cannot handle SIGTERM, but must end as well.
    standby.pause().unwrap();
    nats.pause().unwrap();
    drop((postgres, standby, nats));
    assert_eq!(processes::processes_in_directory(&path), [""; 0]);
}

#[tokio::test]
async fn a_panic_of_the_owner_ends_all_processes() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let owner = path.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _postgres = Postgres::start(&owner, &[]).await.unwrap();
        panic!("on purpose");
    });
    assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
    assert_eq!(processes::processes_in_directory(&path), [""; 0]);
}

#[tokio::test]
async fn a_killed_postgres_leaves_no_shared_memory() {
    let scratch = TempDir::new().unwrap();
    let mut postgres = Postgres::start(scratch.path(), &[]).await.unwrap();
    let memory = shared_memory_id(scratch.path());
    assert!(is_shared_memory_in_use(&memory));
    postgres.kill().await.unwrap();
    assert!(is_shared_memory_in_use(&memory));
    drop(postgres);
    assert!(!is_shared_memory_in_use(&memory));
}

#[tokio::test]
async fn a_killed_owner_leaves_no_processes_and_no_files() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let mut owner = start_engine_owner(&path).await;
    assert!(
        processes::processes_in_directory(&path).len() >= 8,
        "{:#?}",
        processes::processes_in_directory(&path)
    );
    let memory = shared_memory_id(&path);
    assert!(is_shared_memory_in_use(&memory));
    owner.kill().await.unwrap();
    processes::wait_until_all_ended(&path).await;
    assert!(!is_shared_memory_in_use(&memory));
    let left: Vec<_> = path.read_dir().unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Starts a process that owns a PostgreSQL and a nats-server below a directory.
async fn start_engine_owner(directory: &Path) -> Child {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_engines"));
    owner.env("TMPDIR", directory).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut owner = owner.spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("postgres://"));
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("nats://"));
    owner
}

/// The identifier of a cluster's shared memory, read from its lock file.
fn shared_memory_id(scratch: &Path) -> String {
    let lock = scratch.read_dir().unwrap().flatten().map(|entry| entry.path().join("data/postmaster.pid"));
    let lock = lock.into_iter().find(|lock| lock.exists()).unwrap();
    let lock = std::fs::read_to_string(lock).unwrap();
    lock.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

fn is_shared_memory_in_use(memory: &str) -> bool {
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    segments.lines().any(|line| line.split_whitespace().nth(1) == Some(memory))
}
