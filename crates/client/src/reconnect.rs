//! Decides whether and when to reconnect.

use std::time::Duration;

use switchboard_protocol::CloseCode;
use switchboard_protocol::reply::{Failure, Reply, ServerFrame};

/// What to do after a connection has ended or could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// Do not reconnect: another attempt with the same `hello` would fail, too.
    Never,
    /// Reconnect after this delay, which the server sent.
    After(Duration),
    /// Reconnect after a random delay that grows with each attempt.
    Backoff,
}

impl Reconnect {
    fn after_delay(retry_after: Option<u64>) -> Self {
        retry_after.map_or(Self::Backoff, |wait| Self::After(Duration::from_millis(wait)))
    }

    /// Decides after the server answered `hello` with `error`, by the field `retryable`, so that it also works for an unknown code.
    pub(crate) fn after_refusal(failure: &Failure) -> Self {
        if failure.retryable { Self::after_delay(failure.retry_after) } else { Self::Never }
    }

    /// Decides after the server closed with `code`. `retry_after` is from the `bye` or `error` before the close.
    pub(crate) fn after_close(code: Option<u16>, retry_after: Option<u64>) -> Self {
        if code.is_some_and(|code| !CloseCode::allows_reconnect(code)) {
            Self::Never
        } else {
            Self::after_delay(retry_after)
        }
    }
}

/// The delay before reconnecting that a `bye` contains, or an `error` that answers no command.
pub(crate) fn retry_delay(frame: &ServerFrame) -> Option<u64> {
    match frame {
        ServerFrame::Reply(Reply::Bye { retry_after }) => Some(*retry_after),
        ServerFrame::Reply(Reply::Error(failure))
            if failure.id.is_none() && failure.conversation.is_none() =>
        {
            failure.retry_after
        }
        _ => None,
    }
}
