//! The random numbers of a run, all from its seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A generator of random numbers. A clone draws from the same sequence as the original.
#[derive(Clone)]
pub(crate) struct Chance(Arc<Mutex<fastrand::Rng>>);

impl Chance {
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    fn with_generator<T>(&self, ask: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        ask(&mut self.0.lock().expect("nothing panics with it"))
    }

    /// Makes a generator with its own sequence: how many numbers it draws does not change what the other generators draw.
    pub(crate) fn independent_generator(&self) -> Self {
        Self::from_seed(self.with_generator(|random| random.u64(..)))
    }

    /// A number from 0 to `n - 1`.
    pub(crate) fn random_below(&self, n: usize) -> usize {
        self.with_generator(|random| random.usize(..n.max(1)))
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn random_between(&self, low: u64, high: u64) -> u64 {
        self.with_generator(|random| random.u64(low..=high.max(low)))
    }

    /// True with a probability of 1 in `n`.
    pub(crate) fn once_in(&self, n: usize) -> bool {
        self.random_below(n) == 0
    }

    /// A random element of the list, which must not be empty.
    pub(crate) fn random_choice<T: Copy>(&self, these: &[T]) -> T {
        these[self.random_below(these.len())]
    }

    /// A random duration from `low` to `high` milliseconds.
    pub(crate) fn random_millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.random_between(low, high))
    }

    /// A delay that is mostly zero or short, and sometimes up to `long` milliseconds.
    pub(crate) fn random_delay(&self, long: u64) -> Duration {
        match self.random_below(16) {
            0 => self.random_millis(0, long),
            1..4 => self.random_millis(0, 20),
            4..10 => self.random_millis(0, 2),
            _ => Duration::ZERO,
        }
    }
}
