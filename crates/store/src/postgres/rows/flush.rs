//! Flushes the changed rows and the commit in one round trip.

use switchboard_protocol::Seq;

use super::PostgresRows;
use crate::change::dispatch::Prefetch;
use crate::change::rows::{PAST_REACTIONS, role_number};
use crate::postgres::connect::{Ask, Error};
use crate::postgres::query::row::number;
use crate::record::{Conversation, Membership};
use crate::record::{ConversationKey, UserKey};

const COMMIT: &str = "COMMIT";

const ROLLBACK: &str = "ROLLBACK";

const PROBE: &str = "UPDATE writers SET probe = $2 WHERE id = $1";

const NEW_USERS: &str = "INSERT INTO users (id, name) SELECT * FROM unnest($1::bigint[], $2::text[])";

const SEEN: &str = "UPDATE users u SET last_seen = greatest(coalesce(u.last_seen, 0), w.at)
    FROM unnest($1::bigint[], $2::bigint[]) AS w(id, at) WHERE u.id = w.id";

const REVOKED: &str = "UPDATE users u
    SET not_before = CASE WHEN w.replace THEN w.at ELSE greatest(coalesce(u.not_before, 0), w.at) END
    FROM unnest($1::bigint[], $2::bigint[], $3::boolean[]) AS w(id, at, replace) WHERE u.id = w.id";

const NEW_CONVERSATIONS: &str = "INSERT INTO conversations
    (id, name, title, public, head, messages, last_message, members, admins, at)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::boolean[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])";

const CONVERSATIONS: &str = "UPDATE conversations c SET title = w.title, head = w.head, messages = w.messages,
    last_message = w.last_message, members = w.members, admins = w.admins, at = w.at
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[]) AS w(id, title, head, messages, last_message, members, admins, at) WHERE c.id = w.id";

const NEW_MEMBERS: &str = r#"INSERT INTO members
    (conversation, "user", role, since, until, read, received, sent, read_messages, read_sent)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])"#;

const MEMBERS: &str = r#"UPDATE members m SET role = w.role, since = w.since, until = w.until, read = w.read,
    received = w.received, sent = w.sent, read_messages = w.read_messages, read_sent = w.read_sent
    FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
    AS w(conversation, "user", role, since, until, read, received, sent, read_messages, read_sent)
    WHERE m.conversation = w.conversation AND m."user" = w."user""#;

const EVENTS: &str = "INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::text[], $8::text[])";

const ERASED: &str = "UPDATE events e SET body = w.body
    FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS w(conversation, seq, body)
    WHERE e.conversation = w.conversation AND e.seq = w.seq";

const AMENDMENTS: &str = "INSERT INTO amendments (conversation, target, seq)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])";

const REACTIONS: &str = r#"INSERT INTO reactions (conversation, target, emoji, "user", since, until)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
    ON CONFLICT (conversation, target, emoji, "user", since) DO UPDATE SET until = excluded.until"#;

/// Trims the past reactions of messages to [`PAST_REACTIONS`]. Deletes half of them at once, so that the sort is rarely needed.
const PAST: &str = "DELETE FROM reactions r USING (
        SELECT w.conversation, w.target, (
            SELECT p.until FROM reactions p
            WHERE p.conversation = w.conversation AND p.target = w.target AND p.until IS NOT NULL
            ORDER BY p.until DESC LIMIT 1 OFFSET $3
        ) AS until
        FROM unnest($1::bigint[], $2::bigint[]) AS w(conversation, target)
        WHERE $4 < (SELECT count(*) FROM reactions p
            WHERE p.conversation = w.conversation AND p.target = w.target AND p.until IS NOT NULL)
        OFFSET 0
    ) AS old
    WHERE r.conversation = old.conversation AND r.target = old.target AND r.until <= old.until";

const DELETED: &str =
    "DELETE FROM reactions r USING unnest($1::bigint[], $2::bigint[]) AS w(conversation, target)
    WHERE r.conversation = w.conversation AND r.target = w.target";

const CHOSEN: &str = r#"INSERT INTO rooms_by_choice ("user", conversation)
    SELECT * FROM unnest($1::bigint[], $2::bigint[]) ON CONFLICT DO NOTHING"#;

