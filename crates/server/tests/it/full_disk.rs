//! A full disk: readiness and health report it, reads work, also after a restart, and writes resume without a restart as soon as
//! there is space. After a failed fsync, writes resume only after a restart.

use serde_json::json;

use crate::support::{FailingDisk, Process, eventually};

/// The free bytes of the nearly full disk: fewer than one message needs.
const FREE_DISK_BYTES: u64 = 2_000;

async fn wait_until_health_reports(server: &Process, reason: &str) {
    for path in ["/readyz", "/healthz"] {
        let asks = async || {
            let answer = server.gets(path).await;
            (answer.status == 503 && answer.text.contains(reason)).then_some(())
        };
        eventually(&format!("{path} says {reason:?}"), asks).await;
    }
    assert_eq!(server.gets("/livez").await.status, 200);
}

async fn wait_until_healthy(server: &Process) {
    for path in ["/readyz", "/healthz"] {
        let asks = async || (server.gets(path).await.status == 200).then_some(());
        eventually(&format!("{path} says yes"), asks).await;
    }
}

#[tokio::test]
async fn probes_report_a_full_disk_and_recover_without_a_write() {
    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    disk.control.set_full_after(Some(FREE_DISK_BYTES));
    // No client writes, so the server itself must notice the full disk when the probe asks.
    let asks = async || (server.gets("/healthz").await.status == 503).then_some(());
    eventually("/healthz says no", asks).await;
    wait_until_health_reports(&server, "writes are refused: the disk is full").await;
    let metrics = server.gets("/metrics").await.text;
    assert!(metrics.contains("\nswitchboard_ready 0\n"), "{metrics}");
    assert!(metrics.contains("\nswitchboard_write_fault{reason=\"disk_full\"} 1\n"), "{metrics}");
    alice.tries("send", json!({"to": "@bob", "text": "hi"})).await.expect_err("no room");
    assert_eq!(alice.log("@bob").await.len(), 1, "reads work");
    disk.control.set_full_after(None);
    wait_until_healthy(&server).await;
    let metrics = server.gets("/metrics").await.text;
    assert!(metrics.contains("\nswitchboard_ready 1\n"), "{metrics}");
    assert!(metrics.contains("\nswitchboard_write_fault{reason=\"disk_full\"} 0\n"), "{metrics}");
    alice.says("@bob", "after").await;
}

#[tokio::test]
async fn with_a_full_disk_the_server_stays_ready_for_reads() {
    let disk = FailingDisk::new();
    let mut server = disk.starts().await;
    server.connects("alice").await.says("@bob", "before").await;
    disk.control.set_full_after(Some(FREE_DISK_BYTES));
    server
        .connects("alice")
        .await
        .tries("send", json!({"to": "@bob", "text": "x".repeat(9_000)}))
        .await
        .expect_err("no room");
    wait_until_health_reports(&server, "writes are refused: the disk is full").await;
    assert_eq!(server.gets("/readyz?exclude=writes").await.status, 200);
    assert_eq!(server.connects("bob").await.log("@alice").await.len(), 1, "a new connection reads");
    let wrong = server.gets("/readyz?exclude=reads").await;
    assert_eq!((wrong.status, wrong.code()), (400, "bad_field".to_owned()));
    disk.control.set_full_after(None);
    wait_until_healthy(&server).await;
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_server_that_starts_on_a_full_disk_serves_reads_and_later_writes() {
    let disk = FailingDisk::new();
    let mut server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    drop(alice);
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    disk.control.set_full_after(Some(0));
    let server = disk.starts().await;
    wait_until_health_reports(&server, "writes are refused: the disk is full").await;
    let mut alice = server.connects("alice").await;
    assert_eq!(alice.log("@bob").await.len(), 1, "reads work");
    alice.tries("send", json!({"to": "@bob", "text": "hi"})).await.expect_err("no room");
    disk.control.set_full_after(None);
    wait_until_healthy(&server).await;
    alice.says("@bob", "after").await;
    assert_eq!(server.connects("bob").await.log("@alice").await.len(), 2);
}

#[tokio::test]
async fn after_a_failed_fsync_writes_stay_refused() {
    use faults::{DroppedPages, SyncFilter};

    let disk = FailingDisk::new();
    let server = disk.starts().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    disk.control.fail_sync(1, SyncFilter::Wal, DroppedPages::AtOnce);
    alice.tries("send", json!({"to": "@bob", "text": "hi"})).await.expect_err("not on the disk");
    wait_until_health_reports(&server, "writes are refused: an fsync has failed").await;
    // waits for: several retry intervals, in which the server must not retry
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    wait_until_health_reports(&server, "writes are refused: an fsync has failed").await;
    let metrics = server.gets("/metrics").await.text;
    assert!(metrics.contains("\nswitchboard_write_fault{reason=\"fsync_failed\"} 1\n"), "{metrics}");
}
