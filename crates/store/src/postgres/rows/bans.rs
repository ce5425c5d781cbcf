//! The bans that a transaction reads and writes.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use switchboard_protocol::Timestamp;
use tokio_postgres::Row;

use super::PostgresRows;
use crate::ban::{Ban, NewBan};
use crate::postgres::connect::{Error, Pipelined};
use crate::postgres::query::row::get;
use crate::record::{ConversationKey, UserKey};

const SELECT_BAN: &str = r#"SELECT until, reason, shadow FROM bans WHERE conversation = $1 AND "user" = $2"#;

const PUT_BANS: &str = r#"INSERT INTO bans (conversation, "user", until, at, reason, note, shadow)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::boolean[])
    ON CONFLICT (conversation, "user")
    DO UPDATE SET until = excluded.until, at = excluded.at, reason = excluded.reason, note = excluded.note,
        shadow = excluded.shadow"#;

const DELETE_BANS: &str = r#"DELETE FROM bans b USING unnest($1::bigint[], $2::bigint[]) AS w(conversation, "user")
    WHERE b.conversation = w.conversation AND b."user" = w."user""#;

pub(super) const STATEMENTS: [&str; 3] = [SELECT_BAN, PUT_BANS, DELETE_BANS];

type BanPlace = (ConversationKey, UserKey);

/// The bans that the transaction has read, and those that it changes.
#[derive(Default)]
pub(super) struct Bans {
    read: FxHashMap<BanPlace, Option<Ban>>,
    changed: BTreeMap<BanPlace, Option<(NewBan, Timestamp)>>,
}

impl Bans {
    /// Notes a stored row. What the transaction has changed stays.
    pub(super) fn add_stored(&mut self, at: BanPlace, ban: Option<Ban>) {
        self.read.entry(at).or_insert(ban);
    }
}

/// The ban of a row of an outer join, whose columns begin at `first`.
pub(super) fn read(row: &Row, first: usize) -> Result<Option<Ban>, Error> {
    let (until, reason): (Option<i64>, _) = (get(row, first)?, get(row, first + 1)?);
    let shadow = get::<Option<bool>>(row, first + 2)?.unwrap_or_default();
    Ok(until.map(|until| Ban::stored(until, reason, shadow)))
}

impl PostgresRows<'_> {
    pub(super) fn read_ban(&mut self, at: BanPlace) -> Result<Option<Ban>, Error> {
        if let Some(ban) = self.bans.read.get(&at) {
            return Ok(ban.clone());
        }
        let mut ban = None;
        if !self.is_new_user(at.1) && !self.is_new(at.0) {
            let rows = self.link.run(self.link.rows(SELECT_BAN, &[&at.0.0, &at.1.0]))?;
            ban = rows.first().map(|row| read(row, 0)).transpose()?.flatten();
        }
        self.bans.add_stored(at, ban.clone());
        Ok(ban)
    }

    pub(super) fn store_ban(&mut self, at: BanPlace, ban: Option<(NewBan, Timestamp)>) {
        self.bans.read.insert(at, ban.as_ref().map(|(new, _)| new.ban.clone()));
        self.bans.changed.insert(at, ban);
    }
}

/// The changed bans as arrays for the statements.
#[derive(Default)]
pub(super) struct BanArrays<'a> {
    conversation: Vec<i64>,
    user: Vec<i64>,
    until: Vec<i64>,
    at: Vec<i64>,
    reason: Vec<Option<&'a str>>,
    note: Vec<Option<&'a str>>,
    shadow: Vec<bool>,
    deleted_in: Vec<i64>,
    deleted: Vec<i64>,
}

impl<'a> BanArrays<'a> {
    pub(super) fn from_bans(bans: &'a Bans) -> Self {
        let mut arrays = Self::default();
        for ((conversation, user), ban) in &bans.changed {
            let Some((NewBan { ban, note }, at)) = ban else {
                arrays.deleted_in.push(conversation.0);
                arrays.deleted.push(user.0);
                continue;
            };
            arrays.conversation.push(conversation.0);
            arrays.user.push(user.0);
            arrays.until.push(ban.stored_until());
            arrays.at.push(at.as_millis());
            arrays.reason.push(ban.reason.as_deref());
            arrays.note.push(note.as_deref());
            arrays.shadow.push(ban.shadow);
        }
        arrays
    }

    /// The statements that write the changes, each with the number of its rows.
    pub(super) fn statements(&self) -> [(usize, Pipelined<'_>); 2] {
        let Self { conversation, user, until, at, reason, note, shadow, deleted_in, deleted } = self;
        let put: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [conversation, user, until, at, reason, note, shadow];
        [
            (user.len(), Pipelined::new(PUT_BANS, &put)),
            (deleted.len(), Pipelined::new(DELETE_BANS, &[deleted_in, deleted])),
        ]
    }
}
