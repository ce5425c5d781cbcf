//! The tables that `migrate-store` copies.

use rusqlite::Connection;
use tokio_postgres::types::{ToSql, Type};

use crate::table::{Column, ColumnType, Table, quoted_names};

/// The value of a field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(Option<i64>),
    Int(i32),
    Small(i16),
    Bool(bool),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

use ColumnType::{Bool, Bytes, Int, Number, Small, Text};

impl Table {
    fn select_sql(&self) -> String {
        let (columns, key) = (quoted_names(self.columns), quoted_names(self.key()));
        format!("SELECT {columns} FROM {} ORDER BY {key}", self.name)
    }

    /// The statement that selects the table's rows from SQLite, except the first `before` rows.
    pub(super) fn select_rest_sql(&self, before: u64) -> String {
        format!("{} LIMIT -1 OFFSET {before}", self.select_sql())
    }

    /// The statement that selects the table's rows from PostgreSQL.
    pub(super) fn select_copies_sql(&self) -> String {
        self.select_sql()
    }

    /// The COPY statement for PostgreSQL.
    pub(super) fn copy_sql(&self) -> String {
        let columns = quoted_names(self.columns);
        format!("COPY {} ({columns}) FROM STDIN (FORMAT binary)", self.name)
    }

    /// The types of the table's columns in PostgreSQL.
    pub(super) fn column_types(&self) -> Vec<Type> {
        let types = self.columns.iter().map(|column| match column.kind {
            Number => Type::INT8,
            Int => Type::INT4,
            Small => Type::INT2,
            Bool => Type::BOOL,
            Text => Type::TEXT,
            Bytes => Type::BYTEA,
        });
        types.collect()
    }

    /// The number of the table's rows in SQLite.
    pub(super) fn count_rows(&self, source: &Connection) -> rusqlite::Result<u64> {
        source.query_row(&format!("SELECT count(*) FROM {}", self.name), [], |row| row.get(0))
    }

    /// Reads a row from SQLite.
    pub(super) fn read_row(&self, row: &rusqlite::Row<'_>) -> anyhow::Result<Vec<Value>> {
        let read = |(index, column): (usize, &Column)| -> anyhow::Result<Value> {
            let value = match column.kind {
                Number => Value::Number(row.get(index)?),
                Int => Value::Int(row.get(index)?),
                Small => Value::Small(row.get(index)?),
                Bool => Value::Bool(row.get(index)?),
                Text => Value::Text(row.get(index)?),
                Bytes => Value::Bytes(row.get(index)?),
            };
            if let Value::Text(Some(text)) = &value {
                anyhow::ensure!(!text.contains('\0'), "PostgreSQL cannot store text with a NUL character");
            }
            Ok(value)
        };
        self.columns.iter().enumerate().map(read).collect()
    }

    /// Reads a row from PostgreSQL.
    pub(super) fn read_copied_row(&self, row: &tokio_postgres::Row) -> anyhow::Result<Vec<Value>> {
        let read = |(index, column): (usize, &Column)| -> anyhow::Result<Value> {
            Ok(match column.kind {
                Number => Value::Number(row.try_get(index)?),
                Int => Value::Int(row.try_get(index)?),
                Small => Value::Small(row.try_get(index)?),
                Bool => Value::Bool(row.try_get(index)?),
                Text => Value::Text(row.try_get(index)?),
                Bytes => Value::Bytes(row.try_get(index)?),
            })
        };
        self.columns.iter().enumerate().map(read).collect()
    }
}

impl Value {
    pub(super) fn to_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Number(value) => value,
            Self::Int(value) => value,
            Self::Small(value) => value,
            Self::Bool(value) => value,
            Self::Text(value) => value,
            Self::Bytes(value) => value,
        }
    }
}
