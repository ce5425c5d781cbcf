//! Events in their order, where other nodes write to the same conversations.
//!
//! What this node stored and what others tell of arrives here in any order, or not at all. A conversation's sessions get
//! its events one after the other without a gap, and whoever came in or went by one has, before the next is queued: so
//! nobody is given what was written after they were removed, whatever the bus loses. An event that came too early waits a
//! moment for the one before it; then what is missing is read from the store, once for all sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq, UserId};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use super::Router;
use super::peers::Found;
use crate::frame;
use crate::outbox::CoalescedEvent;
use crate::outbox::Outbox;
use crate::timers::expired;
use switchboard_store::CommittedEvent;
use switchboard_store::record::{ConversationKey, Effect, Passage};

/// How long an event waits for one before it that another node has stored: its notice takes well under a millisecond, unless
/// it is lost.
const MOMENT: Duration = Duration::from_millis(20);

/// Events of one conversation that wait at most. What comes beyond is read from the store in its turn.
const WAITING: usize = 1_024;

/// An event on its way to the sessions here.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) name: ConversationId,
    pub(super) seq: Seq,
    pub(super) frame: Bytes,
    /// The connection that it came over, which is not told.
    pub(super) own: Option<Arc<Outbox>>,
    /// Who came in or went by it.
    pub(super) effects: Vec<Effect>,
    /// When this node learnt of it.
    pub(super) stored: Instant,
}

impl Arrival {
    /// An event that was read from the store; `None` for what is not there.
    pub(super) fn found(committed: CommittedEvent) -> Option<Self> {
        let frame = frame::text(&committed.event?.to_json());
        let (name, seq, effects) = (committed.name, committed.seq, committed.effects);
        Some(Self { name, seq, frame, own: None, effects, stored: Instant::now() })
    }
}

/// The conversations here of which something is missing.
#[derive(Debug, Default)]
pub(super) struct Order {
    waiting: FxHashMap<ConversationKey, Waiting>,
    due: DelayQueue<ConversationKey>,
}

/// What is known of a conversation's events after the first that is missing.
#[derive(Debug)]
struct Waiting {
    /// The last event that there is, as far as is known.
    upto: Seq,
    events: BTreeMap<Seq, Arrival>,
    /// When what is missing is read; none while it is.
    due: Option<delay_queue::Key>,
}

impl Order {
    /// There are events up to this one.
    fn expect(&mut self, conversation: ConversationKey, upto: Seq) -> &mut Waiting {
        let due = &mut self.due;
        let waiting = self.waiting.entry(conversation).or_insert_with(|| Waiting {
            upto,
            events: BTreeMap::new(),
            due: Some(due.insert(conversation, MOMENT)),
        });
        waiting.upto = waiting.upto.max(upto);
        waiting
    }

    /// The event that waits for its turn, if that is this one.
    fn take(&mut self, conversation: ConversationKey, seq: Seq) -> Option<Arrival> {
        self.waiting.get_mut(&conversation)?.events.remove(&seq)
    }

    /// Nothing is missing up to this event.
    fn settle(&mut self, conversation: ConversationKey, placed: Seq) {
        if self.waiting.get(&conversation).is_some_and(|waiting| waiting.upto <= placed) {
            self.forget(conversation);
        }
    }

    /// Nobody here wants to know.
    pub(super) fn forget(&mut self, conversation: ConversationKey) {
        let waiting = self.waiting.remove(&conversation);
        if let Some(due) = waiting.and_then(|waiting| waiting.due) {
            self.due.try_remove(&due);
        }
    }

    /// Waits for the next conversation of which something is to be read; for ever, if nothing is missing anywhere.
    pub(super) async fn due(&mut self) -> ConversationKey {
        expired(&mut self.due).await
    }
}

impl Router {
    /// Takes an event to its place: passes it on if it is the next, otherwise lets it wait.
    pub(super) fn arrive(&mut self, conversation: ConversationKey, arrival: Arrival) {
        let seq = arrival.seq;
        match (self.registry.placed(conversation), &mut self.peers) {
            (Some(placed), _) if seq <= placed => return,
            (Some(placed), Some(peers)) if seq > placed.next() => {
                let waiting = peers.order.expect(conversation, seq);
                if waiting.events.len() < WAITING {
                    waiting.events.insert(seq, arrival);
                }
                return;
            }
            // The only node stores in order, and so what it tells is in order.
            _ => self.pass_on(conversation, arrival),
        }
        self.place_those_that_wait(conversation, seq);
    }

