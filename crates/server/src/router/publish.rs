//! Publishes committed batches: answers to the senders, events to the sessions of the members.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use switchboard_protocol::reply::{OkBody, Reply};
use switchboard_protocol::{Signal, UserId};
use tokio::time::Instant;

use super::apply::ArrivedEvent;
use super::{LocalNode, Router};
use crate::encode::{encode, encode_answer};
use crate::frame;
use crate::outbox::Outbox;
use switchboard_store::block::View;
use switchboard_store::origin::{BackEndOrigin, Origin, SessionOrigin, UserOrigin, WriteOrder};
use switchboard_store::profile::ShownProfile;
use switchboard_store::refusal::Refusal;
use switchboard_store::rename::RenamedConversations;
use switchboard_store::{
    Batch, Committed, CommittedCursor, CommittedEvent, CommittedImport, CommittedProfiles, CursorKind,
    ImportedConversation, Outcome,
};

impl Router {
    pub(super) fn publish_batch(&mut self, batch: Batch) {
        let stored = Instant::now();
        for Outcome { origin, result } in batch.outcomes {
            if matches!(origin, Origin::Internal) {
                self.departures_in_flight = self.departures_in_flight.saturating_sub(1);
            }
            match result {
                Ok(Committed::Event(committed)) => self.publish_event(origin, *committed, stored),
                Ok(Committed::Cursor(committed)) => self.publish_cursor(origin, committed),
                Ok(Committed::Profiles(committed)) => self.publish_profiles(origin, *committed),
                Ok(Committed::Block(change)) => self.publish_block(origin, &change),
                Ok(Committed::Import(committed)) => self.publish_import(origin, *committed),
                Ok(Committed::Held { conversation, duplicate }) => {
                    send_answer(origin, Ok(OkBody::Held { conversation, held: true, duplicate }));
                }
                Ok(Committed::Report(report)) => send_answer(origin, Ok(OkBody::Reported { report })),
                Ok(Committed::NotAnnounced) => send_answer(origin, Ok(OkBody::Done {})),
                Err(refusal) => {
                    // A caller that waits for the outcome, such as an HTTP request, counts the refusal itself.
                    if !matches!(origin, Origin::User(_) | Origin::Call(_) | Origin::BackEnd(_)) {
                        self.node.metrics.count_refused(refusal.code);
                    }
                    send_answer(origin, Err(refusal));
                }
            }
        }
        self.node.published = batch.number;
        self.node.parked.wake_for_batch(batch.number);
        self.node.flush_if_due(batch.has_more);
        match &mut self.cluster {
            None => self.node.retry_parked(),
            Some(cluster) => cluster.on_batch_published(&mut self.node, batch.stored_after_all),
        }
    }

    fn publish_event(&mut self, origin: Origin, committed: CommittedEvent, stored: Instant) {
        let ends = committed.ends_conversation();
        let CommittedEvent { conversation, name, seq, at, replaced, event, effects, is_imported: _ } =
            committed;
        let duplicate = event.is_none();
        let own = sender_of(&origin);
        // The answer is queued before the event is applied, because applying it may also queue later events that wait for it.
        let replaced = replaced
            .and_then(|event| RawValue::from_string(event.to_json_for(View::Whole)).ok())
            .map(Box::new);
        let stored_as = OkBody::Stored { conversation: name.clone(), seq, at, duplicate, event: replaced };
        send_answer(origin, Ok(stored_as));
        if let Some(event) = event {
            self.node.metrics.accepted.inc();
            let json = event.to_json_for(View::Whole);
            let arrival = ArrivedEvent {
                name,
                seq,
                frame: Some(frame::text(&json)),
                sender: own,
                effects,
                ends,
                learned_at: stored,
            };
            match &mut self.cluster {
                // A single node stores and publishes events in the same order, so this event is the next one.
                None => self.node.apply_event(conversation, arrival),
                Some(cluster) => cluster.publish_stored_event(&mut self.node, conversation, arrival, json),
            }
        }
    }

    /// Notes how far an import has moved the logs. Other nodes find that by their next comparison with the store.
    fn publish_import(&mut self, origin: Origin, committed: CommittedImport) {
        let CommittedImport { stored, duplicates, conversations } = committed;
        self.node.metrics.imported.inc_by(stored);
        for ImportedConversation { conversation, before, head, effects } in conversations {
            match &mut self.cluster {
                None => self.node.apply_imported(conversation, head, effects),
                Some(cluster) => {
                    cluster.apply_own_import(&mut self.node, conversation, (before, head), effects);
                }
            }
        }
        send_answer(origin, Ok(OkBody::Imported { stored, duplicates }));
    }

