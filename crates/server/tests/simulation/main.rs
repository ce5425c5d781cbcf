//! The server in a world that a seed decides: docs/decisions/0034-simulation.md says what is simulated and what is real.
//!
//! `make simulate SEEDS=10000` runs many seeds, `make simulate SEED=7` one with its story.

mod backend;
mod chance;
mod cluster;
mod device;
mod habits;
mod network;
mod truth;
mod watched;
mod wire;
mod world;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use crate::truth::Counts;
use crate::world::Story;

/// Seeds that every test run tries.
const FEW: u64 = 150;

/// Seeds that failed once, with the commit that mended what they found. A seed means what it meant only as long as the
/// simulation asks for the same random numbers; what was found has a test of its own, too, where one can be written.
const FOUND: &str = include_str!("seeds.txt");

/// Lines of a story that are shown when a law is broken.
const SHOWN: usize = 400;

/// Lets time pass, of which the simulation has as much as it wants.
async fn wait(time: Duration) {
    // waits for: the simulated time, which costs nothing
    tokio::time::sleep(time).await;
}

thread_local! {
    /// What panicked in this thread's run. Tasks of the server would keep it to themselves.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a seed in this thread.
fn run(seed: u64) -> Story {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.with_borrow_mut(|panicked| *panicked = Some(panic.to_string()));
            before(panic);
        }));
    });
    PANICKED.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let mut story = runtime.expect("a runtime").block_on(world::run(seed));
    if let Some(panic) = PANICKED.take() {
        story.broken = Some(panic);
    }
    story
}

/// Runs a seed; fails with its story if a law is broken.
fn holds(seed: u64) -> Story {
    let story = run(seed);
    if let Some(broken) = &story.broken {
        panic!("{}", told(seed, &story, broken));
    }
    story
}

/// How a story ended.
fn told(seed: u64, story: &Story, broken: &str) -> String {
    let lines = &story.lines[story.lines.len().saturating_sub(SHOWN)..];
    format!(
        "{}\n\nseed {seed}: {broken}\nmake simulate SEED={seed} shows it alone, all of it",
        lines.join("\n")
    )
}

/// Runs seeds on as many threads as there are cores; the first story of a broken law, and what happened in all.
fn sweep(seeds: Range<u64>) -> (Option<String>, Counts) {
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
            if let Some(broken) = &story.broken {
                found.0.get_or_insert_with(|| told(seed, &story, broken));
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

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect("a number"))
}

#[test]
fn every_law_holds_for_a_few_seeds() {
    let (broken, counts) = sweep(0..FEW);
    if let Some(broken) = broken {
        panic!("{broken}");
    }
    println!("{counts:?}");
    // A world in which these do not happen would prove nothing.
    assert!(counts.duplicates > FEW && counts.gaps > FEW && counts.crashes > FEW / 4, "{counts:?}");
    assert!(counts.stops > FEW / 4 && counts.refused_batches > FEW / 4, "{counts:?}");
    assert!(
        counts.clusters >= FEW / 3 && counts.partitions > FEW / 10 && counts.revocations > FEW / 10,
        "{counts:?}"
    );
    assert!(counts.lost > FEW && counts.doubled > FEW, "{counts:?}");
}

#[test]
fn seeds_that_failed_once_hold() {
    let lines = FOUND.lines().filter(|line| !line.starts_with('#'));
    for seed in lines.filter_map(|line| line.split_whitespace().next()) {
        holds(seed.parse().expect("a seed"));
    }
}

#[test]
fn a_seed_is_one_history() {
    for seed in (0..FEW).step_by(10) {
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
    if let Some(seed) = number("SEED") {
        let story = run(seed);
        println!("{}", story.lines.join("\n"));
        println!("seed {seed}: {}; {:?}", story.broken.as_deref().unwrap_or("every law holds"), story.counts);
        assert!(story.broken.is_none(), "seed {seed}");
        return;
    }
    let (first, many) = (number("FIRST").unwrap_or(0), number("SEEDS").unwrap_or(10_000));
    let began = Instant::now();
    let (broken, counts) = sweep(first..first + many);
    if let Some(broken) = broken {
        panic!("{broken}");
    }
    println!(
        "{many} seeds from {first} in {:.1} s: every law holds; {counts:?}",
        began.elapsed().as_secs_f64()
    );
}
