//! A live session: one task that reads, writes, replays lags from the log and enforces time-outs. It keeps no memory that an idle
//! connection does not need.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use switchboard_protocol::{CloseCode, Permissions, Seq, UserId};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use super::asked::AskedWrites;
use super::hello::{self, AdmittedSession, AttachedSession};
use super::log_lines;
use super::pending::{DelayedCursors, DelayedWatch, PendingQuery};
use super::socket::{ConnectionEnd, DecodeFlow, Socket, Stream};
use crate::frame::{self, MessageBounds};
use crate::limiter::ConnectionLimiter;
use crate::metrics::DropReason;
use crate::outbox::{Outbox, OutboxState};
use crate::router::registry::SessionSlot;
use crate::services::Services;
use switchboard_store::record::{Answer, ConversationKey, ReadEvent, UserKey};

/// The number of rounds of reading and writing after which the task yields.
const MAX_ROUNDS_PER_POLL: usize = 16;

/// How long the writes to a connection may make no progress. The time is long, because laptops sleep and pages stop in a debugger.
/// The memory of such a connection is bounded.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the writes of a closing connection may make no progress and, if the client closed, how long it may wait for the outcome
/// of its last commands. A commit takes milliseconds, and a client that does not read must not delay a shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay before a failed read of the log is retried.
const REPLAY_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The longest timer of a session. The next time-out may be later than a timer can wait, or there may be none.
const MAX_TIMER: Duration = Duration::from_secs(3_600);

/// The state of a live session.
pub(super) struct LiveSession {
    pub(super) services: Arc<Services>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) session: SessionSlot,
    pub(super) user: UserId,
    /// What the user may do.
    pub(super) permissions: Arc<Permissions>,
    /// The client's address, for the log. An IPv4 address is mapped to IPv6, because `Ipv6Addr` takes 16 bytes and `IpAddr` 17.
    pub(super) address: Ipv6Addr,
    pub(super) limiter: ConnectionLimiter,
    /// Cursor commands that are delayed because they exceed the user's rate.
    pub(super) delayed_cursors: Option<Box<DelayedCursors>>,
    /// The list of a `watch` command that is delayed because it exceeds the user's rate.
    pub(super) delayed_watch: Option<Box<DelayedWatch>>,
    /// The writes that wait for the application's decision; `None` where the application is not asked.
    pub(super) asked: Option<Box<AskedWrites>>,
    /// The one command whose answer is being read from the store.
    pub(super) pending: Option<Box<PendingQuery>>,
    /// The current series of frames over the rate; `None` if the client keeps to the rate.
    pub(super) flood: Option<Box<Flood>>,
    /// Since when the client has been a slow consumer; `None` if it keeps up.
    pub(super) slow: Option<Box<SlowConsumer>>,
    /// The highest number of a write that was submitted to the store.
    pub(super) submitted_number: u64,
    key: UserKey,
    replay: Option<Box<ReplayState>>,
    pub(super) expires: Option<Instant>,
    /// When the client's last message arrived, or reading resumed.
    last_received: Instant,
    /// Since when the session has paused reading from the socket. During a pause the client does not count as silent.
    paused_since: Option<Instant>,
    /// When the session sent a ping that the client has not answered.
    pinged_at: Option<Instant>,
    /// Since when writes have made no progress; `None` while they do.
    stalled_since: Option<Instant>,
    /// The code with which the connection is being closed, and since when.
    closing: Option<(CloseCode, Instant)>,
    /// The timer of the next time-out; `None` until the session is idle for the first time.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A series of frames over the rate. Times in which the session did not read do not count.
pub(super) struct Flood {
    pub(super) since: Instant,
    pub(super) last: Instant,
    pub(super) frames: u32,
}

/// A time in which a client reads more slowly than its events arrive.
pub(super) struct SlowConsumer {
    pub(super) since: Instant,
    /// When the log says next how far the client is behind.
    pub(super) next_line: Instant,
}

/// The read of a page of the log.
enum ReplayState {
    /// With the block epoch of the connection at the time of the query.
    Reading(ConversationKey, u64, Answer<Vec<ReadEvent>>),
    /// The read failed and is retried at this time.
    Waiting(Instant),
}

