//! The reason why a command is refused: an error code of the protocol, with advice for the client.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::Duration;

use switchboard_protocol::reply::Failure;
use switchboard_protocol::{CommandId, ErrorCode, Rejected, Timestamp};

use crate::ban::Ban;
use crate::grant::Scope;

/// The delay after which a client retries a command that was refused with `unavailable`.
const STORE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A refused command. WebSocket, HTTP and the other interfaces each convert it into their own form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The error code of the protocol.
    pub code: ErrorCode,
    /// Advice in words for a person.
    pub message: Cow<'static, str>,
    /// The name of the field that caused the refusal.
    pub field: Option<Cow<'static, str>>,
    /// The line of an import that caused the refusal, from 1 on.
    pub line: Option<NonZeroU32>,
    /// How many milliseconds the client should wait before it tries again.
    pub retry_after: Option<u64>,
    /// The permission that is missing: a scope of an API key, or a name in a user's permissions.
    pub permission: Option<&'static str>,
    /// What few refusals have.
    pub details: Option<Box<RefusalDetails>>,
}

/// What few refusals have, so that the others are small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalDetails {
    /// The oldest and the newest cursor, if the command's cursor is not between them.
    Cursors((String, String)),
    /// When the ban ends that caused the refusal.
    Until(Timestamp),
}

