//! The order of events where other nodes write to the same conversations.
//!
//! The events that this node stored and those of other nodes arrive here in any order, or not at all. The router applies the events
//! of a conversation one after the other without a gap, and the membership changes of one before it queues the next. So no user
//! receives what was written after their removal, also where the bus loses notices. An event that arrives too early waits a moment
//! for the one before it; then the router reads the missing events from the store, once for all sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq, UserId};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use super::Router;
use super::store_reply::StoreReply;
use crate::frame;
use crate::outbox::CoalescedEvent;
use crate::outbox::Outbox;
use crate::timers::expired;
use switchboard_store::CommittedEvent;
use switchboard_store::record::{ConversationKey, Effect, Passage};

/// How long an event waits for the notice of an event before it that another node has stored. The notice takes well under a
/// millisecond, unless it is lost.
const GAP_TIMEOUT: Duration = Duration::from_millis(20);

/// Events of one conversation that wait at most. The router reads later ones from the store.
const MAX_WAITING: usize = 1_024;

/// An event that has arrived at this node and is not applied yet.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) name: ConversationId,
    pub(super) seq: Seq,
    pub(super) frame: Bytes,
    /// The connection that sent it, which has received `ok` instead.
    pub(super) own: Option<Arc<Outbox>>,
    /// Its membership changes.
    pub(super) effects: Vec<Effect>,
    /// When this node learned of it.
    pub(super) stored: Instant,
}

impl Arrival {
    /// An event that was read from the store; `None` if it cannot be read.
    pub(super) fn from_store(committed: CommittedEvent) -> Option<Self> {
        let frame = frame::text(&committed.event?.to_json());
        let (name, seq, effects) = (committed.name, committed.seq, committed.effects);
        Some(Self { name, seq, frame, own: None, effects, stored: Instant::now() })
    }
}

/// The conversations on this node of which events are missing.
#[derive(Debug, Default)]
pub(super) struct Order {
    waiting: FxHashMap<ConversationKey, Waiting>,
    due: DelayQueue<ConversationKey>,
}

/// The events of a conversation after the first missing one.
#[derive(Debug)]
struct Waiting {
    /// The last event that is known to exist.
    upto: Seq,
    events: BTreeMap<Seq, Arrival>,
    /// The timer after which the missing events are read; `None` while a query is pending.
    due: Option<delay_queue::Key>,
}

impl Order {
    /// Records that a conversation has events up to this one.
    fn expect(&mut self, conversation: ConversationKey, upto: Seq) -> &mut Waiting {
        let due = &mut self.due;
        let waiting = self.waiting.entry(conversation).or_insert_with(|| Waiting {
            upto,
            events: BTreeMap::new(),
            due: Some(due.insert(conversation, GAP_TIMEOUT)),
        });
        waiting.upto = waiting.upto.max(upto);
        waiting
    }

    /// Removes and returns this event, if it waits.
    fn take(&mut self, conversation: ConversationKey, seq: Seq) -> Option<Arrival> {
        self.waiting.get_mut(&conversation)?.events.remove(&seq)
    }

    /// Ends the waiting of a conversation if the last applied event is the last known one.
    fn finish(&mut self, conversation: ConversationKey, applied: Seq) {
        if self.waiting.get(&conversation).is_some_and(|waiting| waiting.upto <= applied) {
            self.forget(conversation);
        }
    }

    /// Removes a conversation.
    pub(super) fn forget(&mut self, conversation: ConversationKey) {
        let waiting = self.waiting.remove(&conversation);
        if let Some(due) = waiting.and_then(|waiting| waiting.due) {
            self.due.try_remove(&due);
        }
    }

    /// Waits for the next conversation whose missing events are to be read; for ever if there is none.
    pub(super) async fn due(&mut self) -> ConversationKey {
        expired(&mut self.due).await
    }
}

impl Router {
    /// Applies an event if it is the next one of its conversation, and otherwise lets it wait.
    pub(super) fn arrive(&mut self, conversation: ConversationKey, arrival: Arrival) {
        let seq = arrival.seq;
        match (self.registry.applied(conversation), &mut self.peers) {
            (Some(applied), _) if seq <= applied => return,
            (Some(applied), Some(peers)) if seq > applied.next() => {
                let waiting = peers.order.expect(conversation, seq);
                if waiting.events.len() < MAX_WAITING {
                    waiting.events.insert(seq, arrival);
                }
                return;
            }
            // A single node stores and publishes in order.
            _ => self.apply_event(conversation, arrival),
        }
        self.apply_waiting(conversation, seq);
    }

