//! Flushes the changed rows and the commit in one round trip.

use std::sync::LazyLock;

use switchboard_protocol::Seq;

use super::PostgresRows;
use crate::change::dispatch::Prefetch;
use crate::change::rows::PAST_REACTIONS;
use crate::postgres::connect::{Ask, Error};
use crate::postgres::query::row::number;
use crate::postgres::table::{self, conversation_rows, is_any, is_changed, member_rows, signed};
use crate::record::Conversation;
use crate::record::{ConversationKey, UserKey};
use crate::table::{AMENDMENTS, CONVERSATIONS, EVENTS, MEMBERS, REACTIONS, ROOMS_BY_CHOICE, quoted};

const COMMIT: &str = "COMMIT";

const ROLLBACK: &str = "ROLLBACK";

const PROBE: &str = "UPDATE writers SET probe = $2 WHERE id = $1";

const NEW_USERS: &str = "INSERT INTO users (id, name) SELECT * FROM unnest($1::bigint[], $2::text[])";

const SET_LAST_SEEN: &str = "UPDATE users u SET last_seen = greatest(coalesce(u.last_seen, 0), w.at)
    FROM unnest($1::bigint[], $2::bigint[]) AS w(id, at) WHERE u.id = w.id";

const SET_NOT_BEFORE: &str = "UPDATE users u
    SET not_before = CASE WHEN w.replace THEN w.at ELSE greatest(coalesce(u.not_before, 0), w.at) END
    FROM unnest($1::bigint[], $2::bigint[], $3::boolean[]) AS w(id, at, replace) WHERE u.id = w.id";

static NEW_CONVERSATIONS: LazyLock<String> = LazyLock::new(|| table::insert(&CONVERSATIONS));

static CHANGED_CONVERSATIONS: LazyLock<String> = LazyLock::new(|| table::update(&CONVERSATIONS));

static NEW_MEMBERS: LazyLock<String> = LazyLock::new(|| table::insert(&MEMBERS));

static CHANGED_MEMBERS: LazyLock<String> = LazyLock::new(|| table::update(&MEMBERS));

static NEW_EVENTS: LazyLock<String> = LazyLock::new(|| table::insert(&EVENTS));

static NEW_AMENDMENTS: LazyLock<String> = LazyLock::new(|| table::insert(&AMENDMENTS));

static NEW_REACTIONS: LazyLock<String> = LazyLock::new(|| {
    let key = quoted(REACTIONS.key());
    format!("{} ON CONFLICT ({key}) DO UPDATE SET until = excluded.until", table::insert(&REACTIONS))
});

static CHOSEN: LazyLock<String> =
    LazyLock::new(|| format!("{} ON CONFLICT DO NOTHING", table::insert(&ROOMS_BY_CHOICE)));

const ERASE_EVENTS: &str = "UPDATE events e SET body = w.body
    FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS w(conversation, seq, body)
    WHERE e.conversation = w.conversation AND e.seq = w.seq";

/// Trims the removed reactions of messages to [`PAST_REACTIONS`]. Deletes half of them at once, so that they are sorted
/// only now and then.
const DELETE_OLD_REACTIONS: &str = "DELETE FROM reactions r USING (
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

const DELETE_REACTIONS: &str =
    "DELETE FROM reactions r USING unnest($1::bigint[], $2::bigint[]) AS w(conversation, target)
    WHERE r.conversation = w.conversation AND r.target = w.target";

const LEFT: &str = r#"DELETE FROM rooms_by_choice r USING unnest($1::bigint[], $2::bigint[]) AS w("user", conversation)
    WHERE r."user" = w."user" AND r.conversation = w.conversation"#;

pub(super) fn statements() -> [&'static str; 18] {
    [
        PROBE,
        COMMIT,
        ROLLBACK,
        NEW_USERS,
        SET_LAST_SEEN,
        SET_NOT_BEFORE,
        &NEW_CONVERSATIONS,
        &CHANGED_CONVERSATIONS,
        &NEW_MEMBERS,
        &CHANGED_MEMBERS,
        &NEW_EVENTS,
        ERASE_EVENTS,
        &NEW_AMENDMENTS,
        &NEW_REACTIONS,
        DELETE_OLD_REACTIONS,
        DELETE_REACTIONS,
        &CHOSEN,
        LEFT,
    ]
}

