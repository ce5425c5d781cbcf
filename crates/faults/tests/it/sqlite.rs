//! SQLite on the simulated disk: commits are durable with `synchronous = FULL`, but not with `NORMAL`.

use fastrand::Rng;
use faults::{DroppedPages, KillPoint, SyncFilter};

use crate::victim::{Scene, Victim};

/// Inserts rows and cuts the power, `cuts` times. Returns how many acknowledged rows were lost.
fn commits_lost_in(cuts: u32, synchronous: &str, rng: &mut Rng) -> i64 {
    let scene = Scene::new();
    let (mut known, mut lost) = (0, 0);
    for _ in 0..cuts {
        let mut victim = scene.victim();
        victim.expect_done(&[&format!("open {synchronous}")]);
        let found = assert_intact_and_count_rows(&mut victim);
        lost += (known - found).max(0);
        known = found;
        scene.control.set_kill(Some(match rng.u8(..4) {
            0 => KillPoint::BeforeWalSync(rng.u64(1..10)),
            1 => KillPoint::AfterWalSync(rng.u64(1..10)),
            2 => KillPoint::AtWrite(rng.u64(1..80)),
            _ => KillPoint::InWrite(rng.u64(1..80)),
        }));
        let died = (0..rng.u8(1..30)).any(|_| match victim.run_order(&format!("insert {}", known + 1)) {
            Some(answer) => {
                assert_eq!(answer, "done");
                known += 1;
                false
            }
            None => true,
        });
        if died {
            victim.wait_for_kill();
        } else {
            victim.kill();
        }
        scene.control.cut_power(rng).unwrap();
    }
    lost
}

/// Checks that the database is intact and lacks no row. Returns the number of rows.
fn assert_intact_and_count_rows(victim: &mut Victim) -> i64 {
    assert_eq!(victim.run_order("check").as_deref(), Some("ok"));
    let answer = victim.run_order("count").unwrap();
    let (count, last) = answer.split_once(' ').unwrap();
    assert_eq!(count, last, "a gap");
    count.parse().unwrap()
}

#[test]
fn synced_commits_survive_a_hundred_power_cuts() {
    assert_eq!(commits_lost_in(100, "FULL", &mut Rng::with_seed(1)), 0);
}

#[test]
fn unsynced_commits_do_not_survive() {
    assert!(commits_lost_in(10, "NORMAL", &mut Rng::with_seed(2)) > 0);
}

#[test]
fn a_failed_sync_fails_the_commit() {
    for dropped in [DroppedPages::AtOnce, DroppedPages::Later] {
        let scene = Scene::new();
        let mut victim = scene.victim();
        victim.expect_done(&["open FULL", "insert 1"]);
        scene.control.fail_sync(1, SyncFilter::Wal, dropped);
        let answer = victim.run_order("insert 2").unwrap();
        assert!(answer.contains("disk I/O error"), "{answer}");
        assert_eq!(assert_intact_and_count_rows(&mut victim), 1);
        victim.kill();
        scene.control.cut_power(&mut Rng::with_seed(3)).unwrap();
        let mut victim = scene.victim();
        victim.expect_done(&["open FULL"]);
        assert_eq!(assert_intact_and_count_rows(&mut victim), 1);
        victim.kill();
    }
}

/// This is the reason why a program must not trust what it reads after a failed sync and a restart.
#[test]
fn a_commit_whose_sync_failed_is_there_after_a_restart_and_gone_after_a_power_cut() {
    let scene = Scene::new();
    let mut victim = scene.victim();
    victim.expect_done(&["open FULL", "insert 1"]);
    scene.control.fail_sync(1, SyncFilter::Wal, DroppedPages::Later);
    assert!(victim.run_order("insert 2").unwrap().contains("disk I/O error"));
    victim.kill();
    let mut victim = scene.victim();
    victim.expect_done(&["open FULL"]);
    assert_eq!(assert_intact_and_count_rows(&mut victim), 2);
    victim.kill();
    scene.control.cut_power(&mut Rng::with_seed(4)).unwrap();
    let mut victim = scene.victim();
    victim.expect_done(&["open FULL"]);
    assert_eq!(assert_intact_and_count_rows(&mut victim), 1);
    victim.kill();
}

#[test]
fn commits_fail_and_reads_succeed_on_a_full_disk() {
    let scene = Scene::new();
    let mut victim = scene.victim();
    victim.expect_done(&["open FULL", "insert 1"]);
    scene.control.set_full_after(Some(3000));
    let answer = victim.run_order("insert 2").unwrap();
    assert!(answer.contains("database or disk is full"), "{answer}");
    assert_eq!(assert_intact_and_count_rows(&mut victim), 1);
    scene.control.set_full_after(None);
    victim.expect_done(&["insert 2"]);
    assert_eq!(assert_intact_and_count_rows(&mut victim), 2);
    victim.kill();
}
