//! Busy rooms coalesce their events: events that follow each other closely reach each connection in one write.
//!
//! A write to a socket is a system call of some microseconds, independent of its size, and that is most of the cost of a delivery.
//! So the events of a room with many users on this node wait for the end of their batch. While the store has more batches
//! ready, the events also wait for the next batch, for at most `MAX_DELAY`. Acknowledgements do not wait.

use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;
use tokio::time::Instant;

use super::LocalNode;
use crate::outbox::{CoalescedEvent, join_frames};
use switchboard_store::record::ConversationKey;

/// From this number of users on this node, a conversation coalesces its events. With fewer users, the writes to all connections
/// take less time than the next commit.
pub(crate) const COALESCE_FROM_USERS: usize = 32;

/// The longest time that an event waits to be delivered together with later ones. It is short: the writes to a thousand connections
/// take longer.
const MAX_DELAY: Duration = Duration::from_millis(5);

/// The events that wait to be delivered together with later ones, by conversation.
#[derive(Debug)]
pub(super) struct Coalescer {
    events: FxHashMap<ConversationKey, Vec<CoalescedEvent>>,
    /// When the oldest waiting event was stored.
    since: Option<Instant>,
    from_users: usize,
}

impl Coalescer {
    /// Conversations with `from_users` users or more on this node coalesce their events.
    pub(super) fn new(from_users: usize) -> Self {
        Self { events: FxHashMap::default(), since: None, from_users }
    }

    /// Returns when the waiting events must be delivered. Never returns if no event waits.
    pub(super) async fn wait_until_due(&self) {
        match self.since {
            Some(since) => tokio::time::sleep_until(since + MAX_DELAY).await,
            None => std::future::pending().await,
        }
    }

    /// Whether the waiting events must be delivered now.
    fn is_due(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= MAX_DELAY)
    }
}

impl LocalNode {
    /// Queues an event for the sessions of its conversation, at once or together with later events.
    pub(super) fn coalesce(&mut self, conversation: ConversationKey, event: CoalescedEvent) {
        if let Some(events) = self.coalescer.events.get_mut(&conversation) {
            events.push(event);
        } else if self.registry.count_connected_members(conversation) < self.coalescer.from_users {
            self.queue_for_sessions(conversation, &[event]);
        } else {
            self.coalescer.since.get_or_insert(event.learned_at);
            self.coalescer.events.insert(conversation, vec![event]);
        }
    }

    /// Handles the end of a batch: queues the waiting events for their sessions, unless `more` batches are ready and the events are
    /// not due yet.
    pub(super) fn flush_if_due(&mut self, more: bool) {
        if !more || self.coalescer.is_due() {
            self.flush_coalesced();
        }
    }

    /// Queues the waiting events for their sessions.
    pub(super) fn flush_coalesced(&mut self) {
        self.coalescer.since = None;
        for (conversation, events) in std::mem::take(&mut self.coalescer.events) {
            self.queue_for_sessions(conversation, &events);
        }
    }

    /// Queues events of one conversation, oldest first, for its sessions.
    fn queue_for_sessions(&mut self, conversation: ConversationKey, events: &[CoalescedEvent]) {
        let Some(head) = self.registry.head(conversation) else { return };
        let new = events.iter().position(|event| event.seq > head).unwrap_or(events.len());
        let (Some(events), Some(last)) = (events.get(new..), events.last()) else { return };
        let Some(first) = events.first() else { return };
        let joined = join_frames(events);
        if self.registry.has_blocker(conversation) {
            let delivered = self.queue_where_some_block(conversation, head, events, joined.as_ref());
            self.metrics.delivered.inc_by(delivered);
            return self.registry.set_head(conversation, last.seq);
        }
        let mut delivered = 0;
        for outbox in self.registry.sessions_in(conversation) {
            // The events between the head and the first of these did not pass through this node. The session reads them from the
            // log.
            outbox.push_lag(conversation, head, Seq(first.seq.0 - 1));
            delivered += match &joined {
                Some(joined) => outbox.push_joined(conversation, events, joined),
                None => outbox.push_events(conversation, events),
            };
        }
        self.metrics.delivered.inc_by(delivered);
        self.registry.set_head(conversation, last.seq);
    }
}
