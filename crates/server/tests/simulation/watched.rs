//! A value that others wait for. Whoever waits is woken in the order of waiting; `tokio::sync::watch` throws dice for that.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// A value. Clones share it.
#[derive(Clone)]
pub(crate) struct Watched<T>(Arc<(Mutex<T>, Notify)>);

impl<T: Copy> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new((Mutex::new(value), Notify::new())))
    }

    pub(crate) fn get(&self) -> T {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
        self.0.1.notify_waiters();
    }

    /// Waits for a value of which `wanted` is true.
    pub(crate) async fn until(&self, wanted: impl Fn(T) -> bool) -> T {
        loop {
            let changed = self.0.1.notified();
            let value = self.get();
            if wanted(value) {
                return value;
            }
            changed.await;
        }
    }
}
