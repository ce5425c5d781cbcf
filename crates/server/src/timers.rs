//! Waiting for what is due.

use std::future::poll_fn;
use std::task::{Poll, ready};

use tokio_util::time::DelayQueue;

/// Waits for the next that expires; forever if there is none. A queue that is empty is woken by nobody: whoever fills it asks
/// again.
pub(crate) async fn expired<T>(queue: &mut DelayQueue<T>) -> T {
    poll_fn(|cx| match ready!(queue.poll_expired(cx)) {
        Some(expired) => Poll::Ready(expired.into_inner()),
        None => Poll::Pending,
    })
    .await
}
