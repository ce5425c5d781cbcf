//! A NATS subscription that can be stopped without losing messages it has already received.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_nats::{Message, Subscriber};
use futures_util::stream::Stream;
use futures_util::task::AtomicWaker;
use tokio::task::coop::has_budget_remaining;

/// A subscription that, when stopped, first yields the messages it has already received.
#[derive(Debug)]
pub(super) struct Subscription {
    messages: Subscriber,
    stop: Arc<StopSignal>,
}

/// Stops a [`Subscription`].
#[derive(Debug)]
pub(super) struct StopHandle(Arc<StopSignal>);

#[derive(Debug, Default)]
struct StopSignal {
    is_stop_requested: AtomicBool,
    waker: AtomicWaker,
}

impl Subscription {
    pub(super) fn new(messages: Subscriber) -> (Self, StopHandle) {
        let stop = Arc::new(StopSignal::default());
        (Self { messages, stop: stop.clone() }, StopHandle(stop))
    }
}

impl StopHandle {
    pub(super) fn stop(self) {
        self.0.is_stop_requested.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

impl Stream for Subscription {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        // If the task has used up tokio's cooperative budget, the subscriber returns `Pending` although messages may be ready. Then
        // it is too early to stop.
        let has_budget = has_budget_remaining();
        if let Poll::Ready(message) = Pin::new(&mut self.messages).poll_next(cx) {
            return Poll::Ready(message);
        }
        self.stop.waker.register(cx.waker());
        if has_budget && self.stop.is_stop_requested.load(Ordering::Acquire) {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}
