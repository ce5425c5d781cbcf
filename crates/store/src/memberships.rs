//! Pages of memberships, and the summaries of the latest conversations among them.

use std::sync::Arc;

use switchboard_protocol::reply::{Summary, Unread};
use switchboard_protocol::{Limits, Seq};

use crate::record::ConversationKey;

/// A conversation that a user is a member of.
#[derive(Debug, Clone, Copy)]
pub struct Joined {
    /// Which.
    pub conversation: ConversationKey,
    /// Its last event.
    pub head: Seq,
}

/// A page of the conversations that a user is a member of, by their numbers: one consistent snapshot.
#[derive(Debug, Clone)]
pub struct Memberships {
    /// No batch after this one can have been seen by the page, as of a [`Snapshot`](super::Snapshot).
    pub mark: u64,
    /// The page has all memberships above this number,
    pub after: ConversationKey,
    /// up to this one; `None` if there are no more behind it.
    pub next: Option<ConversationKey>,
    /// In the order of their numbers.
    pub joined: Arc<[Joined]>,
    /// The conversations with the latest activity, latest first: as many as [`Activity::most_of_connection`].
    pub latest: Vec<Activity>,
}

/// The time of a conversation's last event, and its number: the order of lists, which is from the greatest to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Activity {
    /// When.
    pub at: i64,
    /// Where.
    pub conversation: ConversationKey,
}

impl Activity {
    /// How many of the latest a connection needs: one more than fits on its page of summaries, and one more than its unread
    /// messages are counted in.
    pub fn most_of_connection(limits: &Limits) -> usize {
        (limits.page_size(None) as usize).max(Limits::UNREAD_CONVERSATIONS) + 1
    }

    /// Keeps the latest, in their order, at most so many.
    pub fn keep_latest(activities: &mut Vec<Self>, most: usize) {
        activities.sort_unstable_by(|a, b| b.cmp(a));
        activities.truncate(most);
    }
}

/// Summaries of a user's conversations: one consistent snapshot.
#[derive(Debug)]
pub struct Summaries {
    /// No batch after this one can have been seen by them, as of a [`Snapshot`](super::Snapshot).
    pub mark: u64,
    /// The summaries.
    pub summaries: Vec<Summary>,
    /// The last event of each that has a summary.
    pub joined: Vec<Joined>,
    /// Whether there are more.
    pub more: bool,
    /// What the user has not read in the conversations given, the first [`Limits::UNREAD_CONVERSATIONS`] of them.
    pub unread: Unread,
}
