//! Changes of the registry: changes of the node's subscriptions, and changes that attaching sessions wait for.

use switchboard_protocol::UserId;

use super::UserSlot;
use switchboard_store::record::ConversationKey;

/// A change of the subscriptions of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubscriptionChange {
    /// A conversation has its first member on this node.
    SubscribeConversation(ConversationKey),
    /// A conversation has no member on this node any more.
    UnsubscribeConversation(ConversationKey),
    /// A user has connected to this node.
    SubscribeUser(UserId),
    /// A user is no longer connected to this node.
    UnsubscribeUser(UserId),
}

/// Changes that attaching sessions may have waited for.
#[derive(Debug, Default)]
pub(in crate::router) struct ObstacleChanges {
    /// Users who joined or left a conversation.
    pub(in crate::router) users: Vec<UserSlot>,
    /// Conversations of which an event was applied, or which this node no longer hosts.
    pub(in crate::router) conversations: Vec<ConversationKey>,
}

impl ObstacleChanges {
    pub(super) fn add_user(&mut self, user: UserSlot) {
        if self.users.last() != Some(&user) {
            self.users.push(user);
        }
    }

    pub(super) fn add_conversation(&mut self, conversation: ConversationKey) {
        if self.conversations.last() != Some(&conversation) {
            self.conversations.push(conversation);
        }
    }
}
