//! A WebSocket by hand: the text of each frame as it is on the wire.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::soon;

/// A connection whose frames are told and heard as they are.
pub(crate) struct Hand {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Hand {
    /// Opens one.
    pub(crate) async fn open(url: &str) -> Self {
        let (socket, _) = soon("a WebSocket", connect_async(url)).await.expect("a WebSocket");
        Self { socket }
    }

    /// Says a text frame.
    pub(crate) async fn says(&mut self, text: &str) {
        self.writes(Message::text(text)).await;
    }

    /// Says a frame of any kind.
    pub(crate) async fn writes(&mut self, message: Message) {
        self.socket.send(message).await.expect("sent");
    }

    /// The next frame that is not a ping or a pong; `None` at the end without a close frame.
    async fn next(&mut self) -> Option<Message> {
        loop {
            match soon("a frame", self.socket.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The text of the next frame.
    pub(crate) async fn hears(&mut self) -> String {
        match self.next().await {
            Some(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("no text but {other:?}"),
        }
    }

    /// The next frame, as JSON.
    pub(crate) async fn hears_json(&mut self) -> Value {
        let text = self.hears().await;
        serde_json::from_str(&text).expect(&text)
    }

    /// The text of the next frame, with what differs from run to run replaced: times by `T`.
    pub(crate) async fn hears_timeless(&mut self) -> String {
        timeless(&self.hears().await)
    }

    /// Says a frame and hears the next.
    pub(crate) async fn asks(&mut self, text: &str) -> Value {
        self.says(text).await;
        self.hears_json().await
    }

    /// Nothing waits: the answer to a ping is the next frame.
    pub(crate) async fn hears_nothing(&mut self) {
        let pong = self.asks(r#"{"type":"ping","id":"nothing"}"#).await;
        assert_eq!(pong["type"], "pong", "{pong}");
    }

    /// Says a frame again and again until the server closes: its last answer, and the code.
    pub(crate) async fn floods(&mut self, text: &str) -> (Value, u16) {
        soon("the flood is cut", async {
            let mut last = Value::Null;
            loop {
                // Once the server has closed, this fails; its close frame is still to be read.
                let _ = self.socket.send(Message::text(text)).await;
                match self.next().await {
                    Some(Message::Text(text)) => last = serde_json::from_str(&text).expect(&text),
                    Some(Message::Close(Some(frame))) => return (last, frame.code.into()),
                    other => panic!("not closed but {other:?}"),
                }
            }
        })
        .await
    }

    /// The error that the server tells before it closes, if any, and the code with which it closes.
    pub(crate) async fn last_words(&mut self) -> (Option<Value>, u16) {
        let mut error = None;
        loop {
            match self.next().await {
                Some(Message::Text(text)) if error.is_none() => {
                    error = Some(serde_json::from_str(&text).expect(&text));
                }
                Some(Message::Close(Some(frame))) => return (error, frame.code.into()),
                other => panic!("not closed but {other:?}, after {error:?}"),
            }
        }
    }
}

/// The frame with `T` in place of its times, which are held to the form of the contract.
pub(crate) fn timeless(frame: &str) -> String {
    const KEY: &str = r#""at":""#;
    let mut parts = frame.split(KEY);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (time, rest) = part.split_once('"').expect("a time in quotes");
        assert_time(time);
        out.push_str(KEY);
        out.push('T');
        out.push('"');
        out.push_str(rest);
    }
    out
}

/// RFC 3339, UTC, milliseconds.
fn assert_time(time: &str) {
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{time}");
}
