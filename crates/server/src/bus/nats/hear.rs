//! Hearing: what all subscriptions bring goes to the router, in the order in which each of them brings it. When the
//! router does not keep up, notices are dropped, and a gap is told once there is room again.

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

use super::feed::Feed;
use super::subject::Kind;
use super::{Shared, payload};
use crate::bus::Heard;

/// Messages that are looked at before anything else is.
const TURN: usize = 256;

/// How often it is seen whether the router has room for a gap.
const AGAIN: Duration = Duration::from_millis(10);

/// The task that takes in what is heard.
pub(super) struct Hearer {
    shared: Arc<Shared>,
    new: mpsc::Receiver<Feed>,
    feeds: SelectAll<Feed>,
    out: mpsc::Sender<Heard>,
    /// Something may have been missed, and the router does not know yet.
    gap: bool,
    unreadable: bool,
}

impl Hearer {
    pub(super) fn new(shared: Arc<Shared>, new: mpsc::Receiver<Feed>, out: mpsc::Sender<Heard>) -> Self {
        Self { shared, new, feeds: SelectAll::new(), out, gap: false, unreadable: false }
    }

    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let mut messages = Vec::with_capacity(TURN);
        loop {
            self.tell_gap();
            tokio::select! {
                biased;
                () = shared.done.cancelled() => return,
                Some(feed) = self.new.recv() => self.feeds.push(feed),
                () = shared.link.missed.notified() => self.gap = true,
                () = some(&mut self.feeds, &mut messages) => {
                    messages.drain(..).for_each(|message| self.take(&message));
                }
                () = sleep(AGAIN), if self.gap => {}
            }
        }
    }

    /// The router compares everything with the store when it hears of a gap: it is told once it has worked off half of
    /// what waits for it.
    fn tell_gap(&mut self) {
        if self.gap && self.out.capacity() >= self.out.max_capacity() / 2 {
            self.gap = self.out.try_send(Heard::Gap).is_err();
        }
    }

    fn take(&mut self, message: &Message) {
        let Some(place) = self.shared.subjects.parse(&message.subject) else { return };
        if matches!(place.kind, Kind::Probe | Kind::Mark) {
            return self.shared.echoes.heard(&message.payload);
        }
        let Some(sender) = payload::sender(&message.payload) else { return };
        // Whole slots are listened at, too. The bus keeps what this node tells from it.
        if sender == self.shared.node || !self.shared.wanted.contains(place) {
            return;
        }
        let metrics = &self.shared.metrics.bus;
        if self.out.capacity() == 0 {
            self.gap = true;
            metrics.dropped.inc();
            return;
        }
        let notice = match self.shared.codec.decode(place, &message.payload) {
            Ok(notice) => notice,
            Err(error) => return self.pass_over(&error),
        };
        match self.out.try_send(Heard::Notice(sender, notice)) {
            Ok(()) => {
                metrics.heard.inc();
            }
            Err(TrySendError::Full(_)) => {
                self.gap = true;
                metrics.dropped.inc();
            }
            // The router has ended.
            Err(TrySendError::Closed(_)) => {}
        }
    }

    /// Nodes of a later version may tell what this one does not know.
    fn pass_over(&mut self, error: &anyhow::Error) {
        self.shared.metrics.bus.dropped.inc();
        if !std::mem::replace(&mut self.unreadable, true) {
            tracing::warn!(
                "a notice of another node cannot be read, and is passed over, as others will be: {error:#}"
            );
        }
    }
}

/// Waits for messages, and takes those that are there.
async fn some(feeds: &mut SelectAll<Feed>, messages: &mut Vec<Message>) {
    poll_fn(|cx| {
        while messages.len() < TURN {
            match feeds.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => messages.push(message),
                // Without any feed there is a new one to wait for.
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if messages.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}
