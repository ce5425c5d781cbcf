//! All chance of a run comes from its seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A stream of random numbers. Clones share it.
#[derive(Clone)]
pub(crate) struct Chance(Arc<Mutex<fastrand::Rng>>);

impl Chance {
    pub(crate) fn of(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    fn with<T>(&self, ask: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        ask(&mut self.0.lock().expect("nothing panics with it"))
    }

    /// A stream of its own, for a part whose questions are not to change what others are told.
    pub(crate) fn fork(&self) -> Self {
        Self::of(self.with(|random| random.u64(..)))
    }

    /// From 0 to `n - 1`.
    pub(crate) fn below(&self, n: usize) -> usize {
        self.with(|random| random.usize(..n.max(1)))
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.with(|random| random.u64(low..=high.max(low)))
    }

    /// Once in `n` times.
    pub(crate) fn once_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub(crate) fn one_of<T: Copy>(&self, these: &[T]) -> T {
        these[self.below(these.len())]
    }

    /// A time between two numbers of milliseconds.
    pub(crate) fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// How long something takes that is mostly quick: nothing, a moment, or now and then very long.
    pub(crate) fn hiccup(&self, long: u64) -> Duration {
        match self.below(16) {
            0 => self.millis(0, long),
            1..4 => self.millis(0, 20),
            4..10 => self.millis(0, 2),
            _ => Duration::ZERO,
        }
    }
}
