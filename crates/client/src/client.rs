//! One connection.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame, Welcome};
use switchboard_protocol::{Command, CommandId, Hello, SUBPROTOCOL};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::reconnect::{self, Reconnect};
use crate::{ClientError, wire};

/// Bytes of the read buffer. The default of 128 KiB is allocated at once, for every connection; a load
/// generator has thousands.
const READ_BUFFER: usize = 4 * 1024;

/// Most frames that [`Client::call`] keeps for [`Client::next`]: several replays of the default length.
/// Whoever only calls and never takes what else arrives would fill the memory. Beyond:
/// [`ClientError::Unread`].
pub const MAX_KEPT: usize = 65_536;

/// How long [`Client::close`] waits for the server to close, too.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to a server.
///
/// Pings are answered while some method waits for frames, so an idle connection stays up only under a
/// [`next`](Self::next).
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What arrived while a call waited for its answer.
    kept: VecDeque<ServerFrame>,
    last_id: i64,
    /// How the server closed, once it has.
    closed: Option<Closed>,
    /// How many milliseconds to wait before connecting again, if the server told that last.
    retry_after: Option<u64>,
}

#[derive(Debug, Clone)]
struct Closed {
    code: Option<u16>,
    reason: String,
}

impl Client {
    /// Connects to the WebSocket at `url` (`ws://…/v1/ws`), says `hello` and waits for `welcome`. An
    /// `error` in its place is [`ClientError::Refused`].
    pub async fn connect(url: &str, hello: Hello) -> Result<(Self, Welcome), ClientError> {
        let mut client = Self::open(url).await?;
        client.feed(&hello.into(), None).await?;
        client.flush().await?;
        loop {
            match client.receive().await? {
                ServerFrame::Reply(Reply::Welcome(welcome)) => return Ok((client, *welcome)),
                ServerFrame::Reply(Reply::Error(failure)) => {
                    return Err(ClientError::Refused(Box::new(failure)));
                }
                other => client.keep(other)?,
            }
        }
    }

    /// Connects, but says nothing: for a test that has a `hello` of its own in mind.
    pub async fn open(url: &str) -> Result<Self, ClientError> {
        let uri = url.parse().map_err(tungstenite::Error::from)?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        // Commands are small and somebody waits for the answer: Nagle's algorithm would only delay them.
        let disable_nagle = true;
        let (socket, _) = connect_async_with_config(request, Some(config), disable_nagle).await?;
        Ok(Self { socket, kept: VecDeque::new(), last_id: 0, closed: None, retry_after: None })
    }

    /// Says a command and waits for its answer; a `pong` is [`OkBody::Done`]. Whatever else arrives in
    /// the meantime is kept for [`next`](Self::next), in order.
    ///
    /// Dropped while it waits, it loses nothing: the answer comes out of `next`.
    pub async fn call(&mut self, command: impl Into<Command>) -> Result<OkBody, ClientError> {
        let id = Some(CommandId::Number(self.submit(command).await?));
        loop {
            match self.receive().await? {
                ServerFrame::Reply(Reply::Ok(ok)) if ok.id == id => return Ok(ok.body),
                ServerFrame::Reply(Reply::Pong { id: answered }) if answered == id => {
                    return Ok(OkBody::Done {});
                }
                ServerFrame::Reply(Reply::Error(failure)) if failure.id == id => {
                    return Err(ClientError::Refused(Box::new(failure)));
                }
                other => self.keep(other)?,
            }
        }
    }

    /// Says a command and returns its `id` at once; the answer comes out of [`next`](Self::next).
    pub async fn submit(&mut self, command: impl Into<Command>) -> Result<i64, ClientError> {
        Ok(self.submit_all([command.into()]).await?.start)
    }

    /// Says commands in one go and returns their ids; the answers come out of [`next`](Self::next).
    ///
    /// It does not read. Past the server's `limits.in_flight` unanswered commands the server does not
    /// read on either, and each may wait for the other for good: take the answers before that.
    pub async fn submit_all(
        &mut self,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<Range<i64>, ClientError> {
        let first = self.last_id + 1;
        for command in commands {
            self.last_id += 1;
            self.feed(&command, Some(self.last_id)).await?;
        }
        self.flush().await?;
        Ok(first..self.last_id + 1)
    }

    /// The next frame: one that a call kept, or else one from the server. `None` once the server has
    /// closed the connection ([`close_code`](Self::close_code) says how) or after it failed. Frames of a
    /// type that only a newer server knows are passed over.
    ///
    /// Dropped before it is done, it loses nothing, so it may be a branch of a `select!`.
    pub async fn next(&mut self) -> Option<Result<ServerFrame, ClientError>> {
        match self.kept.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None => self.read().await,
        }
    }

