//! The blocks of one transaction.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use switchboard_protocol::UserId;

use super::PostgresRows;
use super::fetch::FetchedRows;
use crate::change::BlockRows;
use crate::change::dispatch::Prefetch;
use crate::postgres::connect::{Error, Pipelined};
use crate::postgres::query::row::{conversation_key, count, user_id, user_key};
use crate::postgres::table::to_signed;
use crate::record::{Conversation, ConversationKey, UserKey};

/// Reads for some members of conversations which other members get no signals of them, because one of the two users blocks the other.
/// The members are looked up one by one, because very many users may block one; of a larger conversation no other member gets signals.
/// `OFFSET 0` and `LIMIT 1` force index lookups, as in the other statements that read.
pub(super) const SELECT_APART: &str = r#"SELECT c.id, u.id, o.name
    FROM unnest($1::text[], $2::text[]) AS w(conversation, name)
    JOIN users u ON u.name = w.name JOIN conversations c ON c.name = w.conversation
    CROSS JOIN LATERAL (SELECT 1 WHERE c.members <= $3 AND coalesce(
        (SELECT 1 FROM blocks b WHERE b."user" = u.id LIMIT 1),
        (SELECT 1 FROM blocks b WHERE b.blocked = u.id LIMIT 1)) IS NOT NULL OFFSET 0) AS involved
    CROSS JOIN LATERAL (SELECT m."user" FROM members m
        WHERE m.conversation = c.id AND m.until IS NULL AND coalesce(
            (SELECT 1 FROM blocks b WHERE b."user" = m."user" AND b.blocked = u.id LIMIT 1),
            (SELECT 1 FROM blocks b WHERE b."user" = u.id AND b.blocked = m."user" LIMIT 1)) IS NOT NULL OFFSET 0) AS m
    CROSS JOIN LATERAL (SELECT o.name FROM users o WHERE o.id = m."user" OFFSET 0) AS o"#;

/// Reads which pairs of users there are of whom the first blocks the second.
pub(super) const SELECT_BLOCKS: &str = r#"SELECT u.id, o.id FROM unnest($1::text[], $2::text[]) AS w(name, other)
    JOIN users u ON u.name = w.name JOIN users o ON o.name = w.other
    CROSS JOIN LATERAL (SELECT 1 FROM blocks b WHERE b."user" = u.id AND b.blocked = o.id OFFSET 0) AS b"#;

const SELECT_CHANGES: &str = r#"SELECT u.block_changes, (SELECT count(*) FROM blocks b WHERE b."user" = u.id)
    FROM users u WHERE u.id = $1"#;

const SELECT_BLOCKED: &str =
    r#"SELECT b.blocked, u.name FROM blocks b JOIN users u ON u.id = b.blocked WHERE b."user" = $1"#;

const INSERT_BLOCKS: &str = r#"INSERT INTO blocks ("user", blocked, at)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) ON CONFLICT ("user", blocked) DO UPDATE SET at = excluded.at"#;

const DELETE_BLOCKS: &str = r#"DELETE FROM blocks b USING unnest($1::bigint[], $2::bigint[]) AS w("user", blocked)
    WHERE b."user" = w."user" AND b.blocked = w.blocked"#;

const SET_BLOCK_CHANGES: &str = "UPDATE users u SET block_changes = w.changes
    FROM unnest($1::bigint[], $2::bigint[]) AS w(id, changes) WHERE u.id = w.id";

/// The statements to prepare on each connection.
pub(super) const STATEMENTS: [&str; 7] = [
    SELECT_APART,
    SELECT_BLOCKS,
    SELECT_CHANGES,
    SELECT_BLOCKED,
    INSERT_BLOCKS,
    DELETE_BLOCKS,
    SET_BLOCK_CHANGES,
];

/// What a prefetch reads about blocks, as arrays.
pub(super) struct BlockQueries<'q> {
    apart: (Vec<&'q str>, Vec<&'q str>),
    blocks: (Vec<&'q str>, Vec<&'q str>),
    signal_room: i64,
}

impl<'q> BlockQueries<'q> {
    pub(super) fn new(wanted: &'q Prefetch, signal_room: u32) -> Self {
        let apart = wanted.apart.iter().map(|(name, user)| (name.as_str(), user.as_str())).unzip();
        let blocks = wanted.blocks.iter().map(|(user, other)| (user.as_str(), other.as_str())).unzip();
        Self { apart, blocks, signal_room: signal_room.into() }
    }

