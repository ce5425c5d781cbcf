//! Counts messages up to a cursor, one slice of the log in each read.

use switchboard_protocol::{ConversationId, Seq, UserId};

use super::{ConversationAccess, LookupResult, Lookups, Reader};
use crate::MessageCounts;
use crate::access;
use crate::change::{own_messages_upto, shorter_count_range};
use crate::record::{ConversationKey, Membership, UserKey};
use crate::refusal::Refusal;

/// The most events that one read may count: 2 ms if they are in memory, and a second if PostgreSQL reads each from a disk.
/// The queue serves other users before the next slice.
pub(crate) const EVENTS_PER_COUNT: u64 = 10_000;

/// The state of a count between two reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CountProgress {
    conversation: ConversationKey,
    user: UserKey,
    member: Membership,
    head: Seq,
    messages: u64,
    /// How many of the user's own messages have been found so far.
    own_messages: u64,
    /// The last event that was counted.
    after: Seq,
    /// The last event to count.
    end: Seq,
}

/// The result of one read of a count.
#[derive(Debug)]
pub(crate) enum CountStep {
    Done(MessageCounts),
    More(CountProgress),
}

impl<L: Lookups> Reader<'_, L> {
    /// Counts the messages up to an event, and the user's own among them. One call continues from `so_far` and reads at
    /// most [`EVENTS_PER_COUNT`] events. The reads of one count need not see the same snapshot, because the events up to
    /// the end do not change.
    pub(crate) fn count(
        &self,
        user: &UserId,
        name: &ConversationId,
        upto: Seq,
        so_far: Option<CountProgress>,
    ) -> LookupResult<CountStep, L> {
        let mut progress = match so_far {
            Some(progress) => progress,
            None => self.start_count(user, name, upto)?,
        };
        let CountProgress { conversation, user, member, head, messages, after, end, .. } = progress;
        let next = Seq(after.0.saturating_add(EVENTS_PER_COUNT)).min(end);
        if next > after {
            progress.own_messages += self.rows.count_sent(conversation, user, after, next)?;
        }
        progress.after = next;
        if next < end {
            return Ok(CountStep::More(progress));
        }
        Ok(CountStep::Done(MessageCounts {
            messages,
            sent: own_messages_upto(&member, head, upto, progress.own_messages),
        }))
    }

    fn start_count(&self, user: &UserId, name: &ConversationId, upto: Seq) -> LookupResult<CountProgress, L> {
        let ConversationAccess { conversation, membership, .. } = self.find_access(user, name)?;
        let member = *access::check_member(membership.as_ref())?;
        let known = self.rows.find_user(user)?.ok_or_else(Refusal::not_found)?;
        let (conversation, head) = (conversation.key, conversation.head);
        let messages = self.rows.count_messages(conversation, upto)?;
        let (after, end) = shorter_count_range(&member, head, upto);
        Ok(CountProgress {
            conversation,
            user: known.key,
            member,
            head,
            messages,
            own_messages: 0,
            after,
            end,
        })
    }
}
