//! Logs and remembers the nodes that have sent nothing for a lease.

use super::{NodeId, RemotePresence, RemoteUser};

/// The most nodes that are remembered as lost. A node that restarts has another id, so the number of lost nodes only grows.
const MAX_LOST_NODES: usize = 100;

/// The most users of a lost node whose names are logged.
const MAX_LOGGED_USERS: usize = 20;

impl RemotePresence {
    /// Logs that a node is lost, with the users who were online there and are watched here, and remembers its name.
    pub(super) fn remember_lost(&mut self, node: NodeId, bus_connected: bool) {
        if self.lost_nodes.len() == MAX_LOST_NODES {
            self.lost_nodes.clear();
        }
        let name = self.nodes.get(&node).and_then(|node| node.name.clone());
        let (users, names) = self.watched_users_of(node);
        if bus_connected {
            tracing::warn!(
                node = name.as_ref().map(display),
                node_id = %node,
                users,
                names,
                "node lost: no heartbeat for a lease; its users count as offline"
            );
        } else {
            tracing::warn!(
                node = name.as_ref().map(display),
                node_id = %node,
                users,
                "node lost: this node has no connection to the bus; the users of the other node count as offline here"
            );
        }
        self.lost_nodes.insert(node, name);
    }

    /// How many users are online on a node and watched here, and the names of the first of them.
    fn watched_users_of(&self, node: NodeId) -> (usize, String) {
        let is_there = |user: &RemoteUser| user.nodes.get(&node).is_some_and(|state| state.is_online);
        let mut names: Vec<_> =
            self.users.iter().filter(|(_, user)| is_there(user)).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let users = names.len();
        names.truncate(MAX_LOGGED_USERS);
        (users, names.join(", "))
    }
}
