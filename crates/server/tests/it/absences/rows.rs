//! Reads rows that no call shows.

use crate::support::SharedEngines;

/// How many rows say that a user whose id is like `pattern` is connected to a node.
pub(super) async fn count_connected(shared: &SharedEngines, pattern: &str) -> usize {
    let select = format!(
        r#"SELECT count(*) FROM connected c JOIN users u ON u.id = c."user" WHERE u.name LIKE '{pattern}'"#
    );
    shared.sql(&select).await.trim().parse().expect("a number")
}

/// When a user whose id is like `pattern` was last seen: the latest, in milliseconds.
pub(super) async fn latest_last_seen(shared: &SharedEngines, pattern: &str) -> i64 {
    let select = format!("SELECT max(last_seen) FROM users WHERE name LIKE '{pattern}'");
    shared.sql(&select).await.trim().parse().expect("a time")
}