const LEFT: &str = r#"DELETE FROM rooms_by_choice r USING unnest($1::bigint[], $2::bigint[]) AS w("user", conversation)
    WHERE r."user" = w."user" AND r.conversation = w.conversation"#;

pub(super) const STATEMENTS: [&str; 18] = [
    PROBE,
    COMMIT,
    ROLLBACK,
    NEW_USERS,
    SEEN,
    REVOKED,
    NEW_CONVERSATIONS,
    CONVERSATIONS,
    NEW_MEMBERS,
    MEMBERS,
    EVENTS,
    ERASED,
    AMENDMENTS,
    REACTIONS,
    PAST,
    DELETED,
    CHOSEN,
    LEFT,
];

/// Why a flush failed.
#[derive(Debug)]
pub(in crate::postgres) enum Unsaved {
    /// A statement before the commit failed, so nothing was saved.
    Undone(Error),
    /// The outcome is unknown: the commit was sent without a reliable answer.
    Unknown(Error),
}

impl PostgresRows<'_> {
    /// Rolls the transaction back.
    pub(in crate::postgres) fn roll_back(&self) -> Result<(), Error> {
        self.link.all(&[Ask::new(ROLLBACK, &[])])?.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Flushes all changed rows and commits.
    pub(in crate::postgres) fn save(&self) -> Result<(), Unsaved> {
        let users: Vec<_> = self.new_users.values().map(|key| key.0).collect();
        let user_names: Vec<_> = self.new_users.keys().map(switchboard_protocol::UserId::as_str).collect();
        let (seen, seen_at): (Vec<_>, Vec<_>) = self.last_seen.iter().map(|(key, at)| (key.0, *at)).unzip();
        let (revoked, (revoked_at, replace)): (Vec<_>, (Vec<_>, Vec<_>)) =
            self.not_before.iter().map(|(key, (at, replace))| (key.0, (*at, *replace))).unzip();
        let new = Conversations::of(self.new_conversations.iter().filter_map(|name| self.row(name)));
        let old = self.dirty_conversations.iter().filter(|name| !self.new_conversations.contains(*name));
        let changed = Conversations::of(old.filter_map(|name| self.row(name)));
        let joined = self.members_to_write(false);
        let moved = self.members_to_write(true);
        let events = Events::of(self);
        let (erased, bodies): (Vec<_>, Vec<_>) = self.erased.iter().map(|(at, body)| (*at, &**body)).unzip();
        let (erased_in, erased) = messages(&erased);
        let amendments = self.new_amendments.iter();
        let (amended, by): (Vec<_>, Vec<_>) =
            amendments.map(|(conversation, target, by)| ((*conversation, *target), number(*by))).unzip();
        let (amended_in, amended) = messages(&amended);
        let reactions = Reacted::of(self);
        let (taken_in, taken) = messages(self.reactions.taken());
        let (deleted_in, deleted) = messages(self.reactions.deleted());
        let (kept, most) = (signed(PAST_REACTIONS / 2), signed(PAST_REACTIONS));
        let (choosers, chosen) = self.choices_to_write(true);
        let (leavers, left) = self.choices_to_write(false);
        // All nodes write rows that are not locked in the same order, which prevents deadlocks.
        let parts = [
            (users.len(), Ask::new(NEW_USERS, &[&users, &user_names])),
            (seen.len(), Ask::new(SEEN, &[&seen, &seen_at])),
            (revoked.len(), Ask::new(REVOKED, &[&revoked, &revoked_at, &replace])),
            (new.id.len(), new.insert()),
            (changed.id.len(), changed.update()),
            (joined.user.len(), joined.ask(NEW_MEMBERS)),
            (moved.user.len(), moved.ask(MEMBERS)),
            (events.seq.len(), events.insert()),
            (erased.len(), Ask::new(ERASED, &[&erased_in, &erased, &bodies])),
            (amended.len(), Ask::new(AMENDMENTS, &[&amended_in, &amended, &by])),
            (reactions.user.len(), reactions.put()),
            (taken.len(), Ask::new(PAST, &[&taken_in, &taken, &kept, &most])),
            (deleted.len(), Ask::new(DELETED, &[&deleted_in, &deleted])),
            (chosen.len(), Ask::new(CHOSEN, &[&choosers, &chosen])),
            (left.len(), Ask::new(LEFT, &[&leavers, &left])),
            (self.probe.len(), Ask::new(PROBE, &[&self.writer, &self.probe])),
            (1, Ask::new(COMMIT, &[])),
        ];
        let asks: Vec<_> = parts.into_iter().filter(|(rows, _)| *rows > 0).map(|(_, ask)| ask).collect();
        self.send(&asks)
    }

    /// Sends the statements; the last one is the commit.
    fn send(&self, asks: &[Ask<'_>]) -> Result<(), Unsaved> {
        // Discards warnings from before this commit.
        let _ = self.link.take_warning();
        let mut answers = self.link.all(asks).map_err(Unsaved::Unknown)?;
        let committed = answers.pop();
        for answer in answers {
            match answer {
                Ok(_) => {}
                // After an error in a transaction the commit has no effect.
                Err(error) if error.code().is_some() => return Err(Unsaved::Undone(error)),
                Err(error) => return Err(Unsaved::Unknown(error)),
            }
        }
        if let Some(Err(error)) = committed {
            return Err(Unsaved::Unknown(error));
        }
        if self.link.take_warning() { Err(Unsaved::Unknown(Error::Doubtful)) } else { Ok(()) }
    }

    fn row(&self, name: &switchboard_protocol::ConversationId) -> Option<&Conversation> {
        self.conversations.get(name)?.as_ref()
    }

    fn members_to_write(&self, stored: bool) -> Members {
        let rows = self.dirty_members.iter().filter(|(_, is_stored)| **is_stored == stored);
        let mut members = Members::default();
        for (at, _) in rows {
            if let Some(Some(member)) = self.members.get(at) {
                members.push(at.0, at.1, member);
            }
        }
        members
    }

    fn choices_to_write(&self, chosen: bool) -> (Vec<i64>, Vec<i64>) {
        let rows = self.chosen.iter().filter(|(_, is_chosen)| **is_chosen == chosen);
        rows.map(|((user, conversation), _)| (user.0, conversation.0)).unzip()
    }

    /// The number of rooms that a user has chosen, including this transaction's changes.
    pub(super) fn count_choices(&mut self, user: UserKey) -> Result<u32, Error> {
        if self.choices_of(user).any(|chosen| !chosen) {
            // Only the database knows whether the rows to delete exist.
            self.write_choices()?;
        }
        if !self.choices.contains_key(&user) {
            let choosing = [self.name_of_user(user)?].into_iter().collect();
            self.fetch(&Prefetch { choosing, ..Prefetch::default() })?;
        }
        let stored = self.choices.get(&user).copied().unwrap_or_default();
        let new = u32::try_from(self.choices_of(user).count()).unwrap_or(u32::MAX);
        Ok(stored.saturating_add(new))
    }

    /// This transaction's changes of a user: true for each room chosen, false for each room left.
    pub(super) fn choices_of(&self, user: UserKey) -> impl Iterator<Item = bool> {
        let all = (user, ConversationKey(i64::MIN))..=(user, ConversationKey(i64::MAX));
        self.chosen.range(all).map(|(_, chosen)| *chosen)
    }

    fn write_choices(&mut self) -> Result<(), Error> {
        let (choosers, chosen) = self.choices_to_write(true);
        let (leavers, left) = self.choices_to_write(false);
        let asks = [Ask::new(CHOSEN, &[&choosers, &chosen]), Ask::new(LEFT, &[&leavers, &left])];
        self.link.all(&asks)?.into_iter().try_for_each(|answer| answer.map(drop))?;
        self.chosen.clear();
        self.choices.clear();
        Ok(())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Messages as two arrays.
fn messages<'a>(messages: impl IntoIterator<Item = &'a (ConversationKey, Seq)>) -> (Vec<i64>, Vec<i64>) {
    messages.into_iter().map(|(conversation, seq)| (conversation.0, number(*seq))).unzip()
}

/// Rows of conversations, by column.
#[derive(Default)]
struct Conversations<'a> {
    id: Vec<i64>,
    name: Vec<&'a str>,
    title: Vec<Option<&'a str>>,
    public: Vec<bool>,
    head: Vec<i64>,
    messages: Vec<i64>,
    last_message: Vec<i64>,
    members: Vec<i64>,
    admins: Vec<i64>,
    at: Vec<i64>,
}

impl<'a> Conversations<'a> {
    fn of(rows: impl Iterator<Item = &'a Conversation>) -> Self {
        let mut all = Self::default();
        for row in rows {
            all.id.push(row.key.0);
            all.name.push(row.name.as_str());
            all.title.push(row.title.as_deref());
            all.public.push(row.public);
            all.head.push(number(row.head));
            all.messages.push(signed(row.messages));
            all.last_message.push(number(row.last_message));
            all.members.push(signed(row.members));
            all.admins.push(signed(row.admins));
            all.at.push(row.at);
        }
        all
    }

    fn insert(&self) -> Ask<'_> {
        let Self { id, name, title, public, head, messages, last_message, members, admins, at } = self;
        Ask::new(
            NEW_CONVERSATIONS,
            &[id, name, title, public, head, messages, last_message, members, admins, at],
        )
    }

    fn update(&self) -> Ask<'_> {
        let Self { id, title, head, messages, last_message, members, admins, at, .. } = self;
        Ask::new(CONVERSATIONS, &[id, title, head, messages, last_message, members, admins, at])
    }
}

