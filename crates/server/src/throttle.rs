//! Log lines about what anybody can cause at any rate: one a minute.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two lines. An attack that lasts an hour is 60 lines.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Decides which occurrences of one kind of event are logged.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    unlogged: u64,
}

impl Throttle {
    /// Counts an event: if a line is due, how many events it stands for.
    pub(crate) fn record(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.unlogged += 1;
        let now = Instant::now();
        if state.last.is_some_and(|last| now - last < LINE_INTERVAL) {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_event_has_a_line_and_then_one_a_minute_counts_the_others() {
        let throttle = Throttle::default();
        assert_eq!(throttle.record(), Some(1));
        for _ in 0..59 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(throttle.record(), None);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.record(), Some(60));
    }
}
