//! The tasks of the server. Every task is counted, and the server waits for all of them when it stops.
//!
//! Some tasks are *critical*: if one of them panics, or ends before the server stops, the server has failed. It is not ready any
//! more, closes its connections and ends, so that a supervisor starts it again.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use switchboard_store::WRITER_THREAD;

/// The tasks of one server. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    deadline_passed: Arc<CancellationToken>,
    failure: Arc<OnceLock<TaskFailure>>,
    /// The token that is cancelled when a critical task has failed.
    failed: CancellationToken,
}

/// A critical task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {task} has {}", match .end { TaskEnd::Panicked => "panicked", TaskEnd::Returned => "ended by itself" })]
pub struct TaskFailure {
    task: &'static str,
    end: TaskEnd,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskEnd {
    /// The task panicked. The panic hook has logged it.
    Panicked,
    Returned,
}

thread_local! {
    /// The critical task that this thread is running now.
    static CURRENT_TASK: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The critical task that this thread is running now, if any.
pub(crate) fn current_critical_task() -> Option<&'static str> {
    let is_writer = || std::thread::current().name() == Some(WRITER_THREAD);
    CURRENT_TASK.get().or_else(|| is_writer().then_some(WRITER_THREAD))
}

impl Tasks {
    /// Makes an empty set of tasks.
    pub(crate) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            deadline_passed: Arc::new(CancellationToken::new()),
            failure: Arc::default(),
            failed: CancellationToken::new(),
        }
    }

    /// Makes another set of tasks, which is stopped separately, after this one. If a critical task of either set fails, both have
    /// failed.
    pub(crate) fn new_later_set(&self) -> Self {
        Self { failure: self.failure.clone(), failed: self.failed.clone(), ..Self::new() }
    }

    /// Starts a task that ends by itself.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Starts a critical task, which must not end before the server stops.
    pub(crate) fn spawn_critical(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let tasks = self.clone();
        #[cfg(any(debug_assertions, feature = "fault-injection"))]
        let task = async move {
            tokio::select! {
                biased;
                () = switchboard_store::fault::wait_for_fault(name) => {}
                () = task => {}
            }
        };
        let mut task = Box::pin(task);
        self.tracker.spawn(async move {
            let end = poll_fn(|cx| {
                CURRENT_TASK.set(Some(name));
                let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx)));
                CURRENT_TASK.set(None);
                match polled {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(())) => Poll::Ready(TaskEnd::Returned),
                    Err(_) => Poll::Ready(TaskEnd::Panicked),
                }
            })
            .await;
            if end == TaskEnd::Panicked
                || !(tasks.stop.is_cancelled() || tasks.deadline_passed.is_cancelled())
            {
                tasks.record_failure(name, end);
            }
        });
    }

    /// Records that a critical task has ended. Only the first one is kept, because others end as a consequence.
    pub(crate) fn record_failure(&self, task: &'static str, end: TaskEnd) {
        let failure = TaskFailure { task, end };
        if self.failure.set(failure).is_ok() {
            if end == TaskEnd::Returned {
                tracing::error!(task, "{failure}; the server ends");
            }
            self.failed.cancel();
        }
    }

    /// Why the server has failed, if it has.
    pub(crate) fn failure(&self) -> Option<TaskFailure> {
        self.failure.get().copied()
    }

    /// A token that is cancelled when the server has failed.
    pub(crate) fn failed(&self) -> &CancellationToken {
        &self.failed
    }

    /// A token that is cancelled when the server stops: tasks start no new work, and finish the current work.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// A token that is cancelled when the time for stopping is over: tasks that still run are dropped.
    pub(crate) fn deadline_passed(&self) -> &CancellationToken {
        &self.deadline_passed
    }

    /// Runs `task` to its end, or until the time for stopping is over. This costs a task that is woken often almost nothing.
    pub(crate) async fn run_until_deadline(&self, mut task: Pin<Box<impl Future<Output = ()>>>) {
        let mut cut = pin!(self.deadline_passed.cancelled());
        let mut registered = false;
        poll_fn(|cx| {
            // The token is polled once. Then it wakes this task by itself, because the task's waker stays the same.
            let over = if std::mem::replace(&mut registered, true) {
                self.deadline_passed.is_cancelled()
            } else {
                cut.as_mut().poll(cx).is_ready()
            };
            if over { Poll::Ready(()) } else { task.as_mut().poll(cx) }
        })
        .await;
    }

    /// Waits for every task to end. After `deadline`, drops those that still run. Returns whether all ended by themselves.
    pub(crate) async fn finish(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        let ended = tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok();
        self.deadline_passed.cancel();
        self.tracker.wait().await;
        ended
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}
