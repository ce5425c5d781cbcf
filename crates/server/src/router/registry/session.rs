//! What the registry knows of one session.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::{Seq, Timestamp, UserId};

use super::UserSlot;
use crate::outbox::Outbox;
use switchboard_store::record::ConversationKey;

/// The most conversations left by its user for which a session's last received event is recorded. A session with more of them is
/// closed with 1013. Its client reconnects, and its cursors say how far it has received each conversation.
const MAX_LEFT_CONVERSATIONS: usize = 4_096;

/// A connection that has sent `hello`.
#[derive(Debug)]
pub(crate) struct LocalSession {
    pub(crate) user: UserSlot,
    pub(crate) outbox: Arc<Outbox>,
    /// Whether the session receives live events. `false` while it is attaching.
    pub(crate) is_live: bool,
    /// In a cluster: whether this node has added the user to the conversations of one of the session's pages.
    pub(crate) has_joined_page: bool,
    /// The subscription epoch ([`subscription_epoch`](super::Registry::subscription_epoch)) when the session began to read its
    /// current page of memberships.
    pub(crate) subscription_epoch: u64,
    /// When the session attached, the tokens of its user that were issued up to this time had been revoked.
    pub(crate) not_before: Option<Timestamp>,
    /// In a cluster: the last event that the session has received of each conversation that its user has left. The user may have
    /// rejoined and left again by events that this node has not applied yet.
    pub(crate) received: FxHashMap<ConversationKey, Seq>,
    /// The users whose presence the session receives.
    pub(crate) watching: Box<[UserId]>,
    /// The users whose changes of the profile the session receives, the latest first.
    pub(crate) following: Box<[UserId]>,
}

impl LocalSession {
    /// Records that the session has received a conversation up to an event, and receives nothing after that event.
    pub(in crate::router) fn record_received(&mut self, conversation: ConversationKey, upto: Seq) {
        if self.received.len() >= MAX_LEFT_CONVERSATIONS && !self.received.contains_key(&conversation) {
            return self.outbox.close_slow_consumer();
        }
        let received = self.received.entry(conversation).or_default();
        *received = (*received).max(upto);
    }

    /// Removes and returns the last event that the session has received of a conversation, because it receives the conversation
    /// again.
    pub(in crate::router) fn take_received(&mut self, conversation: ConversationKey) -> Option<Seq> {
        self.received.remove(&conversation)
    }
}
