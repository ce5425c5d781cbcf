//! What a live session does with what it hears: the one `match` over commands.

use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::value::RawValue;
use switchboard_protocol::reply::{OkBody, Reply};
use switchboard_protocol::{CloseCode, CommandId, ConversationId, ErrorCode, Frame, Target, decode};
use tokio::time::Instant;

use super::live::{Flood, Live};
use super::socket::End;
use crate::encode::{encode, encode_answer};
use crate::frame::{self, Message};
use crate::intake;
use crate::metrics::Drop;
use crate::origin::{Origin, Payer, SessionOrigin};
use crate::outbox::Turn;
use crate::record::Answer;
use crate::refusal::Refusal;
use crate::store::{Acquaintance, Change, Request, Standing, Submission};

/// How long a client may go on over the rate of frames after it was told to wait.
const FLOOD: Duration = Duration::from_secs(1);

/// Seconds' worth of frames over the rate that a client may have sent before it reads that it is to wait. Somebody who
/// reads slowly is mostly not listened to, so the time alone would let them go on for long.
const FLOOD_SECONDS: u32 = 50;

/// A command whose answer is on its way from the store.
pub(super) enum Pending {
    Page(Option<CommandId>, Answer<OkBody<Box<RawValue>>>),
    Typing(Option<CommandId>, ConversationId, Answer<Standing>),
    Watch(Option<CommandId>, Answer<Vec<Acquaintance>>),
}

impl Live {
    /// Acts on a message. An error ends the connection.
    pub(super) fn hear(&mut self, message: Message<'_>) -> Result<(), End> {
        if let Message::Close = message {
            // What it said before is answered before its close is (RFC 6455 section 5.5.1).
            self.outbox.close(CloseCode::Normal);
            return Ok(());
        }
        if let Err(refusal) = self.limiter.check_frame() {
            return self.overrun(refusal, message);
        }
        match message {
            Message::Text(text) => self.hear_text(text),
            Message::Binary(_) => {
                let refusal =
                    Refusal::new(ErrorCode::BadFrame, "a frame is JSON in a text frame, not a binary one");
                self.reply(None, Err(refusal));
            }
            Message::Ping(payload) => self.outbox.set_pong(frame::pong(payload)),
            Message::Pong | Message::Close => {}
        }
        Ok(())
    }

    /// Too fast: the client is told, once for a command; if it goes on it is cut.
    fn overrun(&mut self, refusal: Refusal, message: Message<'_>) -> Result<(), End> {
        self.services.metrics.dropped(Drop::RateLimit);
        let now = Instant::now();
        // Even in a flood a frame fits the rate now and then, so only a quiet time is its end.
        let flood = self.flooding.take().filter(|flood| now - flood.last <= FLOOD);
        let Flood { since, frames, .. } = flood.unwrap_or(Flood { since: now, last: now, frames: 0 });
        self.flooding = Some(Flood { since, last: now, frames: frames + 1 });
        if now - since > FLOOD || frames / FLOOD_SECONDS >= self.services.limits.frames_per_connection {
            self.reply(None, Err(refusal));
            return Err(End::Close(CloseCode::Policy));
        }
        if let Message::Text(text) = message {
            match decode(text) {
                Ok(Frame { id, command }) => match command.into() {
                    Request::Change(change) if change.is_limited() => {
                        let refusal = self.over_rate(&refusal);
                        self.refuse_write(id, refusal);
                    }
                    _ => self.reply(id, Err(refusal)),
                },
                Err(rejected) => self.reply(rejected.id, Err(refusal)),
            }
        }
        Ok(())
    }

    fn hear_text(&mut self, text: &str) {
        match decode(text) {
            Ok(Frame { id, command }) => match intake::check(&command, &self.services.limits) {
                Ok(()) => self.obey(id, command.into()),
                Err(refusal) => self.reply(id, Err(refusal)),
            },
            Err(mut rejected) => {
                let id = rejected.id.take();
                self.reply(id, Err(rejected.into()));
            }
        }
    }

    fn obey(&mut self, id: Option<CommandId>, request: Request) {
        if matches!(request, Request::Query(_) | Request::Typing(_)) {
            // Nothing is heard until the store has answered. From before it is asked: it may be given this thread's processor.
            self.pause();
        }
        match request {
            Request::Change(change) => self.change(id, change),
            Request::Query(query) => {
                let page = self.services.store.query(&self.user, query);
                self.pending = Some(Box::new(Pending::Page(id, page)));
            }
            Request::Typing(target) => self.typing(id, &target),
            Request::Watch(users) => self.watch(id, users),
            Request::Ping => self.outbox.push_reply(encode(&Reply::<Box<RawValue>>::Pong { id })),
            Request::Hello => {
                let message = "this connection has said `hello` already; open another for another user";
                self.reply(id, Err(Refusal::new(ErrorCode::BadFrame, message)));
            }
        }
    }

