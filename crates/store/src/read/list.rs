//! `conversations`: which are the latest of a user's is known once all are looked at. That is done in steps, each a read of
//! its own, so that a list of very many keeps nobody else waiting.

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Conversations, UserId};

use super::row::{Membered, View};
use super::{Found, Lookups, Page, Reader};
use crate::Activity;
use crate::access;
use crate::record::{Answer, ConversationKey, UserKey};
use crate::refusal::Refusal;

/// A list that is being made.
#[derive(Debug, Clone)]
pub(crate) struct List {
    user: UserKey,
    /// The list begins below this.
    below: Activity,
    /// Memberships up to this one have been looked at.
    after: ConversationKey,
    /// The latest of those, at most one more than the list has.
    latest: Vec<Activity>,
}

/// What a step has come to.
#[derive(Debug)]
pub(crate) enum Step {
    /// There are more memberships to look at.
    On(List),
    /// The list.
    Done(OkBody<Box<RawValue>>),
}

/// Makes a list, step by step.
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
    /// One step of `conversations`: the first one without a list.
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
                // For a former member it stands where they left it: what came later is not theirs to know.
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
            // None of them can be read: what is behind them is looked for.
            Some(last) if page.summaries.is_empty() && page.more => Ok(Step::On(List {
                user: list.user,
                below: *last,
                after: ConversationKey::MIN,
                latest: Vec::new(),
            })),
            _ => Ok(Step::Done(OkBody::Conversations { conversations: page.summaries, more: page.more })),
        }
    }

    /// The whole list in one read, for callers whom no other read waits for.
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
