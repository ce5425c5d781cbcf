//! Reads of a store in memory. Each is a task that waits as [`Pace`](super::Pace) says.

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Database;
use crate::change::OperationError;
use crate::record::Answer;
use crate::refusal::Refusal;
use crate::sqlite::query::Reader;

/// Runs reads as tasks.
#[derive(Debug, Clone)]
pub(super) struct MemoryReader {
    pub(super) database: Database,
    pub(super) tasks: TaskTracker,
    pub(super) killed: CancellationToken,
}

impl MemoryReader {
    pub(super) fn spawn<T, F>(&self, read: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Reader<'_>) -> Result<T, OperationError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let database = self.database.clone();
        let end = self.killed.clone();
        self.tasks.spawn(async move {
            let told = async {
                database.sleep_next_delay().await;
                let read = database.read(read);
                database.sleep_next_delay().await;
                // The caller may have been dropped.
                let _ = reply.send(read);
            };
            let _ = end.run_until_cancelled(told).await;
        });
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(Refusal::unavailable())) })
    }
}
