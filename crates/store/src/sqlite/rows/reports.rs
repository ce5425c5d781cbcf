//! The statements about reports.

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Result, Row, ToSql, params_from_iter};

use super::SqliteRows;
use crate::change::rows::ReportRows;
use crate::held::{HeldMessage, SELECT_BY_KEY};
use crate::record::UserKey;
use crate::report::{Field, Fields};

impl ToSql for Field {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        match self {
            Self::Number(number) => number.to_sql(),
            Self::Text(Some(text)) => text.to_sql(),
            Self::Text(None) => Ok(ToSqlOutput::Owned(Value::Null)),
        }
    }
}

/// Runs a statement, and returns its rows.
pub(in crate::sqlite) fn run(db: &Connection, sql: &'static str, values: &[Field]) -> Result<Vec<Fields>> {
    let mut statement = db.prepare_cached(sql)?;
    let columns = statement.column_count();
    if columns == 0 {
        return statement.execute(params_from_iter(values)).map(|_| Vec::new());
    }
    statement.query_map(params_from_iter(values), |row| read(row, columns))?.collect()
}

fn read(row: &Row<'_>, columns: usize) -> Result<Fields> {
    let field = |column| {
        Ok(match row.get_ref(column)? {
            ValueRef::Integer(number) => Field::Number(number),
            ValueRef::Text(text) => Field::Text(Some(String::from_utf8_lossy(text).into_owned())),
            _ => Field::Text(None),
        })
    };
    (0..columns).map(field).collect::<Result<_>>().map(Fields)
}

impl SqliteRows {
    /// Whether any message was held. The writer is the only one that changes it, so it is read once; it may be `true` for longer.
    fn has_held(&mut self) -> Result<bool> {
        if let Some(known) = self.has_held {
            return Ok(known);
        }
        let any = self.db.prepare_cached("SELECT 1 FROM held")?.exists([])?;
        self.has_held = Some(any);
        Ok(any)
    }
}

impl ReportRows for SqliteRows {
    type SqlError = rusqlite::Error;

    fn report_rows(&mut self, sql: &'static str, values: &[Field]) -> Result<Vec<Fields>> {
        run(&self.db, sql, values)
    }

    fn held_message(&mut self, author: UserKey, key: &str) -> Result<Option<HeldMessage>> {
        if !self.has_held()? {
            return Ok(None);
        }
        let rows = self.report_rows(SELECT_BY_KEY, &[author.0.into(), Some(key).into()])?;
        Ok(rows.first().map(HeldMessage::from_row))
    }

    fn forget_held(&mut self, _: UserKey, _: &str) {
        self.has_held = Some(true);
    }

    fn lock_new_reports(&mut self) -> Result<()> {
        // No other connection writes during this transaction.
        Ok(())
    }
}
