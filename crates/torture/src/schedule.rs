//! Determines when which kind of fault occurs, by a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest time from one fault to the next.
const MAX_INTERVAL: Duration = Duration::from_secs(5);

/// A kind of fault that the schedule draws at random, in proportion to its weight.
pub(crate) trait Weighted: Copy + Ord {
    /// How often this kind occurs, in proportion to the weights of the other kinds.
    fn weight(self) -> u32;
}

/// A sequence of faults: first each kind once, then kinds drawn at random by weight.
pub(crate) struct Schedule<F> {
    faults: Vec<F>,
    /// Kinds that have not occurred yet.
    pending: Vec<F>,
    /// Mean time to the next fault.
    mean_interval: Duration,
    /// How often each kind of fault occurred.
    counts: BTreeMap<F, u64>,
}

impl<F: Weighted> Schedule<F> {
    pub(crate) fn new(faults: Vec<F>, mean_interval: Duration, rng: &mut fastrand::Rng) -> Self {
        let mut pending = faults.clone();
        rng.shuffle(&mut pending);
        Self { faults, pending, mean_interval, counts: BTreeMap::new() }
    }

    /// Waits for the time of the next fault, but not longer than `end`. Returns `None` if the schedule has no faults.
    pub(crate) async fn next(&mut self, rng: &mut fastrand::Rng, end: Instant) -> Option<F> {
        // The distribution of the intervals is exponential, so that faults occur independently of each other (a Poisson process).
        let interval = self.mean_interval.mul_f64(-rng.f64().max(1e-9).ln()).min(MAX_INTERVAL);
        sleep_until((Instant::now() + interval).min(end)).await;
        let fault = self.pending.pop().or_else(|| self.weighted_choice(rng))?;
        *self.counts.entry(fault).or_default() += 1;
        Some(fault)
    }

    fn weighted_choice(&self, rng: &mut fastrand::Rng) -> Option<F> {
        let all: u32 = self.faults.iter().map(|fault| fault.weight()).sum();
        let mut chosen = rng.u32(..all.max(1));
        let is_chosen = |fault: &&F| {
            let is_chosen = chosen < fault.weight();
            chosen = chosen.saturating_sub(fault.weight());
            is_chosen
        };
        self.faults.iter().find(is_chosen).copied()
    }

    /// How often each kind of fault occurred.
    pub(crate) fn counts(&self) -> &BTreeMap<F, u64> {
        &self.counts
    }
}
