//! The circuit breaker: an application that does not answer is left alone for a while.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;
use switchboard_protocol::UserId;
use tokio::time::Instant;

use crate::metrics::{HookFailure as Failure, HookMetrics};

/// After how many failures in a row nothing is asked for a while.
const MAX_FAILURES: u32 = 10;

/// How many users with a failure are remembered: as many as open the breaker.
const MAX_USERS: usize = MAX_FAILURES as usize;

/// How long nothing is asked then. After it, one question finds out whether there are answers again.
const PAUSE: Duration = Duration::from_secs(5);

/// Counts failures, and decides whether a question is asked.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
    metrics: HookMetrics,
}

#[derive(Debug, Default)]
struct State {
    /// The failures since the last answer.
    failures: u32,
    /// The users who are counted in them: one user's messages must not stop the questions about all others.
    users: FxHashSet<UserId>,
    /// Until when nothing is asked; `None` while everything is.
    open_until: Option<Instant>,
    /// Whether the one question is being asked that finds out whether there are answers again.
    is_trying: bool,
}

/// A question that is being asked.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

impl Breaker {
    pub(super) fn new(metrics: HookMetrics) -> Self {
        Self { state: Mutex::default(), metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a question; `None` if it is not to be asked.
    pub(super) fn begin(&self) -> Option<Attempt<'_>> {
        let mut state = self.state();
        let is_trial = match state.open_until {
            None => false,
            Some(until) if state.is_trying || Instant::now() < until => return None,
            Some(_) => true,
        };
        state.is_trying = is_trial;
        Some(Attempt { breaker: self, is_trial })
    }
}

impl Attempt<'_> {
    /// Records whether there was an answer. Of a user, one failure in a row counts, unless there is no connection at all.
    pub(super) fn end(self, user: &UserId, failure: Option<Failure>) {
        let mut state = self.breaker.state();
        let failure = failure.filter(|failure| !failure.is_decision());
        if failure.is_none() {
            state.failures = 0;
            state.users.clear();
            if state.open_until.take().is_some() {
                tracing::info!("the hook answers again");
            }
        } else {
            if failure == Some(Failure::NoConnection)
                || state.users.len() < MAX_USERS && state.users.insert(user.clone())
            {
                state.failures = state.failures.saturating_add(1);
            }
            let is_closed = state.open_until.is_none();
            // Questions that were asked before the pause began do not prolong it.
            if self.is_trial || (is_closed && state.failures >= MAX_FAILURES) {
                state.open_until = Some(Instant::now() + PAUSE);
                if is_closed {
                    let failures = state.failures;
                    tracing::error!(failures, "the hook gives no answers; it is asked again in 5 s");
                }
            }
        }
        self.breaker.metrics.set_open(state.open_until.is_some());
        // The drop ends a trial.
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.breaker.state().is_trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_ANSWER: Option<Failure> = Some(Failure::Timeout);

    fn user(n: u32) -> UserId {
        UserId::parse(&format!("user-{n}")).expect("an id")
    }

    fn fail(breaker: &Breaker, users: std::ops::Range<u32>) {
        for n in users {
            breaker.begin().expect("asked").end(&user(n), NO_ANSWER);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_user_alone_stops_no_questions_unless_there_is_no_connection() {
        let breaker = Breaker::new(HookMetrics::default());
        for _ in 0..50 {
            fail(&breaker, 0..1);
        }
        fail(&breaker, 1..9);
        breaker.begin().expect("nine users").end(&user(9), Some(Failure::Unusable));
        for _ in 0..10 {
            breaker.begin().expect("asked").end(&user(0), Some(Failure::NoConnection));
        }
        assert!(breaker.begin().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn after_ten_failures_in_a_row_one_question_is_tried_every_five_seconds() {
        let breaker = Breaker::new(HookMetrics::default());
        fail(&breaker, 0..9);
        breaker.begin().expect("asked").end(&user(0), None);
        fail(&breaker, 0..9);
        let late = breaker.begin().expect("asked");
        fail(&breaker, 9..10);
        assert!(breaker.begin().is_none(), "ten in a row");
        tokio::time::advance(PAUSE - Duration::from_millis(1)).await;
        late.end(&user(10), NO_ANSWER);
        assert!(breaker.begin().is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        let trial = breaker.begin().expect("one is tried");
        assert!(breaker.begin().is_none(), "and only one");
        trial.end(&user(0), NO_ANSWER);
        assert!(breaker.begin().is_none());
        tokio::time::advance(PAUSE).await;
        drop(breaker.begin().expect("one is tried"));
        breaker.begin().expect("the next one is tried, because that one was dropped").end(&user(0), None);
        fail(&breaker, 0..9);
        assert!(breaker.begin().is_some());
    }
}
