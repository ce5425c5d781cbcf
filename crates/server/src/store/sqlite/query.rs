//! What readers ask: each answer from one snapshot, each page bounded in items and in bytes.

mod fold;
mod history;
mod people;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::value::RawValue;
use switchboard_protocol::reply::{OkBody, Summary};
use switchboard_protocol::{ConversationId, Conversations, EventKind, Limits, Seq, Sync, Timestamp, UserId};

use super::State;
use super::rows::{conversation_id, find_conversation, find_member, membership, seq, user_id};
use crate::access::{self, Conversation, Membership};
use crate::refusal::Refusal;
use crate::store::change::Failed;
use crate::store::{ConversationKey, Joined, LogEvent, Query, Seen, Snapshot, UserKey};

/// A page of events is bounded by this share of a connection's queue, so that what a reader is behind
/// by never takes more memory than the queue may.
const REPLAY_SHARE: u32 = 2;

/// The smallest queue: its share for a page holds an event, or a reader that is behind would never get on.
pub(crate) const MIN_QUEUE: usize = REPLAY_SHARE as usize * EVENT_OVERHEAD;

type Page = Result<OkBody<Box<RawValue>>, Failed>;

/// One read transaction.
pub(super) struct Reader<'a> {
    pub(super) db: &'a Connection,
    pub(super) limits: &'a Limits,
    pub(super) state: &'a State,
}

/// A conversation as one user sees it.
struct View {
    conversation: Conversation,
    membership: Option<Membership>,
}

/// Adds up the bytes of a page. The first item always fits, so that a reader gets on.
struct Room(usize);

impl Room {
    fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.0 > 0;
        self.0 = self.0.saturating_sub(bytes);
        fits
    }
}

