//! The connection of a client to a server.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame, Welcome};
use switchboard_protocol::{Command, CommandId, Hello, SUBPROTOCOL, WriteNumber};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use crate::reconnect::{self, Reconnect};
use crate::writes::Writes;
use crate::{ClientError, Trust, wire};

/// Size of the read buffer. The library's default of 128 KiB per connection is too much for a load generator, which has
/// thousands of connections.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// The most frames that [`Client::call`] queues for [`Client::next`]: several replays of the default length. Without a bound, a
/// program that only uses `call` would fill the memory. Beyond it, `call` returns [`ClientError::Unread`].
pub const MAX_UNREAD_FRAMES: usize = 65_536;

/// How long [`Client::close`] waits for the server's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to a server.
///
/// The client answers pings only while one of its methods waits for a frame. To keep an idle connection open, await
/// [`next`](Self::next).
#[derive(Debug)]
pub struct Client {
    /// On the heap, because the state of TLS has more than a kilobyte.
    socket: Box<WebSocketStream<MaybeTlsStream<TcpStream>>>,
    /// Frames that arrived while a call waited for its answer, and that `next` will return.
    unread: VecDeque<ServerFrame>,
    last_id: i64,
    /// The numbers of the writes; `None` if the client sends writes without numbers.
    writes: Option<Writes>,
    /// What the server's close frame said; `None` until the connection has ended.
    closed: Option<Closed>,
    /// The delay before reconnecting, in milliseconds, if the server sent one.
    retry_after: Option<u64>,
}

#[derive(Debug, Clone)]
struct Closed {
    code: Option<u16>,
    reason: String,
}

impl Client {
    /// Connects to the WebSocket at `url` (`ws://…/v1/ws`, or `wss://` with the certificate authorities of the system), sends `hello` and waits for `welcome`. If the server answers
    /// with `error`, this returns [`ClientError::Refused`].
    pub async fn connect(url: &str, hello: Hello) -> Result<(Self, Welcome), ClientError> {
        Self::open(url).await?.exchange_hello(hello).await
    }

    /// Like [`connect`](Self::connect), with the certificate authorities of `trust`.
    pub async fn connect_trusting(
        url: &str,
        hello: Hello,
        trust: &Trust,
    ) -> Result<(Self, Welcome), ClientError> {
        Self::open_trusting(url, Some(trust)).await?.exchange_hello(hello).await
    }

    /// Sends `hello` and waits for `welcome`.
    async fn exchange_hello(self, hello: Hello) -> Result<(Self, Welcome), ClientError> {
        let mut client = self;
        client.write_without_flush(&hello.into(), None, None).await?;
        client.flush().await?;
        loop {
            match client.receive().await? {
                ServerFrame::Reply(Reply::Welcome(welcome)) => {
                    let numbers = welcome.features.iter().any(|feature| feature == "numbers");
                    client.writes = numbers.then(Writes::default);
                    return Ok((client, *welcome));
                }
                ServerFrame::Reply(Reply::Error(failure)) => {
                    return Err(ClientError::Refused(Box::new(failure)));
                }
                other => client.enqueue(other)?,
            }
        }
    }

    /// Connects without sending `hello`, for programs (such as tests) that send their own first frame.
    pub async fn open(url: &str) -> Result<Self, ClientError> {
        let system = url.starts_with("wss:").then(Trust::system);
        Self::open_trusting(url, system.as_ref()).await
    }

    async fn open_trusting(url: &str, trust: Option<&Trust>) -> Result<Self, ClientError> {
        let uri = url.parse().map_err(tungstenite::Error::from)?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
        // Nagle's algorithm would delay commands, which are small and whose answers callers wait for.
        let disable_nagle = true;
        let connector = trust.map(Trust::connector);
        let connecting = connect_async_tls_with_config(request, Some(config), disable_nagle, connector);
        let (socket, _) = Box::pin(connecting).await?;
        Ok(Self {
            socket: Box::new(socket),
            unread: VecDeque::new(),
            last_id: 0,
            writes: None,
            closed: None,
            retry_after: None,
        })
    }

    /// Sends a command and waits for its answer; a `pong` is [`OkBody::Done`]. [`next`](Self::next) returns the frames that
    /// arrive before the answer, in order.
    ///
    /// It is cancel safe: if it is dropped while it waits, `next` returns the answer.
    pub async fn call(&mut self, command: impl Into<Command>) -> Result<OkBody, ClientError> {
        let command = command.into();
        let id = Some(CommandId::Number(self.submit(command.clone()).await?));
        loop {
            match self.receive().await? {
                ServerFrame::Reply(Reply::Ok(ok)) if ok.id == id => {
                    return if ok.body.is_answer_to(&command) {
                        Ok(ok.body)
                    } else {
                        Err(wire::wrong_answer_error(&command))
                    };
                }
                ServerFrame::Reply(Reply::Pong { id: answered }) if answered == id => {
                    return Ok(OkBody::Done {});
                }
                ServerFrame::Reply(Reply::Error(failure)) if failure.id == id => {
                    return Err(ClientError::Refused(Box::new(failure)));
                }
                other => self.enqueue(other)?,
            }
        }
    }

    /// Sends a command and returns its `id` without waiting; [`next`](Self::next) returns the answer.
    pub async fn submit(&mut self, command: impl Into<Command>) -> Result<i64, ClientError> {
        Ok(self.submit_all([command.into()]).await?.start)
    }

