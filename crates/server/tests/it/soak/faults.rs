//! Faults that must not spread, in the program as it is released: but for the tasks that fail on demand, which need the feature
//! `fault-injection`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{Process, eventually};

#[cfg(any(debug_assertions, feature = "fault-injection"))]
mod injected {
    use std::time::Duration;

    use crate::failing::strikes;

    /// From the fault to the end of the process.
    const BOUND: Duration = Duration::from_secs(2);

    #[tokio::test]
    #[ignore = "soak"]
    async fn a_server_of_which_a_task_fails_is_gone_within_two_seconds() {
        for fault in ["router=panic", "router=return", "writer=panic", "acceptor=return", "sweep=panic"] {
            let outcome = strikes(fault, &[]).await;
            println!("{fault}: closed with {:?}, gone after {:?}", outcome.close, outcome.took);
            assert!(outcome.took < BOUND, "{fault}: {:?}", outcome.took);
        }
        for fault in ["bus listener=return", "bus reader=panic", "bus speaker=return"] {
            let outcome = crate::failing::strikes_a_node(fault).await;
            println!("{fault}: closed with {:?}, gone after {:?}", outcome.close, outcome.took);
            assert!(outcome.took < BOUND, "{fault}: {:?}", outcome.took);
        }
    }
}

#[cfg(not(any(debug_assertions, feature = "fault-injection")))]
#[tokio::test]
#[ignore = "soak"]
async fn a_release_has_no_faults_to_inject() {
    let place = TempDir::new().expect("a directory");
    let trigger = place.path().join("now");
    File::create(&trigger).expect("a file");
    let fault = format!("writer=panic@{}", trigger.display());
    let server = Process::start_with(&place.path().join("data"), &[("FAULTS_TASK", &*fault)]).await;
    server.connects("alice").await.says("@alice", "stored").await;
}

/// A file system of its own in memory, with so many bytes; it needs root.
struct SmallDisk {
    place: TempDir,
}

impl SmallDisk {
    fn mount(bytes: u64) -> Option<Self> {
        let place = TempDir::new().expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(place.path());
        mount.status().is_ok_and(|status| status.success()).then_some(Self { place })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Writes a file until there is no room at all.
    fn fill(&self) {
        let mut file = File::create(self.path("filler")).expect("a file");
        for size in [65_536, 4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.path("filler")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.place.path()).status();
    }
}

async fn says(server: &Process, path: &str, status: u16, reason: &str) {
    let asks = async || {
        let answer = server.gets(path).await;
        (answer.status == status && answer.text.contains(reason)).then_some(())
    };
    eventually(&format!("{path} says {status} {reason:?}"), asks).await;
}

/// Data and log on one disk that fills and is freed, twice, with a restart while it is full.
#[tokio::test]
#[ignore = "soak"]
async fn data_and_log_on_one_disk_that_fills_and_is_freed() {
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
    let mut server = Process::serves(&data, &everything, log()).await;
    for stops_in_order in [true, false] {
        let mut alice = server.connects("alice").await;
        let mut stored = alice.says("@bob", "before").await;
        disk.fill();
        let began = Instant::now();
        while alice.tries("send", json!({"to": "@bob", "text": "x".repeat(4_000)})).await.is_ok() {
            stored += 1;
        }
        says(&server, "/readyz", 503, "the disk is full").await;
        says(&server, "/healthz", 503, "the disk is full").await;
        println!("refused, and told so, after {:?}", began.elapsed());
        disk.free();
        let freed = Instant::now();
        says(&server, "/readyz", 200, "").await;
        says(&server, "/healthz", 200, "").await;
        println!("back by itself after {:?}", freed.elapsed());
        assert_eq!(alice.says("@bob", "after").await, stored + 1);
        stored += 1;

        disk.fill();
        drop(alice);
        if stops_in_order {
            server.signal("TERM").await;
            assert_eq!(server.ends().await.code(), Some(0), "SIGTERM works");
            // What the stop gave back.
            disk.fill();
        } else {
            server.dies().await;
        }
        server = Process::serves(&data, &everything, log()).await;
        let mut alice = server.connects("alice").await;
        assert_eq!(alice.log("@bob").await.len() as u64, stored, "a restart serves reads");
        while alice.tries("send", json!({"to": "@bob", "text": "x".repeat(4_000)})).await.is_ok() {
            stored += 1;
        }
        says(&server, "/readyz", 503, "the disk is full").await;
        disk.free();
        says(&server, "/readyz", 200, "").await;
        assert_eq!(alice.says("@bob", "after the restart").await, stored + 1);
    }
    server.signal("TERM").await;
    assert_eq!(server.ends().await.code(), Some(0));
}