impl Reader<'_> {
    fn user(&self, name: &UserId) -> Result<Option<UserKey>, Failed> {
        let mut select = self.db.prepare_cached("SELECT id FROM users WHERE name = ?1")?;
        Ok(select.query_row([name.as_str()], |row| Ok(UserKey(row.get(0)?))).optional()?)
    }

    fn view(&self, user: &UserId, name: &ConversationId) -> Result<View, Failed> {
        let conversation = find_conversation(self.db, name)?.ok_or_else(Refusal::not_found)?;
        let user = self.user(user)?.ok_or_else(Refusal::not_found)?;
        let membership = find_member(self.db, conversation.key, user)?;
        Ok(View { conversation, membership })
    }

    /// The answer to a command that reads.
    pub(super) fn answer(&self, user: &UserId, query: &Query) -> Page {
        match query {
            Query::Sync(c) => self.sync(user, c),
            Query::History(c) => self.history(user, c),
            Query::Conversations(c) => self.conversations(user, c),
            Query::Members(c) => self.members(user, c),
        }
    }

    /// `sync`.
    fn sync(&self, user: &UserId, command: &Sync) -> Page {
        let View { conversation, membership } = self.view(user, &command.conversation.resolve(user))?;
        let head = access::check_visible(conversation.head, membership.as_ref())?;
        if command.after > head {
            let message = format!("the log ends at {head}");
            return Err(Refusal::new(switchboard_protocol::ErrorCode::BadCursor, message).into());
        }
        let limit = self.limits.page_size(command.limit);
        let events = self.events(&conversation, command.after, head, limit, self.limits.page_bytes)?;
        let more = events.last().map_or(command.after, |event| event.seq) < head;
        let events = events.iter().map(LogEvent::to_raw).collect();
        Ok(OkBody::Log { conversation: conversation.name, events, head, more })
    }

    /// Events of a conversation after `after` up to `upto`, at most `limit` and about `bytes`.
    pub(super) fn events(
        &self,
        conversation: &Conversation,
        after: Seq,
        upto: Seq,
        limit: u32,
        bytes: u32,
    ) -> Result<Vec<LogEvent>, Failed> {
        let mut select = self.db.prepare_cached(
            "SELECT e.seq, e.kind, u.name, e.at, e.key, e.body FROM events e LEFT JOIN users u ON u.id = e.sender
             WHERE e.conversation = ?1 AND e.seq > ?2 AND e.seq <= ?3 ORDER BY e.seq LIMIT ?4",
        )?;
        let mut rows = select.query(params![conversation.key.0, after.0, upto.0, limit])?;
        let mut room = Room(bytes as usize);
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let event = read_event(row, &conversation.name)?;
            if !room.takes(event.body.len() + EVENT_OVERHEAD) {
                break;
            }
            events.push(event);
        }
        Ok(events)
    }

    /// `conversations`.
    fn conversations(&self, user: &UserId, command: &Conversations) -> Page {
        let Some(key) = self.user(user)? else {
            return Ok(OkBody::Conversations { conversations: Vec::new(), more: false });
        };
        let after = match &command.before {
            Some(name) => {
                let View { conversation, membership } = self.view(user, name)?;
                let visible = access::check_visible(conversation.head, membership.as_ref())?;
                // For somebody who has left it stands where they left it: what came later is not theirs to know.
                let at = if visible == conversation.head {
                    conversation.at
                } else {
                    self.time_of(&conversation, visible)?
                };
                (at, conversation.key.0)
            }
            None => (i64::MAX, i64::MAX),
        };
        let (conversations, more) = self.summaries(key, after, self.limits.page_size(command.limit))?;
        Ok(OkBody::Conversations { conversations, more })
    }

    /// When an event was stored, in milliseconds since the Unix epoch.
    fn time_of(&self, conversation: &Conversation, seq: Seq) -> Result<i64, Failed> {
        let mut select =
            self.db.prepare_cached("SELECT at FROM events WHERE conversation = ?1 AND seq = ?2")?;
        Ok(select.query_row(params![conversation.key.0, seq.0], |row| row.get(0))?)
    }

    /// A page of a user's conversations, latest activity first, below a time and number.
    fn summaries(
        &self,
        user: UserKey,
        below: (i64, i64),
        limit: u32,
    ) -> Result<(Vec<Summary>, bool), Failed> {
        let mut select = self.db.prepare_cached(
            "SELECT m.role, m.since, m.until, m.read, m.received, m.sent, m.read_messages, m.read_sent,
                    c.id, c.name, c.title, c.public, c.head, c.messages, c.last_message, c.members, c.admins, c.at
             FROM members m JOIN conversations c ON c.id = m.conversation
             WHERE m.user = ?1 AND m.until IS NULL AND (c.at, c.id) < (?2, ?3)
             ORDER BY c.at DESC, c.id DESC LIMIT ?4 OFFSET ?5",
        )?;
        let most = limit as usize + 1;
        let mut room = Room(self.limits.page_bytes as usize);
        let (mut summaries, mut passed) = (Vec::new(), 0);
        loop {
            let mut rows = select.query(params![user.0, below.0, below.1, most, passed])?;
            let before = passed;
            while let Some(row) = rows.next()? {
                passed += 1;
                let Some((conversation, member)) = read_listed(row)? else { continue };
                if summaries.len() == limit as usize {
                    return Ok((summaries, true));
                }
                let (summary, bytes) = self.summary(conversation, &member)?;
                if !room.takes(bytes) {
                    return Ok((summaries, true));
                }
                summaries.push(summary);
            }
            // Among those were damaged ones, or there are no more.
            if passed - before < most {
                return Ok((summaries, false));
            }
        }
    }

    /// Everything a connection starts from.
    pub(super) fn attach(&self, user: &UserId, named: &[ConversationId]) -> Result<Option<Snapshot>, Failed> {
        let Some((key, not_before)) = self.known(user)? else { return Ok(None) };
        // Read after the first query: that one fixed what this transaction sees.
        let mark = self.state.mark.load(Ordering::SeqCst);
        let mut select = self.db.prepare_cached(
            "SELECT m.conversation, c.head FROM members m JOIN conversations c ON c.id = m.conversation
             WHERE m.user = ?1 AND m.until IS NULL",
        )?;
        let mut rows = select.query([key.0])?;
        let mut joined = Vec::new();
        while let Some(row) = rows.next()? {
            let conversation: i64 = row.get(0)?;
            let head = readable(seq(row, 1), || format!("conversation {conversation}"))?;
            joined.extend(head.map(|head| Joined { conversation: ConversationKey(conversation), head }));
        }
        let named = named.iter().map(|name| self.seen(key, name)).collect::<Result<Vec<_>, _>>()?;
        let (summaries, more) = self.summaries(key, (i64::MAX, i64::MAX), self.limits.page_size(None))?;
        Ok(Some(Snapshot { mark, user: key, not_before, joined, named, summaries, more }))
    }

    /// What a connection with a cursor in a conversation may see of it. One that cannot be read is not there for now, and
    /// the others are.
    fn seen(&self, user: UserKey, name: &ConversationId) -> Result<Result<Seen, Refusal>, Failed> {
        let read = || -> rusqlite::Result<_> {
            let conversation = find_conversation(self.db, name)?;
            let member =
                conversation.as_ref().map(|found| find_member(self.db, found.key, user)).transpose()?;
            Ok((conversation, member.flatten()))
        };
        let Some((conversation, membership)) = readable(read(), || name.to_string())? else {
            return Ok(Err(Refusal::unavailable()));
        };
        let Some(conversation) = conversation else { return Ok(Err(Refusal::not_found())) };
        let member = membership.is_some_and(|m| m.until.is_none());
        let head = access::check_visible(conversation.head, membership.as_ref());
        Ok(head.map(|head| Seen { conversation: conversation.key, head, member }))
    }

    /// A page of the log for a connection that is behind.
    pub(super) fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Result<Vec<LogEvent>, Failed> {
        let mut select = self.db.prepare_cached("SELECT name FROM conversations WHERE id = ?1")?;
        let name = select.query_row([conversation.0], |row| conversation_id(row, 0)).optional()?;
        let found = name.map(|name| find_conversation(self.db, &name)).transpose()?.flatten();
        let Some(found) = found else { return Ok(Vec::new()) };
        let membership = find_member(self.db, conversation, user)?;
        let visible = access::check_visible(found.head, membership.as_ref())?;
        let bytes = self.limits.page_bytes.min(self.limits.queue / REPLAY_SHARE);
        self.events(&found, after, upto.min(visible), self.limits.page, bytes)
    }
}