    fn place_those_that_wait(&mut self, conversation: ConversationKey, mut placed: Seq) {
        while let Some(next) =
            self.peers.as_mut().and_then(|peers| peers.order.take(conversation, placed.next()))
        {
            placed = next.seq;
            self.pass_on(conversation, next);
        }
        if let Some(peers) = &mut self.peers {
            peers.order.settle(conversation, placed);
        }
    }

    /// A conversation is known to have events up to this one. Those that are not here are on their way, or are read.
    pub(super) fn expect(&mut self, conversation: ConversationKey, head: Seq) {
        let behind = self.registry.placed(conversation).is_some_and(|placed| placed < head);
        if let Some(peers) = self.peers.as_mut().filter(|_| behind) {
            peers.order.expect(conversation, head);
        }
    }

    /// Reads a conversation's events up to this one from the store at once, unless they have arrived already.
    pub(super) fn read_up_to(&mut self, conversation: ConversationKey, seq: Seq) {
        self.expect(conversation, seq);
        let Some(peers) = &self.peers else { return };
        // A read under way goes on up to this event.
        if peers.order.waiting.get(&conversation).is_some_and(|waiting| waiting.due.is_some()) {
            self.read_missing(conversation);
        }
    }

    /// Reads what did not come by itself.
    pub(super) fn read_missing(&mut self, conversation: ConversationKey) {
        let placed = self.registry.placed(conversation);
        let Some(peers) = &mut self.peers else { return };
        let Some(waiting) = peers.order.waiting.get_mut(&conversation) else { return };
        if let Some(due) = waiting.due.take() {
            peers.order.due.try_remove(&due);
        }
        match placed {
            Some(placed) if placed < waiting.upto => {
                let answer = peers.store.log(conversation, placed, waiting.upto);
                peers.find(answer, move |result| Found::Log { conversation, result });
            }
            _ => peers.order.forget(conversation),
        }
    }

    /// It is time to read what did not come by itself.
    pub(super) fn read_due(&mut self, conversation: ConversationKey) {
        let waiting = self.peers.as_mut().and_then(|peers| peers.order.waiting.get_mut(&conversation));
        if let Some(waiting) = waiting {
            // Its timer has gone off.
            waiting.due = None;
            self.read_missing(conversation);
        }
    }

    /// What was missing is here, or a page of it. It may have come by itself meanwhile.
    pub(super) fn found_missing(&mut self, conversation: ConversationKey, found: Vec<CommittedEvent>) {
        let nothing = found.is_empty();
        for arrival in found.into_iter().filter_map(Arrival::found) {
            self.arrive(conversation, arrival);
        }
        let waiting = self.peers.as_ref().and_then(|peers| peers.order.waiting.get(&conversation));
        // Nothing is missing any more; or something else is, which is given time to come by itself.
        if waiting.is_none_or(|waiting| waiting.due.is_some()) {
            return;
        }
        if nothing {
            // The store is not behind what it has told; only a database that lost what it had acknowledged is.
            tracing::error!(?conversation, "the store does not have events that it has told of");
            if let Some(peers) = &mut self.peers {
                peers.order.forget(conversation);
            }
        } else {
            self.read_missing(conversation);
        }
    }

    /// Hands an event that is the next of its conversation to the sessions here.
    pub(super) fn pass_on(&mut self, conversation: ConversationKey, arrival: Arrival) {
        let Arrival { name, seq, frame, own, mut effects, stored } = arrival;
        effects.retain(|effect| self.is_news(conversation, seq, &effect.user));
        self.recent.note(conversation, seq);
        if !effects.is_empty() {
            self.release();
        }
        // Whoever comes in sees the event by which they do; whoever goes, too.
        for effect in &effects {
            if let Passage::In { seen } = effect.passage {
                self.join(&effect.user, conversation, &name, seen, seq);
            }
        }
        self.note_changes(conversation, seq, &effects);
        self.registry.place(conversation, seq);
        self.gather(conversation, CoalescedEvent { seq, frame, own, stored });
        if !effects.is_empty() {
            self.release();
        }
        for effect in effects.iter().filter(|effect| effect.passage == Passage::Out) {
            if let Some(user) = self.registry.find(&effect.user) {
                self.registry.part(user, conversation, seq);
            }
        }
    }

    /// Whether an event is behind all that is known about a user who comes in or goes by it. If not, the log is read again from an
    /// earlier event on than it had been before, for somebody whose snapshot is older.
    fn is_news(&self, conversation: ConversationKey, seq: Seq, user: &UserId) -> bool {
        let gone = self.registry.find(user).and_then(|user| self.registry.gone(user, conversation));
        gone.is_none_or(|gone| gone < seq)
    }
}
