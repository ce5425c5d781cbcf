//! The load side: thousands of WebSocket connections on one thread, one epoll loop, no buffer for an idle one.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::clock;
use crate::wire::{self, Incoming};

/// Bytes read at once, into a buffer that all connections share.
const READ: usize = 256 * 1024;

/// Connections that may be on their way at once: a listener's queue is 1,024 long.
const OPENING: usize = 256;

/// How long nothing at all may happen before the run has failed.
const SILENCE: Duration = Duration::from_secs(30);

/// Something that a connection brings.
#[derive(Debug)]
pub(crate) enum Heard<'a> {
    /// The handshake is done.
    Open,
    /// A text frame.
    Text(&'a [u8]),
    /// It is closed, and why.
    Gone(Loss),
}

/// Why a connection is no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Loss {
    #[error("the server closed it with {0:?}")]
    Closed(Option<u16>),
    #[error("the server closed it without a word")]
    Ended,
    #[error(transparent)]
    Failed(std::io::Error),
}

/// What is to be said, and on which connection.
#[derive(Debug, Default)]
pub(crate) struct Replies(Vec<(usize, String)>);

impl Replies {
    /// Nothing is said if the text is empty.
    pub(crate) fn say(&mut self, connection: usize, text: String) {
        if !text.is_empty() {
            self.0.push((connection, text));
        }
    }
}

/// Is told what comes, connection by connection, which count from 0 in the order of [`Load::connect`].
pub(crate) type Hear<'a> = dyn FnMut(usize, Heard<'_>, &mut Replies) -> anyhow::Result<()> + 'a;

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    open: bool,
    /// The beginning of a frame.
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Load {
    poll: Poll,
    events: Events,
    connections: Vec<Option<Connection>>,
    /// Wished for: address and request of the handshake.
    waiting: VecDeque<(usize, SocketAddr, Vec<u8>)>,
    opening: usize,
    scratch: Vec<u8>,
    replies: Replies,
}

impl Load {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            connections: Vec::new(),
            waiting: VecDeque::new(),
            opening: 0,
            scratch: vec![0; READ],
            replies: Replies::default(),
        })
    }

    /// Wishes for a connection; it is opened in its turn. `request` is the whole handshake.
    pub(crate) fn connect(&mut self, address: SocketAddr, request: Vec<u8>) {
        let connection = self.connections.len();
        self.connections.push(None);
        self.waiting.push_back((connection, address, request));
    }

    /// Closes a connection, as a device does that loses its network, except that the server hears of it.
    pub(crate) fn close(&mut self, connection: usize) {
        self.connections[connection] = None;
    }

    /// Says a text.
    pub(crate) fn say(&mut self, connection: usize, text: &str) -> anyhow::Result<()> {
        self.say_all(connection, [text])
    }

    /// Says texts, in one write.
    pub(crate) fn say_all<'a>(
        &mut self,
        connection: usize,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<()> {
        let Some(Some(open)) = self.connections.get_mut(connection) else {
            bail!("connection {connection} is gone")
        };
        texts.into_iter().for_each(|text| wire::text(&mut open.unsent, text.as_bytes()));
        open.flush()
    }

    /// Takes turns until `done`; fails after half a minute in which nothing came.
    pub(crate) fn run_until(
        &mut self,
        hear: &mut Hear<'_>,
        mut done: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let mut last = clock::now();
        while !done() {
            if self.turn(Some(Duration::from_millis(100)), hear)? {
                last = clock::now();
            } else if last.elapsed() > SILENCE {
                bail!("nothing came for {SILENCE:?}");
            }
        }
        Ok(())
    }

    /// Waits for something to come, at most for `timeout`, and tells it; whether anything did.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>, hear: &mut Hear<'_>) -> anyhow::Result<bool> {
        self.open_more()?;
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            polled => polled?,
        }
        let ready: Vec<(usize, bool, bool)> =
            self.events.iter().map(|e| (e.token().0, e.is_readable(), e.is_writable())).collect();
        for (connection, readable, writable) in &ready {
            if *writable && let Some(Some(open)) = self.connections.get_mut(*connection) {
                // A reset shows when reading.
                let _ = open.flush();
            }
            if *readable {
                self.read(*connection, hear)?;
            }
        }
        Ok(!ready.is_empty())
    }

    fn open_more(&mut self) -> anyhow::Result<()> {
        while self.opening < OPENING {
            let Some((connection, address, request)) = self.waiting.pop_front() else { break };
            let mut stream = TcpStream::connect(address).context("cannot connect")?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(connection), interest)?;
            let open = Connection { stream, open: false, unread: Vec::new(), unsent: request };
            self.connections[connection] = Some(open);
            self.opening += 1;
        }
        Ok(())
    }

    /// Reads what there is: the loop is edge-triggered, but a read that did not fill the buffer was the last.
    fn read(&mut self, connection: usize, hear: &mut Hear<'_>) -> anyhow::Result<()> {
        loop {
            let Some(Some(open)) = self.connections.get_mut(connection) else { return Ok(()) };
            let kept = open.unread.len();
            self.scratch[..kept].copy_from_slice(&open.unread);
            open.unread.clear();
            let count = match open.stream.read(&mut self.scratch[kept..]) {
                Ok(0) => return self.lose(connection, Loss::Ended, hear),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    open.unread.extend_from_slice(&self.scratch[..kept]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.lose(connection, Loss::Failed(error), hear),
            };
            let filled = kept + count;
            let input = &self.scratch[..filled];
            if let Some(loss) = open.hear(connection, input, &mut self.opening, hear, &mut self.replies)? {
                return self.lose(connection, loss, hear);
            }
            self.reply()?;
            if filled < self.scratch.len() {
                return Ok(());
            }
        }
    }

    fn lose(&mut self, connection: usize, loss: Loss, hear: &mut Hear<'_>) -> anyhow::Result<()> {
        self.connections[connection] = None;
        hear(connection, Heard::Gone(loss), &mut self.replies)?;
        self.reply()
    }

    fn reply(&mut self) -> anyhow::Result<()> {
        let mut replies = std::mem::take(&mut self.replies.0);
        for (connection, text) in &replies {
            if let Some(Some(open)) = self.connections.get_mut(*connection) {
                wire::text(&mut open.unsent, text.as_bytes());
            }
        }
        // What is said at once on one connection is written at once.
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
    /// Decodes `input` and keeps what is left of it; why it is no more, once the server has closed.
    fn hear(
        &mut self,
        connection: usize,
        mut input: &[u8],
        opening: &mut usize,
        hear: &mut Hear<'_>,
        replies: &mut Replies,
    ) -> anyhow::Result<Option<Loss>> {
        if !self.open {
            let answer = wire::response(input).map_err(|e| anyhow::anyhow!("the handshake failed: {e}"))?;
            let Some(used) = answer else {
                self.unread.extend_from_slice(input);
                return Ok(None);
            };
            self.open = true;
            *opening -= 1;
            input = &input[used..];
            hear(connection, Heard::Open, replies)?;
        }
        while let Some((frame, used)) = wire::decode(input).map_err(anyhow::Error::msg)? {
            match frame {
                Incoming::Text(text) => hear(connection, Heard::Text(text), replies)?,
                Incoming::Ping(payload) => {
                    wire::pong(&mut self.unsent, payload);
                    self.flush()?;
                }
                Incoming::Pong => {}
                Incoming::Close(code) => return Ok(Some(Loss::Closed(code))),
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
