//! A write time-out: closes the connection of a client that does not read its response, because the client would hold the
//! connection and the response without end.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::in_flight::Permit;

/// How long a write may make no progress. A response is at most a page or a file, and even a slow line transfers a part of it in
/// less time. A WebSocket, whose client may be suspended, has a longer time-out.
const RESPONSE_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Keeps the permit of a request in flight until its response is written. A response may be large, and a client may take up to 30 s
/// without reading, so an unwritten response must still count towards the payer's limit.
#[derive(Debug, Clone, Default)]
pub(super) struct ResponsePermit(Arc<Mutex<Option<Arc<Permit>>>>);

impl ResponsePermit {
    /// Keeps the permit of the response that is written next.
    pub(super) fn hold_permit(&self, permit: Arc<Permit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
    }

    fn release_permit(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// An HTTP connection whose writes fail when they make no progress.
#[derive(Debug)]
pub(crate) struct WriteTimeoutStream<S> {
    stream: S,
    response_permit: ResponsePermit,
    /// The timer of the time-out. It runs only while writes make no progress.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The cause inside an [`io::Error`] that says that the write time-out has passed.
#[derive(Debug)]
struct WriteTimedOut;

impl fmt::Display for WriteTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write time-out: the client does not read its response")
    }
}

impl std::error::Error for WriteTimedOut {}

/// Whether a connection ended by the write time-out.
pub(super) fn is_write_timeout(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<WriteTimedOut>())
}

impl<S> WriteTimeoutStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self::with_permit(stream, ResponsePermit::default())
    }

    /// Wraps `stream`. The result releases the permit of a response once the response has been handed to the kernel.
    pub(super) fn with_permit(stream: S, response_permit: ResponsePermit) -> Self {
        Self { stream, response_permit, timer: None }
    }

    /// The connection without the time-out.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// The result of a write, or an error when the time-out has passed.
    fn written_or_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(RESPONSE_WRITE_TIMEOUT)));
        timer.as_mut().poll(cx).map(|()| Err(io::Error::new(ErrorKind::TimedOut, WriteTimedOut)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeoutStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeoutStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written_or_timeout(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written_or_timeout(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // TLS keeps encrypted bytes that the kernel has not taken yet.
        let flushed = self.written_or_timeout(cx, flushed);
        // hyper flushes once it has written its whole buffer, so the kernel has the whole response now.
        if flushed.is_ready() {
            self.response_permit.release_permit();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written_or_timeout(cx, shut_down)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use axum::response::Response;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;
    use crate::in_flight::InFlight;
    use crate::limiter::RateOwner;
    use switchboard_protocol::UserId;

    /// The size of the response in the tests.
    const RESPONSE_BYTES: usize = 64 * 1024;

    /// Capacity of the pipe between client and server.
    const PIPE_BYTES: usize = 1024;

    /// A client that has sent a request, and the future that serves it.
    async fn requesting_client() -> (DuplexStream, impl Future<Output = Result<(), hyper::Error>>) {
        let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
        let service = service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; RESPONSE_BYTES])))
        });
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
        let stream = TokioIo::new(WriteTimeoutStream::new(server));
        (client, super::super::accept::builder().keep_alive(false).serve_connection(stream, service))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_disconnected() {
        let (client, serving) = requesting_client().await;
        let began = Instant::now();
        let ended = tokio::time::timeout(2 * RESPONSE_WRITE_TIMEOUT, serving).await.expect("it ends");
        assert!(ended.as_ref().is_err_and(is_write_timeout), "{ended:?}");
        assert_eq!(began.elapsed().as_secs(), RESPONSE_WRITE_TIMEOUT.as_secs());
        drop(client);
    }

    /// Takes every write at once, as TLS does, and hands it on when it is flushed.
    struct BufferedStream {
        stream: DuplexStream,
        buffer: Vec<u8>,
    }

    impl AsyncRead for BufferedStream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for BufferedStream {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.buffer.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let Self { stream, buffer } = self.get_mut();
            while !buffer.is_empty() {
                let written = std::task::ready!(Pin::new(&mut *stream).poll_write(cx, buffer))?;
                drop(buffer.drain(..written));
            }
            Pin::new(stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            std::task::ready!(self.as_mut().poll_flush(cx))?;
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_disconnected_while_its_response_is_flushed() {
        let (mut client, stream) = tokio::io::duplex(PIPE_BYTES);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
        let service = service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; RESPONSE_BYTES])))
        });
        let stream = WriteTimeoutStream::new(BufferedStream { stream, buffer: Vec::new() });
        let serving = super::super::accept::builder().serve_connection(TokioIo::new(stream), service);
        let ended = tokio::time::timeout(2 * RESPONSE_WRITE_TIMEOUT, serving).await.expect("it ends");
        assert!(ended.as_ref().is_err_and(is_write_timeout), "{ended:?}");
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_receives_its_response() {
        let (mut client, serving) = requesting_client().await;
        let began = Instant::now();
        let reading = async {
            let mut taken = 0;
            let mut buffer = [0; PIPE_BYTES];
            loop {
                // waits for: less than the write time-out
                tokio::time::sleep(RESPONSE_WRITE_TIMEOUT / 2).await;
                match client.read(&mut buffer).await.expect("readable") {
                    0 => return taken,
                    count => taken += count,
                }
            }
        };
        let (ended, taken) = tokio::join!(serving, reading);
        assert!(ended.is_ok() && taken > RESPONSE_BYTES, "{ended:?} after {taken}");
        assert!(began.elapsed() > 10 * RESPONSE_WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_held_until_the_response_has_been_read() {
        let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
        let (in_flight, response_permit) = (Arc::new(InFlight::default()), ResponsePermit::default());
        let user = || RateOwner::User(UserId::parse("alice").expect("an id"));
        let (held, counted) = (response_permit.clone(), in_flight.clone());
        let service = service_fn(move |_| {
            held.hold_permit(Arc::new(counted.begin(user(), 1).expect("the first")));
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; RESPONSE_BYTES]))))
        });
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
        let stream = TokioIo::new(WriteTimeoutStream::with_permit(server, response_permit));
        let serving = super::super::accept::builder().serve_connection(stream, service);
        let reading = async {
            let (mut taken, mut buffer) = (0, [0; PIPE_BYTES]);
            // A full pipe of bytes is in transit when the server has written everything.
            while taken < RESPONSE_BYTES - 2 * PIPE_BYTES {
                taken += client.read(&mut buffer).await.expect("readable");
                assert!(in_flight.begin(user(), 1).is_err(), "{taken} bytes are read");
            }
            while in_flight.begin(user(), 1).is_err() {
                let _ = client.read(&mut buffer).await.expect("readable");
            }
        };
        tokio::select! {
            () = reading => {}
            ended = serving => panic!("the connection goes on: {ended:?}"),
        }
    }
}