    /// Sends commands with one flush and returns their ids; [`next`](Self::next) returns the answers.
    ///
    /// It does not read from the socket, and the server stops reading at `limits.in_flight` unanswered commands. To avoid a
    /// deadlock, read answers before that many commands are unanswered.
    pub async fn submit_all(
        &mut self,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<Range<i64>, ClientError> {
        let first = self.last_id + 1;
        for command in commands {
            self.last_id += 1;
            let writes = self.writes.as_mut().filter(|_| Command::ORDERED.contains(&command.name()));
            let number = writes.map(|writes| writes.number_new_write(self.last_id));
            self.write_without_flush(&command, Some(self.last_id), number).await?;
        }
        self.flush().await?;
        Ok(first..self.last_id + 1)
    }

    /// Sends a write again that the server refused as retryable. The write keeps its number, because the server stores it and the
    /// writes sent after it only in the order of [`submit`](Self::submit). Wait for the `retry_after` of the first refused write,
    /// and then send all refused writes again, in order.
    ///
    /// The client gives a refused write up when the program sends a later one again before it, or submits a new write while no
    /// write waits for its answer. If a write that was given up is sent again, it gets a new number, which is also its new id.
    pub async fn resend(&mut self, id: i64, command: impl Into<Command>) -> Result<i64, ClientError> {
        let number = self.writes.as_mut().and_then(|writes| writes.number_resent_write(id));
        if number.is_none() {
            return self.submit(command).await;
        }
        self.write_without_flush(&command.into(), Some(id), number).await?;
        self.flush().await?;
        Ok(id)
    }

    /// Sends writes without numbers from now on, as older clients do.
    pub fn leave_out_numbers(&mut self) {
        self.writes = None;
    }

    /// Returns the next frame: one that arrived during a call, or else one from the server. `None` after the server closed
    /// the connection ([`close_code`](Self::close_code) has the code) or after the connection failed. It skips frames of a
    /// type that only a newer server knows.
    ///
    /// It is cancel safe, so it may be a branch of a `select!`.
    pub async fn next(&mut self) -> Option<Result<ServerFrame, ClientError>> {
        match self.unread.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None => self.read().await,
        }
    }

    /// The code with which the server closed the connection. `None` until the close frame is read, and if it has no code.
    pub fn close_code(&self) -> Option<u16> {
        self.closed.as_ref()?.code
    }

    /// The error that tells how the connection ended.
    pub fn closed_error(&self) -> ClientError {
        self.closed.clone().unwrap_or_else(Closed::without_close_frame).into()
    }

    /// Whether and when to reconnect, after [`next`](Self::next) or a call returned the end of the connection. It depends on
    /// the close code and on the delay in the `bye` or `error` before it. For an error of [`connect`](Self::connect), see
    /// [`ClientError::reconnect`].
    pub fn reconnect(&self) -> Reconnect {
        Reconnect::after_close(self.close_code(), self.retry_after)
    }

    /// Sends any text, which need not be a command.
    pub async fn send_raw(&mut self, text: impl Into<String>) -> Result<(), ClientError> {
        self.write(Message::text(text.into())).await?;
        self.flush().await
    }

    /// Sends a binary frame, which the server must refuse.
    pub async fn send_binary(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), ClientError> {
        self.write(Message::binary(bytes.into())).await?;
        self.flush().await
    }

    /// Closes the connection and waits at most a second for the server's close frame. Frames that arrive meanwhile are
    /// lost; those that arrived during a call are not.
    pub async fn close(&mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let closing = async {
            if (*self.socket).close(Some(frame)).await.is_ok() {
                while self.read().await.is_some() {}
            }
        };
        // If the server does not answer in time, the connection is closed on this side all the same.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }

    async fn write_without_flush(
        &mut self,
        command: &Command,
        id: Option<i64>,
        number: Option<WriteNumber>,
    ) -> Result<(), ClientError> {
        self.write(Message::text(wire::encode(command, id, number))).await
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

    /// Reads the next frame from the server. The end of the connection is an error.
    async fn receive(&mut self) -> Result<ServerFrame, ClientError> {
        match self.read().await {
            Some(frame) => frame,
            None => Err(self.closed_error()),
        }
    }

    async fn read(&mut self) -> Option<Result<ServerFrame, ClientError>> {
        while self.closed.is_none() {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => {
                    if let Some(frame) = wire::decode(&text).transpose() {
                        if let Ok(frame) = &frame {
                            self.retry_after = reconnect::retry_delay(frame).or(self.retry_after);
                            if let Some(writes) = &mut self.writes {
                                writes.on_frame(frame);
                            }
                        }
                        return Some(frame);
                    }
                }
                Ok(Message::Binary(bytes)) => return Some(Err(wire::not_text_error(&bytes))),
                Ok(Message::Close(frame)) => {
                    self.closed = Some(Closed::from(frame));
                    // Sends the answer to the close frame. If that fails, the server has already disconnected.
                    let _ = self.socket.flush().await;
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Err(error) => return Some(Err(error.into())),
            }
        }
        None
    }

    fn enqueue(&mut self, frame: ServerFrame) -> Result<(), ClientError> {
        self.unread.push_back(frame);
        if self.unread.len() < MAX_UNREAD_FRAMES {
            Ok(())
        } else {
            Err(ClientError::Unread(self.unread.len()))
        }
    }
}

impl Closed {
    /// Describes a connection that ended without a close frame.
    fn without_close_frame() -> Self {
        Self { code: None, reason: "without a close frame".to_owned() }
    }
}

impl From<Option<CloseFrame>> for Closed {
    fn from(frame: Option<CloseFrame>) -> Self {
        match frame {
            Some(frame) => Self { code: Some(frame.code.into()), reason: frame.reason.to_string() },
            None => Self::without_close_frame(),
        }
    }
}

impl From<Closed> for ClientError {
    fn from(Closed { code, reason }: Closed) -> Self {
        Self::Closed { code, reason }
    }
}
