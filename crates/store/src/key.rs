//! The keys of users and conversations: integers that identify them in the store.

use serde::{Deserialize, Serialize};

/// A user's key in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey(pub i64);

/// A conversation's key in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConversationKey(pub i64);

impl ConversationKey {
    /// A key less than that of every conversation.
    pub const MIN: Self = Self(i64::MIN);
}

/// The maker of an event or entry, besides the user in whose name it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Via(pub i32);

impl Via {
    /// The user, over a connection or with a token.
    pub const USER: Self = Self(0);
    /// The command line.
    pub const COMMAND_LINE: Self = Self(-1);
    /// The answer of a hook.
    pub const HOOK: Self = Self(-2);
}
