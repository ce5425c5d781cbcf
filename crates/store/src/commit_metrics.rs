//! Metrics of the store's commits.

use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The metrics of commits. Clones share them.
#[derive(Debug, Clone)]
pub struct CommitMetrics {
    seconds: Histogram,
    writes: Histogram,
}

impl CommitMetrics {
    /// The seconds from taking a batch of writes from the queue until it is on stable storage.
    pub fn commit_seconds(&self) -> Histogram {
        self.seconds.clone()
    }

    /// The number of writes in a transaction.
    pub fn writes_per_commit(&self) -> Histogram {
        self.writes.clone()
    }

    /// Records the duration of a transaction that contained `writes` writes.
    pub(crate) fn record_commit(&self, took: Duration, writes: usize) {
        self.seconds.observe(took.as_secs_f64());
        self.writes.observe(f64::from(u32::try_from(writes).unwrap_or(u32::MAX)));
    }
}

impl Default for CommitMetrics {
    fn default() -> Self {
        Self {
            // The buckets are 0.1 ms to 3.3 s, because an fsync takes 0.2 ms on a good disk and seconds on a failing
            // one.
            seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            writes: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
        }
    }
}
