//! What an error of the database means for a batch of which nothing was stored.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::connect::Error;
use crate::record::ConversationKey;
use crate::refusal::Refusal;
use crate::store::batch::Results;
use switchboard_protocol::ErrorCode;

/// The first pause before a batch is tried again that conflicted with another node's; it doubles with each try. Two nodes
/// that try again at once would meet again.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);

/// What went wrong with an attempt to write a batch.
pub(super) enum Trouble {
    /// The connection is of no use any more. Nothing was stored.
    Lost(Error),
    /// It is not known whether the batch was stored. These would be its results.
    Unknown(Error, Results, Vec<ConversationKey>),
    /// A deadlock, or a row that another node inserted first. Nothing was stored, and the next try may succeed.
    Conflict(Error),
    /// Another node holds a lock for long.
    Held(Error),
    /// A statement was cancelled or ran into its time-out: one of the changes may be too much work.
    Cancelled(Error),
    /// The database will never store one of the changes.
    Invalid(Error),
    /// One of the changes met an error that the others might not meet.
    Change(Error),
    /// The database cannot write anything now.
    Database(Error),
}

/// What happens to a batch that could not be written.
pub(super) enum Verdict {
    /// Each of its writes is tried alone.
    Alone,
    /// Its writes are refused as `unavailable`; clients send them again.
    Refuse,
    /// Its one write takes the database longer than a write may take, while others are fast.
    TooSlow,
    /// Its one write will never be stored.
    Invalid,
}

impl Verdict {
    /// What the sender of a single write is answered; `None` where that is `unavailable`.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let message = match self {
            Self::Alone | Self::Refuse => return None,
            Self::TooSlow => "this takes the database longer than a write may take; nothing of it was stored",
            Self::Invalid => "the database does not store this; nothing of it was stored",
        };
        Some(Refusal::new(ErrorCode::TooLarge, message))
    }
}

pub(super) fn classify(error: Error) -> Trouble {
    if error.is_lost() || matches!(error, Error::Doubtful | Error::Moving) {
        return Trouble::Lost(error);
    }
    // A damaged row, or a conversation that is held up.
    let Some(code) = error.code().cloned() else { return Trouble::Change(error) };
    let conflicts =
        [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE, SqlState::UNIQUE_VIOLATION];
    // A primary that has become a standby writes no more.
    if code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return Trouble::Lost(error);
    }
    if conflicts.contains(&code) {
        return Trouble::Conflict(error);
    }
    if code == SqlState::LOCK_NOT_AVAILABLE {
        return Trouble::Held(error);
    }
    if code == SqlState::QUERY_CANCELED {
        return Trouble::Cancelled(error);
    }
    match &code.code()[..2] {
        // Connection exception.
        "08" => Trouble::Lost(error),
        // Data exception, program limit exceeded.
        "22" | "54" => Trouble::Invalid(error),
        // Insufficient resources: disk full, out of memory, too many connections.
        "53" => Trouble::Database(error),
        // An index or a page of one table may be damaged, a row may break a constraint.
        _ => Trouble::Change(error),
    }
}

/// How long to wait before a batch is tried again that conflicted `tries` times.
pub(super) fn conflict_pause(tries: u32) -> Duration {
    let most = CONFLICT_PAUSE * 2_u32.saturating_pow(tries.saturating_sub(1).min(10));
    // Without randomness it is the longest pause.
    let share = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    most.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_conflicts_grow_and_are_bounded() {
        for tries in 0..100 {
            assert!(conflict_pause(tries) <= CONFLICT_PAUSE * 1_024);
        }
        assert!((0..64).any(|_| conflict_pause(8) > CONFLICT_PAUSE), "they grow");
        let pauses: std::collections::BTreeSet<_> = (0..64).map(|_| conflict_pause(5)).collect();
        assert!(pauses.len() > 32, "two nodes do not wait for the same time");
    }
}
