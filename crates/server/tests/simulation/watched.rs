//! A shared value that tasks can wait on. It wakes the tasks in the order in which they began to wait; `tokio::sync::watch` uses a
//! random order, which would make runs of a seed differ.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// A value that several tasks read and set, and whose changes they can await.
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

    /// Waits until `expected` returns true for the value, and returns the value.
    pub(crate) async fn until(&self, expected: impl Fn(T) -> bool) -> T {
        loop {
            let changed = self.0.1.notified();
            let value = self.get();
            if expected(value) {
                return value;
            }
            changed.await;
        }
    }
}
