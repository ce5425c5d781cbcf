//! A machine that stands still for longer than a scenario allows proves nothing: the scenario is played again.

use std::time::Duration;

/// How often a scenario is played before it is given up.
const TRIES: usize = 5;

/// Something took so long that the server may have been right.
#[derive(Debug)]
#[must_use]
pub(crate) struct Stalled(#[expect(dead_code, reason = "shown when no try proves anything")] String);

impl Stalled {
    /// What was seen is wrong unless `took` is more than `allowed`; fails if it is not.
    pub(crate) fn or_wrong(what: &str, took: Duration, allowed: Duration) -> Self {
        assert!(took > allowed, "{what}, after {took:?} of {allowed:?}");
        Self(format!("{what}, after {took:?} instead of {allowed:?}"))
    }
}

/// Plays a scenario until one try is fast enough to prove something.
pub(crate) async fn unless_stalled(scenario: impl AsyncFn() -> Result<(), Stalled>) {
    let mut stalls = Vec::new();
    while stalls.len() < TRIES {
        match scenario().await {
            Ok(()) => return,
            Err(stalled) => stalls.push(stalled),
        }
    }
    panic!("this machine is too slow to prove anything, or the server is wrong: {stalls:#?}");
}
