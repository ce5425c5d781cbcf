//! The rows and the parameters of the statements about reports.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::row::get;
use crate::postgres::connect::Error;
use crate::report::{Field, Fields};

/// The values of a statement.
pub(in crate::postgres) fn parameters(values: &[Field]) -> Vec<&(dyn ToSql + Sync)> {
    let mut parameters = Vec::<&(dyn ToSql + Sync)>::with_capacity(values.len());
    for value in values {
        parameters.push(match value {
            Field::Number(number) => number,
            Field::Text(text) => text,
        });
    }
    parameters
}

/// Reads a row of numbers and texts.
pub(in crate::postgres) fn read(row: &Row) -> Result<Fields, Error> {
    let field = |(place, column): (usize, &tokio_postgres::Column)| {
        if *column.type_() == Type::INT8 {
            return Ok(get::<Option<i64>>(row, place)?.map_or(Field::Text(None), Field::Number));
        }
        get(row, place).map(Field::Text)
    };
    row.columns().iter().enumerate().map(field).collect::<Result<_, _>>().map(Fields)
}
