//! A task that the server cannot do without panics or ends: the server says so once, lets its clients go and ends, and a
//! supervisor that starts it again finds everything that was acknowledged.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{Process, Shared};

/// The exit code of a server of which a task has ended by itself.
const FAILED: Option<i32> = Some(70);

/// What became of a server with a fault.
pub(crate) struct Outcome {
    /// With which code its client was closed.
    pub(crate) close: Option<u16>,
    /// From the fault to the end of the process.
    pub(crate) took: Duration,
}

/// Runs a server in which `fault` (a task, and `panic` or `return`) strikes while somebody is there, checks what must hold for
/// every such fault, and starts the server again on the same data.
pub(crate) async fn strikes(fault: &str, settings: &[(&str, &str)]) -> Outcome {
    let place = TempDir::new().expect("a directory");
    let (data, trigger, log) =
        (place.path().join("data"), place.path().join("now"), place.path().join("log"));
    let fault = format!("{fault}@{}", trigger.display());
    let task = fault.split('=').next().expect("a task");
    let faulty = [settings, &[("FAULTS_TASK", &*fault)]].concat();
    let stderr = Stdio::from(File::create(&log).expect("a file"));
    let mut server = Process::serves(&data, &faulty, stderr).await;
    let mut alice = server.connects("alice").await;
    alice.says("@alice", "acknowledged").await;
    let began = Instant::now();
    File::create(&trigger).expect("a file");
    if task == "writer" {
        alice.submits("send", json!({"to": "@alice", "text": "not acknowledged"})).await;
    }
    let close = alice.is_closed().await;
    drop(alice);
    assert_eq!(server.ends().await.code(), FAILED);
    let took = began.elapsed();
    let log = std::fs::read_to_string(log).expect("the log");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.len() == 1 && errors[0].contains(&format!("the {task} has ")), "{log}");

    let server = Process::serves(&data, settings, Stdio::null()).await;
    let log = server.connects("alice").await.log("@alice").await;
    assert_eq!(log.len(), 1, "what was acknowledged is there, and nothing else");
    Outcome { close, took }
}

#[tokio::test]
async fn a_router_that_panics_or_ends_ends_the_server() {
    for end in ["panic", "return"] {
        let outcome = strikes(&format!("router={end}"), &[]).await;
        assert_eq!(outcome.close, Some(1013), "{end}");
    }
}

#[tokio::test]
async fn a_writer_that_panics_ends_the_server() {
    assert_eq!(strikes("writer=panic", &[]).await.close, Some(1013));
}

#[tokio::test]
async fn other_tasks_that_end_end_the_server_after_a_farewell() {
    for fault in ["acceptor=return", "sweep=panic"] {
        assert_eq!(strikes(fault, &[]).await.close, Some(1012), "{fault}");
    }
}

/// The same on a node of a cluster.
pub(crate) async fn strikes_a_node(fault: &str) -> Outcome {
    let shared = Shared::new().await;
    let settings = [
        ("SWITCHBOARD_STORE", shared.store.expose()),
        ("SWITCHBOARD_BUS", shared.bus.as_ref().expect("a bus").expose()),
        ("SWITCHBOARD_CLUSTER_BUS_PREFIX", &*shared.prefix),
    ];
    strikes(fault, &settings).await
}

#[tokio::test]
async fn a_task_of_the_bus_that_ends_ends_the_node() {
    for fault in ["bus subscriptions=return", "bus receiver=panic"] {
        assert_eq!(strikes_a_node(fault).await.close, Some(1012), "{fault}");
    }
}
