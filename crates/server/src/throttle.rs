//! Limits the number of log lines in an interval, for events that clients can cause at any rate.
//!
//! A throttle with names gives each user or address a line of its own once a minute, besides the lines of the interval, so that an
//! operator finds all who are affected and not only those who retry most.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;
use switchboard_protocol::UserId;
use tokio::time::Instant;

/// The default time between two lines. An attack that lasts an hour causes 60 lines.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// How often a user or an address has a line of its own.
const NAME_INTERVAL: Duration = Duration::from_secs(60);

/// The most users and addresses that a throttle remembers. The lines of the interval name further ones by chance.
const MAX_NAMES: usize = 1_000;

/// The most lines a second that all throttles of a [`NameBudget`] log about new names, so that a flood of addresses cannot fill a disk.
const MAX_NAME_LINES: u32 = 50;

/// The client that a log line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AffectedClient<'a> {
    User(&'a UserId),
    Address(IpAddr),
}

/// The lines a second about new names that the throttles of one server share.
#[derive(Debug, Clone)]
pub(crate) struct NameBudget(Arc<Throttle>);

impl Default for NameBudget {
    fn default() -> Self {
        Self(Arc::new(Throttle::lines_per(MAX_NAME_LINES, Duration::from_secs(1))))
    }
}

/// Decides which occurrences of one kind of event are logged.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    /// The most log lines in an interval.
    most: u32,
    /// The budget of lines about new names; `None` if names have no lines of their own.
    budget: Option<NameBudget>,
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the first log line of the interval was written.
    began: Option<Instant>,
    lines: u32,
    unlogged: u64,
    /// When the first of the unlogged events happened.
    unlogged_since: Option<Instant>,
    /// The hashes of the names that have had a line since `names_began`.
    names: FxHashSet<u64>,
    names_began: Option<Instant>,
}

/// Events that no log line has reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnloggedEvents {
    pub(crate) count: u64,
    /// How long ago the first of them was.
    pub(crate) age: Duration,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::once_per(LINE_INTERVAL)
    }
}

impl Throttle {
    /// Allows one line in each `interval`.
    pub(crate) fn once_per(interval: Duration) -> Self {
        Self::lines_per(1, interval)
    }

    /// Allows at most `most` lines in each `interval`.
    pub(crate) fn lines_per(most: u32, interval: Duration) -> Self {
        Self { interval, most, budget: None, hasher: RandomState::new(), state: Mutex::default() }
    }

    /// Allows, besides, a line for each name that has had none for a minute, within the budget.
    pub(crate) fn with_names(self, budget: &NameBudget) -> Self {
        Self { budget: Some(budget.clone()), ..self }
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event. If a line is due, returns how many events the line stands for, including this one.
    pub(crate) fn record_event(&self) -> Option<u64> {
        let (mut state, now) = (self.lock_state(), Instant::now());
        state.count_event(now);
        state.next_line(self, now)
    }

    /// Counts an event about a name, such as [`AffectedClient`]. If a line is due, for the interval or for the name, returns how many
    /// events the line stands for, including this one.
    pub(crate) fn record_event_for(&self, name: impl Hash) -> Option<u64> {
        let Some(budget) = &self.budget else { return self.record_event() };
        let name = self.hasher.hash_one(name);
        let (mut state, now) = (self.lock_state(), Instant::now());
        state.count_event(now);
        let is_new = state.is_new_name(name, now);
        let due = state.next_line(self, now).or_else(|| {
            let in_budget = is_new && budget.0.record_event().is_some();
            in_budget.then(|| state.take_count())
        });
        if due.is_some() && is_new {
            state.names.insert(name);
        }
        due
    }

    /// Returns the suppressed events that a line should report, if such a line is due and no later event has caused it.
    pub(crate) fn take_unlogged(&self) -> Option<UnloggedEvents> {
        let (mut state, now) = (self.lock_state(), Instant::now());
        let age = now - state.unlogged_since?;
        state.next_line(self, now).map(|count| UnloggedEvents { count, age })
    }
}

impl State {
    fn count_event(&mut self, now: Instant) {
        self.unlogged += 1;
        self.unlogged_since.get_or_insert(now);
    }

    fn take_count(&mut self) -> u64 {
        self.unlogged_since = None;
        std::mem::take(&mut self.unlogged)
    }

    fn next_line(&mut self, throttle: &Throttle, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now - began >= throttle.interval) {
            (self.began, self.lines) = (Some(now), 0);
        }
        if self.lines == throttle.most {
            return None;
        }
        self.lines += 1;
        Some(self.take_count())
    }

    /// Whether a name has had no line for a while, and can be remembered.
    fn is_new_name(&mut self, name: u64, now: Instant) -> bool {
        if self.names_began.is_none_or(|began| now - began >= NAME_INTERVAL) {
            self.names_began = Some(now);
            self.names.clear();
        }
        self.names.len() < MAX_NAMES && !self.names.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_event_is_logged_and_then_one_line_a_minute_counts_the_others() {
        let throttle = Throttle::default();
        assert_eq!(throttle.record_event(), Some(1));
        for _ in 0..59 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(throttle.record_event(), None);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.record_event(), Some(60));
    }

    #[tokio::test(start_paused = true)]
    async fn events_at_the_end_of_a_flood_are_logged_too() {
        let second = Duration::from_secs(1);
        let throttle = Throttle::once_per(second);
        assert_eq!(
            (throttle.record_event(), throttle.record_event(), throttle.take_unlogged()),
            (Some(1), None, None)
        );
        tokio::time::advance(second).await;
        let unlogged = UnloggedEvents { count: 1, age: second };
        assert_eq!((throttle.take_unlogged(), throttle.take_unlogged()), (Some(unlogged), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_logs_up_to_its_number_of_lines_per_interval() {
        let throttle = Throttle::lines_per(2, Duration::from_secs(1));
        assert_eq!(
            [throttle.record_event(), throttle.record_event(), throttle.record_event()],
            [Some(1), Some(1), None]
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            [throttle.record_event(), throttle.record_event(), throttle.record_event()],
            [Some(2), Some(1), None]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn each_name_is_logged_once_a_minute_besides_the_lines_of_the_interval() {
        let throttle = Throttle::once_per(Duration::from_secs(1)).with_names(&NameBudget::default());
        assert_eq!(
            ["a", "b", "a", "b", "c"].map(|name| throttle.record_event_for(name)),
            [Some(1), Some(1), None, None, Some(3)]
        );
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(["c", "a"].map(|name| throttle.record_event_for(name)), [Some(1), None]);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(["a", "b", "a"].map(|name| throttle.record_event_for(name)), [Some(2), Some(1), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_names_logs_at_most_50_lines_a_second_and_1000_names_a_minute() {
        let budget = NameBudget::default();
        let throttles = [(); 2].map(|()| Throttle::default().with_names(&budget));
        let mut lines = Vec::new();
        for second in 0..30 {
            let names = (0..1_000).map(|name| (second, name));
            lines.push(names.filter(|name| throttles[name.1 % 2].record_event_for(name).is_some()).count());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // The first event of each throttle has the line of its interval.
        assert_eq!(lines.iter().take(30).copied().max(), Some(52));
        let remembered = throttles.each_ref().map(|throttle| throttle.lock_state().names.len());
        assert!(remembered.iter().all(|names| *names <= MAX_NAMES), "{remembered:?}");
        assert_eq!(remembered.iter().sum::<usize>(), lines.iter().sum::<usize>());
    }
}
