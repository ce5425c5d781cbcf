//! Reads rows by name, all in one round trip.

use rustc_hash::FxHashSet;
use switchboard_protocol::{ConversationId, EventKind, Seq, UserId};
use tokio_postgres::Row;

use super::blocks::BlockQueries;
use super::profiles::SELECT_PROFILES;
use super::{LockMode, PostgresRows, bans};
use crate::ban::INSTALLATION;
use crate::change::dispatch::Prefetch;
use crate::change::rows::{KeyedMessage, ReferredEvent};
use crate::held::{HeldMessage, held_columns};
use crate::postgres::connect::{Error, Pipelined};
use crate::postgres::installation::Node;
use crate::postgres::query::row::{
    conversation_id, conversation_key, count, get, kind, maybe_seq, number, seq, time, user_id, user_key,
};
use crate::postgres::query::{profiles, reports};
use crate::profile::{ban_columns, join_bans};
use crate::record::{Conversation, ConversationKey, Membership, UserKey};
use crate::table::{columns, conversations, members};
use crate::{MessageCounts, Submission};

const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// The time-outs of a write that is written alone because its batch was too slow. They are short, because other writes
/// wait. The time-out for locks is shorter than the other, so that a lock held by another node is reported as such.
const SHORT_TIMEOUTS: &str =
    "SELECT set_config('statement_timeout', '3s', true), set_config('lock_timeout', '1s', true)";

/// Records the attempt in the writer's own row, as the first statement. The row stays locked until the transaction ends. A
/// trigger refuses a version below the installation's, and returns the installation's version.
const SET_ATTEMPT: &str = "INSERT INTO writers (id, batch, version, features) VALUES ($1, $2, $3, $4)
    ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = now(), version = excluded.version,
        features = excluded.features, installation = excluded.installation
    RETURNING installation";

/// Locks conversations in the order of their ids, so that two transactions cannot deadlock.
const SELECT_CONVERSATIONS: &str = concat!(
    "SELECT ",
    conversations!(columns),
    " FROM conversations c WHERE c.name = ANY($1::text[]) ORDER BY c.id FOR UPDATE"
);

/// Locks only conversations that no other transaction has locked.
const SELECT_UNLOCKED_CONVERSATIONS: &str = concat!(
    "SELECT ",
    conversations!(columns),
    " FROM conversations c WHERE c.name = ANY($1::text[]) ORDER BY c.id FOR UPDATE SKIP LOCKED"
);

const SELECT_CONVERSATION_NAMES: &str = "SELECT c.name FROM conversations c WHERE c.name = ANY($1::text[])";

/// Locks users, after the conversations and in the order of their ids.
const LOCK_USERS: &str = concat!(
    "SELECT u.id, u.name, ",
    ban_columns!(),
    ", b.shadow FROM users u",
    join_bans!(all),
    " WHERE u.name = ANY($1::text[]) ORDER BY u.id FOR UPDATE OF u"
);

/// No user has the number 0: a row with it says that an id is retired.
const SELECT_USERS: &str = concat!(
    "SELECT u.id, u.name, ",
    ban_columns!(),
    ", b.shadow FROM users u",
    join_bans!(all),
    " WHERE u.name = ANY($1::text[])
    UNION ALL SELECT 0, r.name, NULL, NULL, NULL FROM retired_ids r WHERE r.name = ANY($1::text[])"
);

/// The same for users whose rows are locked. The statement before returns those who exist.
const SELECT_RETIRED: &str = "SELECT 0::bigint, r.name, NULL::bigint, NULL::text, NULL::boolean FROM retired_ids r WHERE r.name = ANY($1::text[])";

const COUNT_ROOMS_BY_CHOICE: &str = r#"SELECT u.id, (
        SELECT count(*) FROM (SELECT 1 FROM rooms_by_choice r WHERE r."user" = u.id LIMIT $2) AS few
    ) FROM users u WHERE u.name = ANY($1::text[])"#;

// In the statements below, `OFFSET 0` is an optimisation fence that forces an index lookup by the whole key. Without
// statistics about a new table, the planner would read all members or all events of a room.

const SELECT_MEMBERS: &str = concat!(
    "SELECT c.id, u.id, ",
    members!(columns),
    r#" FROM unnest($1::text[], $2::text[]) AS w(conversation, name)
    JOIN conversations c ON c.name = w.conversation JOIN users u ON u.name = w.name
    CROSS JOIN LATERAL (SELECT * FROM members m WHERE m.conversation = c.id AND m."user" = u.id OFFSET 0) AS m"#
);

