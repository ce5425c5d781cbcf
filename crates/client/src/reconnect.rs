//! Whether to connect again, and when.

use std::time::Duration;

use switchboard_protocol::CloseCode;
use switchboard_protocol::reply::{Failure, Reply, ServerFrame};

/// What to do after a connection ended, or after there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// Another attempt with the same `hello` would end in the same way.
    Never,
    /// Connect again after this time, which the server told.
    After(Duration),
    /// Connect again after a random time that grows with each attempt.
    Backoff,
}

impl Reconnect {
    fn after(retry_after: Option<u64>) -> Self {
        retry_after.map_or(Self::Backoff, |wait| Self::After(Duration::from_millis(wait)))
    }

    /// After the `error` that answers `hello`. It goes by `retryable`, so a code of a newer server is no special case.
    pub(crate) fn after_refusal(failure: &Failure) -> Self {
        if failure.retryable { Self::after(failure.retry_after) } else { Self::Never }
    }

    /// After the server closed with a code; `told` is the delay that it told before.
    pub(crate) fn after_close(code: Option<u16>, told: Option<u64>) -> Self {
        if code.is_some_and(|code| !CloseCode::allows_reconnect(code)) {
            Self::Never
        } else {
            Self::after(told)
        }
    }
}

/// The delay that a frame tells for the whole connection: `bye`, or an `error` that answers no command.
pub(crate) fn delay(frame: &ServerFrame) -> Option<u64> {
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
