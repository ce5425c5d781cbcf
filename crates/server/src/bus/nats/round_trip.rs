//! Messages that this node sends to itself over one of its two connections and receives over the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

/// The messages that this node has sent to itself and that have not arrived yet.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    next: AtomicU64,
    pending: Mutex<FxHashMap<u64, oneshot::Sender<()>>>,
}

impl RoundTrips {
    pub(super) fn begin(&self) -> PendingRoundTrip<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, wait) = oneshot::channel();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        PendingRoundTrip { round_trips: self, number, wait }
    }

    /// Ends the wait for a message to this node itself, because the message has arrived.
    pub(super) fn complete(&self, payload: &[u8]) {
        let number = payload.first_chunk().copied().map(u64::from_be_bytes);
        let pending = number.and_then(|number| self.remove(number));
        // The caller may have stopped waiting.
        let _ = pending.map(|sender| sender.send(()));
    }

    fn remove(&self, number: u64) -> Option<oneshot::Sender<()>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

/// A round trip in progress. Dropping it cancels the wait.
#[derive(Debug)]
pub(super) struct PendingRoundTrip<'a> {
    round_trips: &'a RoundTrips,
    number: u64,
    wait: oneshot::Receiver<()>,
}

impl PendingRoundTrip<'_> {
    pub(super) fn payload(&self) -> bytes::Bytes {
        self.number.to_be_bytes().to_vec().into()
    }

    pub(super) async fn wait_until_completed(&mut self) {
        // This wait cannot fail early, because the sender stays in the table until the message arrives or this value is
        // dropped.
        let _ = (&mut self.wait).await;
    }
}

impl Drop for PendingRoundTrip<'_> {
    fn drop(&mut self) {
        self.round_trips.remove(self.number);
    }
}