/// Why a flush failed.
#[derive(Debug)]
pub(in crate::postgres) enum Unsaved {
    /// A statement before the commit failed, so nothing was saved.
    Undone(Error),
    /// The commit was sent, but no reliable answer came, so the outcome is unknown.
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
        let new = conversations(self.new_conversations.iter().filter_map(|name| self.row(name)));
        let old = self.dirty_conversations.iter().filter(|name| !self.new_conversations.contains(*name));
        let changed = conversations(old.filter_map(|name| self.row(name)));
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
        // All nodes write unlocked rows in the same order, which prevents deadlocks.
        let parts = [
            (users.len(), Ask::new(NEW_USERS, &[&users, &user_names])),
            (seen.len(), Ask::new(SET_LAST_SEEN, &[&seen, &seen_at])),
            (revoked.len(), Ask::new(SET_NOT_BEFORE, &[&revoked, &revoked_at, &replace])),
            (new.len(), Ask::new(&NEW_CONVERSATIONS, &new.of(is_any))),
            (changed.len(), Ask::new(&CHANGED_CONVERSATIONS, &changed.of(is_changed))),
            (joined.len(), Ask::new(&NEW_MEMBERS, &joined.of(is_any))),
            (moved.len(), Ask::new(&CHANGED_MEMBERS, &moved.of(is_changed))),
            (events.seq.len(), events.insert()),
            (erased.len(), Ask::new(ERASE_EVENTS, &[&erased_in, &erased, &bodies])),
            (amended.len(), Ask::new(&NEW_AMENDMENTS, &[&amended_in, &amended, &by])),
            (reactions.user.len(), reactions.put()),
            (taken.len(), Ask::new(DELETE_OLD_REACTIONS, &[&taken_in, &taken, &kept, &most])),
            (deleted.len(), Ask::new(DELETE_REACTIONS, &[&deleted_in, &deleted])),
            (chosen.len(), Ask::new(&CHOSEN, &[&choosers, &chosen])),
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

    fn members_to_write(&self, stored: bool) -> member_rows::Arrays<'_> {
        let rows = self.dirty_members.iter().filter(|(_, is_stored)| **is_stored == stored);
        let mut members = member_rows::Arrays::default();
        for (at, _) in rows {
            if let Some(Some(member)) = self.members.get(at) {
                members.push(&at.0, &at.1, member);
            }
        }
        members
    }

    fn choices_to_write(&self, chosen: bool) -> (Vec<i64>, Vec<i64>) {
        let rows = self.chosen.iter().filter(|(_, is_chosen)| **is_chosen == chosen);
        rows.map(|((user, conversation), _)| (user.0, conversation.0)).unzip()
    }

    /// The number of rooms that a user created or joined, including this transaction's changes.
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

    /// The rooms of a user that this transaction changes: `true` for each room created or joined, `false` for each room
    /// left.
    pub(super) fn choices_of(&self, user: UserKey) -> impl Iterator<Item = bool> {
        let all = (user, ConversationKey(i64::MIN))..=(user, ConversationKey(i64::MAX));
        self.chosen.range(all).map(|(_, chosen)| *chosen)
    }

    fn write_choices(&mut self) -> Result<(), Error> {
        let (choosers, chosen) = self.choices_to_write(true);
        let (leavers, left) = self.choices_to_write(false);
        let asks = [Ask::new(&CHOSEN, &[&choosers, &chosen]), Ask::new(LEFT, &[&leavers, &left])];
        self.link.all(&asks)?.into_iter().try_for_each(|answer| answer.map(drop))?;
        self.chosen.clear();
        self.choices.clear();
        Ok(())
    }
}

/// The conversations and numbers of messages as two arrays.
fn messages<'a>(messages: impl IntoIterator<Item = &'a (ConversationKey, Seq)>) -> (Vec<i64>, Vec<i64>) {
    messages.into_iter().map(|(conversation, seq)| (conversation.0, number(*seq))).unzip()
}

fn conversations<'a>(rows: impl Iterator<Item = &'a Conversation>) -> conversation_rows::Arrays<'a> {
    let mut all = conversation_rows::Arrays::default();
    rows.for_each(|row| all.push(row));
    all
}

/// Rows of events as one array per column, to pass to a statement with `unnest`.
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
        Ask::new(&NEW_EVENTS, &[conversation, seq, kind, sender, at, messages, key, body])
    }
}

/// Rows of reactions as one array per column, to pass to a statement with `unnest`.
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
        Ask::new(&NEW_REACTIONS, &[conversation, target, emoji, user, since, until])
    }
}
