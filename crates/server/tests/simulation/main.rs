//! Deterministic simulation: a seed decides all faults and delays. docs/decisions/0034-simulation.md says what is simulated.
//! A *story* is the record of a run; a *law* is a property that every run must have.
//!
//! `make simulate SEEDS=10000` runs many seeds; `make simulate SEED=7` runs one and prints its story.

mod backend;
mod chance;
mod cluster;
mod device;
mod feed;
mod network;
mod truth;
mod watched;
mod wire;
mod workload;
mod world;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use crate::truth::Counts;
use crate::world::RunResult;

/// The number of seeds that an ordinary test run tries.
const DEFAULT_SEEDS: u64 = 150;

/// Seeds that once failed, with the fault that each found. A seed repeats its run only as long as the simulation draws the same
/// random numbers; therefore each fault also has a test of its own where possible.
const FAILED_SEEDS: &str = include_str!("seeds.txt");

/// The most lines of the record of a run that a failed test prints.
const MAX_PRINTED_LINES: usize = 400;

/// Waits in simulated time.
async fn wait_simulated(time: Duration) {
    // waits for: simulated time, which advances without real waiting
    tokio::time::sleep(time).await;
}

thread_local! {
    /// The first panic of the run in this thread. It is recorded here because tokio catches the panics of the server's tasks.
    static PANIC_MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the simulation of a seed in this thread.
fn run(seed: u64) -> RunResult {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANIC_MESSAGE.with_borrow_mut(|panicked| *panicked = Some(panic.to_string()));
            before(panic);
        }));
    });
    PANIC_MESSAGE.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let mut story = runtime.expect("a runtime").block_on(world::run(seed));
    if let Some(panic) = PANIC_MESSAGE.take() {
        story.violation = Some(panic);
    }
    story
}

/// Runs the simulation of a seed; panics with the record of the run if a law is broken.
fn assert_laws_hold(seed: u64) -> RunResult {
    let story = run(seed);
    if let Some(broken) = &story.violation {
        panic!("{}", describe_failure(seed, &story, broken));
    }
    story
}

/// Describes a failure: how to repeat it, the broken law and the last lines of the record of the run.
fn describe_failure(seed: u64, story: &RunResult, broken: &str) -> String {
    let lines = &story.lines[story.lines.len().saturating_sub(MAX_PRINTED_LINES)..];
    format!(
        "{}\n\nseed {seed}: {broken}\nmake simulate SEED={seed} shows it alone, all of it",
        lines.join("\n")
    )
}

/// Runs the simulations of a range of seeds on all cores. Returns the first failure and the sums of all counts.
fn run_seeds(seeds: Range<u64>) -> (Option<String>, Counts) {
    let next = AtomicU64::new(seeds.start);
    let found = Mutex::new((None, Counts::default()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end || found.lock().expect("no panic").0.is_some() {
                return;
            }
            let story = run(seed);
            let mut found = found.lock().expect("no panic");
            found.1.add(&story.counts);
            if let Some(broken) = &story.violation {
                found.0.get_or_insert_with(|| describe_failure(seed, &story, broken));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    found.into_inner().expect("no panic")
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect("a number"))
}

#[test]
fn every_law_holds_for_the_default_seeds() {
    let (broken, counts) = run_seeds(0..DEFAULT_SEEDS);
    if let Some(broken) = broken {
        panic!("{broken}");
    }
    println!("{counts:?}");
    // If the runs had none of these faults and retries, the simulation would prove nothing.
    assert!(
        counts.duplicates > DEFAULT_SEEDS
            && counts.gaps > DEFAULT_SEEDS
            && counts.crashes > DEFAULT_SEEDS / 4,
        "{counts:?}"
    );
    assert!(
        counts.clean_stops > DEFAULT_SEEDS / 4 && counts.refused_batches > DEFAULT_SEEDS / 4,
        "{counts:?}"
    );
    assert!(
        counts.clusters >= DEFAULT_SEEDS / 3
            && counts.partitions > DEFAULT_SEEDS / 10
            && counts.revocations > DEFAULT_SEEDS / 10,
        "{counts:?}"
    );
    assert!(counts.lost > DEFAULT_SEEDS && counts.doubled > DEFAULT_SEEDS, "{counts:?}");
}

#[test]
fn every_law_holds_for_seeds_that_failed_before() {
    let lines = FAILED_SEEDS.lines().filter(|line| !line.starts_with('#'));
    for seed in lines.filter_map(|line| line.split_whitespace().next()) {
        assert_laws_hold(seed.parse().expect("a seed"));
    }
}

#[test]
fn a_seed_always_gives_the_same_history() {
    for seed in (0..DEFAULT_SEEDS).step_by(10) {
        let (one, other) = (run(seed), run(seed));
        if one.hash != other.hash {
            let same = one.lines.iter().zip(&other.lines).take_while(|(one, other)| one == other).count();
            panic!("seed {seed}: {:?} is {:?} the other time", one.lines.get(same), other.lines.get(same));
        }
    }
}

#[test]
#[ignore = "as many seeds as one has time for: make simulate"]
#[expect(clippy::disallowed_methods, reason = "how long it really takes")]
fn many_seeds() {
    if let Some(seed) = number_from_environment("SEED") {
        let story = run(seed);
        println!("{}", story.lines.join("\n"));
        println!(
            "seed {seed}: {}; {:?}",
            story.violation.as_deref().unwrap_or("every law holds"),
            story.counts
        );
        assert!(story.violation.is_none(), "seed {seed}");
        return;
    }
    let (first, many) =
        (number_from_environment("FIRST").unwrap_or(0), number_from_environment("SEEDS").unwrap_or(10_000));
    let began = Instant::now();
    let (broken, counts) = run_seeds(first..first + many);
    if let Some(broken) = broken {
        panic!("{broken}");
    }
    println!(
        "{many} seeds from {first} in {:.1} s: every law holds; {counts:?}",
        began.elapsed().as_secs_f64()
    );
}
