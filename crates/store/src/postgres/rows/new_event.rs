//! The events that a transaction adds.

use switchboard_protocol::{EventKind, Seq, Timestamp};

use super::PostgresRows;
use crate::change::rows::RequestDigest;
use crate::record::{ConversationKey, UserKey, Via};

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
    /// Sets or removes the digest of the request for a message: of a new one, or in the database.
    pub(super) fn put_request(&mut self, at: (ConversationKey, Seq), request: Option<RequestDigest>) {
        match self.new_event_index.get(&at).and_then(|place| self.new_events.get_mut(*place)) {
            Some(event) => event.request = request,
            // Only new messages get one.
            None => self.deleted_requests.push(at),
        }
    }
}
