//! The tables that `migrate-store` copies.

use rusqlite::Connection;
use tokio_postgres::types::{ToSql, Type};

/// A table with its columns and its key. Both databases sort by the key in the same order, names by their bytes.
pub(super) struct Table {
    pub(super) name: &'static str,
    columns: &'static [(&'static str, ColumnType)],
    key: &'static [&'static str],
}

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ColumnType {
    Number,
    Small,
    Bool,
    Text,
    Bytes,
}

/// The value of a field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(Option<i64>),
    Small(i16),
    Bool(bool),
    Text(Option<String>),
    Bytes(Vec<u8>),
}

use ColumnType::{Bool, Bytes, Number, Small, Text};

/// All tables.
pub(super) const TABLES: [Table; 8] = [
    Table {
        name: "users",
        columns: &[("id", Number), ("name", Text), ("last_seen", Number), ("not_before", Number)],
        key: &["id"],
    },
    Table {
        name: "conversations",
        columns: &[
            ("id", Number),
            ("name", Text),
            ("title", Text),
            ("public", Bool),
            ("head", Number),
            ("messages", Number),
            ("last_message", Number),
            ("members", Number),
            ("admins", Number),
            ("at", Number),
        ],
        key: &["id"],
    },
    Table {
        name: "members",
        columns: &[
            ("conversation", Number),
            ("user", Number),
            ("role", Small),
            ("since", Number),
            ("until", Number),
            ("read", Number),
            ("received", Number),
            ("sent", Number),
            ("read_messages", Number),
            ("read_sent", Number),
        ],
        key: &["conversation", "user"],
    },
    Table {
        name: "events",
        columns: &[
            ("conversation", Number),
            ("seq", Number),
            ("kind", Small),
            ("sender", Number),
            ("at", Number),
            ("messages", Number),
            ("key", Text),
            ("body", Text),
        ],
        key: &["conversation", "seq"],
    },
    Table {
        name: "amendments",
        columns: &[("conversation", Number), ("target", Number), ("seq", Number)],
        key: &["conversation", "target", "seq"],
    },
    Table {
        name: "reactions",
        columns: &[
            ("conversation", Number),
            ("target", Number),
            ("emoji", Text),
            ("user", Number),
            ("since", Number),
            ("until", Number),
        ],
        key: &["conversation", "target", "emoji", "user", "since"],
    },
    Table {
        name: "rooms_by_choice",
        columns: &[("user", Number), ("conversation", Number)],
        key: &["user", "conversation"],
    },
    Table {
        name: "api_keys",
        columns: &[("name", Text), ("hash", Bytes), ("created", Number), ("revoked", Number)],
        key: &["name"],
    },
];

fn quoted(names: impl Iterator<Item = &'static str>) -> String {
    names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

impl Table {
    fn select(&self) -> String {
        let (columns, key) =
            (quoted(self.columns.iter().map(|(name, _)| *name)), quoted(self.key.iter().copied()));
        format!("SELECT {columns} FROM {} ORDER BY {key}", self.name)
    }

    /// Selects SQLite's rows after the first `before`.
    pub(super) fn select_from(&self, before: u64) -> String {
        format!("{} LIMIT -1 OFFSET {before}", self.select())
    }

    /// Selects PostgreSQL's rows.
    pub(super) fn select_copies(&self) -> String {
        self.select()
    }

    /// The COPY statement for PostgreSQL.
    pub(super) fn copy(&self) -> String {
        let columns = quoted(self.columns.iter().map(|(name, _)| *name));
        format!("COPY {} ({columns}) FROM STDIN (FORMAT binary)", self.name)
    }

    /// The types of its columns in PostgreSQL.
    pub(super) fn types(&self) -> Vec<Type> {
        let types = self.columns.iter().map(|(_, kind)| match kind {
            Number => Type::INT8,
            Small => Type::INT2,
            Bool => Type::BOOL,
            Text => Type::TEXT,
            Bytes => Type::BYTEA,
        });
        types.collect()
    }

    /// The number of rows in SQLite.
    pub(super) fn count(&self, source: &Connection) -> rusqlite::Result<u64> {
        source.query_row(&format!("SELECT count(*) FROM {}", self.name), [], |row| row.get(0))
    }

    /// Reads a row from SQLite.
    pub(super) fn read(&self, row: &rusqlite::Row<'_>) -> anyhow::Result<Vec<Value>> {
        let read = |(index, (_, kind)): (usize, &(&str, ColumnType))| -> anyhow::Result<Value> {
            let value = match kind {
                Number => Value::Number(row.get(index)?),
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
    pub(super) fn read_copy(&self, row: &tokio_postgres::Row) -> anyhow::Result<Vec<Value>> {
        let read = |(index, (_, kind)): (usize, &(&str, ColumnType))| -> anyhow::Result<Value> {
            Ok(match kind {
                Number => Value::Number(row.try_get(index)?),
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
            Self::Small(value) => value,
            Self::Bool(value) => value,
            Self::Text(value) => value,
            Self::Bytes(value) => value,
        }
    }
}
