//! The events that a transaction adds.

use switchboard_protocol::{EventKind, Seq, Timestamp};

use super::PostgresRows;
use crate::record::RequestDigest;
use crate::record::{Conversation, ConversationKey, LogEvent, UserKey, Via};

/// An event to be inserted.
pub(super) struct NewEvent {
    pub(super) conversation: ConversationKey,
    pub(super) seq: Seq,
    pub(super) kind: EventKind,
    pub(super) sender: UserKey,
    pub(super) at: Timestamp,
    pub(super) messages: u64,
    pub(super) key: Option<Box<str>>,
    pub(super) body: Box<str>,
    pub(super) via: Via,
    pub(super) request: Option<RequestDigest>,
}

impl PostgresRows<'_> {
    /// Adds an event. Returns `false`, and adds nothing, if its sender is known to have used its key before.
    pub(super) fn add_event(
        &mut self,
        event: &LogEvent,
        stored: &str,
        conversation: &Conversation,
        (sender, via): (UserKey, Via),
    ) -> bool {
        let place = self.new_events.len();
        if let Some(key) = &event.key {
            let key = (sender, key.clone());
            if self.new_event_keys.contains_key(&key) || matches!(self.keyed.get(&key), Some(Some(_))) {
                return false;
            }
            self.new_event_keys.insert(key, place);
        }
        self.new_event_index.insert((conversation.key, event.seq), place);
        self.new_events.push(NewEvent {
            conversation: conversation.key,
            seq: event.seq,
            kind: event.kind.known_kind(),
            sender,
            at: event.at,
            messages: conversation.messages,
            key: event.key.clone(),
            body: stored.into(),
            via,
            request: None,
        });
        true
    }

    /// Sets or removes the digest of the request for a message: of a new one, or in the database.
    pub(super) fn put_request(&mut self, at: (ConversationKey, Seq), request: Option<RequestDigest>) {
        match self.new_event_index.get(&at).and_then(|place| self.new_events.get_mut(*place)) {
            Some(event) => event.request = request,
            // Only new messages get one.
            None => self.deleted_requests.push(at),
        }
    }
}
