//! Queues of timers, and durations.

use std::future::poll_fn;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio_util::time::DelayQueue;

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Waits for the next entry that expires; forever if there is none. Nothing wakes the task of an empty queue, so code that adds an
/// entry has to poll again.
pub(crate) async fn next_expired<T>(queue: &mut DelayQueue<T>) -> T {
    poll_fn(|cx| match ready!(queue.poll_expired(cx)) {
        Some(expired) => Poll::Ready(expired.into_inner()),
        None => Poll::Pending,
    })
    .await
}
