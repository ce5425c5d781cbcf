//! Handles the messages of a live session: the dispatch of its commands.

use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::value::RawValue;
use switchboard_protocol::reply::{OkBody, Reply};
use switchboard_protocol::{CloseCode, Command, CommandId, ErrorCode, Frame, Target, WriteNumber, decode};
use tokio::time::Instant;

use super::live::{Flood, LiveSession};
use super::pending::{AskedPage, PendingQuery};
use super::socket::ConnectionEnd;
use crate::encode::{encode, encode_answer};
use crate::frame::{self, Message};
use crate::limiter::RateOwner;
use crate::metrics::DropReason;
use switchboard_store::origin::{Origin, SessionOrigin, WriteOrder};
use switchboard_store::profile::{People, PeopleQuery};
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Request, Submission, request};

/// How long a client may exceed the rate of frames after the first refusal. Then the connection is closed with 4429. A pause of
/// this length ends the flood.
const MAX_FLOOD_DURATION: Duration = Duration::from_secs(1);

/// How many frames over the rate a client may send before it reads the refusal, in seconds of that rate. The duration alone does
/// not bound a flood: the session often pauses reading from a client that reads slowly, and those pauses do not count as time.
const MAX_FLOOD_SECONDS: u32 = 50;

/// The shortest `retry_after` after a flood. A new connection may send five seconds' worth of frames at once, so a client that
/// reconnects earlier would exceed its rate. It is longer if the frames over the rate would take longer at that rate.
const MIN_FLOOD_WAIT: Duration = Duration::from_secs(5);

