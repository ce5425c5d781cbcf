//! The time of a measurement: real, and nothing else. A test that paused it would measure nothing.

use std::time::Instant;

use hdrhistogram::Histogram;

/// The moment.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the time that passes, and runs on no runtime"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// An empty histogram of nanoseconds: up to a minute, to three digits.
pub(crate) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}
