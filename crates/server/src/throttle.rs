//! Limits the number of log lines in an interval, for events that clients can cause at any rate.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The default time between two lines. An attack that lasts an hour causes 60 lines.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Decides which occurrences of one kind of event are logged.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    /// The most log lines in an interval.
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the first log line of the interval was written.
    began: Option<Instant>,
    lines: u32,
    unlogged: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::every(LINE_INTERVAL)
    }
}

impl Throttle {
    /// Allows one line in each `interval`.
    pub(crate) fn every(interval: Duration) -> Self {
        Self::lines(1, interval)
    }

    /// Allows at most `most` lines in each `interval`.
    pub(crate) fn lines(most: u32, interval: Duration) -> Self {
        Self { interval, most, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event. If a line is due, returns how many events the line stands for, including this one.
    pub(crate) fn record(&self) -> Option<u64> {
        let mut state = self.state();
        state.unlogged += 1;
        state.next_line(self)
    }

    /// Returns how many suppressed events a line should report, if such a line is due and no later event has caused it.
    pub(crate) fn take_unlogged(&self) -> Option<u64> {
        let mut state = self.state();
        if state.unlogged == 0 { None } else { state.next_line(self) }
    }
}

impl State {
    fn next_line(&mut self, throttle: &Throttle) -> Option<u64> {
        let now = Instant::now();
        if self.began.is_none_or(|began| now - began >= throttle.interval) {
            (self.began, self.lines) = (Some(now), 0);
        }
        if self.lines == throttle.most {
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unlogged))
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

    #[tokio::test(start_paused = true)]
    async fn events_at_the_end_of_a_flood_have_a_line_too() {
        let throttle = Throttle::every(Duration::from_secs(1));
        assert_eq!((throttle.record(), throttle.record(), throttle.take_unlogged()), (Some(1), None, None));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((throttle.take_unlogged(), throttle.take_unlogged()), (Some(1), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_logs_up_to_its_number_of_lines_per_interval() {
        let throttle = Throttle::lines(2, Duration::from_secs(1));
        assert_eq!([throttle.record(), throttle.record(), throttle.record()], [Some(1), Some(1), None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([throttle.record(), throttle.record(), throttle.record()], [Some(2), Some(1), None]);
    }
}