impl Refusal {
    /// A refusal without a field or a delay.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            line: None,
            retry_after: None,
            permission: None,
            details: None,
        }
    }

    /// The object does not exist, or the user may not know of it. Both get the same refusal, so that a user cannot tell
    /// them apart.
    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound, "there is no such thing, or it is not yours to see")
    }

    /// The user is banned from the installation. The message is the moderator's reason, if there is one.
    pub(crate) fn banned(ban: &Ban) -> Self {
        let message = ban.reason.clone().map_or("you are banned here".into(), Cow::Owned);
        Self::new(ErrorCode::Banned, message).with_end(ban.until)
    }

    /// The user has another id by now, and the tokens for this one are good no more.
    pub fn retired() -> Self {
        Self::new(ErrorCode::Unauthorized, "this id was replaced by another; sign in again")
    }

    /// The user may see the object, but their role does not allow the command.
    pub fn forbidden(message: &'static str) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    /// The room is in slow mode, and the user may write again in `wait` milliseconds.
    pub(crate) fn too_soon(wait: u64) -> Self {
        let message = "the room is in slow mode; wait `retry_after` milliseconds";
        Self { retry_after: Some(wait), ..Self::forbidden(message) }
    }

    /// The application gives no reason. The same refusal hides a shadow ban.
    pub fn refused_by_application() -> Self {
        Self::new(ErrorCode::Refused, "the application refused this")
    }

    /// A moderator has rejected the held message that had this key.
    pub(crate) fn rejected() -> Self {
        Self::new(ErrorCode::Refused, "a moderator has refused this message; a new one needs a new `key`")
    }

    /// A held message cannot be released, because its author may not send it any more.
    pub(crate) fn not_releasable(reason: &Self) -> Self {
        let message = format!("the author may not send this any more, so it can only be rejected: {reason}");
        Self::new(ErrorCode::Forbidden, message)
    }

    /// The user may write again at a time.
    pub fn forbidden_until(until: Timestamp, now: Timestamp) -> Self {
        let wait = u64::try_from(until.as_millis().saturating_sub(now.as_millis())).unwrap_or(1);
        let message = format!("an admin of the room lets you only read until {until}");
        Self { retry_after: Some(wait), ..Self::new(ErrorCode::Forbidden, message) }
    }

    /// The API key does not have this scope.
    pub fn out_of_scope(scope: Scope) -> Self {
        let scope = scope.as_str();
        let message =
            format!("the API key does not have the scope `{scope}`; make one with `--scope {scope}`");
        Self { permission: Some(scope), ..Self::new(ErrorCode::Forbidden, message) }
    }

    /// The user does not have this permission.
    pub fn not_permitted(permission: &'static str, message: &'static str) -> Self {
        Self { permission: Some(permission), ..Self::forbidden(message) }
    }

    /// The user is banned from the room.
    pub(crate) fn banned_from_room(ban: &Ban) -> Self {
        Self::new(ErrorCode::Banned, "you are banned from this room").with_end(ban.until)
    }

    /// The same refusal by a ban that ends at this time.
    #[must_use]
    pub(crate) fn with_end(self, until: Option<Timestamp>) -> Self {
        Self { details: until.map(|until| Box::new(RefusalDetails::Until(until))), ..self }
    }

    /// The oldest and the newest cursor, if the command's cursor is not between them.
    pub fn cursors(&self) -> Option<&(String, String)> {
        match self.details.as_deref() {
            Some(RefusalDetails::Cursors(cursors)) => Some(cursors),
            _ => None,
        }
    }

    /// When the ban ends that caused the refusal, if it has an end.
    pub fn until(&self) -> Option<Timestamp> {
        match self.details.as_deref() {
            Some(RefusalDetails::Until(until)) => Some(*until),
            _ => None,
        }
    }

    /// A field has a value that is not valid.
    pub fn bad_field(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorCode::BadField, message) }
    }

    /// The field names an id that was used before.
    pub(crate) fn id_used_before(field: &'static str) -> Self {
        let message = format!("{field}: this id was used before, and an id is never given twice");
        Self { field: Some(field.into()), ..Self::new(ErrorCode::AlreadyExists, message) }
    }

    /// What the field names is another's, or was done before.
    pub(crate) fn conflict(field: &'static str, message: &str) -> Self {
        let message = format!("{field}: {message}");
        Self { field: Some(field.into()), ..Self::new(ErrorCode::AlreadyExists, message) }
    }

    /// The same refusal, which a line of an import has caused.
    #[must_use]
    pub fn at_line(self, line: u32) -> Self {
        Self { line: NonZeroU32::new(line), ..self }
    }

    /// A field exceeds one of the limits.
    pub fn too_large(field: &'static str, message: String) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorCode::TooLarge, message) }
    }

    /// The store does not answer. The client retries after [`STORE_RETRY_DELAY`].
    pub fn unavailable() -> Self {
        Self::unavailable_for(STORE_RETRY_DELAY)
    }

    /// The store does not answer. The client retries after `wait`.
    pub fn unavailable_for(wait: Duration) -> Self {
        let message = "the server cannot store or read right now; retry with the same `key`";
        let wait = u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX).max(1);
        Self { retry_after: Some(wait), ..Self::new(ErrorCode::Unavailable, message) }
    }

    /// The write that this one follows was not stored, so the client must send both again.
    pub fn follows_unsettled(after: u64) -> Self {
        let message =
            format!("write {after}, which this one follows, was not stored; send both again, in their order");
        Self { retry_after: Some(0), ..Self::new(ErrorCode::Unavailable, message) }
    }

    /// A write's number is not above that of a stored write of the same connection.
    pub(crate) fn bad_number(stored: u64) -> Self {
        Self::bad_field(
            "n",
            format!("n: write {stored} of this connection is stored; a later one has a greater number"),
        )
    }

    /// The user exceeds a rate limit. `wait` is rounded up to milliseconds, so that a client that waits as long is not
    /// refused again.
    pub fn too_fast(wait: Duration) -> Self {
        Self::rate_limited(u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX).max(1))
    }

    /// The user exceeds a rate limit; the client should wait `retry_after_ms` milliseconds.
    pub fn rate_limited(retry_after_ms: u64) -> Self {
        let message = "too fast; wait `retry_after` milliseconds";
        Self { retry_after: Some(retry_after_ms), ..Self::new(ErrorCode::RateLimited, message) }
    }

    /// The `error` frame that answers the command with this id.
    pub fn into_failure(self, id: Option<CommandId>) -> Failure {
        let until = self.until();
        Failure {
            id,
            code: self.code,
            retryable: self.code.retryable(),
            message: self.message.into_owned(),
            retry_after: self.retry_after,
            field: self.field.map(Cow::into_owned),
            conversation: None,
            until,
            permission: self.permission.map(str::to_owned),
        }
    }
}

impl From<Rejected> for Refusal {
    fn from(rejected: Rejected) -> Self {
        Self { field: rejected.field.map(Cow::Owned), ..Self::new(rejected.code, rejected.message) }
    }
}
