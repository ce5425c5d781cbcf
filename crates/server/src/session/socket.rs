//! A connection's bytes: read without a buffer of its own, written in one system call.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::unread::Unread;
use crate::frame::{Bounds, Decoder, Message, Step};
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Queued};
use switchboard_protocol::CloseCode;

/// Bytes read at once. One buffer a thread serves every connection, so that an idle one keeps none.
const READ: usize = 64 * 1024;

/// Frames handed to the system at once: more than the 1,024 of Linux' IOV_MAX are refused, and more
/// than a few dozen gain nothing.
const SLICES: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The server closes it.
    Close(CloseCode),
    /// The client sent its close frame.
    Closed,
    /// It is gone: reset, or ended without a close frame.
    Gone,
}

impl From<CloseCode> for End {
    fn from(code: CloseCode) -> Self {
        Self::Close(code)
    }
}

/// Whether to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The next message, if there is one.
    Next,
    /// Not now; what has been read is kept.
    Pause,
}

/// What carries a connection: TCP, or what a simulation has in its place.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A WebSocket connection's two directions.
#[derive(Debug)]
pub(crate) struct Socket<S> {
    stream: S,
    decoder: Decoder,
    /// Read, but not decoded: the start of a frame, or what came while reading was paused.
    unread: Unread,
    writing: VecDeque<Queued>,
    /// Bytes of the first frame in `writing` that have left.
    offset: usize,
    /// Bytes that have left in all.
    sent: u64,
}

impl<S: Stream> Socket<S> {
    /// A connection whose handshake is done; `unread` came with it.
    pub(crate) fn new(stream: S, unread: Vec<u8>) -> Self {
        let (decoder, unread, writing) = (Decoder::default(), unread.into(), VecDeque::new());
        Self { stream, decoder, unread, writing, offset: 0, sent: 0 }
    }

    /// Reads once, and tells every whole message to `hear` until it pauses.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        bounds: Bounds,
        hear: &mut dyn FnMut(Message<'_>) -> Result<Flow, End>,
    ) -> Poll<Result<(), End>> {
        let mut kept = std::mem::take(&mut self.unread);
        if !kept.is_empty() {
            let (used, flow) = self.decode(kept.bytes_mut(), bounds, hear)?;
            kept.consume(used);
            if flow == Flow::Pause {
                kept.shrink();
                self.unread = kept;
                return Poll::Ready(Ok(()));
            }
        }
        let read = self.poll_fill(cx, &mut kept, bounds, hear);
        kept.shrink();
        self.unread = kept;
        read
    }

    /// Reads what has come and decodes it behind `kept`, which then holds what is left.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        kept: &mut Unread,
        bounds: Bounds,
        hear: &mut dyn FnMut(Message<'_>) -> Result<Flow, End>,
    ) -> Poll<Result<(), End>> {
        SCRATCH.with_borrow_mut(|scratch| {
            // What does not fill the buffer was all that there is: TCP does not ask again.
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)).map_err(|_| End::Gone)?;
            let read = buffer.filled_mut();
            if read.is_empty() {
                return Poll::Ready(Err(End::Gone));
            }
            if kept.is_empty() {
                let (used, _) = self.decode(read, bounds, hear)?;
                kept.append(&read[used..]);
            } else {
                kept.append(read);
                let (used, _) = self.decode(kept.bytes_mut(), bounds, hear)?;
                kept.consume(used);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Decodes whole frames from the start of `input`: how many bytes they took, and whether to go on.
    fn decode(
        &mut self,
        input: &mut [u8],
        bounds: Bounds,
        hear: &mut dyn FnMut(Message<'_>) -> Result<Flow, End>,
    ) -> Result<(usize, Flow), End> {
        let mut used = 0;
        while let Some(rest) = input.get_mut(used..).filter(|rest| !rest.is_empty()) {
            match self.decoder.step(rest, bounds)? {
                Step::Incomplete => break,
                Step::Fragment(len) => used += len,
                Step::Message(len, message) => {
                    used += len;
                    let flow = hear(message)?;
                    self.decoder.release();
                    if flow == Flow::Pause {
                        return Ok((used, Flow::Pause));
                    }
                }
            }
        }
        Ok((used, Flow::Next))
    }

    /// Writes what waits; ready once all of it has been handed to the system.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &Outbox,
        metrics: &Metrics,
    ) -> Poll<Result<(), End>> {
        let mut written = 0;
        loop {
            if self.writing.is_empty() {
                outbox.take(std::mem::take(&mut written), &mut self.writing);
                if self.writing.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            match self.poll_hand_over(cx) {
                Poll::Ready(Ok(count)) => {
                    written += count;
                    if let Some(stored) = self.written(count) {
                        metrics.delivery(Instant::now() - stored);
                    }
                }
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => {
                    outbox.written(written);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Hands frames to the system, in one call.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        match (self.writing.front(), self.writing.len()) {
            // `send` is a tenth cheaper than a `writev` of one.
            (Some(only), 1) => stream.poll_write(cx, &only.frame[self.offset..]),
            (_, waiting) => {
                let mut slices = [IoSlice::new(&[]); SLICES];
                for (n, (slice, queued)) in slices.iter_mut().zip(&self.writing).enumerate() {
                    *slice = IoSlice::new(&queued.frame[if n == 0 { self.offset } else { 0 }..]);
                }
                stream.poll_write_vectored(cx, &slices[..waiting.min(SLICES)])
            }
        }
    }

    /// How many bytes have been handed to the system.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Forgets so many written bytes; the time of the oldest event among the frames that are whole.
    fn written(&mut self, count: usize) -> Option<Instant> {
        let mut stored = None;
        self.sent += count as u64;
        self.offset += count;
        while let Some(first) = self.writing.front() {
            if self.offset < first.frame.len() {
                break;
            }
            self.offset -= first.frame.len();
            stored = stored.or(first.stored);
            self.writing.pop_front();
        }
        stored
    }

    /// Ends the server's direction and waits for the client to end its own: closing at once would make
    /// the system discard what is still on its way to the client (RFC 9293 section 3.6.1).
    pub(crate) async fn linger(mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut discard = [0; 1024];
        while self.stream.read(&mut discard).await.is_ok_and(|read| read > 0) {}
    }
}
