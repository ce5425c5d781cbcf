//! Warns before a certificate ends.

use std::time::Duration;

use switchboard_protocol::Timestamp;
use tokio::time::Instant;

/// A certificate that ends within this time causes a warning: an operator has two working weeks to replace it.
const WARNING_TIME: Duration = Duration::from_secs(14 * 24 * 3_600);

/// A certificate with a short lifetime causes a warning only in the last part of it. Automatic renewals replace a certificate when a
/// third of its lifetime is left, so that a warning means that they fail.
const WARNING_LIFETIME_DIVISOR: i64 = 4;

/// The time between two warnings about the same certificate.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// The time between two lines about a certificate that has ended, because no client can connect.
const ENDED_WARNING_INTERVAL: Duration = Duration::from_secs(3_600);

/// Whether a certificate can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Validity {
    NotYet,
    Valid,
    EndsSoon,
    Ended,
}

/// The lifetime of a certificate, and the last warning about it.
#[derive(Debug)]
pub(super) struct Expiry {
    /// The names of the certificate.
    names: String,
    begins: Timestamp,
    ends: Timestamp,
    warned: Option<(Validity, Instant)>,
}

impl Expiry {
    pub(super) fn new(names: String, begins: Timestamp, ends: Timestamp) -> Self {
        Self { names, begins, ends, warned: None }
    }

    /// Logs a warning if one is due. Returns whether the certificate can be used.
    pub(super) fn check(&mut self, now: Timestamp) -> Validity {
        let validity = self.validity(now);
        let due = match self.warned {
            Some((Validity::Ended, at)) => {
                validity != Validity::Ended || at.elapsed() >= ENDED_WARNING_INTERVAL
            }
            Some((warned, at)) => warned != validity || at.elapsed() >= WARNING_INTERVAL,
            None => true,
        };
        if due {
            self.warned = Some((validity, Instant::now()));
            let Self { names, begins, ends, .. } = self;
            match validity {
                Validity::Valid => {}
                Validity::NotYet => {
                    tracing::warn!(names, %begins, "the certificate is not valid yet; is the clock right?");
                }
                Validity::EndsSoon => tracing::warn!(names, %ends, "the certificate ends soon; replace it"),
                Validity::Ended => {
                    tracing::error!(names, %ends, "the certificate has ended: new clients cannot connect; replace it");
                }
            }
        }
        validity
    }

    fn validity(&self, now: Timestamp) -> Validity {
        let (begins, ends, now) = (self.begins.as_millis(), self.ends.as_millis(), now.as_millis());
        let before = crate::timers::millis(WARNING_TIME);
        let before = before.min((ends - begins) / WARNING_LIFETIME_DIVISOR);
        match () {
            () if now >= ends => Validity::Ended,
            () if now < begins => Validity::NotYet,
            () if now >= ends - before => Validity::EndsSoon,
            () => Validity::Valid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3_600_000;

    #[test]
    fn a_warning_comes_two_weeks_before_the_end_or_in_the_last_quarter() {
        for (lifetime, left, expected) in [
            (90, 15, Validity::Valid),
            (90, 14, Validity::EndsSoon),
            (90, 0, Validity::Ended),
            (90, 91, Validity::NotYet),
            (6, 2, Validity::Valid),
            (6, 1, Validity::EndsSoon),
        ] {
            let at = |days: i64| Timestamp::from_millis(days * DAY);
            let expiry = Expiry::new(String::new(), at(1_000), at(1_000 + lifetime));
            assert_eq!(expiry.validity(at(1_000 + lifetime - left)), expected, "{lifetime} {left}");
        }
    }
}
