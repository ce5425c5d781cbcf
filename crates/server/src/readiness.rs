//! Checks whether the store can be read. Probes that arrive at about the same time share one read.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use switchboard_store::record::Answer;

/// How long the database may take to answer a read before the server counts as not ready.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the result of a read is reused, so that a thousand probes at the same time cause only one read.
const READ_RESULT_TTL: Duration = Duration::from_millis(100);

/// The pending read of the store, or the last one.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Mutex<Option<SharedRead>>);

#[derive(Debug)]
struct SharedRead {
    since: Instant,
    /// The read, shared by all probes that wait for it. It continues when one of them is cancelled.
    read: Shared<BoxFuture<'static, ReadOutcome>>,
}

/// When a read ended, and whether it succeeded.
#[derive(Debug, Clone, Copy)]
struct ReadOutcome {
    at: Instant,
    succeeded: bool,
}

impl SharedRead {
    fn is_fresh(&self) -> bool {
        match self.read.peek() {
            Some(read) => read.at.elapsed() < READ_RESULT_TTL,
            // If all probes that waited were cancelled, nothing polls the read any more. So it counts as pending only
            // until its time-out.
            None => self.since.elapsed() < READ_TIMEOUT,
        }
    }
}

impl Readiness {
    /// Returns whether the store answers a read in time. Calls `read` unless another probe has a pending or fresh read.
    pub(crate) async fn check(&self, read: impl FnOnce() -> Answer<()>) -> bool {
        let shared = {
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &*last {
                Some(asked) if asked.is_fresh() => asked.read.clone(),
                _ => {
                    let read = Box::pin(with_timeout(read())) as BoxFuture<'static, ReadOutcome>;
                    let asked = SharedRead { since: Instant::now(), read: read.shared() };
                    last.insert(asked).read.clone()
                }
            }
        };
        shared.await.succeeded
    }
}

async fn with_timeout(read: Answer<()>) -> ReadOutcome {
    let outcome = tokio::time::timeout(READ_TIMEOUT, read).await;
    ReadOutcome { at: Instant::now(), succeeded: matches!(outcome, Ok(Ok(()))) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use switchboard_store::refusal::Refusal;

    /// A read that takes this long, and adds one to `count`.
    fn read(count: &Arc<AtomicUsize>, takes: Duration) -> Answer<()> {
        count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::time::sleep(takes).await; // waits for: the store
            Ok(())
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_waiting_probes_share_one_read() {
        let (readiness, count) = (Readiness::default(), Arc::new(AtomicUsize::new(0)));
        let slow = || read(&count, Duration::from_millis(1_500));
        let answers = join_all((0..1_000).map(|_| readiness.check(slow))).await;
        assert!(answers.into_iter().all(|ready| ready));
        assert!(readiness.check(slow).await);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        tokio::time::advance(READ_RESULT_TTL).await;
        assert!(readiness.check(slow).await);
        assert_eq!(count.load(Ordering::Relaxed), 2, "an answer is not good for long");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_leaves_does_not_end_the_read_of_the_others() {
        let (readiness, count) = (Readiness::default(), Arc::new(AtomicUsize::new(0)));
        let slow = || read(&count, Duration::from_millis(1_500));
        let leaves = tokio::time::timeout(Duration::from_secs(1), readiness.check(slow));
        let (left, ready) = tokio::join!(leaves, readiness.check(slow));
        assert!(left.is_err() && ready);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let left = tokio::time::timeout(Duration::from_millis(1), async {
            tokio::time::advance(READ_RESULT_TTL).await;
            readiness.check(slow).await
        });
        assert!(left.await.is_err());
        tokio::time::advance(READ_TIMEOUT).await;
        assert!(readiness.check(slow).await, "what nobody waited for is not believed");
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_refuses_or_is_late_is_not_ready() {
        let readiness = Readiness::default();
        assert!(!readiness.check(|| Box::pin(async { Err(Refusal::unavailable()) })).await);
        tokio::time::advance(READ_RESULT_TTL).await;
        assert!(!readiness.check(|| Box::pin(std::future::pending())).await);
    }
}
