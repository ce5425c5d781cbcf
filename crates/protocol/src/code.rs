//! What can go wrong, as a client sees it: a closed list of error codes and of close codes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a command failed. The same list on every door.
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
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 12] = [
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
        }
    }

    /// Whether the same command may succeed later, unchanged.
    pub fn retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable)
    }

    /// The HTTP status (RFC 9110 section 15) that goes with the code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadFrame | Self::BadField | Self::BadCursor => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::UnknownType => 404,
            Self::KeyConflict | Self::AlreadyExists => 409,
            Self::TooLarge => 413,
            Self::RateLimited => 429,
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
    /// The client broke a rule of ours: no `hello` first, too many fragments, a flood.
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
    /// The token is wrong: another attempt with it will fail too.
    Unauthorized = 4501,
    /// The user was logged out everywhere: another token is needed.
    Revoked = 4502,
}

impl CloseCode {
    /// Every code.
    pub const ALL: [Self; 11] = [
        Self::Normal,
        Self::Protocol,
        Self::NotUtf8,
        Self::Policy,
        Self::TooBig,
        Self::Restart,
        Self::TryLater,
        Self::TokenExpired,
        Self::Silent,
        Self::Unauthorized,
        Self::Revoked,
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
            Self::Unauthorized => "unauthorized",
            Self::Revoked => "logged out everywhere",
        }
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
}
