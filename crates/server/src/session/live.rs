//! A live session: one task that reads, writes, catches up from the log and watches the time, and
//! keeps nothing that an idle connection does not need.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use switchboard_protocol::{CloseCode, Seq, UserId};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use super::command::Pending;
use super::cursors::HeldCursors;
use super::hello::Attached;
use super::socket::{End, Flow, Socket, Stream};
use super::watch::HeldWatch;
use crate::frame::{self, Bounds};
use crate::limiter::ConnectionLimiter;
use crate::metrics::Drop;
use crate::outbox::{Outbox, State};
use crate::record::{Answer, ConversationKey, LogEvent, UserKey};
use crate::router::registry::SessionSlot;
use crate::services::Services;

/// Rounds of reading and writing before other tasks have their turn.
const ROUNDS: usize = 16;

/// How long a connection may accept nothing of what waits for it. Its memory is bounded all the while,
/// so this can be long: a laptop that sleeps, a page in a debugger.
const STALL: Duration = Duration::from_secs(300);

/// How long a connection that is being closed may accept nothing of what waits for it, or wait for the outcome of its
/// last writes if it was the client that closed. A commit takes milliseconds; whoever does not read would otherwise
/// hold up every stop of the server.
const CLOSING: Duration = Duration::from_secs(2);

/// How soon reading the log is tried again when the store does not answer.
const REPLAY_AGAIN: Duration = Duration::from_secs(1);

/// A token's end is looked at again after so long: timers do not reach as far as tokens may.
const EXPIRY_CHECK: Duration = Duration::from_secs(3_600);

/// When the time is looked at again though nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(3_600);

/// The state of a live session.
pub(super) struct Live {
    pub(super) services: Arc<Services>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) session: SessionSlot,
    pub(super) user: UserId,
    pub(super) limiter: ConnectionLimiter,
    /// Cursors over their rate.
    pub(super) cursors: HeldCursors,
    /// A list of `watch` over its rate.
    pub(super) held_watch: Option<Box<HeldWatch>>,
    /// The one command whose answer is being read from the store.
    pub(super) pending: Option<Box<Pending>>,
    /// The rate of frames has been overrun, and there was no quiet since.
    pub(super) flooding: Option<Flood>,
    key: UserKey,
    replay: Option<Box<Replay>>,
    expires: Option<Instant>,
    /// When the client was heard last, or could be heard again.
    heard: Instant,
    /// Since when the client is not listened to. What it does not say meanwhile means nothing.
    paused: Option<Instant>,
    /// When it was sent a ping that it has not answered.
    pinged: Option<Instant>,
    /// Since when nothing could be written.
    stalled: Option<Instant>,
    /// With which code the connection is being closed, and since when.
    closing: Option<(CloseCode, Instant)>,
    timer: Pin<Box<Sleep>>,
}

/// Frames over the rate, again and again. Times while the client was not listened to are left out.
pub(super) struct Flood {
    pub(super) since: Instant,
    pub(super) last: Instant,
    pub(super) frames: u32,
}

/// A page of the log on its way.
enum Replay {
    Reading(ConversationKey, Answer<Vec<LogEvent>>),
    /// The store did not answer; again at this time.
    Waiting(Instant),
}