    fn publish_profiles(&mut self, origin: Origin, committed: CommittedProfiles) {
        let CommittedProfiles { own, changed } = committed;
        let stored = own.map_or(OkBody::Done {}, |(user, version)| OkBody::Profile { user, version });
        send_answer(origin, Ok(stored));
        for shown in changed {
            if let Some(cluster) = &self.cluster {
                cluster.publish_profile(&shown);
            }
            self.node.profile_changed(shown);
        }
    }

    fn publish_cursor(&mut self, origin: Origin, committed: CommittedCursor) {
        let CommittedCursor {
            conversation,
            name,
            user,
            kind: of,
            upto,
            has_moved: moved,
            is_private,
            members,
            hidden_from,
        } = committed;
        if moved {
            // The cursor may point at coalesced events that still wait, so they are delivered first.
            self.node.flush_coalesced();
            let signal = match of {
                CursorKind::Read => Signal::Read { conversation: name.clone(), user: user.clone(), upto },
                CursorKind::Received => {
                    Signal::Received { conversation: name.clone(), user: user.clone(), upto }
                }
            };
            let from = sender_of(&origin);
            let is_for_members = !is_private && members <= u64::from(self.node.limits.signal_room);
            let by = (&user, &hidden_from[..]);
            self.forward_signal(&signal, by, conversation, is_for_members, from.as_ref());
        }
        send_answer(origin, Ok(OkBody::Cursor { conversation: name, upto }));
    }
}

impl LocalNode {
    /// Sends `not_found` with the earlier id of each conversation to the sessions of its members. They find it in their lists under
    /// its new id.
    pub(super) fn forget_names(&mut self, conversations: &RenamedConversations) {
        self.flush_coalesced();
        for (conversation, name) in conversations {
            let mut sessions = self.registry.sessions_in(*conversation).peekable();
            if sessions.peek().is_none() {
                continue;
            }
            let mut failure = Refusal::not_found().into_failure(None);
            failure.conversation = Some(name.clone());
            let frame = encode(&Reply::<Box<RawValue>>::Error(failure));
            sessions.for_each(|outbox| outbox.push_reply(frame.clone()));
        }
    }

    /// Sends a signal to the sessions of one user.
    pub(super) fn send_private(&mut self, user: &UserId, frame: &Bytes) {
        // The signal may refer to coalesced events that still wait, so they are delivered first.
        self.flush_coalesced();
        self.registry.sessions_of(user).for_each(|outbox| outbox.push_signal(frame));
    }

    /// Sends a changed profile to the sessions that follow the user.
    pub(super) fn profile_changed(&mut self, ShownProfile { profile, hidden_from }: ShownProfile) {
        let (user, version) = (profile.user.clone(), profile.version);
        let frame = encode(&Signal::Profile(profile));
        self.profiles.send_newer_version(&self.registry, &user, version, (frame, hidden_from));
    }
}

/// The connection that made a write; `None` if no connection of this node did.
pub(super) fn sender_of(origin: &Origin) -> Option<Arc<Outbox>> {
    match origin {
        Origin::Session(origin) => Outbox::from_origin(origin),
        Origin::User(_) | Origin::Call(_) | Origin::BackEnd(_) | Origin::Internal => None,
    }
}

/// Sends the result of a write to the session or the caller that made the write.
pub(super) fn send_answer(origin: Origin, result: Result<OkBody<Box<RawValue>>, Refusal>) {
    match origin {
        Origin::Session(origin) => {
            let Some(outbox) = Outbox::from_origin(&origin) else { return };
            let SessionOrigin { id, order, .. } = origin;
            if let Err(refusal) = &result {
                outbox.record_refusal(refusal.code);
            }
            let rejected = result.as_ref().is_err_and(|refusal| refusal.code.retryable());
            let answer = encode_answer(id, result);
            if rejected && matches!(order, Some(WriteOrder::Epoch(_))) {
                outbox.push_rejection(answer);
            } else {
                outbox.push_outcome(answer);
            }
        }
        // If the caller no longer waits, the answer is dropped. The write stays stored.
        Origin::Call(reply)
        | Origin::User(UserOrigin { reply, .. })
        | Origin::BackEnd(BackEndOrigin { reply, .. }) => drop(reply.send(result)),
        Origin::Internal => {}
    }
}
