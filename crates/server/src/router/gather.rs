//! Busy rooms gather: what follows each other closely goes to each connection in one write.
//!
//! A write to a socket costs a system call of some microseconds, whatever is in it, and that is most of what a delivery
//! costs. So the events of a room with many sessions here wait for the end of their batch, and while the store has
//! more in hand, for the next one too, but not for long. Acknowledgements do not wait.

use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;
use tokio::time::Instant;

use super::Router;
use crate::outbox::CoalescedEvent;
use switchboard_store::record::ConversationKey;

/// Users of a conversation who are here, from which on its events gather. Below, all writes together take less time
/// than the next commit.
pub(crate) const MANY: usize = 32;

/// How long an event waits for others at most: less than writing to a thousand connections takes.
const MOMENT: Duration = Duration::from_millis(5);

/// What waits.
#[derive(Debug)]
pub(super) struct Gathering {
    events: FxHashMap<ConversationKey, Vec<CoalescedEvent>>,
    since: Option<Instant>,
    many: usize,
}

impl Gathering {
    /// Nothing waits; conversations gather from `many` users on.
    pub(super) fn new(many: usize) -> Self {
        Self { events: FxHashMap::default(), since: None, many }
    }

    /// Until when what waits may wait; never, if nothing does.
    pub(super) async fn ended(&self) {
        match self.since {
            Some(since) => tokio::time::sleep_until(since + MOMENT).await,
            None => std::future::pending().await,
        }
    }

    /// Whether what waits has waited long enough.
    fn is_due(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= MOMENT)
    }
}

impl Router {
    /// Takes an event for its conversation's sessions.
    pub(super) fn gather(&mut self, conversation: ConversationKey, event: CoalescedEvent) {
        if let Some(events) = self.gathering.events.get_mut(&conversation) {
            events.push(event);
        } else if self.registry.online(conversation) < self.gathering.many {
            self.deliver(conversation, &[event]);
        } else {
            self.gathering.since.get_or_insert(event.stored);
            self.gathering.events.insert(conversation, vec![event]);
        }
    }

    /// A batch has been published; `more` follow at once.
    pub(super) fn gathered(&mut self, more: bool) {
        if !more || self.gathering.is_due() {
            self.release();
        }
    }

    /// Queues what waits.
    pub(super) fn release(&mut self) {
        self.gathering.since = None;
        for (conversation, events) in std::mem::take(&mut self.gathering.events) {
            self.deliver(conversation, &events);
        }
    }

    /// Queues events of one conversation, oldest first, for its sessions.
    fn deliver(&mut self, conversation: ConversationKey, events: &[CoalescedEvent]) {
        let Some(head) = self.registry.head(conversation) else { return };
        let new = events.iter().position(|event| event.seq > head).unwrap_or(events.len());
        let (Some(events), Some(last)) = (events.get(new..), events.last()) else { return };
        let Some(first) = events.first() else { return };
        let mut delivered = 0;
        for outbox in self.registry.sessions_in(conversation) {
            // Not seen here in between: the log has it.
            outbox.push_lag(conversation, head, Seq(first.seq.0 - 1));
            delivered += outbox.push_events(conversation, events);
        }
        self.metrics.delivered.inc_by(delivered);
        self.registry.set_head(conversation, last.seq);
    }
}
