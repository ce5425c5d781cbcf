//! Owned tasks: every task of the server is counted, and waited for at the end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one server. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    cut: Arc<CancellationToken>,
}

impl Tasks {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            cut: Arc::new(CancellationToken::new()),
        }
    }

    /// Starts a task that ends by itself.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Cancelled when the server is to stop: no new work, finish what is under way.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancelled when the time for stopping is over: whatever still runs is dropped.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Runs `task` to its end, or until whatever still runs is dropped. A task that is woken often pays nothing for it.
    pub(crate) async fn until_cut(&self, mut task: Pin<Box<impl Future<Output = ()>>>) {
        let mut cut = pin!(self.cut.cancelled());
        let mut told = false;
        poll_fn(|cx| {
            // Once polled, it wakes this task, whose waker stays the same.
            let over = if std::mem::replace(&mut told, true) {
                self.cut.is_cancelled()
            } else {
                cut.as_mut().poll(cx).is_ready()
            };
            if over { Poll::Ready(()) } else { task.as_mut().poll(cx) }
        })
        .await;
    }

    /// Waits for every task to end; after `deadline` cuts those that have not. Tells whether all ended
    /// by themselves.
    pub(crate) async fn finish(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        let ended = tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok();
        self.cut.cancel();
        self.tracker.wait().await;
        ended
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}
