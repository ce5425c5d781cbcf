//! A subscription among the others, until it is told to end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_nats::{Message, Subscriber};
use futures_util::stream::Stream;
use futures_util::task::AtomicWaker;
use tokio::task::coop::has_budget_remaining;

/// What a subscription hears. It ends behind what it had heard when it was told to.
#[derive(Debug)]
pub(super) struct Feed {
    messages: Subscriber,
    end: Arc<End>,
}

/// The way to end a [`Feed`].
#[derive(Debug)]
pub(super) struct Ending(Arc<End>);

#[derive(Debug, Default)]
struct End {
    due: AtomicBool,
    waker: AtomicWaker,
}

impl Feed {
    pub(super) fn new(messages: Subscriber) -> (Self, Ending) {
        let end = Arc::new(End::default());
        (Self { messages, end: end.clone() }, Ending(end))
    }
}

impl Ending {
    pub(super) fn end(self) {
        self.0.due.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

impl Stream for Feed {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        // Without a budget, nothing is read of what is there.
        let reads = has_budget_remaining();
        if let Poll::Ready(message) = Pin::new(&mut self.messages).poll_next(cx) {
            return Poll::Ready(message);
        }
        self.end.waker.register(cx.waker());
        if reads && self.end.due.load(Ordering::Acquire) { Poll::Ready(None) } else { Poll::Pending }
    }
}
