//! Users with their standing.

use tokio_postgres::Row;

use super::Result;
use super::row::{count, get, maybe_time, user_key};
use crate::ban::{Ban, Standing};
use crate::postgres::connect::Error;
use crate::profile::{ban_columns, join_bans, not_before};
use crate::read::row::UserRow;

pub(super) const SELECT_USER: &str = concat!(
    "SELECT u.id, ",
    not_before!(),
    ", ",
    ban_columns!(),
    r#", u.block_changes FROM users u LEFT JOIN profiles p ON p."user" = u.id"#,
    join_bans!(lateral),
    " WHERE u.name = $1"
);

pub(super) fn read_user(row: &Row) -> Result<UserRow> {
    Ok(UserRow { key: user_key(row, 0)?, standing: read_standing(row, 1)?, block_changes: count(row, 4)? })
}

/// The standing of a user, whose columns begin at `first`.
pub(super) fn read_standing(row: &Row, first: usize) -> std::result::Result<Standing, Error> {
    let (until, reason): (Option<i64>, _) = (get(row, first + 1)?, get(row, first + 2)?);
    Ok(Standing {
        not_before: maybe_time(row, first)?,
        ban: until.map(|until| Ban::stored(until, reason, false)),
    })
}
