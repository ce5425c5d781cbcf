//! Decodes the columns of a row. The database has signed numbers and the log's are unsigned, so a negative number means a
//! damaged row.

use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::grant::KeyRow;
use crate::postgres::connect::Error;
use crate::record::{ConversationKey, UserKey};

type Result<T> = std::result::Result<T, Error>;

/// An event's number in its stored form.
pub(in crate::postgres) fn number(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

pub(in crate::postgres) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    Ok(row.try_get(column)?)
}

pub(in crate::postgres) fn count(row: &Row, column: usize) -> Result<u64> {
    let number: i64 = get(row, column)?;
    u64::try_from(number).map_err(|_| Error::Damaged(format!("{} is {number}", row.columns()[column].name())))
}

pub(in crate::postgres) fn seq(row: &Row, column: usize) -> Result<Seq> {
    count(row, column).map(Seq)
}

pub(in crate::postgres) fn maybe_seq(row: &Row, column: usize) -> Result<Option<Seq>> {
    get::<Option<i64>>(row, column)?.map(|_| seq(row, column)).transpose()
}

pub(in crate::postgres) fn kind(row: &Row, column: usize) -> Result<EventKind> {
    Ok(EventKind::from_number(get::<i16>(row, column)?.into()))
}

pub(in crate::postgres) fn time(row: &Row, column: usize) -> Result<Timestamp> {
    get(row, column).map(Timestamp::from_millis)
}

pub(in crate::postgres) fn maybe_time(row: &Row, column: usize) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, column)?.map(Timestamp::from_millis))
}

/// Converts a position that `WITH ORDINALITY` counts from 1 to an index from 0.
pub(in crate::postgres) fn position(row: &Row, column: usize) -> Result<usize> {
    let place = usize::try_from(count(row, column)?).unwrap_or(usize::MAX);
    Ok(place.wrapping_sub(1))
}

pub(in crate::postgres) fn user_key(row: &Row, column: usize) -> Result<UserKey> {
    get(row, column).map(UserKey)
}

pub(in crate::postgres) fn conversation_key(row: &Row, column: usize) -> Result<ConversationKey> {
    get(row, column).map(ConversationKey)
}

/// A user's name. A missing name means a damaged row.
pub(in crate::postgres) fn user_id(row: &Row, column: usize) -> Result<UserId> {
    let name: Option<&str> = get(row, column)?;
    UserId::parse(name.unwrap_or_default()).map_err(|error| Error::Damaged(error.to_string()))
}

pub(in crate::postgres) fn conversation_id(row: &Row, column: usize) -> Result<ConversationId> {
    ConversationId::parse(get(row, column)?).map_err(|error| Error::Damaged(error.to_string()))
}

/// Reads an API key.
pub(super) fn key_row(row: &Row) -> Result<KeyRow> {
    Ok(KeyRow {
        number: get(row, 0)?,
        name: get(row, 1)?,
        scopes: get(row, 2)?,
        acts_as: get(row, 3)?,
        expires: get(row, 4)?,
        rate: get(row, 5)?,
        addresses: get(row, 6)?,
        no_text: get(row, 7)?,
        used: get(row, 8)?,
        hash: get(row, 9)?,
        old_until: get(row, 10)?,
        unasked: get(row, 11)?,
    })
}
