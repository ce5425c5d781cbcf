//! What can go wrong between a client and a server.

use switchboard_protocol::reply::Failure;
use tokio_tungstenite::tungstenite;

use crate::Reconnect;

/// Why a call, or the connection, failed.
///
/// After [`Refused`](Self::Refused), [`NotUnderstood`](Self::NotUnderstood) and [`Unread`](Self::Unread)
/// the connection goes on; after the others it is of no more use. Only `Refused` says that a command had
/// no effect (and not even that with `unavailable`): after any other, send it again with the same `key`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with an `error` frame.
    #[error("{}: {}", .0.code.as_str(), .0.message)]
    Refused(Box<Failure>),
    /// The server answered the WebSocket handshake with another HTTP status than 101.
    #[error("the server refused the connection with HTTP status {status}: {body}")]
    Handshake {
        /// The status.
        status: u16,
        /// The body, as far as it came together with the headers.
        body: String,
    },
    /// The server closed the connection.
    #[error("the server closed the connection{}: {reason}", .code.map_or_else(String::new, |n| format!(" ({n})")))]
    Closed {
        /// The close code; `None` if the server told none, or the connection ended without a close frame.
        code: Option<u16>,
        /// What the server said with it.
        reason: String,
    },
    /// The connection failed, or there never was one: DNS, TCP or WebSocket framing.
    #[error("the connection failed: {0}")]
    Transport(tungstenite::Error),
    /// The server said something that makes no sense to this client. What is of an unknown type is no such
    /// thing: it is passed over.
    #[error("cannot understand the frame {frame}: {source}")]
    NotUnderstood {
        /// The frame's beginning.
        frame: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// [`Client::call`](crate::Client::call) has kept as many frames as it may. Take them with
    /// [`Client::next`](crate::Client::next); the answer to the call will be among those that follow.
    #[error("{0} frames wait to be read")]
    Unread(usize),
}

impl ClientError {
    /// Whether and when to connect again after [`Client::connect`](crate::Client::connect) failed like this.
    pub fn reconnect(&self) -> Reconnect {
        match self {
            Self::Refused(failure) => Reconnect::after_refusal(failure),
            Self::Closed { code, .. } => Reconnect::after_close(*code, None),
            // A proxy answers like this while the server behind it starts.
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
