//! Finds ids that are never given again, and were.

use rusqlite::{Connection, Result};

use super::Report;

/// The first schema version with retired ids.
const FIRST_SCHEMA_WITH_RETIRED_IDS: usize = 10;

/// Reports ids that are retired although a user has them.
pub(super) fn check(db: &Connection, report: &mut Report) -> Result<()> {
    if report.schema < FIRST_SCHEMA_WITH_RETIRED_IDS {
        return Ok(());
    }
    let mut select = db.prepare("SELECT r.name FROM retired_ids r JOIN users u ON u.name = r.name")?;
    let names = select.query_map([], |row| row.get::<_, String>(0))?;
    for name in names {
        report.add_problem(None, None, format!("the id {} is retired, and a user has it", name?));
    }
    Ok(())
}