    /// The statements, each with whether it is needed.
    pub(super) fn parts(&self) -> [(FetchedRows, bool, Pipelined<'_>); 2] {
        let Self { apart, blocks, signal_room } = self;
        [
            (
                FetchedRows::Apart,
                !apart.0.is_empty(),
                Pipelined::new(SELECT_APART, &[&apart.0, &apart.1, signal_room]),
            ),
            (
                FetchedRows::Blocks,
                !blocks.0.is_empty(),
                Pipelined::new(SELECT_BLOCKS, &[&blocks.0, &blocks.1]),
            ),
        ]
    }
}

/// The blocks that were read, and the changes of this transaction.
pub(super) struct BlockChanges {
    /// The most members of a conversation whose members get each other's signals.
    pub(super) signal_room: u32,
    /// Whether the first user blocks the second, as the database has it.
    read: FxHashMap<(UserKey, UserKey), bool>,
    /// The members who get no signals of a member, as the database has it.
    apart: FxHashMap<(ConversationKey, UserKey), Vec<UserId>>,
    /// How often each list has changed, and how long it is, with the changes of this transaction.
    lists: FxHashMap<UserKey, (u64, u64)>,
    /// The changes: when the second user was blocked by the first; `None` for the end of a block.
    changed: BTreeMap<(UserKey, UserKey), Option<i64>>,
}

impl BlockChanges {
    pub(super) fn new(signal_room: u32) -> Self {
        let (read, apart, lists, changed) = Default::default();
        Self { signal_room, read, apart, lists, changed }
    }

    /// Adds a row of [`SELECT_APART`].
    pub(super) fn add_apart(&mut self, row: &tokio_postgres::Row) -> Result<(), Error> {
        let at = (conversation_key(row, 0)?, user_key(row, 1)?);
        self.apart.entry(at).or_default().push(user_id(row, 2)?);
        Ok(())
    }

    /// Adds a row of [`SELECT_BLOCKS`].
    pub(super) fn add_block(&mut self, row: &tokio_postgres::Row) -> Result<(), Error> {
        self.read.insert((user_key(row, 0)?, user_key(row, 1)?), true);
        Ok(())
    }

    /// Notes that rows were read for these pairs; those without a row have none.
    pub(super) fn note_read(
        &mut self,
        blocks: impl Iterator<Item = (UserKey, UserKey)>,
        apart: impl Iterator<Item = (ConversationKey, UserKey)>,
    ) {
        for pair in blocks {
            self.read.entry(pair).or_insert(false);
        }
        for at in apart {
            self.apart.entry(at).or_default();
        }
    }
}

impl PostgresRows<'_> {
    /// Notes what was read for a prefetch.
    pub(super) fn note_blocks_read(&mut self, wanted: &Prefetch) {
        let key = |name: &UserId| self.users.get(name).copied().flatten();
        let blocks: Vec<_> =
            wanted.blocks.iter().filter_map(|(user, other)| Some((key(user)?, key(other)?))).collect();
        let apart: Vec<_> = wanted
            .apart
            .iter()
            .filter_map(|(name, user)| Some((self.conversations.get(name)?.as_ref()?.key, key(user)?)))
            .collect();
        self.blocks.note_read(blocks.into_iter(), apart.into_iter());
    }

    fn read_list(&mut self, user: UserKey) -> Result<(u64, u64), Error> {
        if let Some(list) = self.blocks.lists.get(&user) {
            return Ok(*list);
        }
        let rows = self.link.run(self.link.rows(SELECT_CHANGES, &[&user.0]))?;
        let list = match rows.first() {
            Some(row) => (count(row, 0)?, count(row, 1)?),
            None => (0, 0),
        };
        self.blocks.lists.insert(user, list);
        Ok(list)
    }

    /// Whether the other user is a present member.
    fn is_present(&mut self, conversation: ConversationKey, user: UserKey) -> Result<bool, Error> {
        Ok(self.read_member((conversation, user))?.is_some_and(|member| member.until.is_none()))
    }
}

