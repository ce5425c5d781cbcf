//! A server that sends every message back. It uses the handshake, the framing, the outbox and the closing of real sessions. Test
//! suites of the framing need it, because the protocol itself has no message of 16 MiB and no binary message.

use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use switchboard_protocol::{CloseCode, Limits};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::frame::{self, Message, MessageBounds};
use crate::http::{WriteTimeoutStream, accept_handshake, builder, take_over};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::session::finish;
use crate::session::socket::{ConnectionEnd, DecodeFlow, Socket};

#[cfg(test)]
mod tests;

/// The limits of messages. The longest message of the test suites has 16 MiB, in up to 65,536 fragments.
const BOUNDS: MessageBounds = MessageBounds { bytes: 16 << 20, fragments: 1 << 17 };

/// The number of queued bytes at which the server stops reading, as a session does.
const QUEUE_BYTES: u32 = 256 * 1024;

/// Serves until the listener fails.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => drop(connections.spawn(serve_connection(accepted?.0))),
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(stream: TcpStream) {
    let upgrade = Arc::new(Mutex::new(None));
    let lock = || upgrade.lock().unwrap_or_else(PoisonError::into_inner);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let answer: Response = match accept_handshake(&mut request.map(Body::new)) {
            Ok((found, response)) => {
                *lock() = Some(found);
                response
            }
            Err(response) => *response,
        };
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let serving =
        builder().serve_connection(TokioIo::new(WriteTimeoutStream::new(stream)), service).with_upgrades();
    if serving.await.is_err() {
        return;
    }
    let found = lock().take();
    let Some(found) = found else { return };
    let Ok(upgraded) = found.await else { return };
    let Ok(mut socket) = take_over::<TcpStream>(upgraded, Ipv4Addr::LOCALHOST.into()) else { return };
    let metrics = Arc::new(Metrics::new());
    let limits = Limits { queue: QUEUE_BYTES, ..Limits::default() };
    let outbox = Outbox::new(&limits, metrics.clone());
    let end = poll_fn(|cx| poll(cx, &mut socket, &outbox, &metrics)).await;
    finish(&metrics, socket, &outbox, end).await;
}

fn poll(
    cx: &mut Context<'_>,
    socket: &mut Socket<TcpStream>,
    outbox: &Outbox,
    metrics: &Metrics,
) -> Poll<ConnectionEnd> {
    loop {
        outbox.register_waker(cx.waker());
        let written = match socket.poll_write(cx, outbox, metrics) {
            Poll::Ready(Err(end)) => return Poll::Ready(end),
            written => written.is_ready(),
        };
        match outbox.state().closing {
            Some(code) if written => return Poll::Ready(ConnectionEnd::Close(code)),
            Some(_) => return Poll::Pending,
            None if !written && outbox.state().bytes > QUEUE_BYTES as usize => return Poll::Pending,
            None => {}
        }
        let read = socket.poll_read(cx, BOUNDS, &mut |message| {
            answer_message(outbox, message);
            let state = outbox.state();
            Ok(if state.bytes <= QUEUE_BYTES as usize && state.closing.is_none() {
                DecodeFlow::Next
            } else {
                DecodeFlow::Pause
            })
        });
        match read {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(end)) => return Poll::Ready(end),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Receives frames like a session, without interpreting the messages.
fn answer_message(outbox: &Outbox, message: Message<'_>) {
    match message {
        Message::Text(text) => outbox.push_reply(frame::text(text)),
        Message::Binary(payload) => outbox.push_reply(frame::binary(payload)),
        Message::Ping(payload) => outbox.set_pong(frame::pong(payload)),
        Message::Pong => {}
        Message::Close => outbox.close(CloseCode::Normal),
    }
}
