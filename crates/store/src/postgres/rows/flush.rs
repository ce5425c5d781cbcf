//! Flushes the changed rows and the commit in one round trip.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use switchboard_protocol::Seq;

use super::PostgresRows;
use super::bans::{self, BanArrays};
use super::blocks::{self, BlockArrays};
use super::imports::{CATCH_UP, CaughtUpArrays};
use super::profiles::{self, ProfileArrays};
use crate::change::dispatch::Prefetch;
use crate::change::rows::{MAX_REMOVED_REACTIONS_KEPT, MAX_TRIMMED_ENTRIES, MAX_TRIMMED_PAGES};
use crate::feed::runs;
use crate::postgres::connect::{Error, Pipelined};
use crate::postgres::installation::FEED;
use crate::postgres::query::row::number;
use crate::postgres::table::{self, conversation_rows, is_any_column, is_changed, member_rows, to_signed};
use crate::record::Conversation;
use crate::record::{ConversationKey, UserKey};
use crate::table::{
    AMENDMENTS, CONVERSATIONS, EVENTS, MEMBERS, REACTIONS, REPLACED_REQUESTS, ROOMS_BY_CHOICE, quoted_names,
};

const COMMIT: &str = "COMMIT";

const ROLLBACK: &str = "ROLLBACK";

const UPDATE_PROBE: &str = "UPDATE writers SET probe = $2 WHERE id = $1";

const INSERT_USERS: &str = "INSERT INTO users (id, name) SELECT * FROM unnest($1::bigint[], $2::text[])";

const SET_LAST_SEEN: &str = "UPDATE users u SET last_seen = greatest(coalesce(u.last_seen, 0), w.at)
    FROM unnest($1::bigint[], $2::bigint[]) AS w(id, at) WHERE u.id = w.id";

const SET_NOT_BEFORE: &str = "UPDATE users u
    SET not_before = CASE WHEN w.replace THEN w.at ELSE greatest(coalesce(u.not_before, 0), w.at) END
    FROM unnest($1::bigint[], $2::bigint[], $3::boolean[]) AS w(id, at, replace) WHERE u.id = w.id";

const SET_KEYS_USED: &str = "UPDATE api_keys k SET used = greatest(coalesce(k.used, 0), w.at)
    FROM unnest($1::integer[], $2::bigint[]) AS w(number, at) WHERE k.number = w.number";

const INSERT_ENDED_ROOMS: &str = "INSERT INTO ended_rooms (conversation) SELECT unnest($1::bigint[])";

/// Tells the feed which events the transaction writes.
const FEED_EVENTS: &str = "INSERT INTO feed_pending (runs) VALUES ($1)";

/// Tells the feed of entries that are no events.
const FEED_ENTRIES: &str = r#"INSERT INTO feed_pending (type, at, "user", via, address, body)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::integer[], $5::text[], $6::text[])"#;

/// Removes the oldest pages up to the first that is kept, and never the last. It reads that one and those that it removes.
const TRIM_PAGES: &str = "DELETE FROM feed_pages WHERE first < coalesce(
    (SELECT o.first FROM (SELECT first, at FROM feed_pages ORDER BY first LIMIT $2) o WHERE o.at >= ANY ($1::bigint[]) LIMIT 1),
    (SELECT first FROM feed_pages ORDER BY first LIMIT 1 OFFSET $2),
    (SELECT max(first) FROM feed_pages))";

const TRIM_ENTRIES: &str = "DELETE FROM feed_entries WHERE number IN (SELECT number FROM feed_entries
    WHERE number < (SELECT min(first) FROM feed_pages) ORDER BY number LIMIT $1)";

static INSERT_CONVERSATIONS: LazyLock<String> = LazyLock::new(|| table::insert_sql(&CONVERSATIONS));

static UPDATE_CONVERSATIONS: LazyLock<String> = LazyLock::new(|| table::update_sql(&CONVERSATIONS));

static INSERT_MEMBERS: LazyLock<String> = LazyLock::new(|| table::insert_sql(&MEMBERS));

static UPDATE_MEMBERS: LazyLock<String> = LazyLock::new(|| table::update_sql(&MEMBERS));

static INSERT_EVENTS: LazyLock<String> = LazyLock::new(|| table::insert_sql(&EVENTS));

static INSERT_AMENDMENTS: LazyLock<String> = LazyLock::new(|| table::insert_sql(&AMENDMENTS));

static INSERT_REPLACED_REQUESTS: LazyLock<String> = LazyLock::new(|| table::insert_sql(&REPLACED_REQUESTS));

