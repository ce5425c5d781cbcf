//! Queries. Each answer comes from one snapshot, and each page is bounded in items and bytes. All stores share these rules;
//! a store itself only looks up rows.

mod blocks;
pub(super) mod counts;
pub(crate) mod feed;
mod fold;
mod history;
pub(super) mod list;
pub(crate) mod listing;
pub(crate) mod missed;
mod names;
mod people;
mod profiles;
mod reports;
pub(super) mod row;
pub(super) mod shared;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::value::RawValue;
use switchboard_protocol::reply::{OkBody, Unread};
use switchboard_protocol::{ConversationId, ErrorCode, Limits, Seq, Sync, Timestamp, UserId};

use self::blocks::visible_conversation;
pub(crate) use self::blocks::{BlockLookups, BlockRow, CountedRange, ReaderRow};
use self::row::{
    ConnectionStart, ConversationAccess, ListedConversation, MembershipRow, PresencePeerRow, StoredMessage,
    UserRow, WantedMessage,
};
use super::change::OperationError;
use super::{Activity, JoinedConversation, Memberships, Query, Snapshot, Summaries};
use crate::access;
use crate::ban::{END_OF_TIME_MS, Standing};
use crate::grant::KeyGrant;
use crate::profile::StoredProfile;
use crate::record::{ConversationKey, LogEvent, Membership, NewerKind, ReadEvent, UserKey};
use crate::refusal::Refusal;

/// The lookups that a store implements. All lookups on one value of the type run in one read transaction.
///
/// A remote store answers each lookup in a bounded number of round trips, for any number of rows; a local store reads
/// rows lazily. A damaged row is logged and skipped, so that it does not hide other rows. If the answer has a fixed
/// position for each row, a damaged row becomes `None`.
pub(super) trait Lookups: BlockLookups {
    /// Looks up a user by name.
    fn find_user(&self, user: &UserId) -> LookupResult<Option<UserRow>, Self>;

    /// Whether an id is never given again.
    fn is_retired(&self, user: &UserId) -> LookupResult<bool, Self>;

    /// A conversation as a user sees it; `None` if either does not exist.
    fn find_access(
        &self,
        user: &UserId,
        conversation: &ConversationId,
    ) -> LookupResult<Option<ConversationAccess>, Self>;

    /// A conversation as a user sees it, like [`Self::find_access`], looked up by keys.
    fn access_by_key(
        &self,
        user: UserKey,
        conversation: ConversationKey,
    ) -> LookupResult<Option<ConversationAccess>, Self>;

    /// The rows that a connection of a user starts from: the first `most` memberships, and the conversations in `named`.
    fn connection_start(
        &self,
        user: &UserId,
        named: &[ConversationId],
        most: usize,
    ) -> LookupResult<Option<ConnectionStart>, Self>;

    /// At most `most` memberships of a user in conversations with a key above `after`, in the order of the keys.
    fn memberships(
        &self,
        user: UserKey,
        after: ConversationKey,
        most: usize,
    ) -> LookupResult<Vec<row::MembershipRow>, Self>;

    /// The given conversations that the user is a member of, in the order given.
    fn listed_conversations(
        &self,
        user: UserKey,
        conversations: &[ConversationKey],
    ) -> LookupResult<Vec<ListedConversation>, Self>;

    /// When an event was stored, in milliseconds since the Unix epoch.
    fn time_of(&self, conversation: ConversationKey, seq: Seq) -> LookupResult<i64, Self>;

    /// Events of a conversation in a range, oldest first: at most `range.most`, and about `range.bytes`. An event that
    /// cannot be read is replaced by one of the kind `unreadable`. The bodies are in the stored form, and kinds of newer
    /// versions are numbers.
    fn events(
        &self,
        conversation: ConversationKey,
        name: &ConversationId,
        range: &LogRange,
        each: impl FnMut(LogEvent) -> ControlFlow<()>,
    ) -> LookupResult<(), Self>;

    /// The ids of users by their keys; users who do not exist are left out.
    fn user_names(&self, users: &[UserKey]) -> LookupResult<FxHashMap<UserKey, UserId>, Self>;

    /// Reads all rows of the table of kinds.
    fn kinds(&self) -> LookupResult<Vec<NewerKind>, Self>;

