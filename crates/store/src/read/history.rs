//! `history`: a page of messages with their edits and reactions applied, before an event or on both sides of one.

use std::ops::ControlFlow;

use switchboard_protocol::reply::{Message, OkBody, WithheldMessage};
use switchboard_protocol::{ErrorCode, EventKind, History, Limits, Seq, UserId};

use super::row::{ConversationAccess, WantedMessage};
use super::{LookupResult, Lookups, PageBudget, PageResult, Reader};
use crate::access;
use crate::block::{BlockList, View};
use crate::record::{Conversation, ConversationKey};
use crate::refusal::Refusal;

/// The messages before or after an event, the nearest first.
struct HistorySide {
    seqs: Vec<Seq>,
    /// Whether there are more messages beyond these, further from the event.
    has_more: bool,
}

impl HistorySide {
    const EMPTY: Self = Self { seqs: Vec::new(), has_more: false };

    /// Makes a page of at most `most` from a lookup of one message more, which tells whether there are more.
    fn from_seqs(mut seqs: Vec<Seq>, most: usize) -> Self {
        let has_more = seqs.len() > most;
        seqs.truncate(most);
        Self { seqs, has_more }
    }
}

impl<L: Lookups> Reader<'_, L> {
    /// Answers `history`.
    pub(crate) fn history(&self, user: &UserId, command: &History) -> PageResult<L> {
        let ConversationAccess { conversation, membership, reader } =
            self.find_access(user, &command.conversation.resolve(user))?;
        let visible = access::check_visible(conversation.head, membership.as_ref())?;
        let limit = self.limits.page_size(command.limit) as usize;
        let around = check_around(command, visible)?;
        let sides = match around {
            None => {
                let before = command.before.unwrap_or(Seq::MAX).min(visible.next());
                (self.earlier_messages(conversation.key, before, limit)?, HistorySide::EMPTY)
            }
            Some(around) => self.sides_of(&conversation, around, visible, limit)?,
        };
        let blocked = self.block_list(reader)?;
        self.page_of_messages(&blocked, conversation, visible, sides, around.is_some())
    }

    /// The messages on both sides of an event, for a moderator, who blocks no one, up to `visible`.
    pub(super) fn messages_around(
        &self,
        conversation: Conversation,
        visible: Seq,
        around: Seq,
    ) -> PageResult<L> {
        let around = check_place(around, visible)?;
        let limit = self.limits.page_size(None) as usize;
        let sides = self.sides_of(&conversation, around, visible, limit)?;
        self.page_of_messages(&BlockList::default(), conversation, visible, sides, true)
    }

    fn sides_of(
        &self,
        conversation: &Conversation,
        around: Seq,
        visible: Seq,
        limit: usize,
    ) -> LookupResult<(HistorySide, HistorySide), L> {
        let half = limit / 2;
        let later = self.later_messages(conversation.key, around, visible, limit - half)?;
        Ok((self.earlier_messages(conversation.key, around, half)?, later))
    }

    fn page_of_messages(
        &self,
        blocked: &BlockList,
        conversation: Conversation,
        visible: Seq,
        (mut earlier, mut later): (HistorySide, HistorySide),
        is_around: bool,
    ) -> PageResult<L> {
        let nearest_first = interleave(&later.seqs, &earlier.seqs);
        let wanted = nearest_first.iter().map(|target| WantedMessage {
            conversation: &conversation,
            target: *target,
            visible,
        });
        let mut room = PageBudget(self.limits.page_bytes as usize);
        let (mut messages, mut withheld, mut looked_at) = (Vec::new(), Vec::new(), 0);
        self.messages(&wanted.collect::<Vec<_>>(), blocked, |message| {
            if let Some((message, bytes)) = message {
                let view = blocked.view(EventKind::Message.as_str(), &message.from);
                let bytes = if view == View::Withheld { Limits::EVENT_OVERHEAD_BYTES } else { bytes };
                if !room.spend(bytes) {
                    return ControlFlow::Break(());
                }
                match view {
                    View::Whole => messages.push(message),
                    View::Withheld => withheld.push(withheld_message(message)),
                }
            }
            looked_at += 1;
            ControlFlow::Continue(())
        })?;
        for left_out in &nearest_first[looked_at..] {
            let side = if later.seqs.contains(left_out) { &mut later } else { &mut earlier };
            side.has_more = true;
        }
        messages.sort_unstable_by_key(|message| message.seq);
        withheld.sort_unstable_by_key(|message| message.seq);
        Ok(OkBody::History {
            conversation: conversation.name,
            messages,
            head: visible,
            more: earlier.has_more,
            more_after: is_around.then_some(later.has_more),
            withheld,
        })
    }

    /// At most `most` messages before an event.
    fn earlier_messages(
        &self,
        conversation: ConversationKey,
        before: Seq,
        most: usize,
    ) -> LookupResult<HistorySide, L> {
        Ok(HistorySide::from_seqs(self.rows.messages_before(conversation, before, most + 1)?, most))
    }

    /// At most `most` messages from an event on, including the event itself.
    fn later_messages(
        &self,
        conversation: ConversationKey,
        from: Seq,
        upto: Seq,
        most: usize,
    ) -> LookupResult<HistorySide, L> {
        Ok(HistorySide::from_seqs(self.rows.messages_from(conversation, from, upto, most + 1)?, most))
    }
}

/// What the page has in place of a message that its reader does not see.
fn withheld_message(message: Message) -> WithheldMessage {
    let Message { seq, from, at, .. } = message;
    WithheldMessage { seq, from, at }
}

/// The event in `around`, if the command has one; refuses an event that the user may not see.
fn check_around(command: &History, visible: Seq) -> Result<Option<Seq>, Refusal> {
    let Some(around) = command.around else { return Ok(None) };
    if command.before.is_some() {
        let message = "around: it stands in place of `before`; name one of the two";
        return Err(Refusal::bad_field("around", message));
    }
    check_place(around, visible).map(Some)
}

/// Refuses an event that the user may not see.
fn check_place(around: Seq, visible: Seq) -> Result<Seq, Refusal> {
    if around == Seq(0) {
        return Err(Refusal::bad_field("around", "around: the number of an event, which is 1 at least"));
    }
    if around > visible {
        let message = format!("around: the log ends at {visible}");
        return Err(Refusal { field: Some("around".into()), ..Refusal::new(ErrorCode::BadCursor, message) });
    }
    Ok(around)
}

/// Alternates between two lists. So if the page is full before the lists end, it has equally many messages of both.
fn interleave(one: &[Seq], other: &[Seq]) -> Vec<Seq> {
    let turns = (0..one.len().max(other.len())).flat_map(|n| [one.get(n), other.get(n)]);
    turns.flatten().copied().collect()
}
