//! Keeps the events of a conversation in order although several nodes write to it.
//!
//! The events that this node stored and those of other nodes arrive here in any order, or not at all. The router applies the events
//! of a conversation one after the other without a gap, and makes the membership changes of each event before it queues the next.
//! So no user receives an event that was written after their removal, even if the bus loses notices. An event that arrives too
//! early waits a moment for the event before it. Then the router reads the missing events from the store, once for all sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;
use tokio_util::time::{DelayQueue, delay_queue};

use super::Cluster;
use super::store_reply::StoreReply;
use crate::router::LocalNode;
use crate::router::apply::ArrivedEvent;
use crate::timers::next_expired;
use switchboard_store::CommittedEvent;
use switchboard_store::record::{ConversationKey, Effect, JoinOrLeave};

/// How long an event waits for the notice of an earlier event that another node has stored. A notice that is not lost arrives in
/// well under a millisecond.
const GAP_TIMEOUT: Duration = Duration::from_millis(20);

/// The most events of one conversation that wait for a missing earlier one. The router reads further events from the store.
const MAX_WAITING_EVENTS: usize = 1_024;

/// The conversations on this node of which events are missing.
#[derive(Debug, Default)]
pub(super) struct EventOrder {
    waiting: FxHashMap<ConversationKey, WaitingEvents>,
    due: DelayQueue<ConversationKey>,
}

/// The events of a conversation that have arrived after a missing one.
#[derive(Debug)]
struct WaitingEvents {
    /// The last event that is known to exist.
    last_known: Seq,
    events: BTreeMap<Seq, ArrivedEvent>,
    /// The timer after which the missing events are read; `None` while a query is pending.
    due: Option<delay_queue::Key>,
}

impl EventOrder {
    /// Records that a conversation has events up to this one.
    fn expect_events(&mut self, conversation: ConversationKey, upto: Seq) -> &mut WaitingEvents {
        let due = &mut self.due;
        let waiting = self.waiting.entry(conversation).or_insert_with(|| WaitingEvents {
            last_known: upto,
            events: BTreeMap::new(),
            due: Some(due.insert(conversation, GAP_TIMEOUT)),
        });
        waiting.last_known = waiting.last_known.max(upto);
        waiting
    }

    /// Removes and returns this event, if it waits.
    fn take_event(&mut self, conversation: ConversationKey, seq: Seq) -> Option<ArrivedEvent> {
        self.waiting.get_mut(&conversation)?.events.remove(&seq)
    }

    /// Removes a conversation if its last known event has been applied, so that no event is missing any more.
    fn end_wait(&mut self, conversation: ConversationKey, applied: Seq) {
        if self.waiting.get(&conversation).is_some_and(|waiting| waiting.last_known <= applied) {
            self.remove(conversation);
        }
    }

    /// Removes a conversation, and the events that wait in it.
    pub(super) fn remove(&mut self, conversation: ConversationKey) {
        let waiting = self.waiting.remove(&conversation);
        if let Some(due) = waiting.and_then(|waiting| waiting.due) {
            self.due.try_remove(&due);
        }
    }

    /// Waits for the next conversation whose missing events are to be read; for ever if there is none.
    pub(super) async fn next_due_conversation(&mut self) -> ConversationKey {
        next_expired(&mut self.due).await
    }
}

impl Cluster {
    /// Publishes an event that this node has stored to the other nodes, and applies the event in the order of its conversation.
    pub(in crate::router) fn publish_stored_event(
        &mut self,
        node: &mut LocalNode,
        conversation: ConversationKey,
        arrival: ArrivedEvent,
        json: String,
    ) {
        self.publish_event(conversation, &arrival, json);
        if let Some(own) = &arrival.sender {
            own.expect_own_event(conversation, arrival.seq);
        }
        self.accept_event(node, conversation, arrival);
    }

    /// Applies an event if it is the next one of its conversation. Otherwise drops a duplicate, and keeps a later event until the
    /// missing ones are applied.
    pub(super) fn accept_event(
        &mut self,
        node: &mut LocalNode,
        conversation: ConversationKey,
        arrival: ArrivedEvent,
    ) {
        let seq = arrival.seq;
        match node.registry.applied_seq(conversation) {
            Some(applied) if seq <= applied => return,
            Some(applied) if seq > applied.next() => {
                let waiting = self.order.expect_events(conversation, seq);
                if waiting.events.len() < MAX_WAITING_EVENTS {
                    waiting.events.insert(seq, arrival);
                }
                return;
            }
            _ => apply_next_event(node, conversation, arrival),
        }
        self.apply_waiting(node, conversation, seq);
    }

