//! A client that does not take its answer is cut: otherwise it holds a connection and the answer for nothing.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::in_flight::Permit;

/// How long a client may take not a byte of an answer that waits for it. An answer is at most a page or a
/// file, which the slowest line that is of any use takes in less; a WebSocket, whose client may sleep, has
/// more time.
const STALL: Duration = Duration::from_secs(30);

/// What counts as a request of its user's until the client has taken the answer: an answer may be as large as a page, and a
/// client that does not read has 30 s.
#[derive(Debug, Clone, Default)]
pub(super) struct Answering(Arc<Mutex<Option<Arc<Permit>>>>);

impl Answering {
    /// The answer that is written next belongs to this permit.
    pub(super) fn hold(&self, permit: Arc<Permit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
    }

    fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A connection for HTTP whose writes fail when they make no progress.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    answering: Answering,
    /// Since nothing could be written: the end of patience.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// The end of patience, inside an [`io::Error`].
#[derive(Debug)]
struct Stalled;

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client does not take its answer")
    }
}

impl std::error::Error for Stalled {}

/// Whether a connection ended because its client did not take its answer.
pub(super) fn is_stalled(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<Stalled>())
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self::holding(stream, Answering::default())
    }

    /// The same, which releases a permit when the answer that it is for has been handed to the system.
    pub(super) fn holding(stream: S, answering: Answering) -> Self {
        Self { stream, answering, stalled: None }
    }

    /// The bare connection.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// What became of a write, or its end when the client had its time.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        stalled.as_mut().poll(cx).map(|()| Err(io::Error::new(ErrorKind::TimedOut, Stalled)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // hyper flushes when it has written all that it has.
        if flushed.is_ready() {
            self.answering.release();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
    use crate::origin::Payer;
    use switchboard_protocol::UserId;

    /// Bytes of an answer.
    const ANSWER: usize = 64 * 1024;

    /// Bytes that wait on the way between the two.
    const PIPE: usize = 1024;

    /// A client that has asked for something, and the way in which its connection ends.
    async fn asked() -> (DuplexStream, impl Future<Output = Result<(), hyper::Error>>) {
        let (mut client, server) = tokio::io::duplex(PIPE);
        let service =
            service_fn(|_| async { Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; ANSWER]))) });
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
        let stream = TokioIo::new(Patient::new(server));
        (client, super::super::accept::builder().keep_alive(false).serve_connection(stream, service))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut() {
        let (client, serving) = asked().await;
        let began = Instant::now();
        let ended = tokio::time::timeout(2 * STALL, serving).await.expect("it ends");
        assert!(ended.as_ref().is_err_and(is_stalled), "{ended:?}");
        assert_eq!(began.elapsed().as_secs(), STALL.as_secs());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_its_time_is_answered() {
        let (mut client, serving) = asked().await;
        let began = Instant::now();
        let reading = async {
            let mut taken = 0;
            let mut buffer = [0; PIPE];
            loop {
                // waits for: less than the end of patience
                tokio::time::sleep(STALL / 2).await;
                match client.read(&mut buffer).await.expect("readable") {
                    0 => return taken,
                    count => taken += count,
                }
            }
        };
        let (ended, taken) = tokio::join!(serving, reading);
        assert!(ended.is_ok() && taken > ANSWER, "{ended:?} after {taken}");
        assert!(began.elapsed() > 10 * STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_held_until_the_answer_has_been_taken() {
        let (mut client, server) = tokio::io::duplex(PIPE);
        let (in_flight, answering) = (Arc::new(InFlight::default()), Answering::default());
        let user = || Payer::User(UserId::parse("alice").expect("an id"));
        let (held, counted) = (answering.clone(), in_flight.clone());
        let service = service_fn(move |_| {
            held.hold(Arc::new(counted.begin(user(), 1).expect("the first")));
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; ANSWER]))))
        });
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
        let stream = TokioIo::new(Patient::holding(server, answering));
        let serving = super::super::accept::builder().serve_connection(stream, service);
        let reading = async {
            let (mut taken, mut buffer) = (0, [0; PIPE]);
            // One pipe full is on its way when the server has written all.
            while taken < ANSWER - 2 * PIPE {
                taken += client.read(&mut buffer).await.expect("readable");
                assert!(in_flight.begin(user(), 1).is_err(), "{taken} bytes are taken");
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