/// Rows of members, by column.
#[derive(Default)]
struct Members {
    conversation: Vec<i64>,
    user: Vec<i64>,
    role: Vec<i16>,
    since: Vec<i64>,
    until: Vec<Option<i64>>,
    read: Vec<i64>,
    received: Vec<i64>,
    sent: Vec<i64>,
    read_messages: Vec<i64>,
    read_sent: Vec<i64>,
}

impl Members {
    fn push(&mut self, conversation: ConversationKey, user: UserKey, member: &Membership) {
        self.conversation.push(conversation.0);
        self.user.push(user.0);
        self.role.push(role_number(member.role).try_into().unwrap_or_default());
        self.since.push(number(member.since));
        self.until.push(member.until.map(number));
        self.read.push(number(member.read));
        self.received.push(number(member.received));
        self.sent.push(signed(member.sent));
        self.read_messages.push(signed(member.read_messages));
        self.read_sent.push(signed(member.read_sent));
    }

    fn ask(&self, sql: &'static str) -> Ask<'_> {
        let Self { conversation, user, role, since, until, read, received, sent, read_messages, read_sent } =
            self;
        Ask::new(
            sql,
            &[conversation, user, role, since, until, read, received, sent, read_messages, read_sent],
        )
    }
}

/// Rows of events, by column.
#[derive(Default)]
struct Events<'a> {
    conversation: Vec<i64>,
    seq: Vec<i64>,
    kind: Vec<i16>,
    sender: Vec<i64>,
    at: Vec<i64>,
    messages: Vec<i64>,
    key: Vec<Option<&'a str>>,
    body: Vec<&'a str>,
}