    /// Applies what this node has imported into a conversation: the events after the first number, up to the second.
    pub(in crate::router) fn apply_own_import(
        &mut self,
        node: &mut LocalNode,
        conversation: ConversationKey,
        (before, head): (Seq, Seq),
        effects: Vec<(Seq, Effect)>,
    ) {
        match node.registry.applied_seq(conversation) {
            Some(applied) if applied == before => {
                node.apply_imported(conversation, head, effects);
                self.apply_waiting(node, conversation, head);
            }
            // Events of other nodes come first. The store has them all.
            Some(_) => self.read_up_to(node, conversation, head),
            // The members of a conversation that this node does not host are looked up.
            None => {
                for (_, effect) in
                    effects.iter().filter(|(_, effect)| effect.join_or_leave != JoinOrLeave::Leave)
                {
                    self.query_membership_when_loaded(node, &effect.user, conversation);
                }
            }
        }
    }

    /// Applies the last event of a deleted room. The store may not have the events before it any more, and no session receives them.
    fn apply_end(&mut self, node: &mut LocalNode, conversation: ConversationKey, arrival: ArrivedEvent) {
        if node.registry.applied_seq(conversation).is_some_and(|applied| applied < arrival.seq) {
            apply_next_event(node, conversation, arrival);
        }
        self.order.remove(conversation);
    }

    fn apply_waiting(&mut self, node: &mut LocalNode, conversation: ConversationKey, mut applied: Seq) {
        while let Some(next) = self.order.take_event(conversation, applied.next()) {
            applied = next.seq;
            apply_next_event(node, conversation, next);
        }
        self.order.end_wait(conversation, applied);
    }

    /// Records that a conversation has events up to `head`. Missing events arrive by the bus, or are read from the store after a
    /// while.
    pub(super) fn expect_event(&mut self, node: &LocalNode, conversation: ConversationKey, head: Seq) {
        if node.registry.applied_seq(conversation).is_some_and(|applied| applied < head) {
            self.order.expect_events(conversation, head);
        }
    }

    /// Reads the events of a conversation up to `seq` from the store at once, unless they have been applied.
    pub(super) fn read_up_to(&mut self, node: &LocalNode, conversation: ConversationKey, seq: Seq) {
        self.expect_event(node, conversation, seq);
        // If a query is pending instead of the timer, it continues up to this event.
        if self.order.waiting.get(&conversation).is_some_and(|waiting| waiting.due.is_some()) {
            self.read_missing(node, conversation);
        }
    }

    /// Reads the missing events of a conversation from the store.
    pub(super) fn read_missing(&mut self, node: &LocalNode, conversation: ConversationKey) {
        let applied = node.registry.applied_seq(conversation);
        let Some(waiting) = self.order.waiting.get_mut(&conversation) else { return };
        if let Some(due) = waiting.due.take() {
            self.order.due.try_remove(&due);
        }
        match applied {
            Some(applied) if applied < waiting.last_known => {
                let answer = self.store.read_log(conversation, applied, waiting.last_known);
                self.query(answer, move |result| StoreReply::Log { conversation, result });
            }
            _ => self.order.remove(conversation),
        }
    }

    /// Handles the time-out of a conversation with missing events.
    pub(super) fn read_due(&mut self, node: &LocalNode, conversation: ConversationKey) {
        if let Some(waiting) = self.order.waiting.get_mut(&conversation) {
            // The timer has expired.
            waiting.due = None;
            self.read_missing(node, conversation);
        }
    }

    /// Applies a page of missing events from the store. Some of them may have arrived by the bus since the query.
    pub(super) fn apply_log(
        &mut self,
        node: &mut LocalNode,
        conversation: ConversationKey,
        events: Vec<CommittedEvent>,
    ) {
        let nothing = events.is_empty();
        for arrival in events.into_iter().filter_map(ArrivedEvent::from_store) {
            if node.registry.applied_seq(conversation).is_some_and(|applied| arrival.seq > applied) {
                node.metrics.missing_events_read.inc();
            }
            if arrival.ends {
                self.apply_end(node, conversation, arrival);
            } else {
                self.accept_event(node, conversation, arrival);
            }
        }
        // Either no event is missing any more, or a timer runs for other missing events.
        if self.order.waiting.get(&conversation).is_none_or(|waiting| waiting.due.is_some()) {
            return;
        }
        if nothing {
            // The database has events up to here according to another query or a notice, so it must have lost acknowledged writes.
            tracing::error!(?conversation, "acknowledged events are missing from the database");
            self.order.remove(conversation);
        } else {
            self.read_missing(node, conversation);
        }
    }
}

/// Applies the next event of a conversation, except membership changes that are no later than the recorded leave of their user. The
/// node comes across such old changes when it reads the log again from an earlier event, for a session with an older snapshot.
fn apply_next_event(node: &mut LocalNode, conversation: ConversationKey, mut arrival: ArrivedEvent) {
    let registry = &node.registry;
    arrival.effects.retain(|effect| {
        let gone =
            registry.find_user(&effect.user).and_then(|user| registry.recorded_leave_of(user, conversation));
        gone.is_none_or(|gone| gone < arrival.seq)
    });
    node.apply_event(conversation, arrival);
}
