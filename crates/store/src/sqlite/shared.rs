//! The router's queries about a shared log, for a database in memory. Only the simulation uses them, because nodes of a
//! real cluster use PostgreSQL.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, EventKind, Seq, UserId};

use super::memory::MemoryStore;
use super::query::Reader;
use super::rows::{conversation_id, seq};
use crate::ban::Standing;
use crate::block::BlockList;
use crate::change::OperationError;
use crate::profile::{ChangePlace, ChangedProfiles, ban_columns, join_bans, not_before};
use crate::read::Lookups as _;
use crate::read::shared::SharedLookups;
use crate::record::{Answer, ConversationKey, Via};
use crate::sqlite::query::read_standing;
use crate::{CurrentMembership, LogExcerpt, MembershipsPage, Revocations, Seqs, SharedLog};

impl SharedLog for MemoryStore {
    fn heads(&self, conversations: Vec<ConversationKey>) -> Answer<Seqs> {
        self.spawn_read(move |reader| reader.heads(&conversations))
    }

    fn revocations(&self, users: Vec<UserId>) -> Answer<Revocations> {
        self.spawn_read(move |reader| reader.revocations(&users))
    }

    fn membership_pages(
        &self,
        users: Vec<(UserId, ConversationKey)>,
        most: u32,
    ) -> Answer<Vec<MembershipsPage>> {
        self.spawn_read(move |reader| {
            users.iter().map(|(user, after)| reader.membership_page(user, *after, most)).collect()
        })
    }

    fn current_memberships(
        &self,
        pairs: Vec<(UserId, ConversationKey)>,
    ) -> Answer<Vec<Option<CurrentMembership>>> {
        self.spawn_read(move |reader| {
            pairs.iter().map(|(user, conversation)| reader.current_membership(user, *conversation)).collect()
        })
    }

    fn changed_blocks(&self, users: Vec<(UserId, u64)>) -> Answer<Vec<(UserId, BlockList)>> {
        self.spawn_read(move |reader| reader.changed_blocks(&users))
    }

    fn changed_profiles(&self, after: ChangePlace, most: u32) -> Answer<ChangedProfiles> {
        self.spawn_read(move |reader| {
            Ok(super::rows::profiles::find_changed_profiles(reader.rows, after, most)?)
        })
    }

    fn read_log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Answer<LogExcerpt> {
        self.spawn_read(move |reader| reader.log(conversation, after, upto))
    }
}

impl Reader<'_> {
    fn heads(&self, conversations: &[ConversationKey]) -> Result<Seqs, OperationError> {
        let mut select = self.rows.prepare_cached("SELECT head FROM conversations WHERE id = ?1")?;
        let mut heads = Vec::with_capacity(conversations.len());
        for conversation in conversations {
            let head = select.query_row([conversation.0], |row| seq(row, 0)).optional()?;
            heads.extend(head.map(|head| (*conversation, head)));
        }
        Ok(heads)
    }

    fn revocations(&self, users: &[UserId]) -> Result<Revocations, OperationError> {
        let mut select = self.rows.prepare_cached(concat!(
            "SELECT ",
            not_before!(),
            ", ",
            ban_columns!(),
            " FROM users u LEFT JOIN profiles p ON p.user = u.id",
            join_bans!(),
            " WHERE u.name = ?1"
        ))?;
        let mut revocations = Vec::new();
        for user in users {
            let standing = select.query_row([user.as_str()], |row| read_standing(row, 0)).optional()?;
            let standing = standing.filter(|standing| *standing != Standing::default());
            revocations.extend(standing.map(|standing| (user.clone(), standing)));
        }
        Ok(revocations)
    }

    fn membership_page(
        &self,
        user: &UserId,
        after: ConversationKey,
        most: u32,
    ) -> Result<MembershipsPage, OperationError> {
        let mut select = self.rows.prepare_cached(
            "SELECT m.conversation, m.since, c.head, c.ended FROM users u
             CROSS JOIN members m ON m.user = u.id AND m.until IS NULL AND m.conversation > ?2
             CROSS JOIN conversations c ON c.id = m.conversation
             WHERE u.name = ?1 ORDER BY m.conversation LIMIT ?3",
        )?;
        let places = select.query_map(params![user.as_str(), after.0, most], read_membership)?;
        let mut page = MembershipsPage::default();
        for (rows, place) in (1..).zip(places) {
            let place = place?;
            let (conversation, place) = place;
            page.add(conversation, place, rows, most);
        }
        Ok(page)
    }

    fn current_membership(
        &self,
        user: &UserId,
        conversation: ConversationKey,
    ) -> Result<Option<CurrentMembership>, OperationError> {
        let mut select = self.rows.prepare_cached(
            "SELECT m.conversation, m.since, c.head, c.ended FROM users u
             CROSS JOIN members m ON m.conversation = ?2 AND m.user = u.id AND m.until IS NULL
             CROSS JOIN conversations c ON c.id = m.conversation WHERE u.name = ?1",
        )?;
        let found = select.query_row(params![user.as_str(), conversation.0], read_membership).optional()?;
        Ok(found.and_then(|(_, place)| place))
    }
}

/// A membership with its conversation; none in a deleted room.
fn read_membership(row: &Row<'_>) -> rusqlite::Result<(ConversationKey, Option<CurrentMembership>)> {
    let conversation = ConversationKey(row.get(0)?);
    let place = CurrentMembership { conversation, since: seq(row, 1)?, head: seq(row, 2)? };
    let is_ended: bool = row.get(3)?;
    Ok((conversation, (!is_ended).then_some(place)))
}

impl SharedLookups for Connection {
    fn name_of(&self, conversation: ConversationKey) -> Result<Option<ConversationId>, OperationError> {
        let mut select = self.prepare_cached("SELECT name FROM conversations WHERE id = ?1")?;
        Ok(select.query_row([conversation.0], |row| conversation_id(row, 0)).optional()?)
    }

    fn imported(
        &self,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Result<FxHashSet<Seq>, OperationError> {
        let mut select = self.prepare_cached(
            "SELECT seq FROM events WHERE conversation = ?1 AND seq > ?2 AND seq <= ?3 AND via >= ?4",
        )?;
        let found = select
            .query_map(params![conversation.0, after.0, upto.0, Via::FIRST_IMPORTED], |row| seq(row, 0))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    fn last_leaves(
        &self,
        conversation: ConversationKey,
        upto: Seq,
        users: &[UserId],
    ) -> Result<FxHashMap<UserId, Seq>, OperationError> {
        let mut select = self.prepare_cached(
            "SELECT max(e.seq) FROM events e WHERE e.conversation = ?1 AND e.seq <= ?2
               AND (e.kind = ?3 AND e.sender = ?5 OR e.kind = ?4 AND json_valid(e.body) AND e.body ->> 'absent' IS NULL
                   AND (json_type(e.body, '$.user') = 'integer' AND e.body ->> 'user' = ?5
                       OR json_type(e.body, '$.user') = 'text' AND e.body ->> 'user' = ?6))",
        )?;
        let (leave, remove) = (EventKind::Leave.number(), EventKind::Remove.number());
        let mut gone = FxHashMap::default();
        for user in users {
            let Some(known) = self.find_user(user)? else { continue };
            let seq: Option<u64> = select.query_row(
                params![conversation.0, upto.0, leave, remove, known.key.0, user.as_str()],
                |row| row.get(0),
            )?;
            gone.extend(seq.map(|seq| (user.clone(), Seq(seq))));
        }
        Ok(gone)
    }
}
