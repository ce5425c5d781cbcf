//! Messages as they stand now: the event with the last edit, the deletion and the reactions folded in.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};
use serde::Deserialize;
use switchboard_protocol::reply::{Edited, Message, MessageTag, Summary};
use switchboard_protocol::{Data, EventKind, Key, Seq, Text, Timestamp, Title, UserId};

use super::{EVENT_OVERHEAD, Reader, nobody, readable};
use crate::access::{Conversation, Membership};
use crate::store::change::Failed;
use crate::store::sqlite::rows::{seq, user_id};

/// What a message or an edit says, as the store keeps it.
#[derive(Debug, Default, Deserialize)]
struct Content {
    text: Option<Text>,
    data: Option<Data>,
    reply_to: Option<Seq>,
    #[serde(default)]
    deleted: bool,
}

impl Content {
    /// A body that cannot be read is shown as an empty message, and reported.
    fn read(body: &str, conversation: &Conversation, at: Seq) -> Self {
        serde_json::from_str(body).unwrap_or_else(|error| {
            // Not the error itself: it may quote what somebody wrote.
            let error = error.classify();
            tracing::error!(conversation = %conversation.name, seq = %at, ?error, "a message cannot be read");
            Self::default()
        })
    }
}

impl Reader<'_> {
    /// The message at `target` as somebody sees it who sees the log up to `visible`, and about how
    /// many bytes it takes.
    pub(super) fn message(
        &self,
        conversation: &Conversation,
        target: Seq,
        visible: Seq,
    ) -> Result<Option<(Message, usize)>, Failed> {
        let mut select = self.db.prepare_cached(
            "SELECT u.name, e.at, e.key, e.body FROM events e LEFT JOIN users u ON u.id = e.sender
             WHERE e.conversation = ?1 AND e.seq = ?2",
        )?;
        let found = select
            .query_row(params![conversation.key.0, target.0], |row| {
                let from = user_id(row, 0).unwrap_or_else(|_| nobody());
                let body: String = row.get(3).unwrap_or_default();
                let key: Option<String> = row.get(2).unwrap_or_default();
                Ok((from, Timestamp::from_millis(row.get(1)?), key, body))
            })
            .optional()?;
        let Some((from, at, key, body)) = found else { return Ok(None) };
        let mut content = Content::read(&body, conversation, target);
        let mut bytes = EVENT_OVERHEAD + body.len();
        let edited = self.last_edit(conversation, target, visible)?.filter(|_| !content.deleted);
        let edited = edited.map(|(edited, body)| {
            bytes = EVENT_OVERHEAD + body.len();
            let edit = Content::read(&body, conversation, edited.seq);
            content =
                Content { text: edit.text, data: edit.data, reply_to: content.reply_to, deleted: false };
            edited
        });
        let reactions = self.reactions(conversation, target, visible)?;
        bytes += reactions.values().map(|users| users.len() * 32).sum::<usize>();
        let message = Message {
            kind: MessageTag::Message,
            conversation: conversation.name.clone(),
            seq: target,
            from,
            at,
            key: key.and_then(|key| Key::parse(key).ok()),
            text: content.text,
            data: content.data,
            reply_to: content.reply_to,
            edited,
            deleted: content.deleted,
            reactions,
        };
        Ok(Some((message, bytes)))
    }

    fn last_edit(
        &self,
        conversation: &Conversation,
        target: Seq,
        visible: Seq,
    ) -> Result<Option<(Edited, String)>, Failed> {
        let mut select = self.db.prepare_cached(
            "SELECT e.seq, e.at, e.body FROM amendments a JOIN events e ON e.conversation = a.conversation AND e.seq = a.seq
             WHERE a.conversation = ?1 AND a.target = ?2 AND a.seq > 0 AND a.seq <= ?3 AND e.kind = ?4 ORDER BY a.seq DESC LIMIT 1",
        )?;
        let edit = select
            .query_row(params![conversation.key.0, target.0, visible.0, EventKind::Edit as u8], |row| {
                let edited = Edited { seq: seq(row, 0)?, at: Timestamp::from_millis(row.get(1)?) };
                Ok((edited, row.get(2).unwrap_or_default()))
            })
            .optional()?;
        Ok(edit)
    }

    fn reactions(
        &self,
        conversation: &Conversation,
        target: Seq,
        visible: Seq,
    ) -> Result<BTreeMap<String, Vec<UserId>>, Failed> {
        // Whoever sees the whole log needs none that were taken back.
        let mut select = self.db.prepare_cached(if visible == conversation.head {
            "SELECT r.emoji, u.name FROM reactions r INDEXED BY reactions_that_stand CROSS JOIN users u ON u.id = r.user
             WHERE r.conversation = ?1 AND r.target = ?2 AND r.since <= ?3 AND r.until IS NULL ORDER BY r.since"
        } else {
            "SELECT r.emoji, u.name FROM reactions r CROSS JOIN users u ON u.id = r.user
             WHERE r.conversation = ?1 AND r.target = ?2 AND r.since <= ?3
             AND (r.until IS NULL OR r.until > ?3) ORDER BY r.since"
        })?;
        let mut rows = select.query(params![conversation.key.0, target.0, visible.0])?;
        let mut reactions = BTreeMap::<String, Vec<UserId>>::new();
        while let Some(row) = rows.next()? {
            let read = || Ok((row.get(0)?, user_id(row, 1)?));
            let at = || format!("a reaction to {target} in {}", conversation.name);
            if let Some((emoji, user)) = readable(read(), at)? {
                reactions.entry(emoji).or_default().push(user);
            }
        }
        Ok(reactions)
    }

    /// A conversation as its member sees it, and about how many bytes that takes.
    pub(super) fn summary(
        &self,
        conversation: Conversation,
        member: &Membership,
    ) -> Result<(Summary, usize), Failed> {
        let (last, bytes) = match conversation.last_message {
            Seq(0) => (None, None),
            last => self.message(&conversation, last, conversation.head)?.unzip(),
        };
        let summary = Summary {
            title: conversation.title.and_then(|title| Title::parse(title).ok()),
            public: conversation.public,
            role: member.role,
            members: conversation.members,
            head: conversation.head,
            at: Timestamp::from_millis(conversation.at),
            read: member.read,
            received: member.received,
            unread: member.unread(conversation.messages),
            last,
            conversation: conversation.name,
        };
        Ok((summary, bytes.unwrap_or(0) + EVENT_OVERHEAD))
    }
}
