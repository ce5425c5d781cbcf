//! Counting what is up to a cursor, a part of the log at a time.

use switchboard_protocol::{ConversationId, Seq, UserId};

use super::{Found, Lookups, Reader, View};
use crate::Counts;
use crate::access;
use crate::change::{nearer_end, sent_upto};
use crate::record::{ConversationKey, Membership, UserKey};
use crate::refusal::Refusal;

/// Events that one read may count: 2 ms if they are in memory, and a second if PostgreSQL reads each from a disk. The queue
/// serves other users before the next read goes on.
pub(crate) const EVENTS_PER_COUNT: u64 = 10_000;

/// How far counting has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    conversation: ConversationKey,
    user: UserKey,
    member: Membership,
    head: Seq,
    messages: u64,
    /// Own messages found so far.
    own: u64,
    /// The last event that was looked at.
    after: Seq,
    /// The last event to look at.
    end: Seq,
}

/// What one read has come to.
#[derive(Debug)]
pub(crate) enum Step {
    Done(Counts),
    More(Progress),
}

impl<L: Lookups> Reader<'_, L> {
    /// Counts the messages up to an event of a user's conversation and the user's own among them, for at most [`EVENTS_PER_COUNT`] events
    /// more than `so_far`. Reads of one count need not see the same snapshot, because no event before the end changes.
    pub(crate) fn count(
        &self,
        user: &UserId,
        name: &ConversationId,
        upto: Seq,
        so_far: Option<Progress>,
    ) -> Found<Step, L> {
        let mut progress = match so_far {
            Some(progress) => progress,
            None => self.begin_count(user, name, upto)?,
        };
        let Progress { conversation, user, member, head, messages, after, end, .. } = progress;
        let next = Seq(after.0.saturating_add(EVENTS_PER_COUNT)).min(end);
        if next > after {
            progress.own += self.rows.count_sent(conversation, user, after, next)?;
        }
        progress.after = next;
        if next < end {
            return Ok(Step::More(progress));
        }
        Ok(Step::Done(Counts { messages, sent: sent_upto(&member, head, upto, progress.own) }))
    }

    fn begin_count(&self, user: &UserId, name: &ConversationId, upto: Seq) -> Found<Progress, L> {
        let View { conversation, membership } = self.view(user, name)?;
        let member = *access::check_member(membership.as_ref())?;
        let known = self.rows.known(user)?.ok_or_else(Refusal::not_found)?;
        let (conversation, head) = (conversation.key, conversation.head);
        let messages = self.rows.count_messages(conversation, upto)?;
        let (after, end) = nearer_end(&member, head, upto);
        Ok(Progress { conversation, user: known.key, member, head, messages, own: 0, after, end })
    }
}
