//! Publishes committed batches: answers to the senders, events to the sessions of the members.

use serde_json::value::RawValue;
use switchboard_protocol::reply::{OkBody, Reply};
use switchboard_protocol::{ConversationId, Seq, Signal, UserId};
use tokio::time::Instant;

use super::Router;
use super::order::Arrival;
use super::registry::{MembershipChange, UserSlot};
use crate::encode::{encode, encode_answer};
use crate::frame;
use crate::outbox::Outbox;
use switchboard_store::origin::{Origin, SessionOrigin, WriteOrder};
use switchboard_store::record::{ConversationKey, Effect};
use switchboard_store::refusal::Refusal;
use switchboard_store::{Batch, Committed, CommittedCursor, CommittedEvent, CursorOf, Outcome};

impl Router {
    pub(super) fn publish(&mut self, batch: Batch) {
        let stored = Instant::now();
        for Outcome { origin, result } in batch.outcomes {
            if matches!(origin, Origin::Nobody) {
                self.departing = self.departing.saturating_sub(1);
            }
            match result {
                Ok(Committed::Event(committed)) => self.publish_event(origin, *committed, stored),
                Ok(Committed::Cursor(committed)) => self.publish_cursor(origin, committed),
                Ok(Committed::Quiet) => answer(origin, Ok(OkBody::Done {})),
                Err(refusal) => {
                    // A caller that waits counts its refusals itself.
                    if !matches!(origin, Origin::Call(_) | Origin::BackEnd(_)) {
                        self.metrics.refused(refusal.code);
                    }
                    answer(origin, Err(refusal));
                }
            }
        }
        self.check(batch.check);
        self.published = batch.number;
        self.parked.published(batch.number);
        self.gathered(batch.more);
        self.unpark();
    }

    fn publish_event(&mut self, origin: Origin, committed: CommittedEvent, stored: Instant) {
        let CommittedEvent { conversation, name, seq, at, event, effects } = committed;
        let duplicate = event.is_none();
        let own = match &origin {
            Origin::Session(origin) => Outbox::of(origin),
            Origin::Call(_) | Origin::BackEnd(_) | Origin::Nobody => None,
        };
        // The answer is queued before the event, because applying the event may also queue later events that wait for it.
        let stored_as = OkBody::Stored { conversation: name.clone(), seq, at, duplicate, event: None };
        answer(origin, Ok(stored_as));
        if let Some(event) = event {
            self.metrics.accepted.inc();
            let json = event.to_json();
            let frame = frame::text(&json);
            self.tell_event(conversation, &name, seq, json, &effects);
            if let Some(own) = own.as_ref().filter(|_| self.peers.is_some()) {
                own.expect_own_event(conversation, seq);
            }
            self.arrive(conversation, Arrival { name, seq, frame, own, effects, stored });
        }
    }

    /// Records membership changes for attaching sessions, whose snapshots may not contain them.
    pub(super) fn note_changes(&mut self, conversation: ConversationKey, seq: Seq, effects: &[Effect]) {
        for effect in effects {
            let user = self.registry.find(&effect.user).and_then(|user| self.registry.user_mut(user));
            if let Some(user) = user.filter(|user| user.entering > 0) {
                let passage = effect.passage;
                user.changes.push(MembershipChange { conversation, seq, passage });
            }
        }
    }

    /// Adds a connected user to the members of a conversation that they joined by the event `seq`. A user who returns receives the
    /// events since they left, or a `gap` if there are too many.
    pub(super) fn join(
        &mut self,
        user: &UserId,
        conversation: ConversationKey,
        name: &ConversationId,
        seen: Seq,
        seq: Seq,
    ) {
        let Some(slot) = self.registry.find(user) else { return };
        let before = Seq(seq.0 - 1);
        self.registry.join(slot, conversation, before);
        self.give_missed(slot, conversation, name, seen, before);
    }

    /// Queues the events after `seen` up to `before` for the sessions of a user who joins. A session that has received less receives
    /// more.
    pub(super) fn give_missed(
        &mut self,
        user: UserSlot,
        conversation: ConversationKey,
        name: &ConversationId,
        seen: Seq,
        before: Seq,
    ) {
        let sessions = self.registry.user(user).map_or_else(Vec::new, |local| local.sessions.to_vec());
        for session in sessions {
            let Some(session) = self.registry.session_mut(session).filter(|session| session.live) else {
                continue;
            };
            let seen = session.take_told(conversation).map_or(seen, |told| told.min(seen));
            let missed = before.0.saturating_sub(seen.0);
            if missed == 0 {
                continue;
            }
            if missed <= u64::from(self.limits.replay) {
                session.outbox.push_lag(conversation, seen, before);
            } else {
                let gap =
                    Reply::<Box<RawValue>>::Gap { conversation: name.clone(), after: seen, head: before };
                session.outbox.push_reply(encode(&gap));
            }
        }
    }

    fn publish_cursor(&mut self, origin: Origin, committed: CommittedCursor) {
        let CommittedCursor { conversation, name, user, of, upto, moved, members } = committed;
        if moved {
            // It may refer to events that wait.
            self.release();
            let signal = match of {
                CursorOf::Read => Signal::Read { conversation: name.clone(), user: user.clone(), upto },
                CursorOf::Received => {
                    Signal::Received { conversation: name.clone(), user: user.clone(), upto }
                }
            };
            let from = match &origin {
                Origin::Session(origin) => Outbox::of(origin),
                Origin::Call(_) | Origin::BackEnd(_) | Origin::Nobody => None,
            };
            self.signal(&signal, &user, conversation, members, from.as_ref());
        }
        answer(origin, Ok(OkBody::Cursor { conversation: name, upto }));
    }
}

/// Answers the origin of a write.
fn answer(origin: Origin, result: Result<OkBody<Box<RawValue>>, Refusal>) {
    match origin {
        Origin::Session(origin) => {
            let Some(outbox) = Outbox::of(&origin) else { return };
            let SessionOrigin { id, order, .. } = origin;
            let rejected = result.as_ref().is_err_and(|refusal| refusal.code.retryable());
            let answer = encode_answer(id, result);
            if rejected && matches!(order, Some(WriteOrder::Epoch(_))) {
                outbox.push_rejection(answer);
            } else {
                outbox.push_outcome(answer);
            }
        }
        // The caller may have gone; the write stays stored.
        Origin::Call(reply) | Origin::BackEnd(reply) => drop(reply.send(result)),
        Origin::Nobody => {}
    }
}
