//! Each kill point kills the process at the call that it names.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use fastrand::Rng;
use faults::KillPoint;

use crate::victim::Scene;

/// Cuts the power after an insert at which the program was killed. Returns the number of rows and the last row.
fn rows_after(scene: &Scene, seed: u64) -> String {
    scene.control.cut_power(&mut Rng::with_seed(seed)).unwrap();
    let mut victim = scene.victim();
    victim.expect_done(&["open FULL"]);
    let count = victim.run_order("count").unwrap();
    victim.kill();
    count
}

#[test]
fn a_commit_is_lost_before_its_sync_and_durable_after_it() {
    let mut before = Vec::new();
    for seed in 0..12 {
        let scene = Scene::new();
        let mut victim = scene.victim();
        victim.expect_done(&["open FULL", "insert 1"]);
        scene.control.set_kill(Some(KillPoint::BeforeWalSync(2)));
        victim.expect_done(&["insert 2"]);
        victim.expect_death("insert 3");
        assert_eq!(scene.control.counts().kills, 1);
        before.push(rows_after(&scene, seed));

        let mut victim = scene.victim();
        victim.expect_done(&["open FULL", "insert 10"]);
        scene.control.set_kill(Some(KillPoint::AfterWalSync(1)));
        victim.expect_death("insert 11");
        assert!(!scene.control.has_pending_kill());
        assert!(rows_after(&scene, seed).ends_with(" 11"));
    }
    assert!(before.iter().all(|rows| rows == "2 2" || rows == "3 3"), "{before:?}");
    assert!(before.iter().any(|rows| rows == "2 2"), "{before:?}");
}

#[test]
fn the_process_can_be_killed_after_a_write_to_a_socket_that_follows_a_commit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let scene = Scene::new();
    let mut victim = scene.victim();
    victim.expect_done(&[
        &format!("connect {}", listener.local_addr().unwrap().port()),
        "open FULL",
        "insert 1",
    ]);
    scene.control.set_kill(Some(KillPoint::AfterSocketWrite(2)));
    victim.expect_done(&["send a", "send b", "send c", "insert 2", "send d"]);
    victim.expect_death("send e");
    let mut received = String::new();
    listener.accept().unwrap().0.read_to_string(&mut received).unwrap();
    assert_eq!(received, "abcde");
    assert_eq!(rows_after(&scene, 0), "2 2");
}

#[test]
fn the_process_can_be_killed_after_a_write_and_in_the_middle_of_one() {
    let scene = Scene::new();
    let mut victim = scene.victim();
    scene.control.set_kill(Some(KillPoint::AtWrite(2)));
    victim.expect_done(&["write a 0 1 1024"]);
    victim.expect_death("write a 1024 2 1024");
    assert_eq!(scene.read_file("a"), [[1; 1024], [2; 1024]].concat());

    let mut victim = scene.victim();
    scene.control.set_kill(Some(KillPoint::InWrite(2)));
    victim.expect_done(&["write a 0 3 1024"]);
    victim.expect_death("write a 1024 4 1024");
    assert_eq!(scene.read_file("a"), [vec![3; 1024], vec![4; 512], vec![2; 512]].concat());
}

#[test]
fn a_sync_can_be_delayed() {
    let scene = Scene::new();
    let mut victim = scene.victim();
    victim.expect_done(&["write a 0 1 1"]);
    scene.control.set_sync_delay(Duration::from_millis(200));
    #[expect(clippy::disallowed_methods, reason = "the slow disk belongs to another process")]
    let begin = std::time::Instant::now();
    victim.expect_done(&["sync a"]);
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert_eq!(scene.control.counts().syncs, 1);
    victim.kill();
}

#[test]
fn the_wall_clock_can_jump() {
    let scene = Scene::new();
    let mut victim = scene.victim();
    let mut time = || victim.run_order("time").unwrap().parse::<i64>().unwrap();
    let before = time();
    scene.control.set_clock_offset(-3_600);
    assert!((before - 3_600..before - 3_500).contains(&time()));
    scene.control.clear_faults();
    assert!(time() >= before);
    victim.kill();
}
