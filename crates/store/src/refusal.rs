//! Why a command is refused: a code of the protocol, with what to do about it.

use std::borrow::Cow;
use std::time::Duration;

use switchboard_protocol::reply::Failure;
use switchboard_protocol::{CommandId, ErrorCode, Rejected};

/// The delay after which a client retries a command that was refused with `unavailable`.
const STORE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A refused command. Every door turns it into its own form of the same words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// The advice, for a person.
    pub message: Cow<'static, str>,
    /// The field at fault.
    pub field: Option<Cow<'static, str>>,
    /// Milliseconds to wait before trying again.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// A refusal without a field or a delay.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), field: None, retry_after: None }
    }

    /// Not there, or not allowed to know: the same words for both, so that nobody can tell them apart.
    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound, "there is no such thing, or it is not yours to see")
    }

    /// Known, but the role does not allow it.
    pub fn forbidden(message: &'static str) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    /// A field whose value does not fit.
    pub fn bad_field(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorCode::BadField, message) }
    }

    /// A field over one of the limits.
    pub fn too_large(field: &'static str, message: String) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorCode::TooLarge, message) }
    }

    /// The store does not answer; the client retries after [`STORE_RETRY_DELAY`].
    pub fn unavailable() -> Self {
        Self::unavailable_for(STORE_RETRY_DELAY)
    }

    /// The same, with another time to wait.
    pub fn unavailable_for(wait: Duration) -> Self {
        let message = "the server cannot store or read right now; retry with the same `key`";
        let wait = u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX).max(1);
        Self { retry_after: Some(wait), ..Self::new(ErrorCode::Unavailable, message) }
    }

    /// The write that this one follows was not stored, so both are to be sent again.
    pub fn follows_unsettled(after: u64) -> Self {
        let message =
            format!("write {after}, which this one follows, was not stored; send both again, in their order");
        Self { retry_after: Some(0), ..Self::new(ErrorCode::Unavailable, message) }
    }

    /// A number that the connection's writes have passed.
    pub(crate) fn bad_number(stored: u64) -> Self {
        Self::bad_field(
            "n",
            format!("n: write {stored} of this connection is stored; a later one has a greater number"),
        )
    }

    /// Too fast. `wait` is rounded up, so that a client that waits as long is not refused again.
    pub fn too_fast(wait: Duration) -> Self {
        Self::rate_limited(u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX).max(1))
    }

    /// Too fast.
    pub fn rate_limited(retry_after_ms: u64) -> Self {
        let message = "too fast; wait `retry_after` milliseconds";
        Self { retry_after: Some(retry_after_ms), ..Self::new(ErrorCode::RateLimited, message) }
    }

    /// The `error` frame that answers the command called `id`.
    pub fn into_failure(self, id: Option<CommandId>) -> Failure {
        Failure {
            id,
            code: self.code,
            retryable: self.code.retryable(),
            message: self.message.into_owned(),
            retry_after: self.retry_after,
            field: self.field.map(Cow::into_owned),
            conversation: None,
            until: None,
        }
    }
}

impl From<Rejected> for Refusal {
    fn from(rejected: Rejected) -> Self {
        Self {
            code: rejected.code,
            message: rejected.message.into(),
            field: rejected.field.map(Cow::Owned),
            retry_after: None,
        }
    }
}
