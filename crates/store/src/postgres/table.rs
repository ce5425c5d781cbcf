//! How PostgreSQL stores the columns of each table, and the statements that write many whole rows from one array for each
//! column.

use switchboard_protocol::{ConversationId, Role, Seq};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connect::Error;
use super::query::row::{conversation_id, count, get, maybe_seq, number, seq};
use crate::change::rows::{role_from_number, role_number};
use crate::record::{Conversation, ConversationKey, Membership, UserKey};
use crate::table::{Column, ColumnType, Table, WriteTime, conversations, members, quoted_names};

/// A type that a column can have in PostgreSQL.
pub(super) trait PostgresColumn: Sized {
    type Stored<'a>: ToSql + Sync
    where
        Self: 'a;
    fn stored(&self) -> Self::Stored<'_>;
    fn read(row: &Row, column: usize) -> Result<Self, Error>;
}

macro_rules! impl_column {
    ($($type:ty as $stored:ty: |$value:ident| $to:expr, $read:expr;)*) => {
        $(impl PostgresColumn for $type {
            type Stored<'a> = $stored;
            fn stored(&self) -> Self::Stored<'_> {
                let $value = self;
                $to
            }
            fn read(row: &Row, column: usize) -> Result<Self, Error> {
                ($read)(row, column)
            }
        })*
    };
}

impl_column! {
    ConversationKey as i64: |key| key.0, |row, column| get(row, column).map(ConversationKey);
    UserKey as i64: |key| key.0, |row, column| get(row, column).map(UserKey);
    ConversationId as &'a str: |name| name.as_str(), conversation_id;
    Option<String> as Option<&'a str>: |text| text.as_deref(), get;
    Seq as i64: |seq| number(*seq), seq;
    Option<Seq> as Option<i64>: |seq| seq.map(number), maybe_seq;
    u64 as i64: |number| to_signed(*number), count;
    i64 as i64: |number| *number, get;
    bool as bool: |is| *is, get;
    Role as i16: |role| role_number(*role).try_into().unwrap_or_default(),
        |row, column| get::<i16>(row, column).map(|number| role_from_number(number.into()));
}

pub(super) fn to_signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Defines the arrays for writing a record, and how to read it from a row.
macro_rules! postgres_record {
    ($(#[$meta:meta])* $record:ident of $table:literal as $alias:literal, extra {
        $($extra:ident: $extra_type:ty = $extra_column:literal, $extra_written:ident;)*
    } {
        $($(#[$doc:meta])* $field:ident: $type:ty = $column:literal, $written:ident;)*
    }) => {
        impl $record {
            /// Reads the record from its columns, the first of which is at `first`.
            pub(in crate::postgres) fn from_postgres(row: &Row, first: usize) -> Result<Self, Error> {
                let mut columns = first..;
                let mut next = || columns.next().unwrap_or_default();
                Ok(Self { $($field: PostgresColumn::read(row, next())?,)* })
            }
        }

        /// Rows as one array per column, to pass to a statement with `unnest`.
        #[derive(Default)]
        pub(in crate::postgres) struct Arrays<'a> {
            rows: usize,
            $($extra: Vec<<$extra_type as PostgresColumn>::Stored<'a>>,)*
            $($field: Vec<<$type as PostgresColumn>::Stored<'a>>,)*
        }

        impl<'a> Arrays<'a> {
            pub(in crate::postgres) fn push(&mut self, $($extra: &'a $extra_type,)* record: &'a $record) {
                self.rows += 1;
                $(self.$extra.push($extra.stored());)*
                $(self.$field.push(record.$field.stored());)*
            }

            /// The number of rows in the arrays.
            pub(in crate::postgres) fn len(&self) -> usize {
                self.rows
            }

            /// The arrays of the wanted columns, in the order of the columns.
            pub(in crate::postgres) fn wanted_arrays(&self, is_wanted: fn(WriteTime) -> bool) -> Vec<&(dyn ToSql + Sync)> {
                let all: [(WriteTime, &(dyn ToSql + Sync)); _] = [
                    $((WriteTime::$extra_written, &self.$extra),)*
                    $((WriteTime::$written, &self.$field),)*
                ];
                all.into_iter().filter(|(written, _)| is_wanted(*written)).map(|(_, array)| array).collect()
            }
        }
    };
}

pub(super) mod conversation_rows {
    use super::{
        Conversation, ConversationId, ConversationKey, Error, PostgresColumn, Row, Seq, ToSql, WriteTime,
    };
    super::conversations!(postgres_record);
}

pub(super) mod member_rows {
    use super::{
        ConversationKey, Error, Membership, PostgresColumn, Role, Row, Seq, ToSql, UserKey, WriteTime,
    };
    super::members!(postgres_record);
}

/// Reads a membership from a row of an outer join, in which all columns are NULL if there is none. The first column of a
/// membership is never NULL.
pub(super) fn maybe_membership(row: &Row, first: usize) -> Result<Option<Membership>, Error> {
    match get::<Option<i16>>(row, first)? {
        Some(_) => Membership::from_postgres(row, first).map(Some),
        None => Ok(None),
    }
}

/// Selects the columns that are written for a new row.
pub(super) fn is_any_column(_: WriteTime) -> bool {
    true
}

/// Selects the columns that are written for an existing row, and its key.
pub(super) fn is_changed(written: WriteTime) -> bool {
    written != WriteTime::OnInsert
}

/// The statement that inserts rows from one array per column.
pub(super) fn insert_sql(table: &Table) -> String {
    let (columns, arrays) = (quoted_names(table.columns), array_parameters(table.columns.iter()));
    format!("INSERT INTO {} ({columns}) SELECT * FROM unnest({arrays})", table.name)
}

/// The statement that updates rows, from one array for each column that may change.
pub(super) fn update_sql(table: &Table) -> String {
    let wanted: Vec<_> = table.columns.iter().filter(|column| is_changed(column.written)).copied().collect();
    let equal = |columns: Vec<&Column>, left: &str, with: &str| {
        let equal = columns.iter().map(|Column { name, .. }| format!("{left}\"{name}\" = w.\"{name}\""));
        equal.collect::<Vec<_>>().join(with)
    };
    let set = wanted.iter().filter(|column| column.written != WriteTime::Key).collect();
    let (set, key) = (equal(set, "", ", "), equal(table.key().collect(), "t.", " AND "));
    let (columns, arrays) = (quoted_names(&wanted), array_parameters(wanted.iter()));
    format!("UPDATE {} t SET {set} FROM unnest({arrays}) AS w({columns}) WHERE {key}", table.name)
}

fn array_parameters<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    let arrays = (1..).zip(columns).map(|(place, column)| {
        let kind = match column.kind {
            ColumnType::Number => "bigint",
            ColumnType::Int => "integer",
            ColumnType::Small => "smallint",
            ColumnType::Bool => "boolean",
            ColumnType::Text => "text",
            ColumnType::Bytes => "bytea",
        };
        format!("${place}::{kind}[]")
    });
    arrays.collect::<Vec<_>>().join(", ")
}
