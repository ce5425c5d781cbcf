//! Whom a user blocks, for reads: what a reader sees, and what of others is not counted.

use rustc_hash::FxHashSet;
use switchboard_protocol::reply::{Block, OkBody};
use switchboard_protocol::{Blocks, PersonName, Seq, Timestamp, UserId};

use super::fold::json_bytes;
use super::row::{ConversationAccess, ListedConversation, NamedConversation};
use super::{LogRange, LookupResult, Lookups, PageBudget, PageResult, Reader};
use crate::access;
use crate::block::BlockList;
use crate::change::{OperationError, StoreError};
use crate::record::{Conversation, ConversationKey, ReadEvent, UserKey};
use crate::refusal::Refusal;
use crate::{Summaries, VisibleConversation};

/// A key below that of every user.
const BEFORE_FIRST_USER: UserKey = UserKey(0);

/// More than a user can block: a limit that was lowered later must not show whom the user has blocked before.
const ALL_BLOCKED: usize = 1_000_000;

/// The newest messages of a conversation among which a summary looks for one that its reader may see.
const MAX_LATEST_MESSAGES: usize = 50;

/// The most events after a read cursor that are counted one by one. Beyond, the messages among them are searched for.
const MAX_SCANNED_EVENTS: u64 = 5_000;

/// A user, and how often the list of users whom they block has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReaderRow {
    pub(crate) key: UserKey,
    pub(crate) block_changes: u64,
}

/// A row of a user's list of blocks.
#[derive(Debug, Clone)]
pub(crate) struct BlockRow {
    pub(crate) key: UserKey,
    pub(crate) name: UserId,
    pub(crate) at: Timestamp,
}

/// Events of a conversation: those after `after`, up to `upto`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CountedRange {
    pub(crate) conversation: ConversationKey,
    pub(crate) after: Seq,
    pub(crate) upto: Seq,
}

impl CountedRange {
    /// The range of one event.
    fn of(conversation: ConversationKey, seq: Seq) -> Self {
        Self { conversation, after: Seq(seq.0.saturating_sub(1)), upto: seq }
    }
}

/// The lookups of who blocks whom.
pub(crate) trait BlockLookups {
    /// An error of the store.
    type Error: StoreError;

    /// At most `most` users whom a user blocks, with a key above `after`, in the order of the keys.
    fn blocked_after(
        &self,
        user: UserKey,
        after: UserKey,
        most: usize,
    ) -> Result<Vec<BlockRow>, OperationError<Self::Error>>;

    /// The users among `others` who block a user or whom the user blocks.
    fn either_blocks(
        &self,
        user: UserKey,
        others: &[UserKey],
    ) -> Result<FxHashSet<UserKey>, OperationError<Self::Error>>;

    /// The members of a conversation who block a user or whom the user blocks.
    fn members_apart(
        &self,
        conversation: ConversationKey,
        user: UserKey,
    ) -> Result<Vec<UserId>, OperationError<Self::Error>>;

    /// For each range, how many of its messages are by users whom a user blocks, in the order given.
    fn count_blocked(
        &self,
        user: UserKey,
        ranges: &[CountedRange],
    ) -> Result<Vec<u64>, OperationError<Self::Error>>;

    /// The direct conversations of a user with those whom the user blocks.
    fn hidden_conversations(
        &self,
        user: UserKey,
    ) -> Result<FxHashSet<ConversationKey>, OperationError<Self::Error>>;

    /// How often the list of a user has changed.
    fn block_changes(&self, user: UserKey) -> Result<u64, OperationError<Self::Error>>;
}

