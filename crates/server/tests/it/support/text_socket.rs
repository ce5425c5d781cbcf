//! A WebSocket that sends and receives the exact text of frames.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::in_time;

/// A WebSocket on which tests send and receive frames as text, not as decoded types.
pub(crate) struct TextSocket {
    socket: Box<WebSocketStream<MaybeTlsStream<TcpStream>>>,
}

impl TextSocket {
    /// Opens a WebSocket.
    pub(crate) async fn open(url: &str) -> Self {
        let (socket, _) = in_time("a WebSocket", Box::pin(connect_async(url))).await.expect("a WebSocket");
        Self { socket: Box::new(socket) }
    }

    /// Sends a text frame.
    pub(crate) async fn says(&mut self, text: &str) {
        self.writes(Message::text(text)).await;
    }

    /// Sends a frame of any kind.
    pub(crate) async fn writes(&mut self, message: Message) {
        self.socket.send(message).await.expect("sent");
    }

    /// The next frame that is not a ping or a pong; `None` if the connection ended without a close frame.
    async fn next(&mut self) -> Option<Message> {
        loop {
            match in_time("a frame", self.socket.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The text of the next frame.
    pub(crate) async fn receives_text(&mut self) -> String {
        match self.next().await {
            Some(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("no text but {other:?}"),
        }
    }

    /// The next frame, as JSON.
    pub(crate) async fn receives_json(&mut self) -> Value {
        let text = self.receives_text().await;
        serde_json::from_str(&text).expect(&text)
    }

    /// The text of the next frame, with each time replaced by `T`.
    pub(crate) async fn receives_text_with_masked_times(&mut self) -> String {
        mask_times(&self.receives_text().await)
    }

    /// Sends a text frame and returns the next frame from the server.
    pub(crate) async fn asks(&mut self, text: &str) -> Value {
        self.says(text).await;
        self.receives_json().await
    }

    /// Asserts that no frame has arrived: sends a ping, whose answer must be the next frame.
    pub(crate) async fn receives_nothing(&mut self) {
        let pong = self.asks(r#"{"type":"ping","id":"nothing"}"#).await;
        assert_eq!(pong["type"], "pong", "{pong}");
    }

    /// Sends a frame again and again until the server closes the connection. Returns the last answer and the close code.
    pub(crate) async fn floods(&mut self, text: &str) -> (Value, u16) {
        in_time("the server closes the flooding connection", async {
            let mut last = Value::Null;
            loop {
                // This fails after the server has closed the connection; its close frame can still be read.
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

    /// The error that the server sends before it closes, if any, and the close code.
    pub(crate) async fn error_and_close_code(&mut self) -> (Option<Value>, u16) {
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

/// Replaces each time in the text of a frame by `T`. Asserts that the times have the right form.
pub(crate) fn mask_times(frame: &str) -> String {
    const TIME_FIELD: &str = r#""at":""#;
    let mut parts = frame.split(TIME_FIELD);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (time, rest) = part.split_once('"').expect("a time in quotes");
        assert_time(time);
        out.push_str(TIME_FIELD);
        out.push('T');
        out.push('"');
        out.push_str(rest);
    }
    out
}

/// Asserts that a time has the right form: RFC 3339, in UTC, with milliseconds.
fn assert_time(time: &str) {
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{time}");
}
