//! What a router asks of a log that others write to as well, on a database in memory: nodes of a real cluster have PostgreSQL.

use rusqlite::{Connection, OptionalExtension as _, params};
use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

use super::memory::MemoryStore;
use super::query::Reader;
use super::rows::{conversation_id, seq};
use crate::record::{Answer, ConversationKey};
use crate::store::change::Failed;
use crate::store::read::shared::SharedLookups;
use crate::store::{Excerpt, Person, Place, Seqs, SharedLog};

impl SharedLog for MemoryStore {
    fn heads(&self, conversations: Vec<ConversationKey>) -> Answer<Seqs> {
        self.spawn_read(move |reader| reader.heads(&conversations))
    }

    fn people(&self, users: Vec<UserId>) -> Answer<Vec<Person>> {
        self.spawn_read(move |reader| reader.people(&users))
    }

    fn log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Answer<Excerpt> {
        self.spawn_read(move |reader| reader.log(conversation, after, upto))
    }
}

impl Reader<'_> {
    fn heads(&self, conversations: &[ConversationKey]) -> Result<Seqs, Failed> {
        let mut select = self.rows.prepare_cached("SELECT head FROM conversations WHERE id = ?1")?;
        let mut heads = Vec::with_capacity(conversations.len());
        for conversation in conversations {
            let head = select.query_row([conversation.0], |row| seq(row, 0)).optional()?;
            heads.extend(head.map(|head| (*conversation, head)));
        }
        Ok(heads)
    }

    fn people(&self, users: &[UserId]) -> Result<Vec<Person>, Failed> {
        let mut select = self.rows.prepare_cached("SELECT id, not_before FROM users WHERE name = ?1")?;
        let mut joined = self.rows.prepare_cached(
            "SELECT m.conversation, m.since, c.head FROM members m JOIN conversations c ON c.id = m.conversation
             WHERE m.user = ?1 AND m.until IS NULL",
        )?;
        let mut people = Vec::with_capacity(users.len());
        for user in users {
            let found = select
                .query_row([user.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)))
                .optional()?;
            let Some((key, not_before)) = found else { continue };
            let places = joined.query_map([key], |row| {
                let conversation = ConversationKey(row.get(0)?);
                Ok(Place { conversation, since: seq(row, 1)?, head: seq(row, 2)? })
            })?;
            let joined = places.collect::<Result<_, _>>()?;
            people.push(Person {
                user: user.clone(),
                not_before: not_before.map(Timestamp::from_millis),
                joined,
            });
        }
        Ok(people)
    }
}

impl SharedLookups for Connection {
    fn name_of(&self, conversation: ConversationKey) -> Result<Option<ConversationId>, Failed> {
        let mut select = self.prepare_cached("SELECT name FROM conversations WHERE id = ?1")?;
        Ok(select.query_row([conversation.0], |row| conversation_id(row, 0)).optional()?)
    }

    fn went(
        &self,
        conversation: ConversationKey,
        upto: Seq,
        users: &[UserId],
    ) -> Result<FxHashMap<UserId, Seq>, Failed> {
        let mut select = self.prepare_cached(
            "SELECT max(e.seq) FROM events e JOIN users u ON u.id = e.sender
             WHERE e.conversation = ?1 AND e.seq <= ?2
               AND (e.kind = ?3 AND u.name = ?5 OR e.kind = ?4 AND e.body ->> 'user' = ?5)",
        )?;
        let (leave, remove) = (EventKind::Leave as u8, EventKind::Remove as u8);
        let mut gone = FxHashMap::default();
        for user in users {
            let seq: Option<u64> = select
                .query_row(params![conversation.0, upto.0, leave, remove, user.as_str()], |row| row.get(0))?;
            gone.extend(seq.map(|seq| (user.clone(), Seq(seq))));
        }
        Ok(gone)
    }
}