    /// The last `most` messages before an event, the latest first. The log has other events between them; an implementation
    /// must not read all of those.
    fn messages_before(
        &self,
        conversation: ConversationKey,
        before: Seq,
        most: usize,
    ) -> LookupResult<Vec<Seq>, Self>;

    /// The first `most` messages from the event `from` to `upto`, the earliest first. The log has other events between
    /// them; an implementation must not read all of those.
    fn messages_from(
        &self,
        conversation: ConversationKey,
        from: Seq,
        upto: Seq,
        most: usize,
    ) -> LookupResult<Vec<Seq>, Self>;

    /// How many messages of all senders there are up to an event.
    fn count_messages(&self, conversation: ConversationKey, upto: Seq) -> LookupResult<u64, Self>;

    /// How many messages of one sender there are after one event and up to another. It reads every event between.
    fn count_sent(
        &self,
        conversation: ConversationKey,
        sender: UserKey,
        after: Seq,
        upto: Seq,
    ) -> LookupResult<u64, Self>;

    /// Messages with their last edit and reactions, in the order requested; `None` for a message that does not exist. The
    /// lookup stops soon after the messages fill about `bytes`.
    fn messages(
        &self,
        wanted: &[WantedMessage<'_>],
        bytes: usize,
        each: impl FnMut(Option<StoredMessage>) -> ControlFlow<()>,
    ) -> LookupResult<(), Self>;

    /// At most `most` members of a conversation with a user key above `after`, in the order of the keys. An implementation
    /// reads only the rows that the caller consumes.
    fn members(
        &self,
        conversation: ConversationKey,
        after: UserKey,
        most: usize,
        each: impl FnMut(UserKey, Option<(UserId, Membership)>) -> ControlFlow<()>,
    ) -> LookupResult<(), Self>;

    /// The profiles of users; those without one are left out.
    fn profiles(&self, users: &[UserKey]) -> LookupResult<FxHashMap<UserKey, StoredProfile>, Self>;

    /// The users among `users` who have a profile, by name. Their `data` may be left out.
    fn named_people(&self, users: &[UserId]) -> LookupResult<Vec<NamedPerson>, Self>;

    /// Users with a word in the first range or an id in the second, but not those who are gone: at most `most` of each.
    /// A range includes its beginning and excludes its end.
    fn find_people(
        &self,
        words: (&str, &str),
        ids: (&str, &str),
        most: usize,
    ) -> LookupResult<Vec<PresencePeerRow>, Self>;

    /// The users among `users` who are known, in the order given.
    fn presence_peer_rows(&self, users: &[UserId]) -> LookupResult<Vec<PresencePeerRow>, Self>;

    /// Whether each of the conversations exists, in the order given.
    fn conversations_exist(&self, conversations: &[ConversationId]) -> LookupResult<Vec<bool>, Self>;

    /// Whether both users of each of these direct conversations have written, in the order given.
    fn are_mutual(&self, conversations: &[ConversationId]) -> LookupResult<Vec<bool>, Self>;

    /// How many rooms a user is in; counting stops at `most`.
    fn count_rooms(&self, user: UserKey, most: u32) -> LookupResult<u32, Self>;

    /// For each pair of users, whether the second is a member of one of the `most` oldest rooms of the first.
    fn share_a_room(&self, pairs: &[(UserKey, UserKey)], most: u32) -> LookupResult<Vec<bool>, Self>;

    /// The name of the API key with this hash, unless it was revoked.
    fn api_key(&self, hash: &[u8]) -> LookupResult<Option<KeyGrant>, Self>;
}

/// A user with their profile.
pub(super) type NamedPerson = (UserId, (UserKey, StoredProfile));

/// The result of a query.
pub(super) type LookupResult<T, L> = Result<T, OperationError<<L as BlockLookups>::Error>>;

type PageResult<L> = LookupResult<OkBody<Box<RawValue>>, L>;

/// A range of events.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogRange {
    /// The range begins after this event.
    pub(super) after: Seq,
    /// The range ends with this event.
    pub(super) upto: Seq,
    /// The most events to return.
    pub(super) most: u32,
    /// About the most bytes to return.
    pub(super) bytes: u32,
}