    fn change(&mut self, id: Option<CommandId>, change: Change) {
        if change.cursor().is_some() {
            return self.move_cursor(id, change);
        }
        let turn = match self.check_send(&change) {
            Ok(turn) => turn,
            Err(refusal) => {
                if refusal.code == ErrorCode::RateLimited {
                    self.services.metrics.dropped(Drop::RateLimit);
                }
                return self.refuse_write(id, refusal);
            }
        };
        self.outbox.submitted();
        self.submit(id, change, Some(turn));
    }

    /// Queues a write that is counted as in flight.
    pub(super) fn submit(&self, id: Option<CommandId>, change: Change, turn: Option<Turn>) {
        let origin = Origin::Session(SessionOrigin { outbox: self.outbox.clone(), id: id.clone(), turn });
        if self.services.store.submit(Submission { actor: self.user.clone(), change, origin }).is_err() {
            self.services.metrics.refused(ErrorCode::Unavailable);
            let refused = encode_answer(id, Err(Refusal::unavailable()));
            if turn.is_some() {
                self.outbox.hold();
                self.outbox.push_given_back(refused);
            } else {
                self.outbox.push_outcome(refused);
            }
        }
    }

    /// Whose rates the connection's commands are counted against.
    pub(super) fn payer(&self) -> Payer {
        Payer::User(self.user.clone())
    }

    /// Takes a write's turn, and counts it against the rates of the connection and of its user.
    fn check_send(&mut self, change: &Change) -> Result<Turn, Refusal> {
        let turn = self.outbox.turn()?;
        let payer = self.payer();
        let rates =
            self.limiter.check_send().and_then(|()| self.services.limiter.check_send(&payer, change.price()));
        rates.map_err(|over| self.over_rate(&over))?;
        Ok(turn)
    }

    /// What a write is told that is over a rate.
    fn over_rate(&self, over: &Refusal) -> Refusal {
        self.outbox.over_rate(Duration::from_millis(over.retry_after.unwrap_or(0)))
    }

    /// Refuses a write for the rate that it is over, or for one that was refused before it.
    fn refuse_write(&self, id: Option<CommandId>, refusal: Refusal) {
        self.services.metrics.refused(refusal.code);
        self.outbox.push_held(encode_answer(id, Err(refusal)));
    }

    fn typing(&mut self, id: Option<CommandId>, target: &Target) {
        if let Err(refusal) = self.services.limiter.check_typing(&self.payer()) {
            self.services.metrics.dropped(Drop::RateLimit);
            return self.reply(id, Err(refusal));
        }
        let conversation = target.resolve(&self.user);
        let standing = self.services.store.standing(&self.user, conversation.clone());
        self.pending = Some(Box::new(Pending::Typing(id, conversation, standing)));
    }

    /// Answers the command that waits for the store, once that has answered.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pending) = self.pending.as_deref_mut() else { return Poll::Pending };
        let (id, answer) = match pending {
            Pending::Page(id, page) => {
                let Poll::Ready(page) = page.as_mut().poll(cx) else { return Poll::Pending };
                (id.take(), page)
            }
            Pending::Typing(id, conversation, standing) => {
                let Poll::Ready(standing) = standing.as_mut().poll(cx) else { return Poll::Pending };
                let answer = standing.map(|standing| {
                    let (user, from) = (self.user.clone(), Some(self.outbox.clone()));
                    self.services.tell_typing(user, conversation.clone(), standing, from);
                    OkBody::Done {}
                });
                (id.take(), answer)
            }
            Pending::Watch(id, users) => {
                let Poll::Ready(users) = users.as_mut().poll(cx) else { return Poll::Pending };
                let answer = users.and_then(|users| self.services.router.watch(self.session, users));
                (id.take(), answer.map(|()| OkBody::Done {}))
            }
        };
        self.pending = None;
        self.reply(id, answer);
        Poll::Ready(())
    }

    pub(super) fn reply(&self, id: Option<CommandId>, answer: Result<OkBody<Box<RawValue>>, Refusal>) {
        if let Err(refusal) = &answer {
            self.services.metrics.refused(refusal.code);
        }
        self.outbox.push_reply(encode_answer(id, answer));
    }
}