impl Live {
    pub(super) fn new(services: Arc<Services>, outbox: Arc<Outbox>, attached: Attached) -> Self {
        let Attached { session, user, key, expires } = attached;
        let now = Instant::now();
        let lifetime = expires.map(|at| at.as_millis().saturating_sub(services.clock.now().as_millis()));
        let expires = lifetime.map(|ms| now + Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        Self {
            limiter: ConnectionLimiter::new(&services.limits),
            timer: Box::pin(tokio::time::sleep_until(now)),
            services,
            outbox,
            session,
            user,
            cursors: HeldCursors::default(),
            held_watch: None,
            pending: None,
            flooding: None,
            key,
            replay: None,
            expires,
            heard: now,
            paused: None,
            pinged: None,
            stalled: None,
            closing: None,
        }
    }

    pub(super) async fn run<S: Stream>(mut self, socket: &mut Socket<S>) -> End {
        poll_fn(|cx| self.poll(cx, socket)).await
    }

    fn poll<S: Stream>(&mut self, cx: &mut Context<'_>, socket: &mut Socket<S>) -> Poll<End> {
        for _ in 0..ROUNDS {
            match self.round(cx, socket) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => match self.poll_time(cx) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(())) => {}
                    Err(end) => return Poll::Ready(end),
                },
                Err(end) => return Poll::Ready(end),
            }
        }
        // A client that keeps the connection busy must not outlive its token.
        if let Err(end) = self.act_on_time(Instant::now()) {
            return Poll::Ready(end);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does what can be done now; pending if that was nothing.
    fn round<S: Stream>(&mut self, cx: &mut Context<'_>, socket: &mut Socket<S>) -> Result<Poll<()>, End> {
        let mut idle = self.poll_pending(cx).is_pending();
        let state = self.outbox.watch(cx.waker());
        if self.closing.map(|(code, _)| code) != state.closing {
            self.closing = state.closing.map(|code| (code, Instant::now()));
            self.drop_held_watch();
            // Cursors that wait do not hold up a server that stops.
            if state.closing == Some(CloseCode::Restart) {
                self.release_all_cursors();
            }
        }
        let sent = socket.sent();
        let written = socket.poll_write(cx, &self.outbox, &self.services.metrics)?.is_ready();
        if written {
            self.stalled = None;
            if state.behind {
                idle &= self.poll_replay(cx).is_pending();
            }
            if let Some(code) = state.closing.filter(|_| state.in_flight == 0) {
                return Err(End::Close(code));
            }
        } else if self.stalled.is_none() || socket.sent() > sent {
            self.stalled = Some(Instant::now());
        }
        // All written is room enough; what frees any more of it wakes the task.
        if self.has_room(State { bytes: if written { 0 } else { state.bytes }, ..state }) {
            self.listen_again();
            idle &= self.poll_read(cx, socket)?.is_pending();
        } else {
            self.pause();
        }
        Ok(if idle { Poll::Pending } else { Poll::Ready(()) })
    }

    /// The client is not listened to from now on.
    pub(super) fn pause(&mut self) {
        self.paused.get_or_insert_with(Instant::now);
    }

    /// The time in which the client was not listened to counts neither as its silence nor as its quiet, nor for a hold.
    fn listen_again(&mut self) {
        let Some(paused) = self.paused.take() else { return };
        let now = Instant::now();
        self.heard = now;
        self.pinged = None;
        self.outbox.resume(paused);
        if let Some(flood) = &mut self.flooding {
            flood.since += now - paused;
            flood.last += now - paused;
        }
    }

    /// Whether another command may be read: its reply will have to wait somewhere.
    fn has_room(&self, state: State) -> bool {
        let limits = &self.services.limits;
        self.pending.is_none()
            && state.closing.is_none()
            && state.in_flight < limits.in_flight
            && state.bytes <= limits.queue as usize
    }

    fn poll_read<S: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket<S>,
    ) -> Result<Poll<()>, End> {
        let limits = &self.services.limits;
        let bounds = Bounds { bytes: limits.frame as usize, fragments: limits.fragments };
        let read = socket.poll_read(cx, bounds, &mut |message| {
            self.hear(message)?;
            Ok(if self.has_room(self.outbox.state()) { Flow::Next } else { Flow::Pause })
        });
        let read = match read {
            Poll::Ready(Err(End::Close(code))) => {
                self.services.metrics.dropped(Drop::BrokenFraming);
                return Err(End::Close(code));
            }
            read => read?,
        };
        if read.is_ready() {
            self.heard = Instant::now();
            self.pinged = None;
        }
        Ok(read)
    }

    /// Reads what the connection is behind by, a page at a time, each when the one before is written.
    fn poll_replay(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let replay = match &mut self.replay {
            Some(replay) => replay,
            none => {
                let Some(lag) = self.outbox.next_lag() else { return Poll::Ready(()) };
                let page = self.services.store.replay(self.key, lag.conversation, lag.cursor, lag.missed);
                none.insert(Box::new(Replay::Reading(lag.conversation, page)))
            }
        };
        match &mut **replay {
            Replay::Waiting(until) if *until > Instant::now() => return Poll::Pending,
            Replay::Waiting(_) => self.replay = None,
            Replay::Reading(conversation, page) => {
                let conversation = *conversation;
                let Poll::Ready(page) = page.as_mut().poll(cx) else { return Poll::Pending };
                self.replay = self.take_page(conversation, page).map(Box::new);
            }
        }
        Poll::Ready(())
    }

    fn take_page(
        &mut self,
        conversation: ConversationKey,
        page: Result<Vec<LogEvent>, crate::refusal::Refusal>,
    ) -> Option<Replay> {
        match page {
            Ok(events) => {
                let frames: Vec<(Seq, _)> =
                    events.iter().map(|e| (e.seq, frame::text(&e.to_json()))).collect();
                self.outbox.push_replayed(conversation, frames);
                None
            }
            Err(refusal) if refusal.code.retryable() => Some(Replay::Waiting(Instant::now() + REPLAY_AGAIN)),
            // Not the user's to read any more.
            Err(_) => {
                self.outbox.push_replayed(conversation, Vec::new());
                None
            }
        }
    }

    /// Acts on what is due, and sets the timer for what is due next.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let now = Instant::now();
        // The timer knows the task since it was set, and the task stays the same.
        if self.timer.deadline() > now && self.next_due(now) >= self.timer.deadline() {
            return Ok(Poll::Pending);
        }
        self.act_on_time(now)?;
        if self.release_watch(now) {
            return Ok(Poll::Ready(()));
        }
        let due = self.next_due(now);
        self.timer.as_mut().reset(due);
        // In a task that has used up its turn a timer would not take note of who is to be woken.
        Ok(pin!(unconstrained(self.timer.as_mut())).poll(cx))
    }

    /// Acts on what is due by now.
    fn act_on_time(&mut self, now: Instant) -> Result<(), End> {
        self.release_cursors(now);
        let cut = |reason, code| {
            self.services.metrics.dropped(reason);
            Err(End::Close(code))
        };
        if self.expires.is_some_and(|at| at <= now) {
            return cut(Drop::TokenExpired, CloseCode::TokenExpired);
        }
        if let (Some((code, _)), Some(at)) = (self.closing, self.closing_ends())
            && at <= now
        {
            return Err(End::Close(code));
        }
        if self.stalled.is_some_and(|since| since + STALL <= now) {
            self.services.metrics.dropped(Drop::StalledConnection);
            return Err(End::Gone);
        }
        if self.paused.is_some() {
            return Ok(());
        }
        if self.stalled.is_none() && self.pinged.is_some_and(|at| at + self.pong_timeout() <= now) {
            return cut(Drop::SilentConnection, CloseCode::Silent);
        }
        if self.pinged.is_none() && self.heard + self.ping_interval() <= now {
            self.pinged = Some(now);
            self.outbox.push_reply(frame::ping());
        }
        Ok(())
    }

    /// When a connection that is being closed is closed at the latest.
    fn closing_ends(&self) -> Option<Instant> {
        match (self.closing?, self.stalled) {
            // Whoever is sent away does not hold out by reading slowly.
            ((CloseCode::Revoked, since), _) => Some(since + CLOSING),
            ((_, since), Some(stalled)) => Some(since.max(stalled) + CLOSING),
            ((CloseCode::Normal, since), None) => Some(since + CLOSING),
            // What is in flight when the server stops is acknowledged; the deadline of stopping is its bound.
            (_, None) => None,
        }
    }

    /// When something is due next.
    fn next_due(&self, now: Instant) -> Instant {
        let silence = match (self.stalled, self.pinged) {
            (Some(since), _) => since + STALL,
            (None, _) if self.paused.is_some() => now + NOTHING_DUE,
            (None, Some(at)) => at + self.pong_timeout(),
            (None, None) => self.heard + self.ping_interval(),
        };
        let replay = match self.replay.as_deref() {
            Some(Replay::Waiting(until)) => Some(*until),
            Some(Replay::Reading(..)) | None => None,
        };
        let expires = self.expires.map(|at| at.min(now + EXPIRY_CHECK));
        [replay, expires, self.closing_ends(), self.cursors.due(), self.watch_due()]
            .into_iter()
            .flatten()
            .fold(silence, Instant::min)
    }

    fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.services.limits.ping_interval.into())
    }

    fn pong_timeout(&self) -> Duration {
        Duration::from_millis(self.services.limits.pong_timeout.into())
    }
}