const DELETE_REPLACED_REQUESTS: &str =
    "DELETE FROM replaced_requests r USING unnest($1::bigint[], $2::bigint[]) AS w(conversation, seq)
    WHERE r.conversation = w.conversation AND r.seq = w.seq";

static UPSERT_REACTIONS: LazyLock<String> = LazyLock::new(|| {
    let key = quoted_names(REACTIONS.key());
    format!("{} ON CONFLICT ({key}) DO UPDATE SET until = excluded.until", table::insert_sql(&REACTIONS))
});

static INSERT_ROOMS_BY_CHOICE: LazyLock<String> =
    LazyLock::new(|| format!("{} ON CONFLICT DO NOTHING", table::insert_sql(&ROOMS_BY_CHOICE)));

const ERASE_EVENTS: &str = "UPDATE events e SET body = w.body
    FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS w(conversation, seq, body)
    WHERE e.conversation = w.conversation AND e.seq = w.seq";

/// Trims the removed reactions of messages to [`MAX_REMOVED_REACTIONS_KEPT`]. Deletes half of them at once, so that they are sorted
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

const DELETE_ROOMS_BY_CHOICE: &str = r#"DELETE FROM rooms_by_choice r USING unnest($1::bigint[], $2::bigint[]) AS w("user", conversation)
    WHERE r."user" = w."user" AND r.conversation = w.conversation"#;

pub(super) fn statements() -> impl Iterator<Item = &'static str> {
    let own: [&str; 27] = [
        CATCH_UP,
        UPDATE_PROBE,
        COMMIT,
        ROLLBACK,
        INSERT_USERS,
        SET_LAST_SEEN,
        SET_NOT_BEFORE,
        SET_KEYS_USED,
        INSERT_ENDED_ROOMS,
        FEED_EVENTS,
        FEED_ENTRIES,
        TRIM_PAGES,
        TRIM_ENTRIES,
        &INSERT_CONVERSATIONS,
        &UPDATE_CONVERSATIONS,
        &INSERT_MEMBERS,
        &UPDATE_MEMBERS,
        &INSERT_EVENTS,
        ERASE_EVENTS,
        &INSERT_AMENDMENTS,
        &INSERT_REPLACED_REQUESTS,
        DELETE_REPLACED_REQUESTS,
        &UPSERT_REACTIONS,
        DELETE_OLD_REACTIONS,
        DELETE_REACTIONS,
        &INSERT_ROOMS_BY_CHOICE,
        DELETE_ROOMS_BY_CHOICE,
    ];
    own.into_iter().chain(profiles::STATEMENTS).chain(bans::STATEMENTS).chain(blocks::STATEMENTS)
}

/// Why a flush failed.
#[derive(Debug)]
pub(in crate::postgres) enum SaveError {
    /// A statement before the commit failed, so nothing was saved.
    RolledBack(Error),
    /// The commit was sent, but no reliable answer came, so the outcome is unknown.
    Unknown(Error),
}

