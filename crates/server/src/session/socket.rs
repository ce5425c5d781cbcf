//! Reads and writes a connection. The connection has no read buffer of its own, and each write is one system call.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::unread::UndecodedBytes;
use crate::frame::{DecodeStep, Decoder, Message, MessageBounds};
use crate::metrics::Metrics;
use crate::outbox::{Outbox, QueuedFrames};
use switchboard_protocol::CloseCode;

/// The size of the read buffer. The connections of a thread share one, so that an idle connection has none.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// The most frames per vectored write. Linux allows 1,024 (IOV_MAX), but more than a few dozen save no more time.
const MAX_SLICES_PER_WRITE: usize = 64;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER_BYTES].into());
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionEnd {
    /// The server closes the connection with this code.
    Close(CloseCode),
    /// The client sent its close frame.
    ClosedByClient,
    /// The connection was reset, or ended without a close frame.
    ConnectionLost,
}

impl From<CloseCode> for ConnectionEnd {
    fn from(code: CloseCode) -> Self {
        Self::Close(code)
    }
}

/// Whether to decode the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeFlow {
    /// Decode the next message, if there is one.
    Next,
    /// Stop decoding. The bytes that have been read are kept.
    Pause,
}

/// The transport of a connection: TCP, TLS over TCP, or the replacement of both in a simulation.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Both directions of a WebSocket connection.
#[derive(Debug)]
pub(crate) struct Socket<S> {
    stream: S,
    decoder: Decoder,
    /// Bytes read but not decoded: the start of a frame, or bytes that arrived while reading was paused.
    unread: UndecodedBytes,
    writing: VecDeque<QueuedFrames>,
    /// How many bytes of the first frame in `writing` have been written.
    offset: usize,
    /// Total bytes written.
    sent: u64,
    /// How many messages were decoded, for the log. The counter wraps around after 2^32.
    messages_in: u32,
    /// How many messages were written, for the log. The counter wraps around after 2^32.
    messages_out: u32,
    /// The client's address.
    address: IpAddr,
    /// The `User-Agent` of the handshake, until the client has authenticated.
    agent: Option<Box<str>>,
}

impl<S> Socket<S> {
    /// Adds the `User-Agent` of the handshake.
    pub(crate) fn set_agent(&mut self, agent: Option<Box<str>>) {
        self.agent = agent;
    }

    /// Takes the `User-Agent` of the handshake.
    pub(super) fn take_agent(&mut self) -> Option<Box<str>> {
        self.agent.take()
    }

    /// How many messages were received and how many were sent.
    pub(super) fn messages(&self) -> (u32, u32) {
        (self.messages_in, self.messages_out)
    }

    /// The client's address.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

impl<S: Stream> Socket<S> {
    /// A connection after its handshake; `unread` are bytes that arrived with the handshake.
    pub(crate) fn new(stream: S, unread: Vec<u8>, address: IpAddr) -> Self {
        let (decoder, unread, writing) = (Decoder::default(), unread.into(), VecDeque::new());
        let (messages_in, messages_out, agent) = (0, 0, None);
        Self {
            stream,
            decoder,
            unread,
            writing,
            offset: 0,
            sent: 0,
            messages_in,
            messages_out,
            address,
            agent,
        }
    }

    /// Reads once, and passes every whole message to `on_message`, until it returns [`DecodeFlow::Pause`].
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        bounds: MessageBounds,
        on_message: &mut dyn FnMut(Message<'_>) -> Result<DecodeFlow, ConnectionEnd>,
    ) -> Poll<Result<(), ConnectionEnd>> {
        let mut kept = std::mem::take(&mut self.unread);
        if !kept.is_empty() {
            let (used, flow) = self.decode(kept.bytes_mut(), bounds, on_message)?;
            kept.consume(used);
            if flow == DecodeFlow::Pause {
                kept.shrink();
                self.unread = kept;
                return Poll::Ready(Ok(()));
            }
        }
        let read = self.poll_fill(cx, &mut kept, bounds, on_message);
        kept.shrink();
        self.unread = kept;
        read
    }