const SELECT_KEYED_EVENTS: &str = "SELECT e.sender, e.key, c.name, e.conversation, e.seq, e.at, e.body, r.request
    FROM unnest($1::text[], $2::text[]) AS w(name, key) JOIN users u ON u.name = w.name
    CROSS JOIN LATERAL (
        SELECT * FROM events e WHERE e.sender = u.id AND e.key = w.key AND e.key IS NOT NULL OFFSET 0
    ) AS e JOIN conversations c ON c.id = e.conversation
    LEFT JOIN LATERAL (
        SELECT r.request FROM replaced_requests r WHERE r.conversation = e.conversation AND r.seq = e.seq OFFSET 0
    ) AS r ON true";

/// The same for held messages, whose keys are taken before they are in the log.
const SELECT_KEYED_HELD: &str = concat!(
    "SELECT ",
    held_columns!(),
    r#" FROM unnest($1::text[], $2::text[]) AS w(name, key) JOIN users u ON u.name = w.name
    CROSS JOIN LATERAL (SELECT * FROM held h WHERE h."user" = u.id AND h.key = w.key OFFSET 0) AS h
    JOIN reports r ON r.id = h.report"#
);

const SELECT_EVENTS: &str = "SELECT e.conversation, e.seq, e.kind, e.sender, e.at, e.body
    FROM unnest($1::text[], $2::bigint[]) AS w(conversation, seq)
    JOIN conversations c ON c.name = w.conversation
    CROSS JOIN LATERAL (SELECT * FROM events e WHERE e.conversation = c.id AND e.seq = w.seq OFFSET 0) AS e";

/// MessageCounts the messages up to a cursor, and the member's own among them. Like `shorter_count_range` and `own_messages_upto`, it counts from
/// the end of the range that is nearer to the cursor. Returns no row if more than $5 events would have to be read.
const COUNT_TO_CURSORS: &str = r#"SELECT c.id, u.id, w.upto, t.messages,
        CASE WHEN s.from_head THEN greatest(m.sent - n.own, 0) ELSE m.read_sent + n.own END
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w(conversation, name, upto)
    JOIN conversations c ON c.name = w.conversation JOIN users u ON u.name = w.name
    CROSS JOIN LATERAL (
        SELECT m.read, m.sent, m.read_sent FROM members m WHERE m.conversation = c.id AND m."user" = u.id OFFSET 0
    ) AS m
    CROSS JOIN LATERAL (SELECT c.head - w.upto <= w.upto - m.read AS from_head,
        CASE WHEN c.head - w.upto <= w.upto - m.read THEN w.upto ELSE m.read END AS after,
        least(c.head - w.upto, w.upto - m.read) AS events OFFSET 0) AS s
    CROSS JOIN LATERAL (
        SELECT t.messages FROM events t WHERE t.conversation = c.id AND t.seq = w.upto AND s.events <= $5 OFFSET 0
    ) AS t
    CROSS JOIN LATERAL (
        SELECT count(*) AS own FROM events e WHERE e.conversation = c.id AND e.seq > s.after
        AND e.seq <= s.after + s.events AND e.sender = u.id AND e.kind = $4
    ) AS n
    WHERE w.upto > m.read AND s.events <= $5"#;

const SELECT_AMENDMENTS: &str = "SELECT a.conversation, a.target, a.seq
    FROM unnest($1::text[], $2::bigint[]) AS w(conversation, target)
    JOIN conversations c ON c.name = w.conversation
    CROSS JOIN LATERAL (
        SELECT * FROM amendments a WHERE a.conversation = c.id AND a.target = w.target OFFSET 0
    ) AS a ORDER BY a.seq";

/// Selects the latest state of a reaction, and the number of current reactions of its message. The comparison of texts
/// needs an explicit collation.
const SELECT_REACTIONS: &str = r#"SELECT c.id, w.target, w.emoji, u.id, l.since, l.until, (
        SELECT count(*) FROM reactions s WHERE s.conversation = c.id AND s.target = w.target AND s.until IS NULL
    ) FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) AS w(conversation, target, emoji, name)
    JOIN conversations c ON c.name = w.conversation JOIN users u ON u.name = w.name
    LEFT JOIN LATERAL (SELECT r.since, r.until FROM reactions r WHERE r.conversation = c.id
        AND r.target = w.target AND r.emoji = w.emoji AND r."user" = u.id ORDER BY r.since DESC LIMIT 1) AS l ON true"#;

