//! When which fault comes: a seed decides.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest time without a new fault.
const LONGEST_CALM: Duration = Duration::from_secs(5);

/// A kind of fault.
pub(crate) trait Weighted: Copy + Ord {
    /// How often it comes, in proportion to others.
    fn weight(self) -> u32;
}

/// Faults one after the other: each of them once, and then as often as its weight says.
pub(crate) struct Schedule<F> {
    faults: Vec<F>,
    /// Those that have not come yet.
    first: Vec<F>,
    /// How long it takes to the next, on average.
    calm: Duration,
    /// How often each came.
    done: BTreeMap<F, u64>,
}

impl<F: Weighted> Schedule<F> {
    pub(crate) fn new(faults: Vec<F>, calm: Duration, rng: &mut fastrand::Rng) -> Self {
        let mut first = faults.clone();
        rng.shuffle(&mut first);
        Self { faults, first, calm, done: BTreeMap::new() }
    }

    /// Waits for the next one, not beyond `end`; `None` if there are none.
    pub(crate) async fn next(&mut self, rng: &mut fastrand::Rng, end: Instant) -> Option<F> {
        // As between the arrivals of a Poisson process.
        let calm = self.calm.mul_f64(-rng.f64().max(1e-9).ln()).min(LONGEST_CALM);
        sleep_until((Instant::now() + calm).min(end)).await;
        let fault = self.first.pop().or_else(|| self.any(rng))?;
        *self.done.entry(fault).or_default() += 1;
        Some(fault)
    }

    fn any(&self, rng: &mut fastrand::Rng) -> Option<F> {
        let all: u32 = self.faults.iter().map(|fault| fault.weight()).sum();
        let mut chosen = rng.u32(..all.max(1));
        let here = |fault: &&F| {
            let here = chosen < fault.weight();
            chosen = chosen.saturating_sub(fault.weight());
            here
        };
        self.faults.iter().find(here).copied()
    }

    /// How often each fault came.
    pub(crate) fn done(&self) -> &BTreeMap<F, u64> {
        &self.done
    }
}
