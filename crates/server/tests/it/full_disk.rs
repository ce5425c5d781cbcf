//! A disk without room: readiness and health say so and why, reads go on also after a restart, and writes come back by
//! themselves. After a failed fsync they do not.

use serde_json::json;

use crate::support::{FailingDisk, Process, eventually};

/// The disk has room for a part of a message at most.
const NEARLY_FULL: u64 = 2_000;

async fn says_why(server: &Process, reason: &str) {
    for path in ["/readyz", "/healthz"] {
        let asks = async || {
            let answer = server.gets(path).await;
            (answer.status == 503 && answer.text.contains(reason)).then_some(())
        };
        eventually(&format!("{path} says {reason:?}"), asks).await;
    }
    assert_eq!(server.gets("/livez").await.status, 200);
}

async fn is_well_again(server: &Process) {
    for path in ["/readyz", "/healthz"] {
        let asks = async || (server.gets(path).await.status == 200).then_some(());
        eventually(&format!("{path} says yes"), asks).await;
    }
}

#[tokio::test]
async fn probes_say_that_the_disk_is_full_and_notice_by_themselves_when_it_is_not() {
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    disk.control.set_full(Some(NEARLY_FULL));
    // The probe finds it: nobody writes.
    let asks = async || (server.gets("/healthz").await.status == 503).then_some(());
    eventually("/healthz says no", asks).await;
    says_why(&server, "writes are refused: the disk is full").await;
    alice.tries("send", json!({"to": "@bob", "text": "hi"})).await.expect_err("no room");
    assert_eq!(alice.log("@bob").await.len(), 1, "reads go on");
    disk.control.set_full(None);
    is_well_again(&server).await;
    alice.says("@bob", "after").await;
}

#[tokio::test]
async fn a_full_disk_does_not_end_readiness_for_reads() {
    let disk = FailingDisk::new();
    let mut server = disk.starts().await;
    server.connects("alice").await.says("@bob", "before").await;
    disk.control.set_full(Some(NEARLY_FULL));
    server
        .connects("alice")
        .await
        .tries("send", json!({"to": "@bob", "text": "x".repeat(9_000)}))
        .await
        .expect_err("no room");
    says_why(&server, "writes are refused: the disk is full").await;
    assert_eq!(server.gets("/readyz?exclude=writes").await.status, 200);
    assert_eq!(server.connects("bob").await.log("@alice").await.len(), 1, "a new connection reads");
    let wrong = server.gets("/readyz?exclude=reads").await;
    assert_eq!((wrong.status, wrong.code()), (400, "bad_field".to_owned()));
    disk.control.set_full(None);
    is_well_again(&server).await;
    server.signal("TERM").await;
    assert_eq!(server.ends().await.code(), Some(0));
}

#[tokio::test]
async fn a_start_on_a_full_disk_serves_reads_and_writes_once_there_is_room() {
    let disk = FailingDisk::new();
    let mut server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    drop(alice);
    server.signal("TERM").await;
    assert_eq!(server.ends().await.code(), Some(0));
    disk.control.set_full(Some(0));
    let server = disk.starts().await;
    says_why(&server, "writes are refused: the disk is full").await;
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.log("@bob").await.len(), 1, "reads go on");
    alice.tries("send", json!({"to": "@bob", "text": "hi"})).await.expect_err("no room");
    disk.control.set_full(None);
    is_well_again(&server).await;
    alice.says("@bob", "after").await;
    assert_eq!(server.connects("bob").await.log("@alice").await.len(), 2);
}

#[tokio::test]
async fn after_a_failed_fsync_writes_do_not_come_back() {
    use faults::{Dropped, Syncs};

    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    disk.control.fail_sync(1, Syncs::Any, Dropped::AtOnce);
    alice.tries("send", json!({"to": "@bob", "text": "hi"})).await.expect_err("not on the disk");
    says_why(&server, "writes are refused: an fsync has failed").await;
    // waits for: several tries, if there were any
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    says_why(&server, "writes are refused: an fsync has failed").await;
}
