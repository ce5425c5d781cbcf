//! The load generator: thousands of WebSocket connections on one thread with one epoll loop. An idle connection has no buffer.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::clock;
use crate::wire::{self, ServerWireFrame};

/// The size of the read buffer that all connections share.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// How many connections are opened at the same time. A server accepts only 1,024 waiting connections.
const MAX_HANDSHAKES_IN_PROGRESS: usize = 256;

/// If no event arrives on any connection for this long, the run fails.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// An event on a connection.
#[derive(Debug)]
pub(crate) enum ConnectionEvent<'a> {
    /// The WebSocket handshake has succeeded.
    Open,
    /// A text frame arrived.
    Text(&'a [u8]),
    /// The connection was closed, for this reason.
    Closed(CloseReason),
}

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloseReason {
    #[error("the server closed it with code {0:?}")]
    ByServer(Option<u16>),
    #[error("the server closed it without a close frame")]
    WithoutCloseFrame,
    #[error(transparent)]
    Failed(std::io::Error),
}

/// Frames that are to be sent, each with the number of its connection.
#[derive(Debug, Default)]
pub(crate) struct QueuedFrames(Vec<(usize, String)>);

impl QueuedFrames {
    /// Queues a text frame, unless the text is empty.
    pub(crate) fn send(&mut self, connection: usize, text: String) {
        if !text.is_empty() {
            self.0.push((connection, text));
        }
    }
}

/// Handles an event of a connection. Connections are numbered from 0 in the order of the calls of [`Load::connect`].
pub(crate) type ConnectionEventHandler<'a> =
    dyn FnMut(usize, ConnectionEvent<'_>, &mut QueuedFrames) -> anyhow::Result<()> + 'a;

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    is_open: bool,
    /// The beginning of a frame whose end has not arrived yet.
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

/// All connections of the load generator.
#[derive(Debug)]
pub(crate) struct Load {
    poll: Poll,
    events: Events,
    connections: Vec<Option<Connection>>,
    /// Connections that are still to be opened: number, address, and request of the handshake.
    waiting: VecDeque<(usize, SocketAddr, Vec<u8>)>,
    handshakes_in_progress: usize,
    scratch: Vec<u8>,
    replies: QueuedFrames,
}

impl Load {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            connections: Vec::new(),
            waiting: VecDeque::new(),
            handshakes_in_progress: 0,
            scratch: vec![0; READ_BUFFER_BYTES],
            replies: QueuedFrames::default(),
        })
    }

    /// Queues a connection to be opened. `request` is the complete request of the handshake.
    pub(crate) fn connect(&mut self, address: SocketAddr, request: Vec<u8>) {
        let connection = self.connections.len();
        self.connections.push(None);
        self.waiting.push_back((connection, address, request));
    }

    /// Closes a connection without a close frame, like a device that loses its network; but here the server notices at once.
    pub(crate) fn close(&mut self, connection: usize) {
        self.connections[connection] = None;
    }

    /// Sends a text frame.
    pub(crate) fn send(&mut self, connection: usize, text: &str) -> anyhow::Result<()> {
        self.send_all(connection, [text])
    }

    /// Sends text frames in one write.
    pub(crate) fn send_all<'a>(
        &mut self,
        connection: usize,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<()> {
        let Some(Some(open)) = self.connections.get_mut(connection) else {
            bail!("connection {connection} is closed")
        };
        texts.into_iter().for_each(|text| wire::write_text(&mut open.unsent, text.as_bytes()));
        open.flush()
    }

    /// Handles events until `done` returns true; fails if no event arrives for half a minute.
    pub(crate) fn run_until(
        &mut self,
        on_event: &mut ConnectionEventHandler<'_>,
        mut done: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let mut last = clock::now();
        while !done() {
            if self.poll_once(Some(Duration::from_millis(100)), on_event)? {
                last = clock::now();
            } else if last.elapsed() > SILENCE_TIMEOUT {
                bail!("no event for {SILENCE_TIMEOUT:?}");
            }
        }
        Ok(())
    }

    /// Waits for events for at most `timeout`, and handles them. Returns whether there were any.
    pub(crate) fn poll_once(
        &mut self,
        timeout: Option<Duration>,
        on_event: &mut ConnectionEventHandler<'_>,
    ) -> anyhow::Result<bool> {
        self.open_waiting_connections()?;
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            polled => polled?,
        }
        let ready: Vec<(usize, bool, bool)> =
            self.events.iter().map(|e| (e.token().0, e.is_readable(), e.is_writable())).collect();
        for (connection, readable, writable) in &ready {
            if *writable && let Some(Some(open)) = self.connections.get_mut(*connection) {
                // If the connection was reset, the read below reports the error.
                let _ = open.flush();
            }
            if *readable {
                self.read(*connection, on_event)?;
            }
        }
        Ok(!ready.is_empty())
    }

    fn open_waiting_connections(&mut self) -> anyhow::Result<()> {
        while self.handshakes_in_progress < MAX_HANDSHAKES_IN_PROGRESS {
            let Some((connection, address, request)) = self.waiting.pop_front() else { break };
            let mut stream = TcpStream::connect(address).context("cannot connect")?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(connection), interest)?;
            let open = Connection { stream, is_open: false, unread: Vec::new(), unsent: request };
            self.connections[connection] = Some(open);
            self.handshakes_in_progress += 1;
        }
        Ok(())
    }

    /// Reads all available bytes. A read that does not fill the buffer was the last, because the next bytes cause a new event.
    fn read(&mut self, connection: usize, on_event: &mut ConnectionEventHandler<'_>) -> anyhow::Result<()> {
        loop {
            let Some(Some(open)) = self.connections.get_mut(connection) else { return Ok(()) };
            let unread = open.unread.len();
            self.scratch[..unread].copy_from_slice(&open.unread);
            open.unread.clear();
            let count = match open.stream.read(&mut self.scratch[unread..]) {
                Ok(0) => return self.report_and_close(connection, CloseReason::WithoutCloseFrame, on_event),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    open.unread.extend_from_slice(&self.scratch[..unread]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.report_and_close(connection, CloseReason::Failed(error), on_event),
            };
            let filled = unread + count;
            let input = &self.scratch[..filled];
            if let Some(reason) = open.decode_frames(
                connection,
                input,
                &mut self.handshakes_in_progress,
                on_event,
                &mut self.replies,
            )? {
                return self.report_and_close(connection, reason, on_event);
            }
            self.send_replies()?;
            if filled < self.scratch.len() {
                return Ok(());
            }
        }
    }

    fn report_and_close(
        &mut self,
        connection: usize,
        reason: CloseReason,
        on_event: &mut ConnectionEventHandler<'_>,
    ) -> anyhow::Result<()> {
        self.connections[connection] = None;
        on_event(connection, ConnectionEvent::Closed(reason), &mut self.replies)?;
        self.send_replies()
    }

    fn send_replies(&mut self) -> anyhow::Result<()> {
        let mut replies = std::mem::take(&mut self.replies.0);
        for (connection, text) in &replies {
            if let Some(Some(open)) = self.connections.get_mut(*connection) {
                wire::write_text(&mut open.unsent, text.as_bytes());
            }
        }
        // All queued frames of a connection are written in one call.
        for (connection, _) in replies.drain(..) {
            if let Some(Some(open)) = self.connections.get_mut(connection) {
                open.flush()?;
            }
        }
        self.replies.0 = replies;
        Ok(())
    }
}

