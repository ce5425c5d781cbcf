//! `conversations`: the user's latest conversations. To find the latest, all memberships must be examined. That is done in
//! steps, each a separate read, so that a user with very many does not delay other users.

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Conversations, UserId};

use super::row::{ConversationAccess, MembershipRow};
use super::{LookupResult, Lookups, PageResult, Reader, ReaderRow};
use crate::Activity;
use crate::access;
use crate::record::{Answer, ConversationKey};
use crate::refusal::Refusal;

/// A list that is being made, between two steps.
#[derive(Debug, Clone)]
pub(crate) struct ListInProgress {
    reader: ReaderRow,
    /// The list has only conversations whose last activity is before this one.
    before: Activity,
    /// Memberships up to this conversation have been examined.
    after: ConversationKey,
    /// The latest of the examined conversations: at most one more than the list will have.
    latest: Vec<Activity>,
}

/// The result of a step.
#[derive(Debug)]
pub(crate) enum ListStep {
    /// There are more memberships to examine.
    Continue(ListInProgress),
    /// The list is complete.
    Done(OkBody<Box<RawValue>>),
}

/// Makes a list by repeating steps.
pub(crate) async fn list_in_steps(
    step: impl Fn(Option<ListInProgress>) -> Answer<ListStep>,
) -> Result<OkBody<Box<RawValue>>, Refusal> {
    let mut list = None;
    loop {
        match step(list).await? {
            ListStep::Continue(next) => list = Some(next),
            ListStep::Done(page) => return Ok(page),
        }
    }
}

impl<L: Lookups> Reader<'_, L> {
    /// Makes one step of `conversations`; the first step has no `list`.
    pub(crate) fn list(
        &self,
        user: &UserId,
        command: &Conversations,
        list: Option<&ListInProgress>,
    ) -> LookupResult<ListStep, L> {
        let limit = self.limits.page_size(command.limit) as usize;
        let Some(mut list) =
            list.map_or_else(|| self.start_list(user, command), |list| Ok(Some(list.clone())))?
        else {
            return Ok(ListStep::Done(OkBody::Conversations { conversations: Vec::new(), more: false }));
        };
        let rows = self.rows.memberships(list.reader.key, list.after, self.memberships_per_step)?;
        let below = list.before;
        let hidden = self.hidden_conversations(list.reader)?;
        let visible = rows.iter().filter_map(|row: &MembershipRow| row.visible_activity(&hidden));
        list.latest.extend(visible.filter(|activity| *activity < below));
        Activity::keep_latest(&mut list.latest, limit + 1);
        match rows.last().filter(|_| rows.len() >= self.memberships_per_step) {
            Some(last) => Ok(ListStep::Continue(ListInProgress { after: last.conversation, ..list })),
            None => self.finish_list(&list, limit),
        }
    }

    fn start_list(&self, user: &UserId, command: &Conversations) -> LookupResult<Option<ListInProgress>, L> {
        let Some(known) = self.rows.find_user(user)? else { return Ok(None) };
        let below = match &command.before {
            Some(name) => {
                let ConversationAccess { conversation, membership, .. } = self.find_access(user, name)?;
                let visible = access::check_visible(conversation.head, membership.as_ref())?;
                // For a former member, the conversation's activity is its time when they left, because they may not learn
                // of later events.
                let at = if visible == conversation.head {
                    conversation.at
                } else {
                    self.rows.time_of(conversation.key, visible)?
                };
                Activity { at, conversation: conversation.key }
            }
            None => Activity { at: i64::MAX, conversation: ConversationKey(i64::MAX) },
        };
        Ok(Some(ListInProgress {
            reader: known.reader(),
            before: below,
            after: ConversationKey::MIN,
            latest: Vec::new(),
        }))
    }

    fn finish_list(&self, list: &ListInProgress, limit: usize) -> LookupResult<ListStep, L> {
        let latest: Vec<_> = list.latest.iter().map(|latest| latest.conversation).collect();
        let page = self.summaries_of(list.reader, &latest, limit)?;
        let looked_at = list.latest.get(..limit).and_then(<[_]>::last);
        match looked_at {
            // No conversation of this page can be read, so the next page is tried.
            Some(last) if page.summaries.is_empty() && page.has_more => {
                Ok(ListStep::Continue(ListInProgress {
                    reader: list.reader,
                    before: *last,
                    after: ConversationKey::MIN,
                    latest: Vec::new(),
                }))
            }
            _ => Ok(ListStep::Done(OkBody::Conversations {
                conversations: page.summaries,
                more: page.has_more,
            })),
        }
    }

    /// Makes the whole list in one read, for callers that delay no other read.
    pub(super) fn conversations(&self, user: &UserId, command: &Conversations) -> PageResult<L> {
        let mut list = None;
        loop {
            match self.list(user, command, list.as_ref())? {
                ListStep::Continue(next) => list = Some(next),
                ListStep::Done(page) => return Ok(page),
            }
        }
    }
}
