//! Classifies the database's errors by what they mean for a batch.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::connect::Error;
use super::installation::is_outdated;
use crate::batch::WriteResults;
use crate::record::ConversationKey;
use crate::refusal::Refusal;
use switchboard_protocol::ErrorCode;

/// First delay before a batch that conflicted with another node's is retried; it doubles with each retry, with jitter, because two
/// nodes that retry at the same time would conflict again.
const CONFLICT_RETRY_DELAY: Duration = Duration::from_millis(5);

/// What went wrong with an attempt to write a batch.
pub(super) enum BatchError {
    /// The connection is lost. Nothing was stored.
    Lost(Error),
    /// The outcome of the commit is unknown. If it was committed, these are its results and its conversations.
    Unknown(Error, WriteResults, Vec<ConversationKey>),
    /// A deadlock, or a row that another node inserted first. Nothing was stored, and a retry may succeed.
    Conflict(Error),
    /// The lock time-out expired: another node has held a lock for long.
    LockTimeout(Error),
    /// A statement was cancelled or timed out: one of the changes may be too much work.
    Cancelled(Error),
    /// The database can never store one of the changes.
    Invalid(Error),
    /// An error that may concern only one of the changes.
    Change(Error),
    /// The database cannot write at present.
    Database(Error),
    /// The version of this node is below that of the installation.
    Outdated(Error),
}

/// What happens to a batch that could not be written.
pub(super) enum FailureAction {
    /// Each of its writes is written alone.
    WriteEachAlone,
    /// The writes of the batch are refused as `unavailable`, and clients retry them.
    Refuse,
    /// The batch is a single write, which exceeds the statement time-out although other writes are fast.
    TooSlow,
    /// The batch is a single write, which can never be stored.
    Invalid,
}

impl FailureAction {
    /// The refusal of a single write; `None` for `unavailable`.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let message = match self {
            Self::WriteEachAlone | Self::Refuse => return None,
            Self::TooSlow => "this takes the database longer than a write may take; nothing of it was stored",
            Self::Invalid => "the database does not store this; nothing of it was stored",
        };
        Some(Refusal::new(ErrorCode::TooLarge, message))
    }
}

pub(super) fn classify_error(error: Error) -> BatchError {
    if error.is_lost() || matches!(error, Error::StandbyUncertain | Error::MigrationRunning) {
        return BatchError::Lost(error);
    }
    // Errors without a code: a damaged row, or a conversation that another node has locked.
    let Some(code) = error.code().cloned() else { return BatchError::Change(error) };
    let conflicts =
        [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE, SqlState::UNIQUE_VIOLATION];
    if is_outdated(Some(&code)) {
        return BatchError::Outdated(error);
    }
    // The primary has become a standby.
    if code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return BatchError::Lost(error);
    }
    if conflicts.contains(&code) {
        return BatchError::Conflict(error);
    }
    if code == SqlState::LOCK_NOT_AVAILABLE {
        return BatchError::LockTimeout(error);
    }
    if code == SqlState::QUERY_CANCELED {
        return BatchError::Cancelled(error);
    }
    match &code.code()[..2] {
        // SQLSTATE class 08: the connection failed.
        "08" => BatchError::Lost(error),
        // Class 22 is a data exception, and class 54 says that a limit of the database is exceeded.
        "22" | "54" => BatchError::Invalid(error),
        // Class 53: insufficient resources, for example a full disk, no memory, or too many connections.
        "53" => BatchError::Database(error),
        // For example, an index or a page of one table is damaged, or a row breaks a constraint.
        _ => BatchError::Change(error),
    }
}

/// The delay before the retry of a batch that conflicted `attempts` times.
pub(super) fn conflict_retry_delay(attempts: u32) -> Duration {
    let most = CONFLICT_RETRY_DELAY * 2_u32.saturating_pow(attempts.saturating_sub(1).min(10));
    // If the random source fails, the longest delay is used.
    let jitter = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    most.mul_f64(jitter)
}

/// An error with its causes. Some errors of the PostgreSQL client show their cause themselves; it is not shown twice.
pub(super) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !text.ends_with(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text.push_str(separator);
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_delays_grow_have_jitter_and_are_bounded() {
        for tries in 0..100 {
            assert!(conflict_retry_delay(tries) <= CONFLICT_RETRY_DELAY * 1_024);
        }
        assert!((0..64).any(|_| conflict_retry_delay(8) > CONFLICT_RETRY_DELAY), "they grow");
        let pauses: std::collections::BTreeSet<_> = (0..64).map(|_| conflict_retry_delay(5)).collect();
        assert!(pauses.len() > 32, "delays differ between nodes");
    }
}