impl<L: Lookups> Reader<'_, L> {
    /// The users whom a user blocks. For a user who has never blocked anyone no query is made.
    pub(crate) fn block_list(&self, reader: ReaderRow) -> LookupResult<BlockList, L> {
        let ReaderRow { key, block_changes: version } = reader;
        if version == 0 {
            return Ok(BlockList::default());
        }
        let rows = self.rows.blocked_after(key, BEFORE_FIRST_USER, ALL_BLOCKED)?;
        Ok(BlockList { version, users: rows.into_iter().map(|row| row.name).collect() })
    }

    /// A page of events as a reader sees them.
    pub(super) fn read_events(
        &self,
        reader: ReaderRow,
        conversation: &Conversation,
        range: &LogRange,
    ) -> LookupResult<Vec<ReadEvent>, L> {
        let events = self.events(conversation.key, &conversation.name, range)?;
        let blocked = self.block_list(reader)?;
        let seen = events.into_iter().map(|event| {
            let view = blocked.view(event.kind.as_str(), &event.from);
            ReadEvent { event, view }
        });
        Ok(seen.collect())
    }

    /// The direct conversations that a user does not see in lists.
    pub(super) fn hidden_conversations(
        &self,
        reader: ReaderRow,
    ) -> LookupResult<FxHashSet<ConversationKey>, L> {
        if reader.block_changes == 0 {
            return Ok(FxHashSet::default());
        }
        self.rows.hidden_conversations(reader.key)
    }

    /// The reader with this key.
    pub(super) fn reader(&self, key: UserKey) -> LookupResult<ReaderRow, L> {
        Ok(ReaderRow { key, block_changes: self.rows.block_changes(key)? })
    }

    /// For each conversation, how many messages after the member's read cursor are by users whom the member blocks. 0 where more than
    /// `limits.unread` messages come after the cursor.
    pub(crate) fn count_blocked_unread(
        &self,
        reader: ReaderRow,
        listed: &[ListedConversation],
    ) -> LookupResult<Vec<u64>, L> {
        let mut counts = vec![0; listed.len()];
        if reader.block_changes == 0 {
            return Ok(counts);
        }
        let (mut places, mut ranges) = (Vec::new(), Vec::new());
        for (place, ListedConversation { conversation, member }) in listed.iter().enumerate() {
            let behind = conversation.messages.saturating_sub(member.read_messages);
            if member.unread(conversation.messages) == 0 || behind > u64::from(self.limits.unread) {
                continue;
            }
            let (key, after, upto) = (conversation.key, member.read, conversation.head);
            if upto.0.saturating_sub(after.0) <= MAX_SCANNED_EVENTS {
                places.push(place);
                ranges.push(CountedRange { conversation: key, after, upto });
                continue;
            }
            let most = usize::try_from(behind).unwrap_or(usize::MAX);
            for seq in self.rows.messages_from(key, after.next(), upto, most)? {
                places.push(place);
                ranges.push(CountedRange::of(key, seq));
            }
        }
        if !ranges.is_empty() {
            for (place, blocked) in places.into_iter().zip(self.rows.count_blocked(reader.key, &ranges)?) {
                counts[place] += blocked;
            }
        }
        Ok(counts)
    }

    /// For each conversation the newest message that the reader may see, of the latest [`MAX_LATEST_MESSAGES`]; 0 if there is none.
    pub(super) fn last_visible_messages(
        &self,
        reader: ReaderRow,
        listed: &[ListedConversation],
    ) -> LookupResult<Vec<Seq>, L> {
        let mut last: Vec<_> = listed.iter().map(|listed| listed.conversation.last_message).collect();
        if reader.block_changes == 0 {
            return Ok(last);
        }
        let key = |place: usize| listed[place].conversation.key;
        let ranges: Vec<_> =
            last.iter().enumerate().map(|(place, seq)| CountedRange::of(key(place), *seq)).collect();
        let mut earlier = Vec::new();
        for (place, blocked) in self.rows.count_blocked(reader.key, &ranges)?.into_iter().enumerate() {
            if blocked > 0 {
                let before = std::mem::take(&mut last[place]);
                let seqs = self.rows.messages_before(key(place), before, MAX_LATEST_MESSAGES - 1)?;
                earlier.extend(seqs.into_iter().map(|seq| (place, seq)));
            }
        }
        if earlier.is_empty() {
            return Ok(last);
        }
        let ranges: Vec<_> = earlier.iter().map(|(place, seq)| CountedRange::of(key(*place), *seq)).collect();
        let counts = self.rows.count_blocked(reader.key, &ranges)?;
        for ((place, seq), _) in earlier.into_iter().zip(counts).filter(|(_, blocked)| *blocked == 0) {
            last[place] = last[place].max(seq);
        }
        Ok(last)
    }

    /// [`Self::summaries`] for a reader with this key.
    pub(crate) fn summaries_for(&self, key: UserKey, of: &[ConversationKey]) -> LookupResult<Summaries, L> {
        self.summaries(self.reader(key)?, of)
    }

    /// Answers `blocks`.
    pub(super) fn blocks(&self, user: &UserId, command: &Blocks) -> PageResult<L> {
        let Some(own) = self.rows.find_user(user)? else {
            return Ok(OkBody::Blocks { blocks: Vec::new(), more: false });
        };
        let after = match &command.after {
            None => BEFORE_FIRST_USER,
            Some(after) => {
                let known = self.rows.find_user(after)?;
                known.ok_or_else(|| Refusal::bad_field("after", "after: name the last user of a page"))?.key
            }
        };
        let limit = self.limits.page_size(command.limit) as usize;
        let mut rows = self.rows.blocked_after(own.key, after, limit + 1)?;
        let mut more = rows.len() > limit;
        rows.truncate(limit);
        let keys: Vec<_> = rows.iter().map(|row| row.key).collect();
        let profiles = self.rows.profiles(&keys)?;
        let mut room = PageBudget(self.limits.page_bytes as usize);
        let mut blocks = Vec::with_capacity(rows.len());
        for BlockRow { key, name: user, at } in rows {
            let name = profiles.get(&key).and_then(|profile| profile.name.clone());
            let block = Block { user, name: name.and_then(|name| PersonName::parse(name).ok()), at };
            if !room.spend(json_bytes(&block)) {
                more = true;
                break;
            }
            blocks.push(block);
        }
        Ok(OkBody::Blocks { blocks, more })
    }

    /// The lists of those among `asked` whose list has changed since a version, or whom `asked` says to read in any case (version 0).
    pub(crate) fn changed_blocks(
        &self,
        asked: &[(UserId, u64)],
    ) -> LookupResult<Vec<(UserId, BlockList)>, L> {
        let mut changed = Vec::new();
        for (user, version) in asked {
            let Some(own) = self.rows.find_user(user)? else { continue };
            let reader = own.reader();
            if reader.block_changes > *version {
                changed.push((user.clone(), self.block_list(reader)?));
            }
        }
        Ok(changed)
    }
}

/// What a connection with a cursor in a conversation may see of it. A conversation that cannot be read is refused as
/// `unavailable`, and does not affect the others.
pub(super) fn visible_conversation(
    named: NamedConversation,
    blocks: &BlockList,
) -> Result<VisibleConversation, Refusal> {
    let ConversationAccess { conversation, membership, .. } = match named {
        NamedConversation::Found(view) => *view,
        NamedConversation::NotFound => return Err(Refusal::not_found()),
        NamedConversation::Damaged => return Err(Refusal::unavailable()),
    };
    let is_member = !conversation.ended && membership.is_some_and(|m| m.until.is_none());
    let (first, head) = access::check_readable(&conversation, membership.as_ref())?;
    let is_hidden = blocks.hides(&conversation.name);
    Ok(VisibleConversation { conversation: conversation.key, first, head, is_member, is_hidden })
}
