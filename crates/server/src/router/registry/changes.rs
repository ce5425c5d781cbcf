//! What changes in the registry, for those who act on it.

use switchboard_protocol::UserId;

use super::UserSlot;
use switchboard_store::record::ConversationKey;

/// What a node is to hear of from now on, or no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interest {
    /// A conversation has its first member here.
    Hosts(ConversationKey),
    /// Its last member here has gone.
    Drops(ConversationKey),
    /// A user is here.
    Has(UserId),
    /// They are here no more.
    Lacks(UserId),
}

/// What sessions on their way in may have waited for.
#[derive(Debug, Default)]
pub(in crate::router) struct Changes {
    /// Users who came into a conversation here or went.
    pub(in crate::router) users: Vec<UserSlot>,
    /// Conversations of which an event was placed, or which are no longer here.
    pub(in crate::router) conversations: Vec<ConversationKey>,
}

impl Changes {
    pub(super) fn user(&mut self, user: UserSlot) {
        if self.users.last() != Some(&user) {
            self.users.push(user);
        }
    }

    pub(super) fn conversation(&mut self, conversation: ConversationKey) {
        if self.conversations.last() != Some(&conversation) {
            self.conversations.push(conversation);
        }
    }
}
