//! Whom the users of this node block.

use switchboard_protocol::UserId;
use switchboard_store::block::BlockList;
use switchboard_store::record::ConversationKey;

use super::{Registry, UserSlot};

/// The users whom a connected user blocks, as far as this node knows.
#[derive(Debug, Default)]
pub(crate) struct UserBlocks {
    list: BlockList,
    /// Whether the list was read from the store.
    is_known: bool,
    /// Changes that were published before the list was read: version, user, and whether the user is blocked since.
    early: Vec<(u64, UserId, bool)>,
}

/// What became of a change of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockStep {
    /// The list has the change now.
    Applied,
    /// The list had it before, or will have it once it is read.
    NotNew,
    /// A change before this one is missing, so the list must be read again.
    Gap,
}

impl UserBlocks {
    pub(crate) fn list(&self) -> &BlockList {
        &self.list
    }

    /// Applies a change that makes the list this version.
    pub(crate) fn apply(&mut self, version: u64, other: &UserId, on: bool) -> BlockStep {
        if !self.is_known {
            self.early.push((version, other.clone(), on));
            return BlockStep::NotNew;
        }
        if version <= self.list.version {
            return BlockStep::NotNew;
        }
        if version > self.list.version + 1 {
            return BlockStep::Gap;
        }
        self.list.version = version;
        if on {
            self.list.users.insert(other.clone());
        } else {
            self.list.users.remove(other);
        }
        BlockStep::Applied
    }

    /// Takes a list that was read from the store, unless this node knows a later one, and applies the changes that were published
    /// before it was read.
    pub(crate) fn adopt(&mut self, list: BlockList) -> BlockStep {
        let is_newer = !self.is_known || list.version >= self.list.version;
        let mut step = if is_newer && list != self.list { BlockStep::Applied } else { BlockStep::NotNew };
        if is_newer {
            self.list = list;
        }
        self.is_known = true;
        for (version, other, on) in std::mem::take(&mut self.early) {
            match self.apply(version, &other, on) {
                BlockStep::NotNew => {}
                later => step = later,
            }
        }
        step
    }

    /// Replaces the id of a blocked user who has another one.
    fn rename(&mut self, from: &UserId, to: &UserId) {
        if self.list.users.remove(from) {
            self.list.users.insert(to.clone());
        }
    }
}

impl Registry {
    /// The list of a user who blocks other users; `None` for the others.
    pub(crate) fn blocks_of(&self, user: UserSlot) -> Option<&BlockList> {
        self.user(user).map(|local| local.blocks.list()).filter(|list| !list.users.is_empty())
    }

    /// The users whom a user blocks; empty if the user is not connected here.
    pub(crate) fn blocked_by(&self, user: &UserId) -> Vec<UserId> {
        let list = self.find_user(user).and_then(|user| self.blocks_of(user));
        list.map(|list| list.users.iter().cloned().collect()).unwrap_or_default()
    }

    /// Changes what this node knows of a user's list, and keeps up which conversations have a member who blocks other users.
    pub(crate) fn change_blocks<T: Default>(
        &mut self,
        user: UserSlot,
        change: impl FnOnce(&mut UserBlocks) -> T,
    ) -> T {
        let Some(local) = self.users.get_mut(user.0) else { return T::default() };
        let before = !local.blocks.list.users.is_empty();
        let changed = change(&mut local.blocks);
        let after = !local.blocks.list.users.is_empty();
        if before != after {
            for conversation in &local.conversations {
                let Some(here) = self.conversations.get_mut(conversation) else { continue };
                if after {
                    here.blockers.insert(user);
                } else {
                    here.blockers.remove(user);
                }
            }
        }
        changed
    }

    /// Replaces the id of a user in all lists.
    pub(crate) fn rename_blocked(&mut self, from: &UserId, to: &UserId) {
        for user in self.users() {
            self.change_blocks(user, |blocks| blocks.rename(from, to));
        }
    }

    /// Whether a conversation has a member here who blocks other users. Nearly always it has none.
    pub(crate) fn has_blocker(&self, conversation: ConversationKey) -> bool {
        self.conversations.get(&conversation).is_some_and(|here| !here.blockers.is_empty())
    }

    /// The members of a conversation who are connected here.
    pub(crate) fn members_here(&self, conversation: ConversationKey) -> &[UserSlot] {
        self.conversations.get(&conversation).map_or(&[][..], |here| &here.connected_members[..])
    }

    /// Whether a user gets no signal about another one (`about`), because one of the two blocks the other. `hidden_from` are users whom
    /// the other one is known to block, or to be blocked by.
    pub(crate) fn are_apart(&self, user: UserSlot, about: &UserId, hidden_from: &[UserId]) -> bool {
        let Some(local) = self.user(user) else { return false };
        let blocks = || self.find_user(about).and_then(|about| self.blocks_of(about));
        local.blocks.list.contains(about)
            || hidden_from.contains(&local.name)
            || blocks().is_some_and(|list| list.contains(&local.name))
    }
}

impl Default for BlockStep {
    /// What becomes of a change for a user who is not connected here.
    fn default() -> Self {
        Self::NotNew
    }
}
