//! The errors of the client.

use switchboard_protocol::reply::Failure;
use tokio_tungstenite::tungstenite;

use crate::Reconnect;

/// Why a call or the connection failed.
///
/// The connection stays open after [`Refused`](Self::Refused), [`NotUnderstood`](Self::NotUnderstood) and
/// [`Unread`](Self::Unread); after all other errors it has ended. Only after `Refused` with a code other than `unavailable` is it
/// certain that the command had no effect. After any other error, retry with the same `key`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with an `error` frame.
    #[error("{}: {}", .0.code.as_str(), .0.message)]
    Refused(Box<Failure>),
    /// The server answered the WebSocket handshake with an HTTP status other than 101.
    #[error("the server refused the connection with HTTP status {status}: {body}")]
    Handshake {
        /// The HTTP status of the response.
        status: u16,
        /// The part of the response's body that arrived together with its headers.
        body: String,
    },
    /// The server closed the connection.
    #[error("the server closed the connection{}: {reason}", .code.map_or_else(String::new, |n| format!(" ({n})")))]
    Closed {
        /// The close code; `None` if the close frame had no code, or if there was no close frame.
        code: Option<u16>,
        /// The reason that the close frame gave.
        reason: String,
    },
    /// DNS, TCP or the WebSocket framing failed.
    #[error("the connection failed: {0}")]
    Transport(tungstenite::Error),
    /// The client cannot decode a frame of a type that it knows. (It skips frames of an unknown type.)
    #[error("cannot understand the frame {frame}: {source}")]
    NotUnderstood {
        /// The beginning of the frame.
        frame: String,
        /// The error that the JSON decoder returned.
        source: serde_json::Error,
    },
    /// [`Client::call`](crate::Client::call) has queued [`MAX_UNREAD_FRAMES`](crate::MAX_UNREAD_FRAMES). Read them with
    /// [`Client::next`](crate::Client::next), which will also return the answer to the call.
    #[error("{0} frames wait to be read")]
    Unread(usize),
}

impl ClientError {
    /// Whether and when to reconnect after [`Client::connect`](crate::Client::connect) returned this error.
    pub fn reconnect(&self) -> Reconnect {
        match self {
            Self::Refused(failure) => Reconnect::after_refusal(failure),
            Self::Closed { code, .. } => Reconnect::after_close(*code, None),
            // Another attempt may succeed: for example, a proxy refuses the handshake while the server behind it starts.
            Self::Handshake { .. } | Self::Transport(_) | Self::NotUnderstood { .. } | Self::Unread(_) => {
                Reconnect::Backoff
            }
        }
    }
}

impl From<tungstenite::Error> for ClientError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => {
                let body = response.body().as_deref().unwrap_or_default();
                Self::Handshake {
                    status: response.status().as_u16(),
                    body: String::from_utf8_lossy(body).trim().to_owned(),
                }
            }
            other => Self::Transport(other),
        }
    }
}
