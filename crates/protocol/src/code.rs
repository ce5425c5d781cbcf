//! The error codes and the close codes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a command failed. The codes are the same on the WebSocket, over HTTP and on the command line. A client that does not
/// know a code decides by the field `retryable` whether to retry.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The frame is not a command in JSON.
    BadFrame,
    /// A field is missing, mistyped, out of range or unknown; `field` names it.
    BadField,
    /// No command has this `type`, or the command is not available on this interface (WebSocket or HTTP).
    UnknownType,
    /// The command exceeds one of the `limits`.
    TooLarge,
    /// The token or key is missing, wrong or expired.
    Unauthorized,
    /// The conversation, user or message does not exist, or the user may not learn whether it exists.
    NotFound,
    /// The user's role in the room does not allow the command.
    Forbidden,
    /// The user has already sent another message with this idempotency key.
    KeyConflict,
    /// The cursor is beyond the head of the log.
    BadCursor,
    /// A room of that name exists already.
    AlreadyExists,
    /// The client sends too fast; it waits `retry_after` milliseconds.
    RateLimited,
    /// The server cannot store at the moment. It may have stored the command: the client retries with the same `key`.
    Unavailable,
    /// The application refused the command; `message` has its reason.
    Refused,
    /// The user is banned: until `until`, or without an end if that is absent.
    Banned,
    /// The object that the command names is not ready yet; the client waits `retry_after` milliseconds.
    NotReady,
    /// Stands for any code that this version does not know, such as a code of a newer server. It is used only for reading,
    /// and is never sent.
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

    /// The code's name on the wire.
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

    /// The HTTP status (RFC 9110 section 15) of an answer with this code.
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

/// Why the server closes a connection: codes of RFC 6455 section 7.4.1 and of the IANA registry, and private codes. A
/// client reconnects after 1012, 1013 and 4000–4499, and does not reconnect after 4500–4999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The client closed the connection first, and this code confirms it.
    Normal = 1000,
    /// The client violated RFC 6455.
    Protocol = 1002,
    /// A text message is not UTF-8.
    NotUtf8 = 1007,
    /// The client violated a rule of this protocol: `hello` was not first, or a message has too many fragments.
    Policy = 1008,
    /// The message is larger than [`crate::Limits::frame`].
    TooBig = 1009,
    /// The server stops; the `bye` before it has the delay for reconnecting.
    Restart = 1012,
    /// The server has no room for this connection.
    TryLater = 1013,
    /// The token expired; the client reconnects with a new one.
    TokenExpired = 4401,
    /// The client did not send `hello` in time, or did not answer a ping in time.
    Silent = 4408,
    /// An operator closed the connection. The client may reconnect at once.
    Kicked = 4410,
    /// The client sent too many frames. It reconnects after the `retry_after` of the `error` frame that precedes the close.
    TooFast = 4429,
    /// The token is invalid. Another attempt with the same token would fail, too.
    Unauthorized = 4501,
    /// The user was logged out everywhere; the client needs a new token.
    Revoked = 4502,
    /// The user is banned. The `error` frame that precedes the close says when the ban ends.
    Banned = 4503,
    /// The application refused the connection.
    Refused = 4504,
}

impl CloseCode {
    /// Every close code.
    pub const ALL: [Self; 15] = [
        Self::Normal,
        Self::Protocol,
        Self::NotUtf8,
        Self::Policy,
        Self::TooBig,
        Self::Restart,
        Self::TryLater,
        Self::TokenExpired,
        Self::Silent,
        Self::Kicked,
        Self::TooFast,
        Self::Unauthorized,
        Self::Revoked,
        Self::Banned,
        Self::Refused,
    ];

    /// The code's number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The reason text that the server sends with the code, in at most 123 bytes (RFC 6455 section 5.5).
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
            Self::Kicked => "closed by an operator",
            Self::TooFast => "too fast; come back after `retry_after` of the error before",
            Self::Unauthorized => "unauthorized",
            Self::Revoked => "logged out everywhere",
            Self::Banned => "banned; see the error before",
            Self::Refused => "refused by the application; see the error before",
        }
    }

    /// Whether the user may do nothing any more, so that the close must not wait for a client that reads slowly.
    pub fn ends_access(self) -> bool {
        matches!(self, Self::Revoked | Self::Banned)
    }

    /// Whether a client reconnects after this close code. If this version does not know the code, its range decides.
    pub fn allows_reconnect(number: u16) -> bool {
        !matches!(number, 1002 | 1007 | 1008 | 1009 | 4500..=4999)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_of_a_code_is_its_name() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).expect("json"), code.as_str());
        }
    }

    #[test]
    fn a_code_of_a_newer_server_is_read_as_unknown() {
        let code = serde_json::from_str::<ErrorCode>("\"out_of_tea\"").expect("a code");
        assert_eq!((code, code.retryable()), (ErrorCode::Unknown, false));
        assert!(!ErrorCode::ALL.contains(&code));
    }
}
