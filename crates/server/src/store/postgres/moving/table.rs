//! The tables as both databases have them.

use rusqlite::Connection;
use tokio_postgres::types::{ToSql, Type};

/// A table, its columns, and what orders its rows: on both sides the same, names by their bytes.
pub(super) struct Table {
    pub(super) name: &'static str,
    columns: &'static [(&'static str, Kind)],
    key: &'static [&'static str],
}

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Small,
    Truth,
    Text,
    Bytes,
}

/// What a field holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(Option<i64>),
    Small(i16),
    Truth(bool),
    Text(Option<String>),
    Bytes(Vec<u8>),
}

use Kind::{Bytes, Number, Small, Text, Truth};

/// All of them.
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
            ("public", Truth),
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

    /// The rows in SQLite but for the first `before`.
    pub(super) fn select_from(&self, before: u64) -> String {
        format!("{} LIMIT -1 OFFSET {before}", self.select())
    }

    /// The rows in PostgreSQL.
    pub(super) fn select_there(&self) -> String {
        self.select()
    }

    /// What takes rows in PostgreSQL.
    pub(super) fn copy(&self) -> String {
        let columns = quoted(self.columns.iter().map(|(name, _)| *name));
        format!("COPY {} ({columns}) FROM STDIN (FORMAT binary)", self.name)
    }

    /// The types of its columns in PostgreSQL.
    pub(super) fn types(&self) -> Vec<Type> {
        let types = self.columns.iter().map(|(_, kind)| match kind {
            Number => Type::INT8,
            Small => Type::INT2,
            Truth => Type::BOOL,
            Text => Type::TEXT,
            Bytes => Type::BYTEA,
        });
        types.collect()
    }

    /// How many rows SQLite has.
    pub(super) fn count(&self, source: &Connection) -> rusqlite::Result<u64> {
        source.query_row(&format!("SELECT count(*) FROM {}", self.name), [], |row| row.get(0))
    }

    /// A row of SQLite's.
    pub(super) fn read(&self, row: &rusqlite::Row<'_>) -> anyhow::Result<Vec<Value>> {
        let read = |(index, (_, kind)): (usize, &(&str, Kind))| -> anyhow::Result<Value> {
            let value = match kind {
                Number => Value::Number(row.get(index)?),
                Small => Value::Small(row.get(index)?),
                Truth => Value::Truth(row.get(index)?),
                Text => Value::Text(row.get(index)?),
                Bytes => Value::Bytes(row.get(index)?),
            };
            if let Value::Text(Some(text)) = &value {
                anyhow::ensure!(!text.contains('\0'), "PostgreSQL keeps no text with a NUL in it");
            }
            Ok(value)
        };
        self.columns.iter().enumerate().map(read).collect()
    }

    /// A row of PostgreSQL's.
    pub(super) fn read_there(&self, row: &tokio_postgres::Row) -> anyhow::Result<Vec<Value>> {
        let read = |(index, (_, kind)): (usize, &(&str, Kind))| -> anyhow::Result<Value> {
            Ok(match kind {
                Number => Value::Number(row.try_get(index)?),
                Small => Value::Small(row.try_get(index)?),
                Truth => Value::Truth(row.try_get(index)?),
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
            Self::Truth(value) => value,
            Self::Text(value) => value,
            Self::Bytes(value) => value,
        }
    }
}
