//! The numbers of users and conversations in the store.

use serde::{Deserialize, Serialize};

/// A user's number in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey(pub i64);

/// A conversation's number in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConversationKey(pub i64);

impl ConversationKey {
    /// Less than the number of any conversation.
    pub const MIN: Self = Self(i64::MIN);
}