    fn apply_waiting(&mut self, conversation: ConversationKey, mut applied: Seq) {
        while let Some(next) =
            self.peers.as_mut().and_then(|peers| peers.order.take(conversation, applied.next()))
        {
            applied = next.seq;
            self.apply_event(conversation, next);
        }
        if let Some(peers) = &mut self.peers {
            peers.order.finish(conversation, applied);
        }
    }

    /// Records that a conversation has events up to this one. Missing ones arrive by the bus, or are read from the store.
    pub(super) fn expect(&mut self, conversation: ConversationKey, head: Seq) {
        let behind = self.registry.applied(conversation).is_some_and(|applied| applied < head);
        if let Some(peers) = self.peers.as_mut().filter(|_| behind) {
            peers.order.expect(conversation, head);
        }
    }

    /// Reads the events of a conversation up to this one from the store at once, unless they have been applied.
    pub(super) fn read_up_to(&mut self, conversation: ConversationKey, seq: Seq) {
        self.expect(conversation, seq);
        let Some(peers) = &self.peers else { return };
        // A pending query continues up to this event.
        if peers.order.waiting.get(&conversation).is_some_and(|waiting| waiting.due.is_some()) {
            self.read_missing(conversation);
        }
    }

    /// Reads the missing events of a conversation from the store.
    pub(super) fn read_missing(&mut self, conversation: ConversationKey) {
        let applied = self.registry.applied(conversation);
        let Some(peers) = &mut self.peers else { return };
        let Some(waiting) = peers.order.waiting.get_mut(&conversation) else { return };
        if let Some(due) = waiting.due.take() {
            peers.order.due.try_remove(&due);
        }
        match applied {
            Some(applied) if applied < waiting.upto => {
                let answer = peers.store.log(conversation, applied, waiting.upto);
                peers.query(answer, move |result| StoreReply::Log { conversation, result });
            }
            _ => peers.order.forget(conversation),
        }
    }

    /// Handles the time-out of a conversation with missing events.
    pub(super) fn read_due(&mut self, conversation: ConversationKey) {
        let waiting = self.peers.as_mut().and_then(|peers| peers.order.waiting.get_mut(&conversation));
        if let Some(waiting) = waiting {
            // The timer has expired.
            waiting.due = None;
            self.read_missing(conversation);
        }
    }

    /// Applies a page of missing events from the store. They may have arrived by the bus meanwhile.
    pub(super) fn apply_log(&mut self, conversation: ConversationKey, events: Vec<CommittedEvent>) {
        let nothing = events.is_empty();
        for arrival in events.into_iter().filter_map(Arrival::from_store) {
            self.arrive(conversation, arrival);
        }
        let waiting = self.peers.as_ref().and_then(|peers| peers.order.waiting.get(&conversation));
        // No event is missing any more, or other ones are, for which a timer runs.
        if waiting.is_none_or(|waiting| waiting.due.is_some()) {
            return;
        }
        if nothing {
            // Only a database that has lost acknowledged writes answers so.
            tracing::error!(?conversation, "acknowledged events are missing from the database");
            if let Some(peers) = &mut self.peers {
                peers.order.forget(conversation);
            }
        } else {
            self.read_missing(conversation);
        }
    }

    /// Applies the next event of a conversation: its membership changes, and its delivery to the sessions.
    pub(super) fn apply_event(&mut self, conversation: ConversationKey, arrival: Arrival) {
        let Arrival { name, seq, frame, own, mut effects, stored } = arrival;
        effects.retain(|effect| self.is_new_change(conversation, seq, &effect.user));
        self.recent.note(conversation, seq);
        if !effects.is_empty() {
            self.release();
        }
        // A user who joins receives the event by which they join, and a user who leaves the one by which they leave.
        for effect in &effects {
            if let Passage::In { seen } = effect.passage {
                self.join(&effect.user, conversation, &name, seen, seq);
            }
        }
        self.note_changes(conversation, seq, &effects);
        self.registry.set_applied(conversation, seq);
        self.coalesce(conversation, CoalescedEvent { seq, frame, own, stored });
        if !effects.is_empty() {
            self.release();
        }
        for effect in effects.iter().filter(|effect| effect.passage == Passage::Out) {
            if let Some(user) = self.registry.find(&effect.user) {
                self.registry.part(user, conversation, seq);
            }
        }
    }

    /// Whether a membership change is later than the last leave recorded for the user. If not, the log is being read again from an
    /// earlier event, for a session with an older snapshot.
    fn is_new_change(&self, conversation: ConversationKey, seq: Seq, user: &UserId) -> bool {
        let gone = self.registry.find(user).and_then(|user| self.registry.gone(user, conversation));
        gone.is_none_or(|gone| gone < seq)
    }
}