pub(super) const STATEMENTS: [&str; 18] = [
    SELECT_RETIRED,
    SELECT_PROFILES,
    BEGIN_WRITE,
    SHORT_TIMEOUTS,
    SET_ATTEMPT,
    SELECT_CONVERSATIONS,
    SELECT_UNLOCKED_CONVERSATIONS,
    SELECT_CONVERSATION_NAMES,
    LOCK_USERS,
    SELECT_USERS,
    COUNT_ROOMS_BY_CHOICE,
    SELECT_MEMBERS,
    SELECT_KEYED_EVENTS,
    SELECT_KEYED_HELD,
    SELECT_EVENTS,
    COUNT_TO_CURSORS,
    SELECT_AMENDMENTS,
    SELECT_REACTIONS,
];

/// Which statement an answer belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) enum FetchedRows {
    Attempt,
    Conversations,
    Names,
    Users,
    Profiles,
    Choices,
    Members,
    Keyed,
    Held,
    Events,
    Cursors,
    Amendments,
    Reactions,
    Apart,
    Blocks,
}

/// Splits pairs of a conversation and a number into two arrays.
fn to_arrays(pairs: &FxHashSet<(ConversationId, Seq)>) -> (Vec<&str>, Vec<i64>) {
    pairs.iter().map(|(name, seq)| (name.as_str(), number(*seq))).unzip()
}