    /// The code with which the server closed the connection. `None` before that has been read, and if it
    /// told none.
    pub fn close_code(&self) -> Option<u16> {
        self.closed.as_ref()?.code
    }

    /// How the connection ended, as an error.
    pub fn closed(&self) -> ClientError {
        self.closed.clone().unwrap_or_else(Closed::silently).into()
    }

    /// Whether and when to connect again, once [`next`](Self::next) or a call has told that the connection ended: by the close
    /// code, and after the delay of the `bye` or `error` before it. For an error of [`connect`](Self::connect), see
    /// [`ClientError::reconnect`].
    pub fn reconnect(&self) -> Reconnect {
        Reconnect::after_close(self.close_code(), self.retry_after)
    }

    /// Says a text of any kind, which need not be a command.
    pub async fn send_raw(&mut self, text: impl Into<String>) -> Result<(), ClientError> {
        self.write(Message::text(text.into())).await?;
        self.flush().await
    }

    /// Says bytes, in a binary frame.
    pub async fn send_binary(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), ClientError> {
        self.write(Message::binary(bytes.into())).await?;
        self.flush().await
    }

    /// Closes the connection and waits at most a second for the server to agree. Frames that were still
    /// on their way are lost; what a call kept is not.
    pub async fn close(&mut self) {
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let both = async {
            if self.socket.close(Some(goodbye)).await.is_ok() {
                while self.read().await.is_some() {}
            }
        };
        // Whether the server agrees or not, this side is done.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, both).await;
    }

    async fn feed(&mut self, command: &Command, id: Option<i64>) -> Result<(), ClientError> {
        self.write(Message::text(wire::encode(command, id))).await
    }

    async fn write(&mut self, message: Message) -> Result<(), ClientError> {
        match &self.closed {
            Some(closed) => Err(closed.clone().into()),
            None => Ok(self.socket.feed(message).await?),
        }
    }

    async fn flush(&mut self) -> Result<(), ClientError> {
        Ok(self.socket.flush().await?)
    }

    /// The next frame from the server; its absence is an error.
    async fn receive(&mut self) -> Result<ServerFrame, ClientError> {
        match self.read().await {
            Some(frame) => frame,
            None => Err(self.closed()),
        }
    }

    async fn read(&mut self) -> Option<Result<ServerFrame, ClientError>> {
        while self.closed.is_none() {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => {
                    if let Some(frame) = wire::decode(&text).transpose() {
                        if let Ok(frame) = &frame {
                            self.retry_after = reconnect::delay(frame).or(self.retry_after);
                        }
                        return Some(frame);
                    }
                }
                Ok(Message::Binary(bytes)) => return Some(Err(wire::not_text(&bytes))),
                Ok(Message::Close(frame)) => {
                    self.closed = Some(Closed::from(frame));
                    // The answer to the close frame. If it cannot be sent, the server is gone already.
                    let _ = self.socket.flush().await;
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Err(error) => return Some(Err(error.into())),
            }
        }
        None
    }

    fn keep(&mut self, frame: ServerFrame) -> Result<(), ClientError> {
        self.kept.push_back(frame);
        if self.kept.len() < MAX_KEPT { Ok(()) } else { Err(ClientError::Unread(self.kept.len())) }
    }
}

impl Closed {
    /// The connection ended without a close frame.
    fn silently() -> Self {
        Self { code: None, reason: "without a word".to_owned() }
    }
}

impl From<Option<CloseFrame>> for Closed {
    fn from(frame: Option<CloseFrame>) -> Self {
        match frame {
            Some(frame) => Self { code: Some(frame.code.into()), reason: frame.reason.to_string() },
            None => Self::silently(),
        }
    }
}

impl From<Closed> for ClientError {
    fn from(Closed { code, reason }: Closed) -> Self {
        Self::Closed { code, reason }
    }
}