impl LiveSession {
    /// Handles a message. An error ends the connection.
    pub(super) fn handle_message(&mut self, message: Message<'_>) -> Result<(), ConnectionEnd> {
        if let Message::Close = message {
            // The commands before the close frame are answered first, then the close frame (RFC 6455 section 5.5.1).
            self.outbox.close(CloseCode::Normal);
            return Ok(());
        }
        if let Err(refusal) = self.limiter.check_frame(self.services.limiter.connection_rates()) {
            return self.handle_rate_excess(refusal, message);
        }
        match message {
            Message::Text(text) => self.handle_text(text),
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

    /// Refuses a frame over the rate. Closes the connection if the client does not stop.
    fn handle_rate_excess(&mut self, refusal: Refusal, message: Message<'_>) -> Result<(), ConnectionEnd> {
        self.services.metrics.count_dropped(DropReason::RateLimit);
        let now = Instant::now();
        // Some frames of a flood are within the rate, so only a pause ends it.
        let flood = self.flood.take().filter(|flood| now - flood.last <= MAX_FLOOD_DURATION);
        let (since, frames) = flood.map_or((now, 0), |flood| (flood.since, flood.frames));
        self.flood = Some(Box::new(Flood { since, last: now, frames: frames + 1 }));
        if now - since > MAX_FLOOD_DURATION
            || frames / MAX_FLOOD_SECONDS >= self.services.limits.frames_per_connection
        {
            let over = frames / self.services.limits.frames_per_connection.max(1);
            let wait = MIN_FLOOD_WAIT.max(Duration::from_secs(over.into()));
            self.reply(None, Err(Refusal::too_fast(wait)));
            return Err(ConnectionEnd::Close(CloseCode::TooFast));
        }
        if let Message::Text(text) = message {
            match decode(text) {
                Ok(Frame { id, number, command }) => match command.into() {
                    Request::Change(change) if change.is_limited() && number.is_none() => {
                        self.reply(id, Err(self.begin_rate_hold(&refusal)));
                    }
                    _ => self.reply(id, Err(refusal)),
                },
                Err(rejected) => self.reply(rejected.id, Err(refusal)),
            }
        }
        Ok(())
    }

    fn handle_text(&mut self, text: &str) {
        match decode(text) {
            Ok(Frame { id, number, command }) => match self.check_command(&command) {
                Ok(()) => self.dispatch(id, number, command.into()),
                Err(refusal) => self.refuse_permanently(id, number, refusal),
            },
            Err(mut rejected) => {
                let (id, number) = (rejected.id.take(), rejected.number);
                self.refuse_permanently(id, number, rejected.into());
            }
        }
    }

    fn check_command(&self, command: &Command) -> Result<(), Refusal> {
        self.services.check_feature(command)?;
        request::check(command, &self.services.limits)
    }

    /// Refuses a command for a reason that a retry would not change. If the write has a number, the refusal passes through the
    /// store's queue, so that the client receives the outcomes in the order of the numbers.
    fn refuse_permanently(&mut self, id: Option<CommandId>, number: Option<WriteNumber>, refusal: Refusal) {
        match number.map(|number| self.check_write_order(number).map(|()| number)) {
            Some(Ok(number)) => {
                self.submitted_number = self.submitted_number.max(number.n);
                self.outbox.begin_in_flight();
                self.submit_in_order(id, Change::Refused(refusal), WriteOrder::Number(number));
            }
            Some(Err(early)) => self.reply(id, Err(early)),
            None => self.reply(id, Err(refusal)),
        }
    }

    fn dispatch(&mut self, id: Option<CommandId>, number: Option<WriteNumber>, request: Request) {
        if matches!(request, Request::Query(_) | Request::Typing(_) | Request::People(_) | Request::Token(_))
        {
            // The session does not read until the store has answered. The pause begins before the query, because the query may run
            // at once on this thread's core.
            self.pause_reading();
        }
        match request {
            Request::Change(change) => self.handle_change(id, number, change),
            Request::Query(query) => {
                let epoch = self.outbox.block_epoch();
                let page = AskedPage::ask(&self.services.store, &self.user, query, epoch);
                self.pending = Some(Box::new(PendingQuery::Page(id, Box::new(page))));
            }
            Request::Typing(target) => self.handle_typing(id, &target),
            Request::Watch(users) => self.watch(id, users),
            Request::People(query) => self.handle_people(id, query),
            Request::Token(token) => self.renew(id, &token),
            Request::Ping => self.outbox.push_reply(encode(&Reply::<Box<RawValue>>::Pong { id })),
            Request::Hello => {
                let message = "this connection has already sent `hello`; open another one for another user";
                self.reply(id, Err(Refusal::new(ErrorCode::BadFrame, message)));
            }
        }
    }

    fn handle_change(&mut self, id: Option<CommandId>, number: Option<WriteNumber>, change: Change) {
        if change.cursor().is_some() {
            return self.move_cursor(id, change);
        }
        if matches!(change, Change::SetProfile(_) | Change::Reports(_)) {
            return match self.check_unordered(&change) {
                Ok(()) => {
                    self.outbox.begin_in_flight();
                    self.submit(id, self.services.filter_words(change), None);
                }
                Err(refusal) => self.reply(id, Err(refusal)),
            };
        }
        match self.check_write(number, &change) {
            Ok(order) => {
                self.outbox.begin_in_flight();
                self.submit_in_order(id, self.services.filter_words(change), order);
            }
            Err(refusal) => {
                if refusal.code == ErrorCode::RateLimited {
                    self.services.metrics.count_dropped(DropReason::RateLimit);
                }
                self.reply(id, Err(refusal));
            }
        }
    }

    /// Counts a change against the user's rates that need not keep its order with others. So its refusal holds up no message.
    fn check_unordered(&self, change: &Change) -> Result<(), Refusal> {
        match change {
            Change::SetProfile(fields) => self.services.check_own_profile(&self.user, fields),
            change => self.services.limiter.check_send(&self.rate_owner(), None, change.cost()),
        }
    }

    /// Submits a write, already counted as in flight, to the store. `order` is `None` for cursors, profiles and reports, which need not keep their order.
    pub(super) fn submit(&self, id: Option<CommandId>, change: Change, order: Option<WriteOrder>) {
        let origin = Origin::Session(SessionOrigin {
            connection: self.outbox.clone(),
            id: id.clone(),
            order,
            permissions: self.permissions.clone(),
        });
        if self.services.store.submit(Submission { actor: self.user.clone(), change, origin }).is_err() {
            self.services.metrics.count_refused(ErrorCode::Unavailable);
            if let Some(WriteOrder::Epoch(_)) = order {
                self.outbox.begin_hold();
            }
            self.outbox.push_outcome(encode_answer(id, Err(Refusal::unavailable())));
        }
    }

    /// The payer whose rates the connection's commands count against.
    pub(super) fn rate_owner(&self) -> RateOwner {
        RateOwner::User(self.user.clone())
    }

    /// Checks a write's order, and counts it against the rates of the connection and of its user.
    fn check_write(&mut self, number: Option<WriteNumber>, change: &Change) -> Result<WriteOrder, Refusal> {
        let order = match number {
            Some(number) => {
                self.check_write_order(number)?;
                WriteOrder::Number(number)
            }
            None => WriteOrder::Epoch(self.outbox.begin_write()?),
        };
        let payer = self.rate_owner();
        let limiter = &self.services.limiter;
        let rates = self.limiter.check_send(limiter.connection_rates());
        let rates = rates.and_then(|()| limiter.check_send(&payer, None, change.cost()));
        match (rates, number) {
            (Ok(()), Some(number)) => self.submitted_number = self.submitted_number.max(number.n),
            (Ok(()), None) => {}
            (Err(over), Some(_)) => return Err(over),
            (Err(over), None) => return Err(self.begin_rate_hold(&over)),
        }
        Ok(order)
    }

    /// Refuses a write if the write before it was not submitted to the store. The store's writer would refuse it, too, but only
    /// after the write has counted against the rates.
    fn check_write_order(&self, number: WriteNumber) -> Result<(), Refusal> {
        if number.after > self.submitted_number {
            Err(Refusal::follows_unsettled(number.after))
        } else {
            Ok(())
        }
    }

    /// Begins a hold (a pause of writes) after a write without a number that exceeds a rate, and returns the refusal of that write.
    fn begin_rate_hold(&self, over: &Refusal) -> Refusal {
        self.outbox.hold_for_rate(Duration::from_millis(over.retry_after.unwrap_or(0)))
    }

    fn handle_typing(&mut self, id: Option<CommandId>, target: &Target) {
        if let Err(refusal) = self.services.limiter.check_typing(&self.rate_owner()) {
            self.services.metrics.count_dropped(DropReason::RateLimit);
            return self.reply(id, Err(refusal));
        }
        let conversation = target.resolve(&self.user);
        let standing = self.services.store.check_write_access(&self.user, conversation.clone());
        self.pending = Some(Box::new(PendingQuery::Typing(id, conversation, standing)));
    }

    fn handle_people(&mut self, id: Option<CommandId>, query: PeopleQuery) {
        if let Err(refusal) = self.services.limiter.check_people(&self.rate_owner(), &query) {
            self.services.metrics.count_dropped(DropReason::RateLimit);
            return self.reply(id, Err(refusal));
        }
        let follows = matches!(query, PeopleQuery::Users(_));
        let people = self.services.store.people(&self.user, query, self.permissions.directory);
        self.pending = Some(Box::new(PendingQuery::People(id, follows, people)));
    }

    /// Follows the users of an answer, and returns the answer. A change that comes in between may be sent before it.
    fn follow_people(&self, people: People, follows: bool) -> Result<OkBody<Box<RawValue>>, Refusal> {
        let People { users, more } = people;
        if follows {
            let versions = users.iter().map(|profile| (profile.user.clone(), profile.version)).collect();
            self.services.router.follow(self.session, versions)?;
        }
        Ok(OkBody::Users { users, more })
    }

    /// Answers the pending command once the store has answered.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pending) = self.pending.as_deref_mut() else { return Poll::Pending };
        let (id, answer) = match pending {
            PendingQuery::Page(id, page) => {
                let (store, epoch) = (&self.services.store, self.outbox.block_epoch());
                let Poll::Ready(page) = page.poll(cx, store, &self.user, epoch) else { return Poll::Pending };
                (id.take(), page)
            }
            PendingQuery::Typing(id, conversation, standing) => {
                let Poll::Ready(standing) = standing.as_mut().poll(cx) else { return Poll::Pending };
                let answer = standing.map(|standing| {
                    let (user, from) = (self.user.clone(), Some(self.outbox.clone()));
                    self.services.publish_typing(user, conversation.clone(), standing, from);
                    OkBody::Done {}
                });
                (id.take(), answer)
            }
            PendingQuery::Watch(id, users) => {
                let Poll::Ready(users) = users.as_mut().poll(cx) else { return Poll::Pending };
                let answer = users.and_then(|users| self.services.router.watch(self.session, users));
                (id.take(), answer.map(|()| OkBody::Done {}))
            }
            PendingQuery::Token(id, identity, claims, standing) => {
                let Poll::Ready(standing) = standing.as_mut().poll(cx) else { return Poll::Pending };
                let (id, identity, claims) = (id.take(), identity.clone(), claims.take());
                (id, standing.and_then(|standing| self.apply_token(&identity, claims, &standing)))
            }
            PendingQuery::People(id, follows, people) => {
                let Poll::Ready(people) = people.as_mut().poll(cx) else { return Poll::Pending };
                let (id, follows) = (id.take(), *follows);
                (id, people.and_then(|people| self.follow_people(people, follows)))
            }
        };
        self.pending = None;
        self.reply(id, answer);
        Poll::Ready(())
    }

    pub(super) fn reply(&self, id: Option<CommandId>, answer: Result<OkBody<Box<RawValue>>, Refusal>) {
        if let Err(refusal) = &answer {
            self.services.metrics.count_refused(refusal.code);
            self.log_refusal(refusal.code, refusal.field.as_deref());
        }
        self.outbox.push_reply(encode_answer(id, answer));
    }
}
