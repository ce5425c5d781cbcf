//! Repeats a test scenario with real time-outs if the machine was so slow that its result proves nothing.

use std::time::Duration;

/// How many times a scenario is tried.
const MAX_TRIES: usize = 5;

/// The error of a try in which a step took so long that behaviour that looks wrong may be correct.
#[derive(Debug)]
#[must_use]
pub(crate) struct MachineStalled(#[expect(dead_code, reason = "printed if every try stalls")] String);

impl MachineStalled {
    /// Call this when behaviour looks wrong. Panics, unless the step took longer than `allowed`.
    pub(crate) fn assert_late_by_stall(what: &str, took: Duration, allowed: Duration) -> Self {
        assert!(took > allowed, "{what}, after {took:?} of {allowed:?}");
        Self(format!("{what}, after {took:?} instead of {allowed:?}"))
    }
}

/// Runs a scenario again until a try is not [`Stalled`].
pub(crate) async fn retry_if_stalled(scenario: impl AsyncFn() -> Result<(), MachineStalled>) {
    let mut stalls = Vec::new();
    while stalls.len() < MAX_TRIES {
        match scenario().await {
            Ok(()) => return,
            Err(stalled) => stalls.push(stalled),
        }
    }
    panic!("this machine is too slow for this test, or the server is wrong: {stalls:#?}");
}
