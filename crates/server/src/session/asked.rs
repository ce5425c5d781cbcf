//! The writes of a live session that wait for the application's decision, and those behind them.
//!
//! They are submitted to the store in the order in which they came. A question about a write is asked while earlier messages
//! still wait for theirs. After another kind of write, such as `create`, it is asked once that one was submitted, because
//! whether the later write is allowed may depend on it.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use switchboard_protocol::{CloseCode, CommandId, ErrorCode};
use tokio::sync::oneshot;

use super::live::LiveSession;
use crate::config::Ask;
use crate::encode::encode_answer;
use crate::hooks::{Asker, Decision, MAX_PER_CONNECTION};
use switchboard_store::Change;
use switchboard_store::origin::WriteOrder;
use switchboard_store::refusal::Refusal;

/// What a session needs where the application is asked.
#[derive(Debug, Default)]
pub(super) struct AskedWrites {
    /// The claims of the user's token as JSON.
    claims: Option<Arc<str>>,
    /// The writes that wait, oldest first.
    queue: VecDeque<AskedWrite>,
}

/// A write, already counted as in flight, that is not submitted to the store yet.
#[derive(Debug)]
struct AskedWrite {
    id: Option<CommandId>,
    order: WriteOrder,
    /// Whether it changes nothing on which the permission for a later write depends.
    is_content: bool,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// The application will be asked once the earlier writes have been submitted.
    Waiting(Ask, Change),
    Asking(oneshot::Receiver<Decision>),
    /// The change can be submitted after the earlier ones.
    Ready(Decision),
}

impl AskedWrites {
    pub(super) fn new(claims: Option<Arc<str>>) -> Self {
        Self { claims, queue: VecDeque::new() }
    }

    /// The next questions have the claims of a newer token.
    pub(super) fn set_claims(&mut self, claims: Option<Arc<str>>) {
        self.claims = claims;
    }

    /// Whether the session reads no further command until there is an answer.
    pub(super) fn is_full(&self) -> bool {
        let asked = self.queue.iter().filter(|write| !matches!(write.step, Step::Ready(_)));
        asked.count() >= MAX_PER_CONNECTION
    }

    /// The earliest write, if it can be submitted.
    fn take_ready(&mut self) -> Option<(Option<CommandId>, WriteOrder, Decision)> {
        if !matches!(self.queue.front()?.step, Step::Ready(_)) {
            return None;
        }
        let write = self.queue.pop_front()?;
        match write.step {
            Step::Ready(decision) => Some((write.id, write.order, decision)),
            Step::Waiting(..) | Step::Asking(_) => None,
        }
    }

    /// Records the decisions that have been made. Returns whether there was one.
    fn poll_decisions(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_decided = false;
        for write in &mut self.queue {
            if let Step::Asking(receiver) = &mut write.step
                && let Poll::Ready(decision) = Pin::new(receiver).poll(cx)
            {
                // The task that asks ends without a decision only when the server stops.
                let cut = || Decision { change: Change::Refused(Refusal::unavailable()), turn: None };
                write.step = Step::Ready(decision.unwrap_or_else(|_| cut()));
                has_decided = true;
            }
        }
        has_decided
    }
}

impl LiveSession {
    /// Submits a write, already counted as in flight: at once, or after the application's decision and the writes that wait for
    /// theirs.
    pub(super) fn submit_in_order(&mut self, id: Option<CommandId>, change: Change, order: WriteOrder) {
        let (Some(hooks), Some(asked)) = (&self.services.hooks, &mut self.asked) else {
            return self.submit(id, change, Some(order));
        };
        let ask = hooks.question_about(&self.user, &change);
        if ask.is_none() && asked.queue.is_empty() {
            return self.submit(id, change, Some(order));
        }
        let is_content = matches!(change, Change::Send(_) | Change::Edit(_) | Change::React(_));
        let step = match ask {
            Some(ask) => Step::Waiting(ask, change),
            None => Step::Ready(Decision { change, turn: None }),
        };
        asked.queue.push_back(AskedWrite { id, order, is_content, step });
        self.begin_questions();
    }

    /// Asks about the writes that no longer depend on an earlier one.
    fn begin_questions(&mut self) {
        let (Some(hooks), Some(asked)) = (&self.services.hooks, &mut self.asked) else { return };
        let AskedWrites { claims, queue } = &mut **asked;
        for write in queue {
            if let Step::Waiting(ask, change) = &write.step {
                let (user, address) = (self.user.clone(), Some(self.address.into()));
                let permissions = Some(self.permissions.clone());
                let asker = Asker { user, claims: claims.clone(), permissions, address, key: None };
                write.step = Step::Asking(hooks.begin(asker, *ask, change.clone()));
            }
            if !write.is_content {
                return;
            }
        }
    }

    /// Submits the writes whose turn it is.
    pub(super) fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(asked) = self.asked.as_mut().filter(|asked| !asked.queue.is_empty()) else {
            return Poll::Pending;
        };
        if !asked.poll_decisions(cx)
            && !asked.queue.front().is_some_and(|write| matches!(write.step, Step::Ready(_)))
        {
            return Poll::Pending;
        }
        while let Some((id, order, decision)) = self.asked.as_mut().and_then(|asked| asked.take_ready()) {
            self.submit(id, decision.change, Some(order));
            drop(decision.turn);
        }
        self.begin_questions();
        Poll::Ready(())
    }

    /// Refuses the writes that wait. A user who was logged out or banned stores nothing any more.
    pub(super) fn refuse_asked(&mut self, closing: CloseCode) {
        let code = match closing {
            CloseCode::Banned => ErrorCode::Banned,
            _ => ErrorCode::Unauthorized,
        };
        for write in self.asked.iter_mut().flat_map(|asked| asked.queue.drain(..)) {
            let refusal = Refusal::new(code, closing.reason());
            self.outbox.push_outcome(encode_answer(write.id, Err(refusal)));
        }
    }
}
