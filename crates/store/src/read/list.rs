//! `conversations`: the user's latest conversations. To find the latest, all memberships must be examined. That is done in
//! steps, each a separate read, so that a user with very many does not delay other users.

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Conversations, UserId};

use super::row::{Membered, View};
use super::{Found, Lookups, Page, Reader};
use crate::Activity;
use crate::access;
use crate::record::{Answer, ConversationKey, UserKey};
use crate::refusal::Refusal;

/// A list that is being made, between two steps.
#[derive(Debug, Clone)]
pub(crate) struct List {
    user: UserKey,
    /// The list has only conversations whose last activity is before this one.
    below: Activity,
    /// Memberships up to this conversation have been examined.
    after: ConversationKey,
    /// The latest of the examined conversations: at most one more than the list will have.
    latest: Vec<Activity>,
}

/// The result of a step.
#[derive(Debug)]
pub(crate) enum Step {
    /// There are more memberships to examine.
    On(List),
    /// The list is complete.
    Done(OkBody<Box<RawValue>>),
}

/// Makes a list by repeating steps.
pub(crate) async fn make(
    step: impl Fn(Option<List>) -> Answer<Step>,
) -> Result<OkBody<Box<RawValue>>, Refusal> {
    let mut list = None;
    loop {
        match step(list).await? {
            Step::On(next) => list = Some(next),
            Step::Done(page) => return Ok(page),
        }
    }
}

impl<L: Lookups> Reader<'_, L> {
    /// Makes one step of `conversations`; the first step has no `list`.
    pub(crate) fn list(&self, user: &UserId, command: &Conversations, list: Option<&List>) -> Found<Step, L> {
        let limit = self.limits.page_size(command.limit) as usize;
        let Some(mut list) =
            list.map_or_else(|| self.begin_list(user, command), |list| Ok(Some(list.clone())))?
        else {
            return Ok(Step::Done(OkBody::Conversations { conversations: Vec::new(), more: false }));
        };
        let rows = self.rows.memberships(list.user, list.after, self.step)?;
        let below = list.below;
        list.latest.extend(rows.iter().filter_map(Membered::activity).filter(|activity| *activity < below));
        Activity::keep_latest(&mut list.latest, limit + 1);
        match rows.last().filter(|_| rows.len() >= self.step) {
            Some(last) => Ok(Step::On(List { after: last.conversation, ..list })),
            None => self.end_list(&list, limit),
        }
    }

    fn begin_list(&self, user: &UserId, command: &Conversations) -> Found<Option<List>, L> {
        let Some(known) = self.rows.known(user)? else { return Ok(None) };
        let below = match &command.before {
            Some(name) => {
                let View { conversation, membership } = self.view(user, name)?;
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
        Ok(Some(List { user: known.key, below, after: ConversationKey::MIN, latest: Vec::new() }))
    }

    fn end_list(&self, list: &List, limit: usize) -> Found<Step, L> {
        let latest: Vec<_> = list.latest.iter().map(|latest| latest.conversation).collect();
        let page = self.summaries_of(list.user, &latest, limit)?;
        let looked_at = list.latest.get(..limit).and_then(<[_]>::last);
        match looked_at {
            // No conversation of this page can be read, so the next page is tried.
            Some(last) if page.summaries.is_empty() && page.more => Ok(Step::On(List {
                user: list.user,
                below: *last,
                after: ConversationKey::MIN,
                latest: Vec::new(),
            })),
            _ => Ok(Step::Done(OkBody::Conversations { conversations: page.summaries, more: page.more })),
        }
    }

    /// Makes the whole list in one read, for callers that delay no other read.
    pub(super) fn conversations(&self, user: &UserId, command: &Conversations) -> Page<L> {
        let mut list = None;
        loop {
            match self.list(user, command, list.as_ref())? {
                Step::On(next) => list = Some(next),
                Step::Done(page) => return Ok(page),
            }
        }
    }
}
