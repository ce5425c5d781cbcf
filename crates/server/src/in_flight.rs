//! Bounds how many HTTP requests of one user or API key are in flight. A request counts from the check of its credentials until the
//! client has read the response.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use switchboard_protocol::ErrorCode;

use crate::limiter::RateOwner;
use switchboard_store::refusal::Refusal;

/// The `retry_after` of a refused request, in milliseconds. Most requests in flight are answered much sooner.
const RETRY_MS: u64 = 1_000;

/// How many requests of each user and API key are in flight.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<FxHashMap<RateOwner, u32>>);

/// Counts one request as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    in_flight: Arc<InFlight>,
    payer: RateOwner,
}

impl InFlight {
    /// Counts one more request, or refuses it if `most` requests of the payer are in flight. 0 is no limit.
    pub(crate) fn begin(self: &Arc<Self>, payer: RateOwner, most: u32) -> Result<Permit, Refusal> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(payer.clone()).or_default();
        if most > 0 && *count >= most {
            let message = format!("{most} requests are being answered already; wait for one of them");
            return Err(Refusal {
                retry_after: Some(RETRY_MS),
                ..Refusal::new(ErrorCode::RateLimited, message)
            });
        }
        *count += 1;
        drop(counts);
        Ok(Permit { in_flight: self.clone(), payer })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.payer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.payer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard_protocol::UserId;

    #[test]
    fn requests_in_flight_are_limited_per_user() {
        let in_flight = Arc::new(InFlight::default());
        let alice = || RateOwner::User(UserId::parse("alice").expect("an id"));
        let first = in_flight.begin(alice(), 2).expect("one");
        let second = in_flight.begin(alice(), 2).expect("two");
        let refusal = in_flight.begin(alice(), 2).expect_err("three");
        assert_eq!((refusal.code, refusal.retry_after), (ErrorCode::RateLimited, Some(RETRY_MS)));
        let key = in_flight.begin(RateOwner::Key([0; 32]), 2).expect("a key's");
        drop(first);
        let third = in_flight.begin(alice(), 2).expect("one has ended");
        drop((second, third, key));
        assert!(in_flight.0.lock().expect("whole").is_empty());
    }
}