impl Connection {
    /// Decodes the frames in `input` and keeps an incomplete last one. Returns why the server closed the connection, if it did.
    fn decode_frames(
        &mut self,
        connection: usize,
        mut input: &[u8],
        opening: &mut usize,
        on_event: &mut ConnectionEventHandler<'_>,
        replies: &mut QueuedFrames,
    ) -> anyhow::Result<Option<CloseReason>> {
        if !self.is_open {
            let answer = wire::upgrade_response_length(input)
                .map_err(|e| anyhow::anyhow!("the handshake failed: {e}"))?;
            let Some(used) = answer else {
                self.unread.extend_from_slice(input);
                return Ok(None);
            };
            self.is_open = true;
            *opening -= 1;
            input = &input[used..];
            on_event(connection, ConnectionEvent::Open, replies)?;
        }
        while let Some((frame, used)) = wire::decode_frame(input).map_err(anyhow::Error::msg)? {
            match frame {
                ServerWireFrame::Text(text) => on_event(connection, ConnectionEvent::Text(text), replies)?,
                ServerWireFrame::Ping(payload) => {
                    wire::write_pong(&mut self.unsent, payload);
                    self.flush()?;
                }
                ServerWireFrame::Pong => {}
                ServerWireFrame::Close(code) => return Ok(Some(CloseReason::ByServer(code))),
            }
            input = &input[used..];
        }
        self.unread.extend_from_slice(input);
        if input.is_empty() {
            self.unread = Vec::new();
        }
        Ok(None)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) if count == self.unsent.len() => self.unsent = Vec::new(),
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot write"),
            }
        }
        Ok(())
    }
}