impl<'a> Events<'a> {
    fn of(rows: &'a PostgresRows<'_>) -> Self {
        let mut all = Self::default();
        for event in &rows.appended {
            all.conversation.push(event.conversation.0);
            all.seq.push(number(event.seq));
            all.kind.push(event.kind.number().into());
            all.sender.push(event.sender.0);
            all.at.push(event.at.as_millis());
            all.messages.push(signed(event.messages));
            all.key.push(event.key.as_deref());
            all.body.push(&event.body);
        }
        all
    }

    fn insert(&self) -> Ask<'_> {
        let Self { conversation, seq, kind, sender, at, messages, key, body } = self;
        Ask::new(EVENTS, &[conversation, seq, kind, sender, at, messages, key, body])
    }
}

/// Rows of reactions, by column.
#[derive(Default)]
struct Reacted<'a> {
    conversation: Vec<i64>,
    target: Vec<i64>,
    emoji: Vec<&'a str>,
    user: Vec<i64>,
    since: Vec<i64>,
    until: Vec<Option<i64>>,
}

impl<'a> Reacted<'a> {
    fn of(rows: &'a PostgresRows<'_>) -> Self {
        let mut all = Self::default();
        for (((conversation, target, emoji, user), since), until) in rows.reactions.put() {
            all.conversation.push(conversation.0);
            all.target.push(number(*target));
            all.emoji.push(emoji);
            all.user.push(user.0);
            all.since.push(number(*since));
            all.until.push(until.map(number));
        }
        all
    }

    fn put(&self) -> Ask<'_> {
        let Self { conversation, target, emoji, user, since, until } = self;
        Ask::new(REACTIONS, &[conversation, target, emoji, user, since, until])
    }
}
