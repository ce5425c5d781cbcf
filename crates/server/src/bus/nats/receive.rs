//! Receives: hands the messages of all subscriptions to the router, in each subscription's order. When the router is a slow
//! consumer, notices are dropped and the router receives a gap once its queue has room again.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::sleep;

use super::subject::SubjectKind;
use super::subscription::Subscription;
use super::{Shared, payload};
use crate::bus::BusEvent;

/// The most messages that are handled before new subscriptions and the end of the task are checked again.
const MAX_MESSAGES_PER_TURN: usize = 256;

/// How often this task tries to report a pending gap to a router whose queue is full.
const GAP_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// The task that receives messages.
pub(super) struct MessageReceiver {
    shared: Arc<Shared>,
    new_subscriptions: mpsc::Receiver<Subscription>,
    subscriptions: SelectAll<Subscription>,
    out: mpsc::Sender<BusEvent>,
    /// Whether notices may have been lost and the router has not received the gap yet.
    has_gap: bool,
    /// Whether a notice that cannot be decoded has been logged. Further ones are only dropped.
    has_logged_unreadable: bool,
}

impl MessageReceiver {
    pub(super) fn new(
        shared: Arc<Shared>,
        new_subscriptions: mpsc::Receiver<Subscription>,
        out: mpsc::Sender<BusEvent>,
    ) -> Self {
        Self {
            shared,
            new_subscriptions,
            subscriptions: SelectAll::new(),
            out,
            has_gap: false,
            has_logged_unreadable: false,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let mut messages = Vec::with_capacity(MAX_MESSAGES_PER_TURN);
        loop {
            self.report_gap();
            tokio::select! {
                biased;
                () = shared.done.cancelled() => return,
                Some(subscription) = self.new_subscriptions.recv() => self.subscriptions.push(subscription),
                () = shared.connection.messages_lost.notified() => self.has_gap = true,
                () = receive(&mut self.subscriptions, &mut messages) => {
                    messages.drain(..).for_each(|message| self.handle(&message));
                }
                () = sleep(GAP_RETRY_INTERVAL), if self.has_gap => {}
            }
        }
    }

    /// Reports a pending gap once the router's queue is at most half full, because a gap makes the router compare everything
    /// with the store.
    fn report_gap(&mut self) {
        if self.has_gap && self.out.capacity() >= self.out.max_capacity() / 2 {
            self.has_gap = self.out.try_send(BusEvent::Gap).is_err();
        }
    }

    fn handle(&mut self, message: &Message) {
        let Some(subject) = self.shared.subjects.parse(&message.subject) else { return };
        if matches!(subject.kind, SubjectKind::Probe | SubjectKind::Barrier) {
            return self.shared.round_trips.complete(&message.payload);
        }
        let Some(sender) = payload::sender(&message.payload) else { return };
        // A wildcard subscription also receives messages of subjects that this node does not want. NATS does not echo a node's own
        // messages, so the first condition only guards against a mistake.
        if sender == self.shared.node || !self.shared.desired.contains(subject) {
            return;
        }
        let metrics = &self.shared.metrics.bus;
        if self.out.capacity() == 0 {
            self.has_gap = true;
            metrics.dropped.inc();
            return;
        }
        let notice = match self.shared.codec.decode(subject, &message.payload) {
            Ok(notice) => notice,
            Err(error) => return self.drop_unreadable(&error),
        };
        match self.out.try_send(BusEvent::Notice(sender, notice)) {
            Ok(()) => {
                metrics.received.inc();
            }
            Err(TrySendError::Full(_)) => {
                self.has_gap = true;
                metrics.dropped.inc();
            }
            // The router has ended.
            Err(TrySendError::Closed(_)) => {}
        }
    }

    /// Drops a notice that cannot be decoded; a node of a later version may send kinds that this version does not know.
    fn drop_unreadable(&mut self, error: &anyhow::Error) {
        self.shared.metrics.bus.dropped.inc();
        if !std::mem::replace(&mut self.has_logged_unreadable, true) {
            tracing::warn!(
                "dropped a notice of another node that cannot be decoded; further ones are dropped without a log line: {error:#}"
            );
        }
    }
}

/// Waits for messages and collects those that are ready.
async fn receive(subscriptions: &mut SelectAll<Subscription>, messages: &mut Vec<Message>) {
    poll_fn(|cx| {
        while messages.len() < MAX_MESSAGES_PER_TURN {
            match subscriptions.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => messages.push(message),
                // `None` means that there is no subscription yet; `run` waits for a new one.
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if messages.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}