impl PostgresRows<'_> {
    /// Whether the transaction tells the feed what it writes.
    fn feeds(&self) -> bool {
        self.installation_version >= FEED
    }

    /// The conversations with new events.
    pub(in crate::postgres) fn changed_conversations(&self) -> Vec<ConversationKey> {
        let touched: BTreeSet<_> = self.new_events.iter().map(|event| event.conversation).collect();
        touched.into_iter().collect()
    }

    /// Rolls the transaction back.
    pub(in crate::postgres) fn roll_back(&self) -> Result<(), Error> {
        self.link
            .run_pipelined(&[Pipelined::new(ROLLBACK, &[])])?
            .into_iter()
            .try_for_each(|answer| answer.map(drop))
    }

    /// Flushes all changed rows and commits; rolls an abandoned transaction back.
    pub(in crate::postgres) fn save(&self) -> Result<(), SaveError> {
        if self.is_abandoned { self.roll_back().map_err(SaveError::RolledBack) } else { self.flush() }
    }

    fn flush(&self) -> Result<(), SaveError> {
        let users: Vec<_> = self.new_users.values().map(|key| key.0).collect();
        let user_names: Vec<_> = self.new_users.keys().map(switchboard_protocol::UserId::as_str).collect();
        let (seen, seen_at): (Vec<_>, Vec<_>) = self.last_seen.iter().map(|(key, at)| (key.0, *at)).unzip();
        let (revoked, (revoked_at, replace)): (Vec<_>, (Vec<_>, Vec<_>)) =
            self.not_before.iter().map(|(key, (at, replace))| (key.0, (*at, *replace))).unzip();
        let new =
            conversation_arrays(self.new_conversations.iter().filter_map(|name| self.conversation_row(name)));
        let (keys, keys_at): (Vec<_>, Vec<_>) = self.keys_used.iter().map(|(key, at)| (key.0, *at)).unzip();
        let profiles = ProfileArrays::from_profiles(&self.profiles);
        let (runs, entries) = (self.runs(), EntryArrays::from_rows(self));
        let blocks = BlockArrays::new(&self.blocks);
        let (caught, trims) = (CaughtUpArrays::new(&self.caught_up), &self.feed_trimmed);
        let (pages, others) = (i64::from(MAX_TRIMMED_PAGES), i64::from(MAX_TRIMMED_ENTRIES));
        let old = self.dirty_conversations.iter().filter(|name| !self.new_conversations.contains(*name));
        let changed = conversation_arrays(old.filter_map(|name| self.conversation_row(name)));
        let joined = self.members_to_write(false);
        let moved = self.members_to_write(true);
        let events = EventArrays::from_rows(self);
        let (erased, bodies): (Vec<_>, Vec<_>) =
            self.erased_bodies.iter().map(|(at, body)| (*at, &**body)).unzip();
        let (erased_in, erased) = to_arrays(&erased);
        let amendments = self.new_amendments.iter();
        let (amended, by): (Vec<_>, Vec<_>) =
            amendments.map(|(conversation, target, by)| ((*conversation, *target), number(*by))).unzip();
        let (amended_in, amended) = to_arrays(&amended);
        let (replaced, requests) = self.replaced_requests();
        let (replaced_in, replaced) = to_arrays(&replaced);
        let (dropped_in, dropped) = to_arrays(&self.deleted_requests);
        let reactions = ReactionArrays::from_rows(self);
        let (taken_in, taken) = to_arrays(self.reactions.messages_with_removals());
        let (deleted_in, deleted) = to_arrays(self.reactions.messages_to_clear());
        let (kept, most) = (to_signed(MAX_REMOVED_REACTIONS_KEPT / 2), to_signed(MAX_REMOVED_REACTIONS_KEPT));
        let (choosers, chosen) = self.choices_to_write(true);
        let (leavers, left) = self.choices_to_write(false);
        // All nodes write unlocked rows in the same order, which prevents deadlocks.
        let parts = [
            (users.len(), Pipelined::new(INSERT_USERS, &[&users, &user_names])),
            (seen.len(), Pipelined::new(SET_LAST_SEEN, &[&seen, &seen_at])),
            (revoked.len(), Pipelined::new(SET_NOT_BEFORE, &[&revoked, &revoked_at, &replace])),
            (profiles.user.len(), profiles.upsert()),
            (profiles.removed.1.len(), profiles.delete_words()),
            (profiles.added.1.len(), profiles.insert_words()),
            (new.len(), Pipelined::new(&INSERT_CONVERSATIONS, &new.wanted_arrays(is_any_column))),
            (changed.len(), Pipelined::new(&UPDATE_CONVERSATIONS, &changed.wanted_arrays(is_changed))),
            (joined.len(), Pipelined::new(&INSERT_MEMBERS, &joined.wanted_arrays(is_any_column))),
            (moved.len(), Pipelined::new(&UPDATE_MEMBERS, &moved.wanted_arrays(is_changed))),
            (caught.head.len(), caught.update()),
            (events.seq.len(), events.insert()),
            (erased.len(), Pipelined::new(ERASE_EVENTS, &[&erased_in, &erased, &bodies])),
            (amended.len(), Pipelined::new(&INSERT_AMENDMENTS, &[&amended_in, &amended, &by])),
            (
                requests.len(),
                Pipelined::new(&INSERT_REPLACED_REQUESTS, &[&replaced_in, &replaced, &requests]),
            ),
            (dropped.len(), Pipelined::new(DELETE_REPLACED_REQUESTS, &[&dropped_in, &dropped])),
            (reactions.user.len(), reactions.upsert()),
            (taken.len(), Pipelined::new(DELETE_OLD_REACTIONS, &[&taken_in, &taken, &kept, &most])),
            (deleted.len(), Pipelined::new(DELETE_REACTIONS, &[&deleted_in, &deleted])),
            (chosen.len(), Pipelined::new(&INSERT_ROOMS_BY_CHOICE, &[&choosers, &chosen])),
            (left.len(), Pipelined::new(DELETE_ROOMS_BY_CHOICE, &[&leavers, &left])),
            (self.ended_rooms.len(), Pipelined::new(INSERT_ENDED_ROOMS, &[&self.ended_rooms])),
            (keys.len(), Pipelined::new(SET_KEYS_USED, &[&keys, &keys_at])),
            (runs.len(), Pipelined::new(FEED_EVENTS, &[&runs])),
            (entries.kind.len(), entries.insert()),
            (trims.len(), Pipelined::new(TRIM_PAGES, &[trims, &pages])),
            (trims.len(), Pipelined::new(TRIM_ENTRIES, &[&others])),
            (self.probe.len(), Pipelined::new(UPDATE_PROBE, &[&self.writer_id, &self.probe])),
        ];
        let bans = BanArrays::from_bans(&self.bans);
        let commit = [(1, Pipelined::new(COMMIT, &[]))];
        self.send_statements(bans.statements().into_iter().chain(parts).chain(blocks.parts()).chain(commit))
    }

    /// Sends the statements that have rows; the last one is the commit.
    fn send_statements<'p>(
        &self,
        parts: impl Iterator<Item = (usize, Pipelined<'p>)>,
    ) -> Result<(), SaveError> {
        let asks: Vec<_> = parts.filter(|(rows, _)| *rows > 0).map(|(_, ask)| ask).collect();
        // Discards warnings from before this commit.
        let _ = self.link.take_warning();
        let mut answers = self.link.run_pipelined(&asks).map_err(SaveError::Unknown)?;
        let committed = answers.pop();
        for answer in answers {
            match answer {
                Ok(_) => {}
                // After an error in a transaction the commit has no effect.
                Err(error) if error.code().is_some() => return Err(SaveError::RolledBack(error)),
                Err(error) => return Err(SaveError::Unknown(error)),
            }
        }
        if let Some(Err(error)) = committed {
            return Err(SaveError::Unknown(error));
        }
        if self.link.take_warning() { Err(SaveError::Unknown(Error::StandbyUncertain)) } else { Ok(()) }
    }

    /// The events of this transaction as the feed stores them; empty while the feed is off.
    fn runs(&self) -> Vec<u8> {
        if !self.feeds() {
            return Vec::new();
        }
        let mut events: Vec<_> =
            self.new_events.iter().map(|event| (event.conversation, event.seq)).collect();
        events.sort_unstable();
        runs::encode(events.into_iter().map(Some))
    }

    /// The new messages whose content the application has replaced, with the digests of their requests.
    fn replaced_requests(&self) -> (Vec<(ConversationKey, Seq)>, Vec<&[u8]>) {
        let replaced = self.new_events.iter().filter_map(|event| {
            event.request.as_ref().map(|request| ((event.conversation, event.seq), request.as_slice()))
        });
        replaced.unzip()
    }

    fn conversation_row(&self, name: &switchboard_protocol::ConversationId) -> Option<&Conversation> {
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
        let rows = self.room_choices.iter().filter(|(_, is_chosen)| **is_chosen == chosen);
        rows.map(|((user, conversation), _)| (user.0, conversation.0)).unzip()
    }

    /// The number of rooms that a user created or joined, including this transaction's changes.
    pub(super) fn count_chosen_rooms(&mut self, user: UserKey) -> Result<u32, Error> {
        if self.choices_of(user).any(|chosen| !chosen) {
            // Only the database knows whether the rows to delete exist.
            self.write_choices()?;
        }
        if !self.room_counts.contains_key(&user) {
            let choosing = [self.name_of_user(user)?].into_iter().collect();
            self.fetch(&Prefetch { users_with_room_limit: choosing, ..Prefetch::default() })?;
        }
        let stored = self.room_counts.get(&user).copied().unwrap_or_default();
        let new = u32::try_from(self.choices_of(user).count()).unwrap_or(u32::MAX);
        Ok(stored.saturating_add(new))
    }

    /// The rooms of a user that this transaction changes: `true` for each room created or joined, `false` for each room
    /// left.
    pub(super) fn choices_of(&self, user: UserKey) -> impl Iterator<Item = bool> {
        let all = (user, ConversationKey(i64::MIN))..=(user, ConversationKey(i64::MAX));
        self.room_choices.range(all).map(|(_, chosen)| *chosen)
    }

    fn write_choices(&mut self) -> Result<(), Error> {
        let (choosers, chosen) = self.choices_to_write(true);
        let (leavers, left) = self.choices_to_write(false);
        let asks = [
            Pipelined::new(&INSERT_ROOMS_BY_CHOICE, &[&choosers, &chosen]),
            Pipelined::new(DELETE_ROOMS_BY_CHOICE, &[&leavers, &left]),
        ];
        self.link.run_pipelined(&asks)?.into_iter().try_for_each(|answer| answer.map(drop))?;
        self.room_choices.clear();
        self.room_counts.clear();
        Ok(())
    }
}

