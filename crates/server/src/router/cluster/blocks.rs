//! Finds the lists of blocked users that other nodes have changed: upon a notice, and at each sweep.
//!
//! A notice is only a reason to read the list, because an old one may arrive late.

use rustc_hash::FxHashSet;
use switchboard_protocol::UserId;
use switchboard_store::block::BlockList;
use switchboard_store::refusal::Refusal;

use super::Cluster;
use super::store_reply::StoreReply;
use crate::bus::{Address, Notice};
use crate::router::LocalNode;
use crate::router::registry::{BlockStep, UserSlot};

/// The most users in one query.
const MAX_USERS_PER_QUERY: usize = 500;

/// The users whose lists are still to be compared with the store.
#[derive(Debug, Default)]
pub(super) struct BlockComparison {
    /// Users whose lists are to be compared soon.
    users: FxHashSet<UserSlot>,
    /// The users whom the current sweep still has to compare.
    users_to_sweep: Vec<UserSlot>,
    is_querying: bool,
}

impl Cluster {
    /// Publishes to the nodes of a user that their list has changed.
    pub(in crate::router) fn publish_block(&self, user: &UserId) {
        self.bus.publish(&Address::User(user.clone()), &Notice::Blocks { user: user.clone() });
    }

    /// Compares the list of a user with the store.
    pub(in crate::router) fn query_blocks_of(&mut self, node: &LocalNode, user: &UserId) {
        self.blocks.users.extend(node.registry.find_user(user));
    }

    /// Reads the lists of all users who block anyone, because an id in them may have changed.
    pub(super) fn query_all_blocks(&mut self, node: &LocalNode) {
        let users = node.registry.users();
        self.blocks.users.extend(users.into_iter().filter(|user| node.registry.blocks_of(*user).is_some()));
    }

    /// Begins to compare the lists of all users, unless the previous sweep is still running.
    pub(super) fn sweep_blocks(&mut self, node: &LocalNode) {
        if self.blocks.users_to_sweep.is_empty() {
            self.blocks.users_to_sweep = node.registry.users();
        }
    }

    /// Sends the next query to the store, if one is due.
    pub(super) fn query_blocks(&mut self, node: &LocalNode) {
        let blocks = &mut self.blocks;
        if blocks.is_querying || blocks.users.is_empty() && blocks.users_to_sweep.is_empty() {
            return;
        }
        let mut users: Vec<_> = blocks.users.iter().take(MAX_USERS_PER_QUERY).copied().collect();
        for user in &users {
            blocks.users.remove(user);
        }
        let rest = blocks.users_to_sweep.len().saturating_sub(MAX_USERS_PER_QUERY - users.len());
        users.extend(blocks.users_to_sweep.drain(rest..));
        let asked: Vec<_> = users
            .into_iter()
            .filter_map(|user| node.registry.user(user))
            .map(|local| {
                let list = local.blocks.list();
                // A list that is not empty is read in any case, with the present ids of the users.
                (local.name.clone(), if list.users.is_empty() { list.version } else { 0 })
            })
            .collect();
        if asked.is_empty() {
            return;
        }
        self.blocks.is_querying = true;
        let answer = self.store.changed_blocks(asked.clone());
        self.query(answer, move |result| StoreReply::Blocks { asked, result });
    }

    pub(super) fn apply_changed_blocks(
        &mut self,
        node: &mut LocalNode,
        asked: Vec<(UserId, u64)>,
        result: Result<Vec<(UserId, BlockList)>, Refusal>,
    ) {
        self.blocks.is_querying = false;
        let Ok(lists) = result else {
            for (user, _) in asked {
                self.query_blocks_of(node, &user);
            }
            return;
        };
        for (user, list) in lists {
            let Some(slot) = node.registry.find_user(&user) else { continue };
            if node.apply_block_list(slot, list) == BlockStep::Gap {
                self.blocks.users.insert(slot);
            }
        }
    }
}