/// What an event's frame has besides its body, roughly: names, numbers and a time.
const EVENT_OVERHEAD: usize = 300;

/// What was read of a row, or `None` if it is damaged: it is reported, and must not keep anybody from the others.
fn readable<T>(read: rusqlite::Result<T>, row: impl FnOnce() -> String) -> Result<Option<T>, Failed> {
    use rusqlite::Error;
    match read {
        Ok(read) => Ok(Some(read)),
        Err(
            error @ (Error::IntegralValueOutOfRange(..)
            | Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)),
        ) => {
            tracing::error!(row = row(), %error, "a damaged row is passed over");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads a row of [`Reader::summaries`].
fn read_listed(row: &rusqlite::Row<'_>) -> Result<Option<(Conversation, Membership)>, Failed> {
    let key: i64 = row.get(8)?;
    let read = || {
        let conversation = Conversation {
            key: ConversationKey(key),
            name: conversation_id(row, 9)?,
            title: row.get(10)?,
            public: row.get(11)?,
            head: seq(row, 12)?,
            messages: row.get(13)?,
            last_message: seq(row, 14)?,
            members: row.get(15)?,
            admins: row.get(16)?,
            at: row.get(17)?,
        };
        Ok((conversation, membership(row, 0)?))
    };
    readable(read(), || format!("conversation {key}, in a list"))
}

/// Reads an event. One that cannot be read keeps its place, as `unreadable`: it must not block the
/// log for everybody who syncs.
fn read_event(row: &rusqlite::Row<'_>, conversation: &ConversationId) -> Result<LogEvent, rusqlite::Error> {
    let seq = seq(row, 0)?;
    let read = || -> Result<LogEvent, rusqlite::Error> {
        let body: Box<str> = row.get(5)?;
        let kind = EventKind::from_number(row.get(1)?);
        let readable =
            kind != EventKind::Unreadable && serde_json::from_str::<serde_json::Map<_, _>>(&body).is_ok();
        if !readable {
            return Err(rusqlite::Error::InvalidColumnType(
                5,
                "body".to_owned(),
                rusqlite::types::Type::Text,
            ));
        }
        Ok(LogEvent {
            conversation: conversation.clone(),
            seq,
            kind,
            from: user_id(row, 2)?,
            at: Timestamp::from_millis(row.get(3)?),
            key: row.get(4)?,
            body,
        })
    };
    read().or_else(|error| {
        tracing::error!(%conversation, %seq, %error, "an event cannot be read; it is passed on as `unreadable`");
        Ok(LogEvent {
            conversation: conversation.clone(),
            seq,
            kind: EventKind::Unreadable,
            from: user_id(row, 2).unwrap_or_else(|_| nobody()),
            at: Timestamp::from_millis(row.get(3).unwrap_or_default()),
            key: None,
            body: "{}".into(),
        })
    })
}

/// Whom an event that cannot be read is from.
fn nobody() -> UserId {
    UserId::parse("unknown").unwrap_or_else(|_| unreachable!("a user id"))
}