impl PostgresRows<'_> {
    /// Begins the transaction, locks and reads the rows that the batch will need, and records the `attempt` in the row of
    /// `node`, by which an unknown outcome is resolved. A `brief` transaction has short time-outs.
    pub(in crate::postgres) fn begin(
        &mut self,
        node: &Node,
        attempt: i64,
        mode: LockMode,
        brief: bool,
        batch: &[Submission],
    ) -> Result<(), Error> {
        node.id.clone_into(&mut self.writer_id);
        let mut begin = vec![(None, Pipelined::new(BEGIN_WRITE, &[]))];
        begin.extend(brief.then(|| (None, Pipelined::new(SHORT_TIMEOUTS, &[]))));
        let Node { id, version, features, .. } = node;
        begin.push((
            Some(FetchedRows::Attempt),
            Pipelined::new(SET_ATTEMPT, &[id, &attempt, version, features]),
        ));
        self.read(begin, mode, &Prefetch::for_batch(batch))
    }

    /// Reads rows that were not prefetched but are needed.
    pub(super) fn fetch(&mut self, wanted: &Prefetch) -> Result<(), Error> {
        self.read(Vec::new(), LockMode::Wait, wanted)
    }

    fn read<'q>(
        &mut self,
        begin: Vec<(Option<FetchedRows>, Pipelined<'q>)>,
        mode: LockMode,
        wanted: &'q Prefetch,
    ) -> Result<(), Error> {
        let conversations: Vec<_> = wanted.conversations.iter().map(ConversationId::as_str).collect();
        let locked: Vec<_> = wanted.users_to_lock.iter().map(UserId::as_str).collect();
        // Locking a user's row also reads it, so locked users need no other statement.
        let users: Vec<_> = wanted.users.difference(&wanted.users_to_lock).map(UserId::as_str).collect();
        let profiles: Vec<_> = wanted.profiles.iter().map(UserId::as_str).collect();
        let choosing: Vec<_> = wanted.users_with_room_limit.iter().map(UserId::as_str).collect();
        let (member_of, members): (Vec<_>, Vec<_>) =
            wanted.members.iter().map(|(name, user)| (name.as_str(), user.as_str())).unzip();
        let (senders, keys): (Vec<_>, Vec<_>) =
            wanted.message_keys.iter().map(|(user, key)| (user.as_str(), &**key)).unzip();
        let (events_of, events) = to_arrays(&wanted.events);
        let (amended_of, amended) = to_arrays(&wanted.amendments);
        let (cursors_of, (readers, uptos)): (Vec<_>, (Vec<_>, Vec<_>)) = (wanted.read_cursors.iter())
            .map(|((name, user), upto)| (name.as_str(), (user.as_str(), number(*upto))))
            .unzip();
        let ((reacted_of, reacted), (emojis, reactors)): ((Vec<_>, Vec<_>), (Vec<_>, Vec<_>)) =
            (wanted.reactions.iter())
                .map(|(name, at, emoji, user)| ((name.as_str(), number(*at)), (&**emoji, user.as_str())))
                .unzip();
        let (most, message) = (i64::from(self.max_rooms), i16::from(EventKind::Message.number()));
        let near = i64::try_from(self.near).unwrap_or(i64::MAX);
        let lock =
            if mode == LockMode::SkipLocked { SELECT_UNLOCKED_CONVERSATIONS } else { SELECT_CONVERSATIONS };
        let passes = mode == LockMode::SkipLocked && !conversations.is_empty();
        let parts = [
            (FetchedRows::Conversations, !conversations.is_empty(), Pipelined::new(lock, &[&conversations])),
            (FetchedRows::Names, passes, Pipelined::new(SELECT_CONVERSATION_NAMES, &[&conversations])),
            (FetchedRows::Users, !locked.is_empty(), Pipelined::new(LOCK_USERS, &[&locked])),
            (FetchedRows::Users, !locked.is_empty(), Pipelined::new(SELECT_RETIRED, &[&locked])),
            (FetchedRows::Users, !users.is_empty(), Pipelined::new(SELECT_USERS, &[&users])),
            (FetchedRows::Profiles, !profiles.is_empty(), Pipelined::new(SELECT_PROFILES, &[&profiles])),
            (
                FetchedRows::Choices,
                !choosing.is_empty() && most > 0,
                Pipelined::new(COUNT_ROOMS_BY_CHOICE, &[&choosing, &most]),
            ),
            (
                FetchedRows::Members,
                !members.is_empty(),
                Pipelined::new(SELECT_MEMBERS, &[&member_of, &members]),
            ),
            (FetchedRows::Keyed, !keys.is_empty(), Pipelined::new(SELECT_KEYED_EVENTS, &[&senders, &keys])),
            (FetchedRows::Held, !keys.is_empty(), Pipelined::new(SELECT_KEYED_HELD, &[&senders, &keys])),
            (FetchedRows::Events, !events.is_empty(), Pipelined::new(SELECT_EVENTS, &[&events_of, &events])),
            (
                FetchedRows::Cursors,
                !uptos.is_empty(),
                Pipelined::new(COUNT_TO_CURSORS, &[&cursors_of, &readers, &uptos, &message, &near]),
            ),
            (
                FetchedRows::Amendments,
                !amended.is_empty(),
                Pipelined::new(SELECT_AMENDMENTS, &[&amended_of, &amended]),
            ),
            (
                FetchedRows::Reactions,
                !reacted.is_empty(),
                Pipelined::new(SELECT_REACTIONS, &[&reacted_of, &reacted, &emojis, &reactors]),
            ),
        ];
        let blocks = BlockQueries::new(wanted, self.blocks.signal_room);
        let parts = parts.into_iter().chain(blocks.parts());
        let wanted_parts = parts.filter(|(_, is_wanted, _)| *is_wanted);
        self.run(begin.into_iter().chain(wanted_parts.map(|(about, _, ask)| (Some(about), ask))))?;
        self.record_absent(wanted);
        Ok(())
    }

    /// Runs statements together, and records the rows of those that have a kind of rows.
    fn run<'q>(
        &mut self,
        statements: impl Iterator<Item = (Option<FetchedRows>, Pipelined<'q>)>,
    ) -> Result<(), Error> {
        let (abouts, asks): (Vec<_>, Vec<_>) = statements.unzip();
        for (about, answer) in abouts.into_iter().zip(self.link.run_pipelined(&asks)?) {
            let rows = answer?;
            let Some(about) = about else { continue };
            for row in &rows {
                self.record_row(about, row)?;
            }
        }
        Ok(())
    }

    fn record_row(&mut self, about: FetchedRows, row: &Row) -> Result<(), Error> {
        match about {
            FetchedRows::Attempt => self.installation_version = get(row, 0)?,
            FetchedRows::Conversations => {
                let conversation = Conversation::from_postgres(row, 0)?;
                self.names.insert(conversation.key, conversation.name.clone());
                self.conversations.insert(conversation.name.clone(), Some(conversation));
            }
            FetchedRows::Names => {
                let name = conversation_id(row, 0)?;
                if !self.conversations.contains_key(&name) {
                    self.locked_elsewhere.insert(name);
                }
            }
            FetchedRows::Users => self.record_user(row)?,
            FetchedRows::Profiles => self.profiles.add_stored(user_key(row, 0)?, profiles::read(row, 1)?),
            FetchedRows::Choices => {
                let most = u32::try_from(count(row, 1)?).unwrap_or(u32::MAX);
                self.room_counts.insert(user_key(row, 0)?, most);
            }
            FetchedRows::Members => {
                let at = (conversation_key(row, 0)?, user_key(row, 1)?);
                self.members.insert(at, Some(Membership::from_postgres(row, 2)?));
            }
            FetchedRows::Keyed => {
                let keyed = KeyedMessage {
                    conversation: conversation_id(row, 2)?,
                    key: conversation_key(row, 3)?,
                    seq: seq(row, 4)?,
                    at: time(row, 5)?,
                    body: get(row, 6)?,
                    request: get::<Option<&[u8]>>(row, 7)?.and_then(|request| request.try_into().ok()),
                };
                self.keyed.insert((user_key(row, 0)?, get::<&str>(row, 1)?.into()), Some(keyed));
            }
            FetchedRows::Held => {
                let held = HeldMessage::from_row(&reports::read(row)?);
                self.held.insert((held.author, held.key.as_str().into()), Some(held));
            }
            FetchedRows::Events => {
                let event = ReferredEvent {
                    kind: kind(row, 2)?,
                    sender: user_key(row, 3)?,
                    at: time(row, 4)?,
                    body: get(row, 5)?,
                };
                self.events.insert((conversation_key(row, 0)?, seq(row, 1)?), Some(event));
            }
            FetchedRows::Cursors => {
                let at = (conversation_key(row, 0)?, user_key(row, 1)?, seq(row, 2)?);
                self.counts.insert(at, MessageCounts { messages: count(row, 3)?, sent: count(row, 4)? });
            }
            FetchedRows::Apart => self.blocks.add_apart(row)?,
            FetchedRows::Blocks => self.blocks.add_block(row)?,
            FetchedRows::Amendments => {
                let at = (conversation_key(row, 0)?, seq(row, 1)?);
                self.amendments.entry(at).or_default().push(seq(row, 2)?);
            }
            FetchedRows::Reactions => self.record_reaction(row)?,
        }
        Ok(())
    }

    fn record_user(&mut self, row: &Row) -> Result<(), Error> {
        let (key, name) = (user_key(row, 0)?, user_id(row, 1)?);
        if key == UserKey(0) {
            self.retired.insert(name, true);
            return Ok(());
        }
        self.bans.add_stored((INSTALLATION, key), bans::read(row, 2)?);
        self.user_names.insert(key, name.clone());
        self.users.insert(name, Some(key));
        Ok(())
    }

    fn record_reaction(&mut self, row: &Row) -> Result<(), Error> {
        let at = (conversation_key(row, 0)?, seq(row, 1)?);
        let (since, until) = (maybe_seq(row, 4)?, maybe_seq(row, 5)?);
        self.reactions.add_stored(
            (at.0, at.1, get::<&str>(row, 2)?.into(), user_key(row, 3)?),
            since.map(|since| (since, until)),
            count(row, 6)?,
        );
        Ok(())
    }

    /// Records that the rows which were requested and not found do not exist.
    fn record_absent(&mut self, wanted: &Prefetch) {
        for name in &wanted.conversations {
            if !self.locked_elsewhere.contains(name) {
                self.conversations.entry(name.clone()).or_insert(None);
            }
        }
        for name in wanted.users.iter().chain(&wanted.users_to_lock) {
            self.retired.entry(name.clone()).or_insert(false);
        }
        for name in wanted.users.iter().chain(&wanted.users_to_lock) {
            let key = *self.users.entry(name.clone()).or_insert(None);
            if let Some(key) = key.filter(|_| wanted.users_to_lock.contains(name)) {
                self.locked.insert(key);
            }
        }
        for name in &wanted.profiles {
            if let Some(user) = self.key_of_user(name) {
                self.profiles.add_absent(user);
            }
        }
        self.note_blocks_read(wanted);
        for (name, user) in &wanted.members {
            if let (Some(conversation), Some(user)) = (self.key_of(name), self.key_of_user(user)) {
                self.members.entry((conversation, user)).or_insert(None);
            }
        }
        for (user, key) in &wanted.message_keys {
            if let Some(user) = self.key_of_user(user) {
                self.keyed.entry((user, key.clone())).or_insert(None);
                self.held.entry((user, key.clone())).or_insert(None);
            }
        }
        for (name, seq) in &wanted.events {
            if let Some(conversation) = self.key_of(name) {
                self.events.entry((conversation, *seq)).or_insert(None);
            }
        }
        for (name, target) in &wanted.amendments {
            if let Some(conversation) = self.key_of(name) {
                self.amendments.entry((conversation, *target)).or_default();
            }
        }
    }

    /// The key of a conversation whose row has been read.
    fn key_of(&self, name: &ConversationId) -> Option<ConversationKey> {
        self.conversations.get(name)?.as_ref().map(|conversation| conversation.key)
    }

    fn key_of_user(&self, name: &UserId) -> Option<UserKey> {
        *self.users.get(name)?
    }
}
