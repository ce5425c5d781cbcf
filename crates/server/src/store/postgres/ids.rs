//! Numbers for new users and conversations, taken from the database's sequences ahead of their use.

use super::connect::{Error, Link};
use crate::record::{ConversationKey, UserKey};

/// So many at once: a round trip for each new name would hold up everybody.
const TAKEN: i64 = 64;

const USERS: &str = "SELECT nextval('users_id_seq') FROM generate_series(1, $1::bigint)";
const CONVERSATIONS: &str = "SELECT nextval('conversations_id_seq') FROM generate_series(1, $1::bigint)";

/// What these ask of the database.
pub(super) const STATEMENTS: [&str; 2] = [USERS, CONVERSATIONS];

/// Numbers that nobody else gets. A sequence never gives one twice, whatever becomes of the transaction; of the ones that
/// nobody uses there are enough.
#[derive(Debug, Default)]
pub(super) struct Ids {
    users: Vec<i64>,
    conversations: Vec<i64>,
}

impl Ids {
    pub(super) fn user(&mut self, link: &Link) -> Result<UserKey, Error> {
        take(&mut self.users, link, USERS).map(UserKey)
    }

    pub(super) fn conversation(&mut self, link: &Link) -> Result<ConversationKey, Error> {
        take(&mut self.conversations, link, CONVERSATIONS).map(ConversationKey)
    }
}

fn take(taken: &mut Vec<i64>, link: &Link, sql: &'static str) -> Result<i64, Error> {
    if taken.is_empty() {
        let rows = link.run(link.rows(sql, &[&TAKEN]))?;
        // The lowest comes last, and is used first.
        for row in rows.iter().rev() {
            taken.push(row.try_get(0)?);
        }
    }
    taken.pop().ok_or_else(|| Error::Damaged("a sequence gave no number".to_owned()))
}