/// The conversations and numbers of messages as two arrays.
fn to_arrays<'a>(messages: impl IntoIterator<Item = &'a (ConversationKey, Seq)>) -> (Vec<i64>, Vec<i64>) {
    messages.into_iter().map(|(conversation, seq)| (conversation.0, number(*seq))).unzip()
}

fn conversation_arrays<'a>(rows: impl Iterator<Item = &'a Conversation>) -> conversation_rows::Arrays<'a> {
    let mut all = conversation_rows::Arrays::default();
    rows.for_each(|row| all.push(row));
    all
}

/// Rows of events as one array per column, to pass to a statement with `unnest`.
#[derive(Default)]
struct EventArrays<'a> {
    conversation: Vec<i64>,
    seq: Vec<i64>,
    kind: Vec<i16>,
    sender: Vec<i64>,
    at: Vec<i64>,
    messages: Vec<i64>,
    key: Vec<Option<&'a str>>,
    body: Vec<&'a str>,
    via: Vec<i32>,
}

impl<'a> EventArrays<'a> {
    fn from_rows(rows: &'a PostgresRows<'_>) -> Self {
        let mut all = Self::default();
        for event in &rows.new_events {
            all.conversation.push(event.conversation.0);
            all.seq.push(number(event.seq));
            all.kind.push(event.kind.number().into());
            all.sender.push(event.sender.0);
            all.at.push(event.at.as_millis());
            all.messages.push(to_signed(event.messages));
            all.key.push(event.key.as_deref());
            all.body.push(&event.body);
            all.via.push(event.via.0);
        }
        all
    }