impl LiveSession {
    /// Subscribes an admitted session at the client's cursors, and returns it as a live session.
    pub(super) async fn attach(
        services: &Arc<Services>,
        outbox: &Arc<Outbox>,
        socket: &mut Socket<impl Stream>,
        admitted: Box<AdmittedSession>,
    ) -> Result<Box<Self>, ConnectionEnd> {
        let user = admitted.user.clone();
        let attached = hello::attach_session(services, outbox, admitted).await.inspect_err(|end| {
            log_lines::log_end(services, outbox, socket, Some(&user), (*end, log_lines::reason(*end)));
        })?;
        Ok(Box::new(Self::new(services.clone(), outbox.clone(), attached)))
    }

    fn new(services: Arc<Services>, outbox: Arc<Outbox>, attached: AttachedSession) -> Self {
        let AttachedSession { session, user, key, expires, claims, permissions, address } = attached;
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let asked = services.hooks.as_ref().map(|_| Box::new(AskedWrites::new(claims)));
        let now = Instant::now();
        let lifetime = expires.map(|at| at.as_millis().saturating_sub(services.clock.now().as_millis()));
        let expires = lifetime.map(|ms| now + Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        Self {
            limiter: ConnectionLimiter::new(),
            timer: None,
            services,
            outbox,
            session,
            user,
            permissions,
            address,
            delayed_cursors: None,
            delayed_watch: None,
            asked,
            pending: None,
            flood: None,
            slow: None,
            submitted_number: 0,
            key,
            replay: None,
            expires,
            last_received: now,
            paused_since: None,
            pinged_at: None,
            stalled_since: None,
            closing: None,
        }
    }

    pub(super) fn run<S: Stream>(
        mut self: Box<Self>,
        socket: &mut Socket<S>,
    ) -> impl Future<Output = ConnectionEnd> {
        poll_fn(move |cx| {
            let end = ready!(self.poll(cx, socket));
            self.log_end(socket, end);
            Poll::Ready(end)
        })
    }

    fn poll<S: Stream>(&mut self, cx: &mut Context<'_>, socket: &mut Socket<S>) -> Poll<ConnectionEnd> {
        for _ in 0..MAX_ROUNDS_PER_POLL {
            match self.poll_once(cx, socket) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => match self.poll_timer(cx) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(())) => {}
                    Err(end) => return Poll::Ready(end),
                },
                Err(end) => return Poll::Ready(end),
            }
        }
        // A busy connection must not outlive its token, so time-outs are also handled when the task yields.
        if let Err(end) = self.handle_due_timeouts(Instant::now()) {
            return Poll::Ready(end);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads, writes and replays as far as possible. Returns `Pending` if nothing was possible.
    fn poll_once<S: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket<S>,
    ) -> Result<Poll<()>, ConnectionEnd> {
        let mut idle = self.poll_pending(cx).is_pending();
        idle &= self.poll_asked(cx).is_pending();
        let state = self.outbox.register_waker(cx.waker());
        if let Some(code) = state.refused {
            self.log_refusal(code, None);
        }
        if self.closing.map(|(code, _)| code) != state.closing {
            self.closing = state.closing.map(|code| (code, Instant::now()));
            self.drop_delayed_watch();
            // Delayed cursors must not delay a shutdown.
            if state.closing == Some(CloseCode::Restart) {
                self.submit_all_cursors();
            }
            if let Some(code) = state.closing.filter(|code| code.ends_access()) {
                self.refuse_asked(code);
            }
        }
        let sent = socket.sent_bytes();
        let written = socket.poll_write(cx, &self.outbox, &self.services.metrics)?.is_ready();
        if written {
            self.stalled_since = None;
            if state.has_lag {
                idle &= self.poll_replay(cx).is_pending();
            }
            if let Some(code) = state.closing.filter(|_| state.in_flight == 0) {
                return Err(ConnectionEnd::Close(code));
            }
        } else if self.stalled_since.is_none() || socket.sent_bytes() > sent {
            self.stalled_since = Some(Instant::now());
        }
        if !state.has_lag {
            self.log_caught_up();
        } else if !written {
            self.log_lag();
        }
        // If the whole queue is written, there is room again. Other changes that make room wake the task.
        if self.can_accept_write(OutboxState { bytes: if written { 0 } else { state.bytes }, ..state }) {
            self.resume_reading();
            idle &= self.poll_read(cx, socket)?.is_pending();
        } else {
            self.pause_reading();
        }
        Ok(if idle { Poll::Pending } else { Poll::Ready(()) })
    }

    /// Stops reading from the socket.
    pub(super) fn pause_reading(&mut self) {
        self.paused_since.get_or_insert_with(Instant::now);
    }

    /// Resumes reading. The pause does not count as silence of the client, and does not end a flood.
    fn resume_reading(&mut self) {
        let Some(paused) = self.paused_since.take() else { return };
        let now = Instant::now();
        self.last_received = now;
        self.pinged_at = None;
        if let Some(flood) = &mut self.flood {
            flood.since += now - paused;
            flood.last += now - paused;
        }
    }

    /// Whether another command may be read, because there is room for its reply.
    fn can_accept_write(&self, state: OutboxState) -> bool {
        let limits = &self.services.limits;
        self.pending.is_none()
            && !self.asked.as_ref().is_some_and(|asked| asked.is_full())
            && state.closing.is_none()
            && state.in_flight < limits.in_flight
            && state.bytes <= limits.queue as usize
    }

    fn poll_read<S: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket<S>,
    ) -> Result<Poll<()>, ConnectionEnd> {
        let limits = &self.services.limits;
        let bounds = MessageBounds { bytes: limits.frame as usize, fragments: limits.fragments };
        let read = socket.poll_read(cx, bounds, &mut |message| {
            self.handle_message(message)?;
            Ok(if self.can_accept_write(self.outbox.state()) { DecodeFlow::Next } else { DecodeFlow::Pause })
        });
        let read = match read {
            // The metric of dropped frames counted this flood when the frame was refused.
            Poll::Ready(Err(ConnectionEnd::Close(CloseCode::TooFast))) => {
                return Err(ConnectionEnd::Close(CloseCode::TooFast));
            }
            Poll::Ready(Err(ConnectionEnd::Close(code))) => {
                self.services.metrics.count_dropped(DropReason::BrokenFraming);
                return Err(ConnectionEnd::Close(code));
            }
            read => read?,
        };
        if read.is_ready() {
            self.last_received = Instant::now();
            self.outbox.record_received(self.last_received);
            self.pinged_at = None;
        }
        Ok(read)
    }

    /// Reads lags from the log, one page at a time. Each page is read once the previous one is written.
    fn poll_replay(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let replay = match &mut self.replay {
            Some(replay) => replay,
            none => {
                let Some(lag) = self.outbox.next_lag() else { return Poll::Ready(()) };
                let epoch = self.outbox.block_epoch();
                let page = self.services.store.replay(self.key, lag.conversation, lag.cursor, lag.missed);
                none.insert(Box::new(ReplayState::Reading(lag.conversation, epoch, page)))
            }
        };
        match &mut **replay {
            ReplayState::Waiting(until) if *until > Instant::now() => return Poll::Pending,
            ReplayState::Waiting(_) => self.replay = None,
            ReplayState::Reading(conversation, epoch, page) => {
                let (conversation, epoch) = (*conversation, *epoch);
                let Poll::Ready(page) = page.as_mut().poll(cx) else { return Poll::Pending };
                self.replay = self.queue_replay_page(conversation, epoch, page).map(Box::new);
            }
        }
        Poll::Ready(())
    }

    fn queue_replay_page(
        &mut self,
        conversation: ConversationKey,
        epoch: u64,
        page: Result<Vec<ReadEvent>, switchboard_store::refusal::Refusal>,
    ) -> Option<ReplayState> {
        match page {
            Ok(events) => {
                let frames: Vec<(Seq, _)> =
                    events.iter().map(|e| (e.event.seq, frame::text(&e.seen_json()))).collect();
                self.outbox.push_replayed(conversation, epoch, frames);
                None
            }
            Err(refusal) if refusal.code.retryable() => {
                Some(ReplayState::Waiting(Instant::now() + REPLAY_RETRY_DELAY))
            }
            // The read is not retried, because the user may no longer read the conversation.
            Err(_) => {
                self.outbox.push_replayed(conversation, epoch, Vec::new());
                None
            }
        }
    }

    /// Handles due time-outs and sets the timer for the next one.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, ConnectionEnd> {
        // The timer already has this task's waker, which does not change, so it is not polled again. This needs no look at the
        // clock.
        if let Some(timer) = self.timer.as_ref().filter(|timer| !timer.is_elapsed())
            && self.next_due().is_none_or(|due| due >= timer.deadline())
        {
            return Ok(Poll::Pending);
        }
        let now = Instant::now();
        self.handle_due_timeouts(now)?;
        if self.release_watch(now) {
            return Ok(Poll::Ready(()));
        }
        let latest = now + MAX_TIMER;
        let due = self.next_due().map_or(latest, |due| due.min(latest));
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        timer.as_mut().reset(due);
        // Without `unconstrained`, a timer that is polled after tokio's cooperative budget is used up would not register the waker.
        Ok(pin!(unconstrained(timer.as_mut())).poll(cx))
    }

    /// Handles the time-outs that are due.
    fn handle_due_timeouts(&mut self, now: Instant) -> Result<(), ConnectionEnd> {
        self.submit_due_cursors(now);
        if self.slow.is_some() && self.stalled_since.is_some() {
            self.log_lag();
        }
        let close = |reason, code| {
            self.services.metrics.count_dropped(reason);
            Err(ConnectionEnd::Close(code))
        };
        if self.expires.is_some_and(|at| at <= now) {
            return close(DropReason::TokenExpired, CloseCode::TokenExpired);
        }
        if let (Some((code, _)), Some(at)) = (self.closing, self.close_deadline())
            && at <= now
        {
            return Err(ConnectionEnd::Close(code));
        }
        if self.is_stalled_at(now) {
            self.services.metrics.count_dropped(DropReason::StalledConnection);
            return Err(ConnectionEnd::ConnectionLost);
        }
        if self.paused_since.is_some() {
            return Ok(());
        }
        if self.stalled_since.is_none() && self.pinged_at.is_some_and(|at| at + self.pong_timeout() <= now) {
            return close(DropReason::SilentConnection, CloseCode::Silent);
        }
        if self.pinged_at.is_none() && self.last_received + self.ping_interval() <= now {
            self.pinged_at = Some(now);
            self.outbox.push_reply(frame::ping());
        }
        Ok(())
    }

    /// Whether the write time-out has passed.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled_at(Instant::now())
    }

    fn is_stalled_at(&self, now: Instant) -> bool {
        self.stalled_since.is_some_and(|since| since + WRITE_TIMEOUT <= now)
    }

    /// When a closing connection is closed at the latest; `None` if only the shutdown deadline bounds it.
    fn close_deadline(&self) -> Option<Instant> {
        match (self.closing?, self.stalled_since) {
            // The client of a user who was logged out or banned must not delay the close by reading slowly.
            ((code, since), _) if code.ends_access() => Some(since + CLOSE_TIMEOUT),
            ((_, since), Some(stalled)) => Some(since.max(stalled) + CLOSE_TIMEOUT),
            ((CloseCode::Normal, since), None) => Some(since + CLOSE_TIMEOUT),
            // Writes in flight at a shutdown are acknowledged; the shutdown deadline bounds them.
            (_, None) => None,
        }
    }

    /// When the next time-out is due; `None` if there is none.
    fn next_due(&self) -> Option<Instant> {
        let silence = match (self.stalled_since, self.pinged_at) {
            (Some(since), _) => Some(since + WRITE_TIMEOUT),
            (None, _) if self.paused_since.is_some() => None,
            (None, Some(at)) => Some(at + self.pong_timeout()),
            (None, None) => Some(self.last_received + self.ping_interval()),
        };
        // A client that reads wakes the session, one that does not read does not.
        let lag_line = self.stalled_since.and(self.slow.as_ref()).map(|slow| slow.next_line);
        let replay = match self.replay.as_deref() {
            Some(ReplayState::Waiting(until)) => Some(*until),
            Some(ReplayState::Reading(..)) | None => None,
        };
        [silence, lag_line, replay, self.expires, self.close_deadline(), self.cursors_due(), self.watch_due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.services.limits.ping_interval.into())
    }

    fn pong_timeout(&self) -> Duration {
        Duration::from_millis(self.services.limits.pong_timeout.into())
    }
}
