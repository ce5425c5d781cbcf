//! The real clock, because a benchmark must not use a clock that a test can pause.

use std::time::Instant;

use hdrhistogram::Histogram;

/// The current time by the real clock.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the time that passes, and runs on no runtime"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// An empty histogram for latencies in nanoseconds, of up to one minute, with three significant digits.
pub(crate) fn new_latency_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}
