//! Pages of memberships, and the summaries of the latest conversations among them.

use std::sync::Arc;

use switchboard_protocol::reply::{Summary, Unread};
use switchboard_protocol::{Limits, Seq};

use crate::record::ConversationKey;

/// A conversation that a user is a member of.
#[derive(Debug, Clone, Copy)]
pub struct JoinedConversation {
    /// The conversation.
    pub conversation: ConversationKey,
    /// The conversation's last event.
    pub head: Seq,
}

/// A page of the conversations that a user is a member of, in the order of their keys, from one consistent snapshot.
#[derive(Debug, Clone)]
pub struct Memberships {
    /// The number of the last write batch that this page can reflect. Nothing of later batches is in it.
    pub mark: u64,
    /// The conversation after which this page begins. The page has all memberships with a key above it, up to `next`.
    pub after: ConversationKey,
    /// The last conversation of this page, after which the next page begins; `None` if this is the last page.
    pub next: Option<ConversationKey>,
    /// The memberships, in the order of the conversations' keys.
    pub joined: Arc<[JoinedConversation]>,
    /// The conversations with the latest activity, latest first: as many as [`Activity::max_per_connection`].
    pub latest: Vec<Activity>,
}

/// When a conversation was last active, and which conversation it is. Lists are sorted by this, the greatest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Activity {
    /// When the last event was stored, in milliseconds since the Unix epoch.
    pub at: i64,
    /// The conversation.
    pub conversation: ConversationKey,
}

impl Activity {
    /// How many of the latest conversations a connection needs: one more than its page of summaries has, or one more than
    /// the number of conversations in which its unread messages are counted, if that is greater.
    pub fn max_per_connection(limits: &Limits) -> usize {
        (limits.page_size(None) as usize).max(Limits::MAX_UNREAD_CONVERSATIONS) + 1
    }

    /// Sorts activities, the latest first, and keeps at most `most`.
    pub fn keep_latest(activities: &mut Vec<Self>, most: usize) {
        activities.sort_unstable_by(|a, b| b.cmp(a));
        activities.truncate(most);
    }
}

/// Summaries of a user's conversations, from one consistent snapshot.
#[derive(Debug)]
pub struct Summaries {
    /// The number of the last write batch that these summaries can reflect. Nothing of later batches is in them.
    pub mark: u64,
    /// The summaries, in the order requested.
    pub summaries: Vec<Summary>,
    /// The last event of each conversation that has a summary.
    pub joined: Vec<JoinedConversation>,
    /// Whether there are more conversations than these summaries.
    pub has_more: bool,
    /// What the user has not read in the first [`Limits::MAX_UNREAD_CONVERSATIONS`] of the requested conversations.
    pub unread: Unread,
}
