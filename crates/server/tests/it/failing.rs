//! A required task panics or returns: the server logs it once, closes its connections and exits, and after a restart every
//! acknowledged event is there.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{Process, SharedEngines};

/// The exit code of a server after a task has failed.
const TASK_FAILED_EXIT_CODE: Option<i32> = Some(70);

/// How a server with a failed task ended.
pub(crate) struct Outcome {
    /// The close code that the client of the server received.
    pub(crate) close_code: Option<u16>,
    /// The time from the fault to the exit of the process.
    pub(crate) time_until_exit: Duration,
}

/// Runs a server with a client and triggers `fault`: a task's name with `panic` or `return`. Asserts what must hold after every
/// fault of a task, and starts the server again on the same data.
pub(crate) async fn run_with_fault(fault: &str, settings: &[(&str, &str)]) -> Outcome {
    let place = TempDir::new().expect("a directory");
    let (data, trigger, log) =
        (place.path().join("data"), place.path().join("now"), place.path().join("log"));
    let fault = format!("{fault}@{}", trigger.display());
    let task = fault.split('=').next().expect("a task");
    let faulty = [settings, &[("FAULTS_TASK", &*fault)]].concat();
    let stderr = Stdio::from(File::create(&log).expect("a file"));
    let mut server = Process::start_production(&data, &faulty, stderr).await;
    let mut alice = server.connects("alice").await;
    alice.says("@alice", "acknowledged").await;
    let began = Instant::now();
    File::create(&trigger).expect("a file");
    if task == "writer" {
        alice.submits("send", json!({"to": "@alice", "text": "not acknowledged"})).await;
    }
    let close_code = alice.is_closed().await;
    drop(alice);
    assert_eq!(server.wait_for_exit().await.code(), TASK_FAILED_EXIT_CODE);
    let took = began.elapsed();
    let log = std::fs::read_to_string(log).expect("the log");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.len() == 1 && errors[0].contains(&format!("the {task} has ")), "{log}");

    let server = Process::start_production(&data, settings, Stdio::null()).await;
    let log = server.connects("alice").await.log("@alice").await;
    assert_eq!(log.len(), 1, "the acknowledged message is stored, and no other");
    Outcome { close_code, time_until_exit: took }
}

#[tokio::test]
async fn the_server_exits_when_the_router_panics_or_returns() {
    for end in ["panic", "return"] {
        let outcome = run_with_fault(&format!("router={end}"), &[]).await;
        assert_eq!(outcome.close_code, Some(1013), "{end}");
    }
}

#[tokio::test]
async fn the_server_exits_when_the_writer_panics() {
    assert_eq!(run_with_fault("writer=panic", &[]).await.close_code, Some(1013));
}

#[tokio::test]
async fn the_server_sends_bye_and_exits_when_another_task_returns() {
    for fault in ["acceptor=return", "sweep=panic"] {
        assert_eq!(run_with_fault(fault, &[]).await.close_code, Some(1012), "{fault}");
    }
}

/// Like [`run_with_fault`], on a node of a cluster.
pub(crate) async fn run_node_with_fault(fault: &str) -> Outcome {
    let shared = SharedEngines::new().await;
    let settings = [
        ("SWITCHBOARD_STORE", shared.store.expose()),
        ("SWITCHBOARD_BUS", shared.bus.as_ref().expect("a bus").expose()),
        ("SWITCHBOARD_CLUSTER_BUS_PREFIX", &*shared.prefix),
    ];
    run_with_fault(fault, &settings).await
}

#[tokio::test]
async fn a_node_exits_when_a_bus_task_returns() {
    for fault in ["bus subscriptions=return", "bus receiver=panic"] {
        assert_eq!(run_node_with_fault(fault).await.close_code, Some(1012), "{fault}");
    }
}
