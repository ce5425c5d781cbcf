//! The handshake of a connection, with a time-out and a bound on its bytes.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{ACME_PROTOCOL, Tls};

/// The time-out of a handshake, from the accepted connection or the PROXY header on. It takes two round trips, and it bounds how
/// long a client that sends its handshake byte by byte occupies a socket.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes that a client may send before its handshake is complete. A ClientHello with post-quantum keys has 1.8 KB, and
/// rustls would keep up to 64 KB.
const MAX_HANDSHAKE_BYTES: usize = 16 * 1024;

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    TimedOut,
    Disconnected,
    HandshakeTooLong,
    Malformed,
    Incompatible,
    RefusedByClient,
    NoCertificate,
}

impl HandshakeFailure {
    /// Every reason there is.
    pub(crate) const ALL: [Self; 7] = [
        Self::TimedOut,
        Self::Disconnected,
        Self::HandshakeTooLong,
        Self::Malformed,
        Self::Incompatible,
        Self::RefusedByClient,
        Self::NoCertificate,
    ];

    /// The name of the reason in the log and in the metric.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Disconnected => "disconnected",
            Self::HandshakeTooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Incompatible => "incompatible",
            Self::RefusedByClient => "refused_by_client",
            Self::NoCertificate => "no_certificate",
        }
    }

    fn from_error(error: &io::Error, has_certificate: bool) -> Self {
        let cause = error.get_ref();
        if cause.is_some_and(|cause| cause.is::<HandshakeTooLong>()) {
            return Self::HandshakeTooLong;
        }
        match cause.and_then(|cause| cause.downcast_ref::<Error>()) {
            None => Self::Disconnected,
            Some(Error::AlertReceived(_)) => Self::RefusedByClient,
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Self::Incompatible,
            // rustls has no kind of its own for a resolver without a certificate.
            Some(Error::General(_)) if !has_certificate => Self::NoCertificate,
            Some(_) => Self::Malformed,
        }
    }
}

/// The cause inside an [`io::Error`] that says that the client has sent more than [`MAX_HANDSHAKE_BYTES`].
#[derive(Debug, thiserror::Error)]
#[error("the handshake is too long")]
struct HandshakeTooLong;

impl Tls {
    /// Performs the handshake of a connection. Returns `None` if the connection was the challenge of an ACME server.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<Option<TlsStream<HandshakeStream>>, HandshakeFailure> {
        let stream = HandshakeStream { stream, left: Some(MAX_HANDSHAKE_BYTES) };
        let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await;
        let mut stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(HandshakeFailure::from_error(&error, self.current.get().is_some()));
            }
            Err(_) => return Err(HandshakeFailure::TimedOut),
        };
        if stream.get_ref().1.alpn_protocol() == Some(ACME_PROTOCOL) {
            return Ok(None);
        }
        stream.get_mut().0.left = None;
        Ok(Some(stream))
    }
}

/// A TCP connection that fails when its handshake is too long.
#[derive(Debug)]
pub(crate) struct HandshakeStream {
    stream: TcpStream,
    /// How many bytes the handshake may still have; `None` once it is complete.
    left: Option<usize>,
}

impl AsyncRead for HandshakeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(left) = &mut self.left {
            match left.checked_sub(buf.filled().len() - before) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, HandshakeTooLong))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandshakeStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
