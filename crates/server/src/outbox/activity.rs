//! What an operator sees of a connection: when its client last sent something, and what waits for it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::Outbox;

/// When the client last sent a message.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// The last message, in milliseconds after `began`.
    received_ms: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self { began: Instant::now(), received_ms: AtomicU64::new(0) }
    }
}

impl Activity {
    fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

/// What waits for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Frames in the queue.
    pub(crate) frames: u64,
    /// Bytes in the queue, and those that the session has taken and not written.
    pub(crate) bytes: u64,
    /// Events that the session has still to read from the log.
    pub(crate) lag_events: u64,
    /// The conversations of these events.
    pub(crate) lag_conversations: u64,
}

impl Outbox {
    /// Records that a message of the client has arrived.
    pub(crate) fn record_received(&self, at: Instant) {
        self.activity.received_ms.store(self.activity.ms(at), Ordering::Relaxed);
    }

    /// How long ago the client's last message arrived, in milliseconds.
    pub(crate) fn idle_ms(&self) -> u64 {
        self.activity.ms(Instant::now()).saturating_sub(self.activity.received_ms.load(Ordering::Relaxed))
    }

    /// What waits for the client.
    pub(crate) fn backlog(&self) -> Backlog {
        let (lags, lag_events) = self.total_lag();
        let inner = self.lock();
        let frames = inner.frames.iter().map(|queued| u64::from(queued.frames)).sum();
        Backlog { frames, bytes: inner.bytes as u64, lag_events, lag_conversations: lags as u64 }
    }
}
