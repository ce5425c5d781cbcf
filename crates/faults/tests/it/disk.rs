//! What plain files contain after power cuts and after disk faults.

use std::collections::BTreeSet;

use fastrand::Rng;
use faults::{DroppedPages, SyncFilter};

use crate::victim::Scene;

/// The number of seeds: enough for each outcome of a power cut to occur.
const SEEDS: u64 = 40;

#[test]
fn synced_data_survive_and_unsynced_data_may_be_lost() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let scene = Scene::new();
        let mut victim = scene.victim();
        victim.expect_done(&["write a 0 1 2048", "sync a", "sync .", "write a 1024 2 2048"]);
        victim.kill();
        assert_eq!(scene.read_file("a").len(), 3072, "a kill keeps the page cache");

        let cut = scene.control.cut_power(&mut Rng::with_seed(seed)).unwrap();
        assert_eq!(cut.unsynced_changes, 1);
        let sectors: Vec<Vec<u8>> = scene.read_file("a").chunks(512).map(<[u8]>::to_vec).collect();
        assert!(
            sectors.iter().all(|sector| sector.iter().all(|byte| *byte == sector[0])),
            "a sector is whole"
        );
        let sectors: Vec<u8> = sectors.iter().map(|sector| sector[0]).collect();
        assert_eq!(sectors[..2], [1, 1]);
        assert!(sectors[2..4].iter().all(|byte| [1, 2].contains(byte)), "{sectors:?}");
        assert!(sectors[4..].iter().all(|byte| [0, 2].contains(byte)), "{sectors:?}");
        match (cut.lost_changes, cut.torn_changes) {
            (1, 0) => assert_eq!(sectors, [1, 1, 1, 1]),
            (0, 0) => assert_eq!(sectors, [1, 1, 2, 2, 2, 2]),
            torn => assert_eq!(torn, (0, 1)),
        }
        seen.insert(sectors);

        let again = scene.control.cut_power(&mut Rng::with_seed(seed)).unwrap();
        assert_eq!(again, faults::PowerCutResult::default(), "after a cut everything is on the disk");
    }
    assert!(seen.len() > 4, "whole, lost and torn: {seen:?}");
}

#[test]
fn a_restart_does_not_sync() {
    let (mut reverted, mut kept) = (0, 0);
    for seed in 0..SEEDS {
        let scene = Scene::new();
        let mut victim = scene.victim();
        victim.expect_done(&["write a 0 1 512", "write b 0 1 512", "sync a", "sync b", "sync ."]);
        victim.expect_done(&["write a 0 2 512", "write b 0 2 512"]);
        victim.kill();
        let mut victim = scene.victim();
        victim.expect_done(&["write a 512 3 512", "write b 512 3 512", "sync b"]);
        victim.kill();

        assert_eq!(scene.control.cut_power(&mut Rng::with_seed(seed)).unwrap().unsynced_changes, 2);
        assert_eq!(
            scene.read_file("b"),
            [[2; 512], [3; 512]].concat(),
            "a sync covers what an earlier process wrote"
        );
        match scene.read_file("a")[0] {
            1 => reverted += 1,
            _ => kept += 1,
        }
    }
    assert!(reverted > 5 && kept > 5, "{reverted} {kept}");
}

#[test]
fn an_unsynced_truncation_may_be_lost() {
    let mut lengths = BTreeSet::new();
    for seed in 0..SEEDS {
        let scene = Scene::new();
        let mut victim = scene.victim();
        victim.expect_done(&["write a 0 1 2048", "sync a", "sync .", "cut a 512", "write a 512 2 512"]);
        victim.kill();
        scene.control.cut_power(&mut Rng::with_seed(seed)).unwrap();
        let content = scene.read_file("a");
        assert!(content[..512] == [1; 512]);
        if content.len() == 2048 {
            assert_eq!(content, [1; 2048], "if a truncation is lost, so is the write after it");
        }
        lengths.insert(content.len());
    }
    assert_eq!(lengths, BTreeSet::from([512, 1024, 2048]));
}

