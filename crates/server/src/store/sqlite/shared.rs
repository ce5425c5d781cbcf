//! What a router asks of a log that others write to as well, on a database in memory: nodes of a real cluster have PostgreSQL.

use std::sync::atomic::Ordering;

use rusqlite::{OptionalExtension as _, params};
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

use super::memory::MemoryStore;
use super::query::Reader;
use super::rows::{conversation_id, find_conversation, seq};
use crate::store::change::Failed;
use crate::store::{
    Answer, CommittedEvent, ConversationKey, Effect, Excerpt, LogEvent, Passage, Person, Place, Seqs,
    SharedLog,
};

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
        let mut select = self.db.prepare_cached("SELECT head FROM conversations WHERE id = ?1")?;
        let mut heads = Vec::with_capacity(conversations.len());
        for conversation in conversations {
            let head = select.query_row([conversation.0], |row| seq(row, 0)).optional()?;
            heads.extend(head.map(|head| (*conversation, head)));
        }
        Ok(heads)
    }

    fn people(&self, users: &[UserId]) -> Result<Vec<Person>, Failed> {
        let mut select = self.db.prepare_cached("SELECT id, not_before FROM users WHERE name = ?1")?;
        let mut joined = self.db.prepare_cached(
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

    fn log(&self, key: ConversationKey, after: Seq, upto: Seq) -> Result<Excerpt, Failed> {
        let mut select = self.db.prepare_cached("SELECT name FROM conversations WHERE id = ?1")?;
        let name = select.query_row([key.0], |row| conversation_id(row, 0)).optional()?;
        // Read after the first query: that one fixed what this transaction sees.
        let mark = self.state.mark.load(Ordering::SeqCst);
        let found = name.map(|name| find_conversation(self.db, &name)).transpose()?.flatten();
        let Some(conversation) = found else { return Ok(Excerpt { mark, events: Vec::new() }) };
        let limits = self.limits;
        let events = self.events(&conversation, after, upto, limits.page, limits.page_bytes)?;
        let committed = events.into_iter().map(|event| {
            let effects = self.effects(key, &event)?;
            let name = conversation.name.clone();
            Ok(CommittedEvent {
                conversation: key,
                name,
                seq: event.seq,
                at: event.at,
                event: Some(event),
                effects,
            })
        });
        Ok(Excerpt { mark, events: committed.collect::<Result<_, Failed>>()? })
    }

    /// Who came in or went by an event.
    fn effects(&self, key: ConversationKey, event: &LogEvent) -> Result<Vec<Effect>, Failed> {
        let anew = Passage::In { seen: Seq(0) };
        let effect = |user: UserId, passage| vec![Effect { user, passage }];
        Ok(match event.kind {
            EventKind::Create => {
                let members = named(event, "members").into_iter();
                let all = std::iter::once(event.from.clone()).chain(members);
                all.map(|user| Effect { user, passage: anew }).collect()
            }
            EventKind::Message if event.seq == Seq(1) => {
                peers(&event.conversation).into_iter().map(|user| Effect { user, passage: anew }).collect()
            }
            EventKind::Join => effect(event.from.clone(), self.entry(key, event, &event.from)?),
            EventKind::Leave => effect(event.from.clone(), Passage::Out),
            EventKind::Invite => match named(event, "user").pop() {
                Some(user) => effect(user.clone(), self.entry(key, event, &user)?),
                None => Vec::new(),
            },
            EventKind::Remove => {
                named(event, "user").into_iter().map(|user| Effect { user, passage: Passage::Out }).collect()
            }
            _ => Vec::new(),
        })
    }

    /// How somebody came in: they have seen the log up to where they went last.
    fn entry(&self, key: ConversationKey, event: &LogEvent, user: &UserId) -> Result<Passage, Failed> {
        let mut select = self.db.prepare_cached(
            "SELECT max(e.seq) FROM events e JOIN users u ON u.id = e.sender
             WHERE e.conversation = ?1 AND e.seq < ?2
               AND (e.kind = ?3 AND u.name = ?5 OR e.kind = ?4 AND e.body ->> 'user' = ?5)",
        )?;
        let (leave, remove) = (EventKind::Leave as u8, EventKind::Remove as u8);
        let gone: Option<u64> =
            select.query_row(params![key.0, event.seq.0, leave, remove, user.as_str()], |row| row.get(0))?;
        Ok(Passage::In { seen: Seq(gone.unwrap_or(event.seq.0 - 1)) })
    }
}

/// The users that a field of an event names.
fn named(event: &LogEvent, field: &str) -> Vec<UserId> {
    let body: serde_json::Value = serde_json::from_str(&event.body).unwrap_or_default();
    let parse = |name: &serde_json::Value| UserId::parse(name.as_str()?).ok();
    match &body[field] {
        serde_json::Value::Array(names) => names.iter().filter_map(parse).collect(),
        name => parse(name).into_iter().collect(),
    }
}

/// The one or two users of a direct conversation.
fn peers(name: &ConversationId) -> Vec<UserId> {
    let Some((a, b)) = name.peers() else { return Vec::new() };
    if a == b { vec![a] } else { vec![a, b] }
}
