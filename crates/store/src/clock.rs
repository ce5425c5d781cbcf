//! The wall clock, injected so that tests can set it. Nothing else in the server may ask the system for the time.

use std::sync::Arc;

use switchboard_protocol::Timestamp;

/// The wall clock. It may jump, so callers that need ordered times take the later of its time and the last time that they
/// used.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::from_fn(|| Timestamp::from_millis(jiff::Timestamp::now().as_millisecond()))
    }

    /// A clock that calls `now` for each time.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
