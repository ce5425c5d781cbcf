//! What can go wrong, as a client sees it: a list of error codes and of close codes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a command failed. The same list on every door. A client treats a code that it does not know by `retryable`.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not the shape of a command.
    BadFrame,
    /// A field is missing, mistyped, out of range or unknown; `field` names it.
    BadField,
    /// There is no such command, or not on this door.
    UnknownType,
    /// Over one of the `limits`.
    TooLarge,
    /// The token or key is missing, wrong or expired.
    Unauthorized,
    /// Not there, or not allowed to know.
    NotFound,
    /// Known, but the role does not allow it.
    Forbidden,
    /// The idempotency key was used for another message.
    KeyConflict,
    /// A cursor past the head of the log.
    BadCursor,
    /// A room of that name exists already.
    AlreadyExists,
    /// Too fast; wait `retry_after` milliseconds.
    RateLimited,
    /// The server cannot store right now. Whether the command was stored is unknown: say it again
    /// with the same `key`.
    Unavailable,
    /// The application refused it; `message` says why.
    Refused,
    /// The user is banned, until `until` if that is there.
    Banned,
    /// What the command names is not ready yet; wait `retry_after` milliseconds.
    NotReady,
    /// A code that only a newer server knows. No server sends it.
    #[serde(other)]
    #[schemars(skip)]
    #[cfg_attr(feature = "typescript", ts(skip))]
    Unknown,
}

impl ErrorCode {
    /// Every code that this version knows.
    pub const ALL: [Self; 15] = [
        Self::BadFrame,
        Self::BadField,
        Self::UnknownType,
        Self::TooLarge,
        Self::Unauthorized,
        Self::NotFound,
        Self::Forbidden,
        Self::KeyConflict,
        Self::BadCursor,
        Self::AlreadyExists,
        Self::RateLimited,
        Self::Unavailable,
        Self::Refused,
        Self::Banned,
        Self::NotReady,
    ];

    /// The code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadFrame => "bad_frame",
            Self::BadField => "bad_field",
            Self::UnknownType => "unknown_type",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::KeyConflict => "key_conflict",
            Self::BadCursor => "bad_cursor",
            Self::AlreadyExists => "already_exists",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Banned => "banned",
            Self::NotReady => "not_ready",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the same command may succeed later, unchanged.
    pub fn retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::NotReady)
    }

    /// The HTTP status (RFC 9110 section 15) that goes with the code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadFrame | Self::BadField | Self::BadCursor => 400,
            Self::Unauthorized => 401,
            Self::Forbidden | Self::Banned => 403,
            Self::NotFound | Self::UnknownType => 404,
            Self::KeyConflict | Self::AlreadyExists | Self::NotReady => 409,
            Self::TooLarge => 413,
            Self::Refused => 422,
            Self::RateLimited => 429,
            Self::Unknown => 500,
            Self::Unavailable => 503,
        }
    }
}

/// Why the server closes a connection: the codes of RFC 6455 section 7.4.1 and the IANA registry,
/// and our own. 1012, 1013 and 4000–4499 mean "come back", 4500–4999 mean "do not".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// Answering the client's own close.
    Normal = 1000,
    /// The client broke RFC 6455.
    Protocol = 1002,
    /// A text message is not UTF-8.
    NotUtf8 = 1007,
    /// The client broke a rule of ours: no `hello` first, too many fragments.
    Policy = 1008,
    /// A message over [`crate::Limits::frame`].
    TooBig = 1009,
    /// The server stops; `bye` said when to come back.
    Restart = 1012,
    /// The server is full.
    TryLater = 1013,
    /// The token expired: come back with a new one.
    TokenExpired = 4401,
    /// No `hello`, or no answer to pings, in time: come back.
    Silent = 4408,
    /// Too many frames: come back after the `retry_after` of the error before it.
    TooFast = 4429,
    /// The token is wrong: another attempt with it will fail too.
    Unauthorized = 4501,
    /// The user was logged out everywhere: another token is needed.
    Revoked = 4502,
    /// The user is banned; the error before it says until when.
    Banned = 4503,
    /// The application refused the connection.
    Refused = 4504,
}

impl CloseCode {
    /// Every code.
    pub const ALL: [Self; 14] = [
        Self::Normal,
        Self::Protocol,
        Self::NotUtf8,
        Self::Policy,
        Self::TooBig,
        Self::Restart,
        Self::TryLater,
        Self::TokenExpired,
        Self::Silent,
        Self::TooFast,
        Self::Unauthorized,
        Self::Revoked,
        Self::Banned,
        Self::Refused,
    ];

    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The reason sent with the code: what happened, in at most 123 bytes (RFC 6455 section 5.5).
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "closed",
            Self::Protocol => "broken WebSocket framing",
            Self::NotUtf8 => "a text message is not UTF-8",
            Self::Policy => "against the rules; see the error before",
            Self::TooBig => "message too big",
            Self::Restart => "restarting",
            Self::TryLater => "full; try later",
            Self::TokenExpired => "token expired; come back with a new one",
            Self::Silent => "nothing heard in time",
            Self::TooFast => "too fast; come back after `retry_after` of the error before",
            Self::Unauthorized => "unauthorized",
            Self::Revoked => "logged out everywhere",
            Self::Banned => "banned; see the error before",
            Self::Refused => "refused by the application; see the error before",
        }
    }

    /// Whether a client that was closed with this number connects again. A number that this version does not know
    /// is judged by its range.
    pub fn allows_reconnect(number: u16) -> bool {
        !matches!(number, 1002 | 1007 | 1008 | 1009 | 4500..=4999)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_the_name() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).expect("json"), code.as_str());
        }
    }

    #[test]
    fn a_code_of_a_newer_server_is_unknown() {
        let code = serde_json::from_str::<ErrorCode>("\"out_of_tea\"").expect("a code");
        assert_eq!((code, code.retryable()), (ErrorCode::Unknown, false));
        assert!(!ErrorCode::ALL.contains(&code));
    }
}
