//! The unfinished commands of a live session: a query that waits for the store, and commands that are delayed because they exceed
//! a rate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::auth::Identity;
use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{CommandId, ConversationId, UserId};
use switchboard_store::ban::Standing;
use switchboard_store::profile::People;
use switchboard_store::record::Answer;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, CursorKind, PresencePeer, Query, SharedStore, WriteAccess};
use tokio::time::Instant;

/// A command whose answer is being read from the store.
pub(super) enum PendingQuery {
    Page(Option<CommandId>, Box<AskedPage>),
    Typing(Option<CommandId>, ConversationId, Answer<WriteAccess>),
    Watch(Option<CommandId>, Answer<Vec<PresencePeer>>),
    /// A newer token, its claims as JSON where the application is asked, and the standing of its user.
    Token(Option<CommandId>, Identity, Option<Arc<str>>, Answer<Standing>),
    /// Profiles; if the flag is set, the session follows these users.
    People(Option<CommandId>, bool, Answer<People>),
}

/// A page that is being read from the store.
pub(super) struct AskedPage {
    query: Query,
    /// The block epoch of the connection at the time of the query.
    epoch: u64,
    answer: Answer<OkBody<Box<RawValue>>>,
}

impl AskedPage {
    pub(super) fn ask(store: &SharedStore, user: &UserId, query: Query, epoch: u64) -> Self {
        let answer = store.query(user, query.clone());
        Self { query, epoch, answer }
    }

    /// Waits for the page. A page that was asked for in an earlier block epoch is read again, because it may show what the user does
    /// not see by now.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        store: &SharedStore,
        user: &UserId,
        epoch: u64,
    ) -> Poll<Result<OkBody<Box<RawValue>>, Refusal>> {
        loop {
            let page = ready!(self.answer.as_mut().poll(cx));
            if self.epoch == epoch {
                return Poll::Ready(page);
            }
            *self = Self::ask(store, user, self.query.clone(), epoch);
        }
    }
}

/// The delayed cursors of a connection. They count as writes in flight, so `limits.in_flight` bounds them.
pub(super) struct DelayedCursors {
    /// The groups, oldest first.
    pub(super) groups: VecDeque<CursorGroup>,
    /// When to check the rate again for the first group.
    pub(super) due: Instant,
}

/// Cursors of one kind in one conversation.
pub(super) struct CursorGroup {
    of: CursorKind,
    conversation: ConversationId,
    pub(super) commands: Vec<(Option<CommandId>, Change)>,
}

impl DelayedCursors {
    pub(super) fn new(due: Instant) -> Self {
        Self { groups: VecDeque::new(), due }
    }

    pub(super) fn add(
        &mut self,
        of: CursorKind,
        conversation: ConversationId,
        id: Option<CommandId>,
        change: Change,
    ) {
        let group = self.groups.iter_mut().find(|group| group.of == of && group.conversation == conversation);
        match group {
            Some(group) => group.commands.push((id, change)),
            None => self.groups.push_back(CursorGroup { of, conversation, commands: vec![(id, change)] }),
        }
    }
}

/// A `watch` command that is delayed because it exceeds its user's rate.
pub(super) struct DelayedWatch {
    /// When to check the rate again.
    pub(super) due: Instant,
    pub(super) id: Option<CommandId>,
    pub(super) users: Vec<UserId>,
}
