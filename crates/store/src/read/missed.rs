//! What users have missed: messages that a user who is away has not read.

use std::collections::BTreeMap;

use switchboard_protocol::Seq;

use super::feed::{FeedLookups, Unpaged};
use super::{LookupResult, Reader};
use crate::absence::{MissedMessage, MissedPage, MissedQuery};
use crate::feed::Item;
use crate::record::ConversationKey;

/// The most entries of the feed that one page examines.
const MAX_EXAMINED: usize = 8_192;

/// The lookup that this needs besides those of the feed.
pub(crate) trait MissedLookups: FeedLookups {
    /// For each range the members who have not read its messages, with the last message of it that another user sent and that
    /// was neither deleted nor imported. A conversation with more than `most_members` members has none, and neither have users
    /// whose profile is not active, and users of whom the feed has said it in this absence. Messages of users whom the member blocks are
    /// left out; they count where more than `most_counted` messages come after the member's read cursor.
    fn missed_in(
        &self,
        ranges: &[MissedRange],
        most_members: u32,
        most_counted: u32,
    ) -> LookupResult<Vec<MissedMessage>, Self>;
}

/// The events of a conversation after `after` and up to `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MissedRange {
    pub(crate) conversation: ConversationKey,
    pub(crate) after: Seq,
    pub(crate) upto: Seq,
}

impl<L: MissedLookups> Reader<'_, L> {
    /// What was missed of the messages after a number of the feed that were stored before a time. `unpaged` is as for [`Self::feed`].
    pub(crate) fn missed(&self, query: &MissedQuery, unpaged: &Unpaged) -> LookupResult<MissedPage, L> {
        let ends = self.rows.feed_ends()?;
        let paged = ends.last;
        let last = paged.max(unpaged.paged + unpaged.items.len() as u64);
        let mut next = query.after.clamp(ends.before, last);
        let mut ranges = BTreeMap::<ConversationKey, (Seq, Seq)>::new();
        let (mut examined, mut more) = (0, true);
        while more && examined < MAX_EXAMINED && next < last {
            let (first, items) = self.feed_items(next, paged, unpaged)?;
            if items.is_empty() {
                break;
            }
            let old = self.count_old(first, &items, query)?;
            more = old == items.len();
            for (conversation, seq) in items.iter().take(old).copied().flatten() {
                let range = ranges.entry(conversation).or_insert((seq, seq));
                *range = (range.0.min(seq), range.1.max(seq));
            }
            examined += old;
            next = first - 1 + old as u64;
        }
        let range = |(conversation, (first, upto)): (ConversationKey, (Seq, Seq))| MissedRange {
            conversation,
            after: Seq(first.0.saturating_sub(1)),
            upto,
        };
        let ranges: Vec<_> = ranges.into_iter().map(range).collect();
        let messages = self.rows.missed_in(&ranges, query.most_members, self.limits.unread)?;
        Ok(MissedPage { next, more: more && next < last, messages })
    }

    /// How many of the items, from the first on, are old enough. Items are in the order of time but for the clocks of nodes.
    fn count_old(&self, first: u64, items: &[Item], query: &MissedQuery) -> LookupResult<usize, L> {
        let (mut old, mut young) = (0, items.len());
        // The last one is asked for first, because mostly all are old.
        let mut middle = young - 1;
        while old < young {
            let item = items.get(middle).copied().flatten();
            let number = first + middle as u64;
            let is_old = match item {
                Some(event) => {
                    let events = self.rows.feed_events(&[event])?;
                    events.iter().flatten().all(|fed| fed.event.at <= query.before)
                }
                None => {
                    let entries = self.rows.feed_entries(number - 1, number)?;
                    entries.values().all(|entry| entry.at <= query.before.as_millis())
                }
            };
            if is_old {
                old = middle + 1;
            } else {
                young = middle;
            }
            middle = usize::midpoint(old, young);
        }
        Ok(old)
    }
}
