//! What this node tells itself, over the one of its two connections to hear it over the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

/// The echoes that are waited for.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    next: AtomicU64,
    awaited: Mutex<FxHashMap<u64, oneshot::Sender<()>>>,
}

impl Echoes {
    pub(super) fn expect(&self) -> Expected<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (heard, wait) = oneshot::channel();
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).insert(number, heard);
        Expected { echoes: self, number, wait }
    }

    pub(super) fn heard(&self, payload: &[u8]) {
        let number = payload.first_chunk().copied().map(u64::from_be_bytes);
        let awaited = number.and_then(|number| self.take(number));
        // Nobody may wait any more.
        let _ = awaited.map(|heard| heard.send(()));
    }

    fn take(&self, number: u64) -> Option<oneshot::Sender<()>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

/// An echo that is waited for, until this is dropped.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    echoes: &'a Echoes,
    number: u64,
    wait: oneshot::Receiver<()>,
}

impl Expected<'_> {
    pub(super) fn payload(&self) -> bytes::Bytes {
        self.number.to_be_bytes().to_vec().into()
    }

    pub(super) async fn heard(&mut self) {
        // Its other end is kept until it is heard, or this is dropped.
        let _ = (&mut self.wait).await;
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.echoes.take(self.number);
    }
}