    fn insert(&self) -> Pipelined<'_> {
        let Self { conversation, seq, kind, sender, at, messages, key, body, via } = self;
        Pipelined::new(&INSERT_EVENTS, &[conversation, seq, kind, sender, at, messages, key, body, via])
    }
}

/// Entries of the feed as one array per column, to pass to a statement with `unnest`.
#[derive(Default)]
struct EntryArrays<'a> {
    kind: Vec<&'a str>,
    at: Vec<i64>,
    user: Vec<Option<i64>>,
    via: Vec<i32>,
    address: Vec<Option<&'a str>>,
    body: Vec<&'a str>,
}

impl<'a> EntryArrays<'a> {
    fn from_rows(rows: &'a PostgresRows<'_>) -> Self {
        let mut all = Self::default();
        for entry in rows.entries.iter().filter(|_| rows.feeds()) {
            all.kind.push(&entry.kind);
            all.at.push(entry.at.as_millis());
            all.user.push(entry.user.map(|user| user.0));
            all.via.push(entry.via.0);
            all.address.push(entry.address.as_deref());
            all.body.push(&entry.body);
        }
        all
    }

    fn insert(&self) -> Pipelined<'_> {
        let Self { kind, at, user, via, address, body } = self;
        Pipelined::new(FEED_ENTRIES, &[kind, at, user, via, address, body])
    }
}

/// Rows of reactions as one array per column, to pass to a statement with `unnest`.
#[derive(Default)]
struct ReactionArrays<'a> {
    conversation: Vec<i64>,
    target: Vec<i64>,
    emoji: Vec<&'a str>,
    user: Vec<i64>,
    since: Vec<i64>,
    until: Vec<Option<i64>>,
}

impl<'a> ReactionArrays<'a> {
    fn from_rows(rows: &'a PostgresRows<'_>) -> Self {
        let mut all = Self::default();
        for (((conversation, target, emoji, user), since), until) in rows.reactions.rows_to_write() {
            all.conversation.push(conversation.0);
            all.target.push(number(*target));
            all.emoji.push(emoji);
            all.user.push(user.0);
            all.since.push(number(*since));
            all.until.push(until.map(number));
        }
        all
    }

    fn upsert(&self) -> Pipelined<'_> {
        let Self { conversation, target, emoji, user, since, until } = self;
        Pipelined::new(&UPSERT_REACTIONS, &[conversation, target, emoji, user, since, until])
    }
}