/// Answers queries within one read transaction, and leaves out what the user may not see. `L` reads the rows of the database.
pub(super) struct Reader<'a, L> {
    pub(super) rows: &'a L,
    pub(super) limits: &'a Limits,
    /// The number of the batch of this node whose commit began last.
    pub(super) mark: &'a AtomicU64,
    /// The most memberships of a user that one read examines.
    pub(super) memberships_per_step: usize,
    /// The time of the read.
    pub(super) now: Timestamp,
}

/// The most memberships of a user that one read may examine: some 5 ms. A user with more needs several reads, and the queue
/// serves other users between them.
pub(super) const MEMBERSHIPS_PER_READ: usize = 2_000;

/// The bytes left on a page. The first item always fits, so that a client always makes progress.
pub(super) struct PageBudget(pub(super) usize);

impl PageBudget {
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let fits = self.0 > 0;
        self.0 = self.0.saturating_sub(bytes);
        fits
    }
}

impl<L: Lookups> Reader<'_, L> {
    /// A conversation as a user sees it, unless it was deleted.
    fn find_access(&self, user: &UserId, name: &ConversationId) -> LookupResult<ConversationAccess, L> {
        let found = self.rows.find_access(user, name)?.filter(|found| !found.conversation.ended);
        Ok(found.ok_or_else(Refusal::not_found)?)
    }

    /// The conversations that a user is a member of, in the order given, without deleted rooms.
    fn listed_conversations(
        &self,
        user: UserKey,
        conversations: &[ConversationKey],
    ) -> LookupResult<Vec<ListedConversation>, L> {
        let mut listed = self.rows.listed_conversations(user, conversations)?;
        listed.retain(|listed| !listed.conversation.ended);
        Ok(listed)
    }

    /// Answers a command that reads a page.
    pub(super) fn answer(&self, user: &UserId, query: &Query) -> PageResult<L> {
        match query {
            Query::Sync(c) => self.sync(user, c),
            Query::History(c) => self.history(user, c),
            Query::Conversations(c) => self.conversations(user, c),
            Query::Members(c) => self.members(user, c),
            Query::Blocks(c) => self.blocks(user, c),
        }
    }

    /// Answers `sync`.
    fn sync(&self, user: &UserId, command: &Sync) -> PageResult<L> {
        let found = self.rows.find_access(user, &command.conversation.resolve(user))?;
        let ConversationAccess { conversation, membership, reader } = found.ok_or_else(Refusal::not_found)?;
        let (first, head) = access::check_readable(&conversation, membership.as_ref())?;
        if command.after > head {
            let message = format!("the log ends at {head}");
            return Err(Refusal::new(ErrorCode::BadCursor, message).into());
        }
        let after = command.after.max(first);
        let (most, bytes) = (self.limits.page_size(command.limit), self.limits.page_bytes);
        let range = LogRange { after, upto: head, most, bytes };
        let events = self.read_events(reader, &conversation, &range)?;
        let more = events.last().map_or(after, |read| read.event.seq) < head;
        let events = events.iter().map(to_raw).collect::<Result<_, Refusal>>()?;
        Ok(OkBody::Log { conversation: conversation.name, events, head, more })
    }

    /// A page of events.
    pub(super) fn events(
        &self,
        conversation: ConversationKey,
        name: &ConversationId,
        range: &LogRange,
    ) -> LookupResult<Vec<LogEvent>, L> {
        let mut room = PageBudget(range.bytes as usize);
        let mut events = Vec::new();
        self.rows.events(conversation, name, range, |event| {
            if !room.spend(event.max_json_bytes()) {
                return ControlFlow::Break(());
            }
            events.push(event);
            ControlFlow::Continue(())
        })?;
        self.fill_names(&mut events, range.bytes)?;
        Ok(events)
    }

    /// The snapshot that a connection starts from.
    pub(super) fn attach(
        &self,
        user: &UserId,
        named: &[ConversationId],
    ) -> LookupResult<Option<Snapshot>, L> {
        let Some(ConnectionStart { user, joined, named }) =
            self.rows.connection_start(user, named, self.memberships_per_step)?
        else {
            if self.rows.is_retired(user)? {
                return Err(Refusal::retired().into());
            }
            return Ok(None);
        };
        // The mark is read after the first query, because that query fixed the snapshot of this transaction.
        let mark = self.mark.load(Ordering::SeqCst);
        let (reader, UserRow { key, standing, .. }) = (user.reader(), user);
        let blocks = self.block_list(reader)?;
        let named = named.into_iter().map(|named| visible_conversation(named, &blocks)).collect();
        let hidden = self.hidden_conversations(reader)?;
        let memberships = self.page_from_rows(mark, ConversationKey::MIN, &joined, &hidden);
        let all = memberships.next.is_none();
        let latest: Vec<_> = memberships.latest.iter().map(|latest| latest.conversation).collect();
        let summaries = all.then(|| self.summaries(reader, &latest)).transpose()?;
        Ok(Some(Snapshot { mark, user: key, standing, blocks, memberships, named, summaries }))
    }

    /// The page of memberships after a conversation.
    pub(super) fn memberships(&self, user: UserKey, after: ConversationKey) -> LookupResult<Memberships, L> {
        let rows = self.rows.memberships(user, after, self.memberships_per_step)?;
        // The mark is read after the first query, as in `attach`.
        let mark = self.mark.load(Ordering::SeqCst);
        let hidden = self.rows.hidden_conversations(user)?;
        Ok(self.page_from_rows(mark, after, &rows, &hidden))
    }

    fn page_from_rows(
        &self,
        mark: u64,
        after: ConversationKey,
        rows: &[MembershipRow],
        hidden: &FxHashSet<ConversationKey>,
    ) -> Memberships {
        let next =
            rows.last().filter(|_| rows.len() >= self.memberships_per_step).map(|last| last.conversation);
        let heads = rows.iter().filter_map(|row| Some((row.conversation, row.last_event?.0)));
        let joined = heads.map(|(conversation, head)| JoinedConversation { conversation, head }).collect();
        let mut latest: Vec<_> = rows.iter().filter_map(|row| row.visible_activity(hidden)).collect();
        Activity::keep_latest(&mut latest, Activity::max_per_connection(self.limits));
        Memberships { mark, after, next, joined, latest }
    }

    /// Summaries of conversations that a user is a member of, in the order given, as many as fit on a page; and the user's
    /// unread messages in all the given conversations, up to [`Limits::MAX_UNREAD_CONVERSATIONS`].
    pub(super) fn summaries(&self, reader: ReaderRow, of: &[ConversationKey]) -> LookupResult<Summaries, L> {
        let limit = self.limits.page_size(None) as usize;
        let mut listed = self.listed_conversations(
            reader.key,
            first_conversations(of, limit.max(Limits::MAX_UNREAD_CONVERSATIONS)),
        )?;
        let counted = count_leading_rows(&listed, first_conversations(of, Limits::MAX_UNREAD_CONVERSATIONS));
        let mut blocked = self.count_blocked_unread(reader, &listed)?;
        let more = of.len() > Limits::MAX_UNREAD_CONVERSATIONS;
        let unread = fold::unread(&listed[..counted], &blocked[..counted], more);
        listed.truncate(count_leading_rows(&listed, first_conversations(of, limit)));
        blocked.truncate(listed.len());
        self.page_of_summaries(reader, (listed, blocked), unread, of.len() > limit)
    }

    /// Like [`Self::summaries`], without the count of unread messages.
    fn summaries_of(
        &self,
        reader: ReaderRow,
        of: &[ConversationKey],
        limit: usize,
    ) -> LookupResult<Summaries, L> {
        let listed = self.listed_conversations(reader.key, first_conversations(of, limit))?;
        let blocked = self.count_blocked_unread(reader, &listed)?;
        self.page_of_summaries(reader, (listed, blocked), Unread::default(), of.len() > limit)
    }

    /// `listed` comes with the unread messages by blocked users, which do not count.
    fn page_of_summaries(
        &self,
        reader: ReaderRow,
        (mut listed, blocked): (Vec<ListedConversation>, Vec<u64>),
        unread: Unread,
        mut more: bool,
    ) -> LookupResult<Summaries, L> {
        // The mark is read after the first query, as in `attach`.
        let mark = self.mark.load(Ordering::SeqCst);
        let targets = self.last_visible_messages(reader, &listed)?;
        let wanted: Vec<_> = listed
            .iter()
            .zip(targets)
            .map(|(listed, target)| WantedMessage::in_whole_log(&listed.conversation, target))
            .collect();
        let hidden = self.block_list(reader)?;
        let mut room = PageBudget(self.limits.page_bytes as usize);
        let mut last = Vec::with_capacity(listed.len());
        self.messages(&wanted, &hidden, |message| {
            let (message, bytes) = message.unzip();
            let conversation = &listed[last.len()].conversation;
            if !room.spend(bytes.unwrap_or(0) + fold::most_bytes_of_summary(conversation)) {
                more = true;
                return ControlFlow::Break(());
            }
            last.push(message);
            ControlFlow::Continue(())
        })?;
        let joined = listed.iter().take(last.len()).map(|ListedConversation { conversation, .. }| {
            JoinedConversation { conversation: conversation.key, head: conversation.head }
        });
        let joined = joined.collect();
        listed.truncate(last.len());
        let mut others = self.direct_peers_of(reader.key, &listed)?;
        let summaries = listed.into_iter().zip(blocked).zip(last).map(|((listed, blocked), last)| {
            let with = others.remove(&listed.conversation.name);
            fold::summary(listed, (blocked, self.now), with, last)
        });
        Ok(Summaries { mark, summaries: summaries.collect(), joined, has_more: more, unread })
    }

    /// A page of the log for a connection that lags.
    pub(super) fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> LookupResult<Vec<ReadEvent>, L> {
        let Some(ConversationAccess { conversation, membership, reader }) =
            self.rows.access_by_key(user, conversation)?
        else {
            return Ok(Vec::new());
        };
        let (first, visible) = match access::check_readable(&conversation, membership.as_ref()) {
            // Nothing is left of what a user has seen who had left a deleted room.
            Err(_) if conversation.ended => return Ok(Vec::new()),
            readable => readable?,
        };
        let bytes = self.limits.page_bytes.min(self.limits.queue / Limits::QUEUE_TO_REPLAY_PAGE_RATIO);
        let (after, upto) = (after.max(first), upto.min(visible));
        let range = LogRange { after, upto, most: self.limits.page, bytes };
        if conversation.name.peers().is_some() && self.block_list(reader)?.hides(&conversation.name) {
            return Ok(Vec::new());
        }
        self.read_events(reader, &conversation, &range)
    }

    /// Whether the user's tokens are revoked, and whether the user is banned.
    pub(super) fn standing(&self, user: &UserId) -> LookupResult<Standing, L> {
        if let Some(known) = self.rows.find_user(user)? {
            return Ok(known.standing);
        }
        let not_before = self.rows.is_retired(user)?.then(|| Timestamp::from_millis(END_OF_TIME_MS));
        Ok(Standing { not_before, ban: None })
    }

    /// The name of the API key with this hash.
    pub(super) fn api_key(&self, hash: &[u8]) -> LookupResult<Option<KeyGrant>, L> {
        self.rows.api_key(hash)
    }
}

/// The first `most` conversations of a list, or all if there are fewer.
fn first_conversations(of: &[ConversationKey], most: usize) -> &[ConversationKey] {
    of.get(..most).unwrap_or(of)
}

/// How many rows at the beginning of `listed` belong to conversations in `of`. Both have the same order, but rows may be
/// missing.
fn count_leading_rows(listed: &[ListedConversation], of: &[ConversationKey]) -> usize {
    let mut of = of.iter();
    listed.iter().take_while(|listed| of.any(|key| *key == listed.conversation.key)).count()
}

/// The event's frame for a page, as its reader sees it. An event without a JSON form should have been replaced when its row was read, so it is a
/// bug, and the page is refused.
fn to_raw(ReadEvent { event, view }: &ReadEvent) -> Result<Box<RawValue>, Refusal> {
    event.to_raw_for(*view).map_err(|error| {
        tracing::error!(conversation = %event.conversation, seq = %event.seq, %error, "an event has no JSON form");
        Refusal::unavailable()
    })
}
