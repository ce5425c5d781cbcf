//! Statements that change rows of webhooks as no command can.

/// Ends the leases of a node.
pub(super) fn end_leases_of(node: usize) -> String {
    format!("UPDATE consumers SET until = 0 WHERE node LIKE 'chat-{node}/%'")
}
