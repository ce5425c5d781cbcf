//! How SQLite stores the columns of each table, and the statements that write whole rows.

use rusqlite::types::ToSqlOutput;
use rusqlite::{Result, Row, ToSql};
use switchboard_protocol::{ConversationId, Role, Seq};

use super::rows::conversation_id;
use crate::change::rows::{role_from_number, role_number};
use crate::record::{Conversation, ConversationKey, Membership, UserKey};
use crate::table::{Column, Table, WriteTime, conversations, members, quoted_names};

/// A type that a column can have in SQLite.
pub(super) trait SqliteColumn: Sized {
    fn stored(&self) -> Result<ToSqlOutput<'_>>;
    fn read(row: &Row<'_>, column: usize) -> Result<Self>;
}

/// Implements [`SqliteColumn`] for types that wrap a type of the SQLite library.
macro_rules! impl_column {
    ($($type:ty: |$value:ident| $stored:expr, $read:expr;)*) => {
        $(impl SqliteColumn for $type {
            fn stored(&self) -> Result<ToSqlOutput<'_>> {
                let $value = self;
                $stored.to_sql()
            }
            fn read(row: &Row<'_>, column: usize) -> Result<Self> {
                row.get(column).map($read)
            }
        })*
    };
}

impl_column! {
    ConversationKey: |key| key.0, ConversationKey;
    UserKey: |key| key.0, UserKey;
    Seq: |seq| seq.0, Seq;
    u64: |number| number, |number| number;
    i64: |number| number, |number| number;
    bool: |is| is, |is| is;
    Option<String>: |text| text, |text| text;
}

impl SqliteColumn for Option<Seq> {
    fn stored(&self) -> Result<ToSqlOutput<'_>> {
        match self {
            Some(seq) => seq.0.to_sql(),
            None => Ok(rusqlite::types::Null.into()),
        }
    }
    fn read(row: &Row<'_>, column: usize) -> Result<Self> {
        Ok(row.get::<_, Option<u64>>(column)?.map(Seq))
    }
}

impl SqliteColumn for Role {
    fn stored(&self) -> Result<ToSqlOutput<'_>> {
        Ok(role_number(*self).into())
    }
    fn read(row: &Row<'_>, column: usize) -> Result<Self> {
        row.get(column).map(role_from_number)
    }
}

impl SqliteColumn for ConversationId {
    fn stored(&self) -> Result<ToSqlOutput<'_>> {
        self.as_str().to_sql()
    }
    fn read(row: &Row<'_>, column: usize) -> Result<Self> {
        conversation_id(row, column)
    }
}

/// A column's value as the parameter of a statement.
struct Stored<'a, T>(&'a T);

impl<T: SqliteColumn> ToSql for Stored<'_, T> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        self.0.stored()
    }
}

/// A column's value, and when the column is written.
pub(super) type Value<'a> = (WriteTime, &'a dyn ToSql);

/// Implements reading and writing of a record.
macro_rules! sqlite_record {
    ($(#[$meta:meta])* $record:ident of $table:literal as $alias:literal, extra {
        $($extra:ident: $extra_type:ty = $extra_column:literal, $extra_written:ident;)*
    } {
        $($(#[$doc:meta])* $field:ident: $type:ty = $column:literal, $written:ident;)*
    }) => {
        impl $record {
            /// Reads the record from its columns, the first of which is at `first`.
            pub(crate) fn from_sqlite(row: &Row<'_>, first: usize) -> Result<Self> {
                let mut columns = first..;
                let mut next = || columns.next().unwrap_or_default();
                Ok(Self { $($field: SqliteColumn::read(row, next())?,)* })
            }

            /// Passes the record's values to a function, in the order of the columns.
            pub(in crate::sqlite) fn with_sqlite<R>(
                &self,
                $($extra: $extra_type,)*
                run: impl FnOnce(&[Value<'_>]) -> R,
            ) -> R {
                run(&[
                    $((WriteTime::$extra_written, &Stored(&$extra)),)*
                    $((WriteTime::$written, &Stored(&self.$field)),)*
                ])
            }
        }
    };
}

conversations!(sqlite_record);
members!(sqlite_record);

/// The values of the wanted columns.
pub(super) fn wanted_values<'a>(
    values: &'a [Value<'a>],
    is_wanted: fn(WriteTime) -> bool,
) -> rusqlite::ParamsFromIter<impl Iterator<Item = &'a dyn ToSql>> {
    rusqlite::params_from_iter(values.iter().filter(move |value| is_wanted(value.0)).map(|value| value.1))
}

/// The statement that inserts a row with the wanted columns.
pub(super) fn insert_sql(verb: &str, table: &Table, is_wanted: fn(WriteTime) -> bool) -> String {
    let columns: Vec<_> = wanted_columns(table, is_wanted).collect();
    let places: Vec<_> = (1..=columns.len()).map(|place| format!("?{place}")).collect();
    format!("{verb} INTO {} ({}) VALUES ({})", table.name, quoted_names(columns), places.join(", "))
}

/// The statement that updates the wanted columns of a row. The key, by which the row is found, is among them.
pub(super) fn update_sql(table: &Table, is_wanted: fn(WriteTime) -> bool) -> String {
    let places = (1..).zip(wanted_columns(table, is_wanted));
    let (key, set): (Vec<_>, Vec<_>) = places.partition(|(_, column)| column.written == WriteTime::Key);
    let equal = |columns: Vec<(u32, &Column)>, with: &str| {
        let equal = columns.iter().map(|(place, column)| format!("\"{}\" = ?{place}", column.name));
        equal.collect::<Vec<_>>().join(with)
    };
    format!("UPDATE {} SET {} WHERE {}", table.name, equal(set, ", "), equal(key, " AND "))
}

fn wanted_columns(table: &Table, is_wanted: fn(WriteTime) -> bool) -> impl Iterator<Item = &Column> {
    table.columns.iter().filter(move |column| is_wanted(column.written))
}
