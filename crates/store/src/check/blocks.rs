//! Checks who blocks whom.

use rusqlite::{Connection, Result};

use super::Report;

/// The first schema version with blocks.
const FIRST_SCHEMA_WITH_BLOCKS: usize = 15;

/// Reports blocks of users who are not stored, of users by themselves, and of users whose number of changes says that they have never
/// blocked anyone: their readers would not look.
pub(super) fn check(db: &Connection, report: &mut Report) -> Result<()> {
    if report.schema < FIRST_SCHEMA_WITH_BLOCKS {
        return Ok(());
    }
    for (what, condition) in [
        ("a user who is not stored", "u.id IS NULL OR o.id IS NULL"),
        ("a user by themselves", "b.user = b.blocked"),
        ("a user who has never changed a block", "u.block_changes < 1"),
    ] {
        let sql = format!(
            "SELECT b.user, b.blocked FROM blocks b LEFT JOIN users u ON u.id = b.user
             LEFT JOIN users o ON o.id = b.blocked WHERE {condition}"
        );
        let mut select = db.prepare(&sql)?;
        let rows = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        for row in rows {
            let (user, blocked) = row?;
            let what = format!("the block of user number {blocked} by user number {user} is of {what}");
            report.add_problem(None, None, what);
        }
    }
    Ok(())
}
