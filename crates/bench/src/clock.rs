//! The time of a measurement: real, and nothing else. A test that paused it would measure nothing.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The moment.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the time that passes, and runs on no runtime"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits: for a process to do something of its own that nothing tells of.
#[expect(clippy::disallowed_methods, reason = "there is no runtime here, and nothing else to do")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// An empty histogram of nanoseconds: up to a minute, to three digits.
pub(crate) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}
