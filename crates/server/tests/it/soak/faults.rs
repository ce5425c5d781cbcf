//! Faults of tasks and disks, in a release build. Tasks that fail on demand need the feature `fault-injection`.

#[cfg(not(any(debug_assertions, feature = "fault-injection")))]
use std::fs::File;
use std::fs::OpenOptions;
use std::process::Stdio;

use serde_json::json;
#[cfg(not(any(debug_assertions, feature = "fault-injection")))]
use tempfile::TempDir;
use tokio::time::Instant;

use super::small_disk::SmallDisk;
use crate::support::{Process, eventually};

#[cfg(any(debug_assertions, feature = "fault-injection"))]
mod injected {
    use std::time::Duration;

    use crate::failing::run_with_fault;

    /// The longest allowed time from the fault to the exit of the process.
    const MAX_EXIT_TIME: Duration = Duration::from_secs(2);

    #[tokio::test]
    #[ignore = "soak"]
    async fn a_server_with_a_failed_task_exits_within_two_seconds() {
        for fault in ["router=panic", "router=return", "writer=panic", "acceptor=return", "sweep=panic"] {
            let outcome = run_with_fault(fault, &[]).await;
            println!(
                "{fault}: closed with {:?}, gone after {:?}",
                outcome.close_code, outcome.time_until_exit
            );
            assert!(outcome.time_until_exit < MAX_EXIT_TIME, "{fault}: {:?}", outcome.time_until_exit);
        }
        for fault in ["bus subscriptions=return", "bus receiver=panic", "bus publisher=return"] {
            let outcome = crate::failing::run_node_with_fault(fault).await;
            println!(
                "{fault}: closed with {:?}, gone after {:?}",
                outcome.close_code, outcome.time_until_exit
            );
            assert!(outcome.time_until_exit < MAX_EXIT_TIME, "{fault}: {:?}", outcome.time_until_exit);
        }
    }
}

#[cfg(not(any(debug_assertions, feature = "fault-injection")))]
#[tokio::test]
#[ignore = "soak"]
async fn a_release_build_injects_no_faults() {
    let place = TempDir::new().expect("a directory");
    let trigger = place.path().join("now");
    File::create(&trigger).expect("a file");
    let fault = format!("writer=panic@{}", trigger.display());
    let server = Process::start_with(&place.path().join("data"), &[("FAULTS_TASK", &*fault)]).await;
    server.connects("alice").await.says("@alice", "stored").await;
}

async fn assert_status(server: &Process, path: &str, status: u16, reason: &str) {
    let asks = async || {
        let answer = server.gets(path).await;
        (answer.status == status && answer.text.contains(reason)).then_some(())
    };
    eventually(&format!("{path} says {status} {reason:?}"), asks).await;
}

/// The data and the log of the server are on one disk. The test fills and frees it twice, and restarts the server while it is full.
#[tokio::test]
#[ignore = "soak"]
async fn data_and_log_on_one_disk_survive_that_it_fills_up() {
    let Some(disk) = SmallDisk::mount(8 * 1024 * 1024) else {
        println!("not run: it mounts a file system, which needs root");
        return;
    };
    let log = || {
        let log = OpenOptions::new().create(true).append(true).open(disk.path("log")).expect("a file");
        Stdio::from(log)
    };
    let everything = [("SWITCHBOARD_LOG_LEVEL", "trace")];
    let data = disk.path("data");
    let mut server = Process::start_production(&data, &everything, log()).await;
    for stops_in_order in [true, false] {
        let mut alice = server.connects("alice").await;
        let mut stored = alice.says("@bob", "before").await;
        disk.fill();
        let began = Instant::now();
        while alice.tries("send", json!({"to": "@bob", "text": "x".repeat(4_000)})).await.is_ok() {
            stored += 1;
        }
        assert_status(&server, "/readyz", 503, "the disk is full").await;
        assert_status(&server, "/healthz", 503, "the disk is full").await;
        println!("refused with an error after {:?}", began.elapsed());
        disk.free();
        let freed = Instant::now();
        assert_status(&server, "/readyz", 200, "").await;
        assert_status(&server, "/healthz", 200, "").await;
        println!("back by itself after {:?}", freed.elapsed());
        assert_eq!(alice.says("@bob", "after").await, stored + 1);
        stored += 1;

        disk.fill();
        drop(alice);
        if stops_in_order {
            server.signal("TERM").await;
            assert_eq!(server.wait_for_exit().await.code(), Some(0), "SIGTERM works");
            // Fills the space that the stopped server has freed.
            disk.fill();
        } else {
            server.kill().await;
        }
        server = Process::start_production(&data, &everything, log()).await;
        let mut alice = server.connects("alice").await;
        assert_eq!(alice.log("@bob").await.len() as u64, stored, "a restart serves reads");
        while alice.tries("send", json!({"to": "@bob", "text": "x".repeat(4_000)})).await.is_ok() {
            stored += 1;
        }
        assert_status(&server, "/readyz", 503, "the disk is full").await;
        disk.free();
        assert_status(&server, "/readyz", 200, "").await;
        assert_eq!(alice.says("@bob", "after the restart").await, stored + 1);
    }
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}
