//! What an outbox knows of the users whom its user blocks: when that changes, and that some events are left out.

use switchboard_store::record::ConversationKey;

use super::{CoalescedEvent, Outbox};

impl Outbox {
    /// Leaves out live events of a conversation of which the connection's user sees nothing.
    pub(crate) fn skip_events(&self, conversation: ConversationKey, events: &[CoalescedEvent]) {
        let mut inner = self.lock();
        for event in events {
            inner.remove_pending_own(conversation, event.seq);
        }
    }

    /// Notes that the list of users whom the user blocks has changed. Pages of the log that were asked for before are not queued.
    pub(crate) fn begin_block_epoch(&self) {
        self.lock().block_epoch += 1;
    }

    /// How often the list of users whom the user blocks has changed since the connection began.
    pub(crate) fn block_epoch(&self) -> u64 {
        self.lock().block_epoch
    }
}