    /// Reads from the stream and decodes the bytes after those in `kept`, which then holds the rest.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        kept: &mut UndecodedBytes,
        bounds: MessageBounds,
        on_message: &mut dyn FnMut(Message<'_>) -> Result<DecodeFlow, ConnectionEnd>,
    ) -> Poll<Result<(), ConnectionEnd>> {
        READ_BUFFER.with_borrow_mut(|scratch| {
            // One read is enough: if it did not fill the buffer, the kernel had no more data.
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))
                .map_err(|_| ConnectionEnd::ConnectionLost)?;
            let read = buffer.filled_mut();
            if read.is_empty() {
                return Poll::Ready(Err(ConnectionEnd::ConnectionLost));
            }
            if kept.is_empty() {
                let (used, _) = self.decode(read, bounds, on_message)?;
                kept.append(&read[used..]);
            } else {
                kept.append(read);
                let (used, _) = self.decode(kept.bytes_mut(), bounds, on_message)?;
                kept.consume(used);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Decodes whole frames from the start of `input`. Returns the number of bytes used, and whether to decode more.
    fn decode(
        &mut self,
        input: &mut [u8],
        bounds: MessageBounds,
        on_message: &mut dyn FnMut(Message<'_>) -> Result<DecodeFlow, ConnectionEnd>,
    ) -> Result<(usize, DecodeFlow), ConnectionEnd> {
        let mut used = 0;
        while let Some(rest) = input.get_mut(used..).filter(|rest| !rest.is_empty()) {
            match self.decoder.decode_next(rest, bounds)? {
                DecodeStep::Incomplete => break,
                DecodeStep::Fragment(len) => used += len,
                DecodeStep::Message(len, message) => {
                    used += len;
                    self.messages_in = self.messages_in.wrapping_add(1);
                    let flow = on_message(message)?;
                    self.decoder.free_memory();
                    if flow == DecodeFlow::Pause {
                        return Ok((used, DecodeFlow::Pause));
                    }
                }
            }
        }
        Ok((used, DecodeFlow::Next))
    }

    /// Writes the queue; ready once all of it has been handed to the kernel.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &Outbox,
        metrics: &Metrics,
    ) -> Poll<Result<(), ConnectionEnd>> {
        let mut written = 0;
        loop {
            if self.writing.is_empty() {
                outbox.take_frames(std::mem::take(&mut written), &mut self.writing);
                if self.writing.is_empty() {
                    // TCP has nothing to flush. TLS keeps encrypted bytes that the kernel has not taken yet.
                    return Pin::new(&mut self.stream)
                        .poll_flush(cx)
                        .map_err(|_| ConnectionEnd::ConnectionLost);
                }
            }
            match self.poll_write_frames(cx) {
                Poll::Ready(Ok(count)) => {
                    written += count;
                    if let Some(stored) = self.remove_written(count) {
                        metrics.observe_delivery(Instant::now() - stored);
                    }
                }
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ConnectionEnd::ConnectionLost)),
                Poll::Pending => {
                    outbox.subtract_written(written);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes frames with one system call.
    fn poll_write_frames(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        match (self.writing.front(), self.writing.len()) {
            // `send` is a tenth cheaper than a `writev` of one frame.
            (Some(only), 1) => stream.poll_write(cx, &only.frame[self.offset..]),
            (_, waiting) => {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES_PER_WRITE];
                for (n, (slice, queued)) in slices.iter_mut().zip(&self.writing).enumerate() {
                    *slice = IoSlice::new(&queued.frame[if n == 0 { self.offset } else { 0 }..]);
                }
                stream.poll_write_vectored(cx, &slices[..waiting.min(MAX_SLICES_PER_WRITE)])
            }
        }
    }

    /// The total number of bytes handed to the kernel.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// Removes written bytes from the queue. Returns when the first event among the completed frames was stored.
    fn remove_written(&mut self, count: usize) -> Option<Instant> {
        let mut stored = None;
        self.sent += count as u64;
        self.offset += count;
        while let Some(first) = self.writing.front() {
            if self.offset < first.frame.len() {
                break;
            }
            self.offset -= first.frame.len();
            self.messages_out = self.messages_out.wrapping_add(first.frames);
            stored = stored.or(first.stored);
            self.writing.pop_front();
        }
        stored
    }

    /// Shuts down writing and waits for the client to do the same, because an immediate close would make the kernel discard data in
    /// transit to the client (RFC 9293 section 3.6.1).
    pub(crate) async fn drain_and_close(mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut discard = [0; 1024];
        while self.stream.read(&mut discard).await.is_ok_and(|read| read > 0) {}
    }
}