impl BlockRows for PostgresRows<'_> {
    type Error = Error;

    fn block_changes(&mut self, user: UserKey) -> Result<u64, Error> {
        self.lock_user(user)?;
        Ok(self.read_list(user)?.0)
    }

    fn does_block(&mut self, user: UserKey, other: UserKey) -> Result<bool, Error> {
        if let Some(at) = self.blocks.changed.get(&(user, other)) {
            return Ok(at.is_some());
        }
        if self.is_new_user(user) || self.is_new_user(other) {
            return Ok(false);
        }
        if !self.blocks.read.contains_key(&(user, other)) {
            let pair = (self.name_of_user(user)?, self.name_of_user(other)?);
            self.fetch(&Prefetch { blocks: [pair].into_iter().collect(), ..Prefetch::default() })?;
        }
        Ok(self.blocks.read.get(&(user, other)).copied().unwrap_or_default())
    }

    fn count_blocks(&mut self, user: UserKey) -> Result<u64, Error> {
        Ok(self.read_list(user)?.1)
    }

    fn put_block(
        &mut self,
        user: UserKey,
        other: UserKey,
        at: Option<i64>,
        changes: u64,
    ) -> Result<(), Error> {
        let (_, length) = self.read_list(user)?;
        let length = if at.is_some() { length + 1 } else { length.saturating_sub(1) };
        self.blocks.lists.insert(user, (changes, length));
        self.blocks.changed.insert((user, other), at);
        Ok(())
    }

    fn members_apart(&mut self, conversation: &Conversation, user: UserKey) -> Result<Vec<UserId>, Error> {
        let at = (conversation.key, user);
        if !self.blocks.apart.contains_key(&at) && !self.is_new(conversation.key) && !self.is_new_user(user) {
            let wanted = [(conversation.name.clone(), self.name_of_user(user)?)].into_iter().collect();
            self.fetch(&Prefetch { apart: wanted, ..Prefetch::default() })?;
        }
        let mut apart = self.blocks.apart.get(&at).cloned().unwrap_or_default();
        // The rows were read before the changes of this transaction.
        let members: Vec<_> = self
            .dirty_members
            .range((at.0, UserKey(i64::MIN))..=(at.0, UserKey(i64::MAX)))
            .map(|((_, member), is_stored)| (*member, *is_stored))
            .collect();
        let blocks = self.blocks.changed.keys().copied();
        let blocks = blocks.filter(|(one, other)| *one == user || *other == user);
        let mut doubtful: BTreeSet<_> =
            blocks.map(|(one, other)| if one == user { other } else { one }).collect();
        for (member, is_stored) in members {
            let row = self.members.get(&(at.0, member)).copied().flatten();
            let is_new = |seq| self.new_event_index.contains_key(&(at.0, seq));
            let has_changed = row.is_some_and(|row| is_new(row.since) || row.until.is_some_and(is_new));
            if member != user && (!is_stored || has_changed) {
                doubtful.insert(member);
            }
        }
        for peer in doubtful {
            let name = self.name_of_user(peer)?;
            apart.retain(|other| *other != name);
            if self.is_present(at.0, peer)?
                && (self.does_block(user, peer)? || self.does_block(peer, user)?)
            {
                apart.push(name);
            }
        }
        Ok(apart)
    }

    fn blocked_users(&mut self, user: UserKey) -> Result<Vec<UserId>, Error> {
        let mut blocked = Vec::new();
        if !self.is_new_user(user) && self.read_list(user)?.1 > 0 {
            for row in self.link.run(self.link.rows(SELECT_BLOCKED, &[&user.0]))? {
                if self.blocks.changed.get(&(user, user_key(&row, 0)?)).is_none_or(Option::is_some) {
                    blocked.push(user_id(&row, 1)?);
                }
            }
        }
        let new = self.blocks.changed.range((user, UserKey(i64::MIN))..=(user, UserKey(i64::MAX)));
        for ((_, other), _) in new.filter(|(_, at)| at.is_some()) {
            blocked.push(self.name_of_user(*other)?);
        }
        Ok(blocked)
    }
}

/// Changed blocks as one array per column, to pass to a statement with `unnest`.
#[derive(Default)]
pub(super) struct BlockArrays {
    added: (Vec<i64>, Vec<i64>, Vec<i64>),
    removed: (Vec<i64>, Vec<i64>),
    lists: (Vec<i64>, Vec<i64>),
}

impl BlockArrays {
    pub(super) fn new(blocks: &BlockChanges) -> Self {
        let mut all = Self::default();
        let mut users = BTreeSet::new();
        for ((user, other), at) in &blocks.changed {
            users.insert(*user);
            match at {
                Some(at) => {
                    all.added.0.push(user.0);
                    all.added.1.push(other.0);
                    all.added.2.push(*at);
                }
                None => {
                    all.removed.0.push(user.0);
                    all.removed.1.push(other.0);
                }
            }
        }
        for user in users {
            let changes = blocks.lists.get(&user).map_or(0, |list| list.0);
            all.lists.0.push(user.0);
            all.lists.1.push(to_signed(changes));
        }
        all
    }

    /// The statements that write the changes, each with how many rows it writes. All follow the locks of the users' rows.
    pub(super) fn parts(&self) -> [(usize, Pipelined<'_>); 3] {
        let Self { added: (by, added, at), removed: (no_more_by, removed), lists: (users, changes) } = self;
        [
            (added.len(), Pipelined::new(INSERT_BLOCKS, &[by, added, at])),
            (removed.len(), Pipelined::new(DELETE_BLOCKS, &[no_more_by, removed])),
            (users.len(), Pipelined::new(SET_BLOCK_CHANGES, &[users, changes])),
        ]
    }
}
