//! Reserves ids for new users and conversations from the database's sequences.

use super::connect::{BlockingConnection, Error};
use crate::record::{ConversationKey, UserKey};

/// How many ids are reserved at once. A round trip for each new name would delay every write.
const IDS_PER_RESERVATION: i64 = 64;

const RESERVE_USER_IDS: &str = "SELECT nextval('users_id_seq') FROM generate_series(1, $1::bigint)";
const RESERVE_CONVERSATION_IDS: &str =
    "SELECT nextval('conversations_id_seq') FROM generate_series(1, $1::bigint)";

/// The statements to prepare on each connection.
pub(super) const STATEMENTS: [&str; 2] = [RESERVE_USER_IDS, RESERVE_CONVERSATION_IDS];

/// Reserved ids. A sequence never returns an id twice, even if the transaction rolls back. Unused ids are lost, which does
/// not matter with 64 bits.
#[derive(Debug, Default)]
pub(super) struct Ids {
    users: Vec<i64>,
    conversations: Vec<i64>,
}

impl Ids {
    pub(super) fn new_user_key(&mut self, link: &BlockingConnection) -> Result<UserKey, Error> {
        take_id(&mut self.users, link, RESERVE_USER_IDS).map(UserKey)
    }

    pub(super) fn new_conversation_key(
        &mut self,
        link: &BlockingConnection,
    ) -> Result<ConversationKey, Error> {
        take_id(&mut self.conversations, link, RESERVE_CONVERSATION_IDS).map(ConversationKey)
    }
}

fn take_id(reserved: &mut Vec<i64>, link: &BlockingConnection, sql: &'static str) -> Result<i64, Error> {
    if reserved.is_empty() {
        let rows = link.run(link.rows(sql, &[&IDS_PER_RESERVATION]))?;
        // In reverse, because ids are popped from the end and the lowest is used first.
        for row in rows.iter().rev() {
            reserved.push(row.try_get(0)?);
        }
    }
    reserved.pop().ok_or_else(|| Error::Damaged("a sequence returned no id".to_owned()))
}