#[test]
fn names_are_durable_after_a_sync_of_the_directory() {
    let (mut seen, mut all) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..SEEDS {
        let scene = Scene::new();
        let mut victim = scene.victim();
        victim.expect_done(&["write old 0 1 512", "sync old", "write moved 0 1 512", "sync moved", "sync ."]);
        victim.expect_done(&[
            "write new 0 1 512",
            "sync new",
            "remove old",
            "rename moved there",
            "write new2 0 1 1",
        ]);
        if seed % 2 == 0 {
            victim.expect_done(&["sync ."]);
        }
        victim.kill();
        let cut = scene.control.cut_power(&mut Rng::with_seed(seed)).unwrap();
        let names = ["new", "old", "moved", "there", "new2"].map(|name| scene.has_file(name));
        if seed % 2 == 0 {
            assert_eq!(names, [true, false, false, true, true]);
            all.insert((cut.vanished_files, cut.returned_files));
        } else {
            if names[1] {
                assert_eq!(scene.read_file("old"), [1; 512]);
            }
            seen.insert(names);
        }
    }
    assert_eq!(all, BTreeSet::from([(0, 0)]));
    let beginnings = [
        [false, true, true, false, false],
        [true, true, true, false, false],
        [true, false, true, false, false],
        [true, false, false, true, false],
        [true, false, false, true, true],
    ];
    assert_eq!(seen, BTreeSet::from(beginnings));
}

#[test]
fn a_failed_sync_can_drop_its_data_at_once() {
    let scene = Scene::new();
    let mut victim = scene.victim();
    victim.expect_done(&["write a 0 1 512", "sync a", "sync .", "write a 0 2 1024"]);
    scene.control.fail_sync(1, SyncFilter::Any, DroppedPages::AtOnce);
    let answer = victim.run_order("sync a").unwrap();
    assert!(answer.contains("Input/output error"), "{answer}");
    assert_eq!(scene.read_file("a"), [1; 512]);
    victim.expect_done(&["sync a"]);
    assert_eq!(scene.control.counts().failed_syncs, 1);
    victim.kill();
    assert_eq!(scene.control.cut_power(&mut Rng::with_seed(0)).unwrap().unsynced_changes, 0);
    assert_eq!(scene.read_file("a"), [1; 512]);
}

#[test]
fn a_failed_sync_can_drop_its_data_at_the_next_power_cut() {
    for seed in 0..5 {
        let scene = Scene::new();
        let mut victim = scene.victim();
        victim.expect_done(&["write a 0 1 8192", "sync a", "sync .", "write a 0 2 8192"]);
        scene.control.fail_sync(1, SyncFilter::Other, DroppedPages::Later);
        assert!(victim.run_order("sync a").unwrap().contains("Input/output error"));
        assert_eq!(scene.read_file("a"), [2; 8192], "the page cache has it");
        victim.expect_done(&["sync a"]);
        victim.kill();
        let mut victim = scene.victim();
        // The write makes the second page dirty again, so this sync writes the whole page to the disk.
        victim.expect_done(&["write a 5000 3 1", "sync a"]);
        victim.kill();
        let mut expected = [[1; 4096], [2; 4096]].concat();
        expected[5000] = 3;
        let cut = scene.control.cut_power(&mut Rng::with_seed(seed)).unwrap();
        assert_eq!((cut.unsynced_changes, cut.files_with_dropped_pages), (0, 1));
        assert_eq!(scene.read_file("a"), expected);
    }
}

#[test]
fn files_do_not_grow_on_a_full_disk() {
    let scene = Scene::new();
    let mut victim = scene.victim();
    victim.expect_done(&["write a 0 1 1000", "sync a"]);
    scene.control.set_full_after(Some(100));
    let answer = victim.run_order("write a 1000 2 300").unwrap();
    assert!(answer.contains("No space left"), "{answer}");
    assert_eq!(scene.read_file("a").len(), 1100, "a write that partly fits is short");
    victim.expect_done(&["write a 0 3 1100", "sync a"]);
    assert_eq!(scene.read_file("a"), [3; 1100]);
    victim.expect_done(&["cut a 1000", "write a 1000 4 100"]);
    assert!(victim.run_order("write b 0 1 1").unwrap().contains("No space left"));
    scene.control.set_full_after(None);
    victim.expect_done(&["write b 0 1 1"]);
    assert!(scene.control.counts().refused_writes >= 2);
    victim.kill();
}
