//! The statements about reports. They run at once, in the transaction.

use super::PostgresRows;
use crate::postgres::connect::Error;
use crate::postgres::query::reports::{parameters, read};
use crate::report::{Field, Fields, ReportRows};

/// Held by a transaction that gives a report its number: "report" in ASCII.
const LOCK_NEW_REPORTS: &str = "SELECT pg_advisory_xact_lock(125779903017588)";

impl ReportRows for PostgresRows<'_> {
    type SqlError = Error;

    fn report_rows(&mut self, sql: &'static str, values: &[Field]) -> Result<Vec<Fields>, Error> {
        let rows = self.link.run(self.link.rows(sql, &parameters(values)))?;
        rows.iter().map(read).collect()
    }

    fn lock_new_reports(&mut self) -> Result<(), Error> {
        self.link.run(self.link.rows(LOCK_NEW_REPORTS, &[])).map(drop)
    }
}
