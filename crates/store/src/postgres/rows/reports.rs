//! The statements about reports. They run at once, in the transaction.

use super::PostgresRows;
use crate::change::rows::ReportRows;
use crate::held::{HeldMessage, SELECT_BY_KEY};
use crate::postgres::connect::Error;
use crate::postgres::query::reports::{parameters, read};
use crate::record::UserKey;
use crate::report::{Field, Fields};

/// Held by a transaction that gives a report its number: "report" in ASCII.
const LOCK_NEW_REPORTS: &str = "SELECT pg_advisory_xact_lock(125779903017588)";

impl ReportRows for PostgresRows<'_> {
    type SqlError = Error;

    fn report_rows(&mut self, sql: &'static str, values: &[Field]) -> Result<Vec<Fields>, Error> {
        let rows = self.link.run(self.link.rows(sql, &parameters(values)))?;
        rows.iter().map(read).collect()
    }

    fn held_message(&mut self, author: UserKey, key: &str) -> Result<Option<HeldMessage>, Error> {
        let at = (author, Box::from(key));
        if let Some(known) = self.held.get(&at) {
            return Ok(known.clone());
        }
        let rows = self.report_rows(SELECT_BY_KEY, &[author.0.into(), Some(key).into()])?;
        let held = rows.first().map(HeldMessage::from_row);
        self.held.insert(at, held.clone());
        Ok(held)
    }

    fn forget_held(&mut self, author: UserKey, key: &str) {
        self.held.remove(&(author, Box::from(key)));
    }

    fn lock_new_reports(&mut self) -> Result<(), Error> {
        self.link.run(self.link.rows(LOCK_NEW_REPORTS, &[])).map(drop)
    }
}
