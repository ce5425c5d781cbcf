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

    /// What the number of a maker is raised by for what it has imported. No installation has as many keys.
    const IMPORTED: i32 = 1 << 30;

    /// The lowest number of what was imported. Makers that are no keys have numbers a little below zero.
    pub(crate) const FIRST_IMPORTED: i32 = Self::IMPORTED - 1_000;

    /// The maker of what this one imports.
    #[must_use]
    pub fn importing(self) -> Self {
        if self.is_imported() { self } else { Self(self.0.saturating_add(Self::IMPORTED)) }
    }

    /// Whether an API key has made it, by an import or otherwise.
    pub(crate) fn is_key(self) -> bool {
        self.without_import().0 > 0
    }

    /// Whether an import has made it.
    pub fn is_imported(self) -> bool {
        self.0 >= Self::FIRST_IMPORTED
    }

    /// The same maker without the note that it was imported.
    #[must_use]
    pub fn without_import(self) -> Self {
        if self.is_imported() { Self(self.0 - Self::IMPORTED) } else { self }
    }
}
