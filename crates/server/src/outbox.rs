//! The bounded write queue of one connection.
//!
//! An event that does not fit into the queue creates a [`Lag`]: the session then reads the conversation from the log, and new live
//! events of the conversation only move the end of the lag, until the session has read up to that end. No event is lost or
//! duplicated, because each is either queued or within a lag, and this is decided under one lock.
//!
//! `limits.lags` bounds the number of lags. A connection that needs more is a slow consumer: it is closed with 1013. No further
//! event is queued, so that no event is missing before those that the client has, and the client can resume by its cursors.

mod activity;
mod blocks;
mod joined;
mod lags;

use std::any::Any;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use switchboard_protocol::{CloseCode, ErrorCode, Limits, Seq};
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) use self::joined::join_frames;
pub(crate) use self::lags::Lag;
use self::lags::Lags;
use crate::metrics::{DropReason, Metrics};
use switchboard_store::origin::{Numbers, OriginConnection, SessionOrigin, WriteEpoch};
use switchboard_store::record::ConversationKey;
use switchboard_store::refusal::Refusal;

/// Capacity that the queue of an idle connection keeps, in frames.
const MAX_IDLE_CAPACITY: usize = 4;

/// The most events sent by the connection itself that are remembered until earlier events of their conversations are applied.
/// Beyond this number, the sender also receives the event itself, not only `ok`.
const MAX_PENDING_OWN_EVENTS: usize = 1_024;

/// How long the hold lasts: after a write without a number was refused, later writes of the connection without a number are
/// refused, too. Most writes that the client had sent after the refused one arrive within this time. They must not be stored,
/// because the client will send the refused one again, and it would then come after them.
const HOLD_DURATION: Duration = Duration::from_secs(1);

/// A stored event, which may wait with others of its conversation before it is queued for the sessions.
#[derive(Debug, Clone)]
pub(crate) struct CoalescedEvent {
    pub(crate) seq: Seq,
    pub(crate) frame: Bytes,
    /// The connection that sent the event. It receives `ok` instead of the event.
    pub(crate) sender: Option<Arc<Outbox>>,
    /// When this node learned that the event is in stable storage.
    pub(crate) learned_at: Instant,
}

/// A frame in the queue, or several frames of live events.
#[derive(Debug)]
pub(crate) struct QueuedFrames {
    /// Whole WebSocket frames.
    pub(crate) frame: Bytes,
    /// How many frames are in `frame`.
    pub(crate) frames: u32,
    /// When the first live event in `frame` reached stable storage.
    pub(crate) stored: Option<Instant>,
}

impl QueuedFrames {
    /// One frame that is no live event.
    fn single(frame: Bytes) -> Self {
        Self { frame, frames: 1, stored: None }
    }
}

/// The queue of one connection. The router fills it, the session empties it.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// The connection's id, which its client receives and which is in the log lines.
    id: Uuid,
    inner: Mutex<Queue>,
    /// Counts the writes without a number that the store's writer has rejected. Only that thread changes it.
    rejected: AtomicU64,
    /// The highest number of a write that is stored. Only the store's writer changes it.
    stored_number: AtomicU64,
    /// The highest number of a write that is settled: stored, or refused for good. Only the store's writer changes it.
    settled_number: AtomicU64,
    /// The most bytes in the queue: `limits.queue`. An event that does not fit becomes a lag.
    limit: u32,
    /// The most conversations that the session may read from the log at a time, because it has missed events: `limits.lags`.
    max_lags: u32,
    metrics: Arc<Metrics>,
    activity: activity::Activity,
}

/// Events that this connection has sent and that are stored. They wait until earlier events of their conversations are applied.
type PendingOwnEvents = BTreeSet<(ConversationKey, Seq)>;

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<QueuedFrames>,
    /// Bytes in `frames` and in the frames that the session has taken but not written.
    bytes: usize,
    /// `None` on a connection without a lag, which is the usual case.
    lags: Option<Box<Lags>>,
    /// Whether the connection is being closed because it needs too many lags. No event is queued any more, because earlier events
    /// are missing.
    too_far_behind: bool,
    /// The connection's own events that are stored and wait until earlier events of their conversation are applied.
    pending_own: Option<Box<PendingOwnEvents>>,
    /// The pong for the last ping. One pong answers any number of pings (RFC 6455 section 5.5.3).
    pong: Option<Bytes>,
    /// How many writes have no outcome in the queue yet.
    in_flight: u32,
    closing: Option<CloseCode>,
    /// How many refusals have been queued for writes without a number that the store's writer rejected.
    rejections_queued: u64,
    /// When the hold (a pause of writes after a refusal) ends, and the error code of its refusals. Until then, writes without a
    /// number are refused, because an earlier one was not stored.
    hold: Option<(Instant, ErrorCode)>,
    waker: Option<Waker>,
    /// Whether the waker was called since the session last registered it.
    is_woken: bool,
    /// Why the router has queued the refusal of a write since the session last woke.
    refused: Option<ErrorCode>,
    /// How often the list of users whom the user blocks has changed since the connection began.
    block_epoch: u64,
}

/// The state of the outbox that a session checks when it wakes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutboxState {
    /// Bytes in the queue.
    pub(crate) bytes: usize,
    /// How many writes have no outcome yet.
    pub(crate) in_flight: u32,
    /// Whether the connection has missed events that its session must read from the log.
    pub(crate) has_lag: bool,
    /// The code to close the connection with once everything is written.
    pub(crate) closing: Option<CloseCode>,
    /// Why a write was refused since the session last woke.
    pub(crate) refused: Option<ErrorCode>,
}

impl Outbox {
    pub(crate) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let (limit, max_lags) = (limits.queue, limits.lags);
        let (rejected, stored_number, settled_number, activity) = Default::default();
        let id = Uuid::now_v7();
        Self {
            id,
            inner: Mutex::default(),
            rejected,
            stored_number,
            settled_number,
            limit,
            max_lags,
            metrics,
            activity,
        }
    }

    /// The connection's id, a UUID of version 7: it contains the time at which the connection began.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A poisoned lock is no problem: no code panics between two changes of the state that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues live events of a conversation, oldest first. Events that do not fit, or that come after a lag, are added to the lag.
    /// Skips the connection's own events, because it receives their `ok`. Returns how many events were queued.
    pub(crate) fn push_events(&self, conversation: ConversationKey, events: &[CoalescedEvent]) -> u64 {
        let mut inner = self.lock();
        let (mut queued, mut fell_behind) = (0, false);
        // Growing the queue event by event would cost more than the rest of this function.
        if inner.lags.is_none() && !inner.too_far_behind {
            inner.frames.reserve(events.len());
        }
        for event in events {
            let own = inner.remove_pending_own(conversation, event.seq) || self.is_own(event);
            if inner.too_far_behind {
                continue;
            }
            let full = inner.bytes + event.frame.len() > self.limit as usize;
            match inner.lag_of(conversation) {
                Some(lags) => {
                    lags.extend(conversation, event.seq);
                    if own {
                        lags.add_own_event(conversation, event.seq);
                    }
                }
                None if own => {}
                None if full => {
                    let cursor = Seq(event.seq.0 - 1);
                    self.add_lag(&mut inner, Lag { conversation, cursor, missed: event.seq });
                    fell_behind = true;
                }
                None => {
                    inner.enqueue(QueuedFrames {
                        stored: Some(event.learned_at),
                        ..QueuedFrames::single(event.frame.clone())
                    });
                    queued += 1;
                }
            }
        }
        if fell_behind || queued > 0 {
            inner.wake();
        }
        queued
    }

    /// Like [`Self::push_events`], with the events' frames one after another in `joined`. A connection that receives all of them
    /// queues this one buffer, which costs it one reference and one contiguous write.
    pub(crate) fn push_joined(
        &self,
        conversation: ConversationKey,
        events: &[CoalescedEvent],
        joined: &Bytes,
    ) -> u64 {
        let mut inner = self.lock();
        let receives_all = inner.lags.is_none()
            && inner.pending_own.is_none()
            && !inner.too_far_behind
            && inner.bytes + joined.len() <= self.limit as usize
            && !events.iter().any(|event| self.is_own(event));
        if !receives_all {
            std::mem::drop(inner);
            return self.push_events(conversation, events);
        }
        let (frames, stored) = (events.len() as u32, events.first().map(|event| event.learned_at));
        inner.push(QueuedFrames { frame: joined.clone(), frames, stored });
        frames.into()
    }

    /// Whether this connection sent an event.
    fn is_own(&self, event: &CoalescedEvent) -> bool {
        event.sender.as_ref().is_some_and(|own| std::ptr::eq(Arc::as_ptr(own), self))
    }

    /// Records an event of this connection before it is applied. In a cluster the event may then come from the store, which does
    /// not name the connection, and the connection must not receive it besides its `ok`.
    pub(crate) fn expect_own_event(&self, conversation: ConversationKey, seq: Seq) {
        let mut inner = self.lock();
        let pending = inner.pending_own.get_or_insert_default();
        if pending.len() < MAX_PENDING_OWN_EVENTS {
            pending.insert((conversation, seq));
        }
    }

    /// Queues a signal, or drops it if the queue is full.
    pub(crate) fn push_signal(&self, frame: &Bytes) {
        let mut inner = self.lock();
        if inner.bytes + frame.len() > self.limit as usize {
            self.metrics.count_dropped(DropReason::SignalQueueFull);
        } else {
            inner.push(QueuedFrames::single(frame.clone()));
        }
    }

    /// Queues a reply, even if the queue is full. Replies are bounded, because a session reads no commands while its queue is full.
    pub(crate) fn push_reply(&self, frame: Bytes) {
        self.lock().push(QueuedFrames::single(frame));
    }

    /// Queues a pong; it replaces one that has not been written yet.
    pub(crate) fn set_pong(&self, frame: Bytes) {
        let mut inner = self.lock();
        inner.pong = Some(frame);
        inner.wake();
    }

    /// Makes the session log the refusal that is queued next. The outbox does not know the user, which the log line must name.
    pub(crate) fn record_refusal(&self, code: ErrorCode) {
        self.lock().refused = Some(code);
    }

    /// Queues the outcome of a write.
    pub(crate) fn push_outcome(&self, frame: Bytes) {
        let mut inner = self.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        inner.push(QueuedFrames::single(frame));
    }

    /// Queues the refusal of a write without a number that the store's writer rejected. For a while, later such writes are refused,
    /// too.
    pub(crate) fn push_rejection(&self, frame: Bytes) {
        let mut inner = self.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        inner.rejections_queued += 1;
        inner.begin_hold(ErrorCode::Unavailable);
        inner.push(QueuedFrames::single(frame));
    }

    /// Returns the write epoch for a write without a number that is submitted now. A later rejection makes the epoch stale.
    ///
    /// # Errors
    /// Writes without a number are refused for a while after an earlier refusal, or the refusal of an earlier write is not queued
    /// yet.
    pub(crate) fn begin_write(&self) -> Result<WriteEpoch, Refusal> {
        let inner = self.lock();
        if let Some((left, code)) = inner.remaining_hold() {
            return Err(match code {
                ErrorCode::RateLimited => Refusal::too_fast(left),
                _ => Refusal::unavailable_for(left),
            });
        }
        let rejected = self.rejected.load(Ordering::Acquire);
        if inner.rejections_queued == rejected {
            Ok(WriteEpoch(rejected))
        } else {
            Err(Refusal::unavailable())
        }
    }

    /// Begins a hold (a pause of writes) after a write without a number that exceeds a rate, and returns the refusal of that write.
    /// The next token of the rate comes after `wait`. Without the hold, a later pipelined write could take that token and overtake
    /// the refused one.
    pub(crate) fn hold_for_rate(&self, wait: Duration) -> Refusal {
        let mut inner = self.lock();
        inner.begin_hold(ErrorCode::RateLimited);
        let left = inner.remaining_hold().map_or(Duration::ZERO, |(left, _)| left);
        Refusal::too_fast(wait.max(left))
    }

    /// Begins a hold (a pause of writes) after the store's queue refused a write without a number. Writes in that queue are not
    /// affected.
    pub(crate) fn begin_hold(&self) {
        self.lock().begin_hold(ErrorCode::Unavailable);
    }

    /// Counts a write as in flight until its outcome is queued.
    pub(crate) fn begin_in_flight(&self) {
        self.lock().in_flight += 1;
    }

    /// Closes the connection once everything queued is written and every write has its outcome. The first code wins, except that a
    /// revocation or a ban replaces it, because it must not wait for a client that is closing and reads slowly.
    pub(crate) fn close(&self, code: CloseCode) {
        let mut inner = self.lock();
        inner.close(code);
        inner.wake();
    }

    /// Like [`Self::close`], but does not wait for the outcomes of writes, because the store's writer or the router has ended.
    pub(crate) fn close_without_outcomes(&self, code: CloseCode) {
        let mut inner = self.lock();
        inner.in_flight = 0;
        inner.close(code);
        inner.wake();
    }

    /// Registers the waker and returns the state, under one lock so that no change between the two is missed.
    pub(crate) fn register_waker(&self, waker: &Waker) -> OutboxState {
        let mut inner = self.lock();
        inner.is_woken = false;
        if !inner.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        let state = inner.state();
        inner.refused = None;
        state
    }

    /// The current state of the queue.
    pub(crate) fn state(&self) -> OutboxState {
        self.lock().state()
    }

    /// Moves the queued frames to `empty`, and subtracts `written` bytes of frames taken earlier. The bytes of the taken frames
    /// count until they are written.
    pub(crate) fn take_frames(&self, written: usize, empty: &mut VecDeque<QueuedFrames>) {
        let mut inner = self.lock();
        inner.subtract_written(written);
        if let Some(frame) = inner.pong.take() {
            // A pong goes first, "as soon as is practical" (RFC 6455 section 5.5.2).
            inner.bytes += frame.len();
            inner.frames.push_front(QueuedFrames::single(frame));
        }
        // While the connection is busy, two small buffers are swapped. An idle connection keeps one of them, here.
        if !inner.frames.is_empty() || inner.frames.capacity() == 0 {
            std::mem::swap(&mut inner.frames, empty);
        } else {
            *empty = VecDeque::new();
        }
        if inner.frames.capacity() > MAX_IDLE_CAPACITY {
            inner.frames = VecDeque::new();
        }
    }

    /// Subtracts bytes that have been written to the socket from the bytes in the queue.
    pub(crate) fn subtract_written(&self, bytes: usize) {
        self.lock().subtract_written(bytes);
    }
}

impl Outbox {
    /// The outbox of the connection that sent a write. Every connection of this server is an outbox.
    pub(crate) fn from_origin(origin: &SessionOrigin) -> Option<Arc<Self>> {
        let connection: Arc<dyn Any + Send + Sync> = origin.connection.clone();
        connection.downcast().ok()
    }
}

impl OriginConnection for Outbox {
    fn is_stale(&self, epoch: WriteEpoch) -> bool {
        self.rejected.load(Ordering::Relaxed) != epoch.0
    }

    fn count_rejected_write(&self) {
        self.rejected.fetch_add(1, Ordering::Release);
    }

    fn numbers(&self) -> Numbers {
        let (stored, settled) = (&self.stored_number, &self.settled_number);
        Numbers { stored: stored.load(Ordering::Relaxed), settled: settled.load(Ordering::Relaxed) }
    }

    fn set_numbers(&self, numbers: Numbers) {
        self.stored_number.store(numbers.stored, Ordering::Relaxed);
        self.settled_number.store(numbers.settled, Ordering::Relaxed);
    }
}

impl Queue {
    /// Begins a hold (a pause of writes after a refusal), unless one has begun and not ended.
    fn begin_hold(&mut self, code: ErrorCode) {
        if self.remaining_hold().is_none() {
            self.hold = Some((Instant::now() + HOLD_DURATION, code));
        }
    }

    /// If writes are paused after a refusal: the time until the pause ends, and the error code with which writes are refused until
    /// then.
    fn remaining_hold(&self) -> Option<(Duration, ErrorCode)> {
        let (until, code) = self.hold?;
        let left = until.saturating_duration_since(Instant::now());
        (left > Duration::ZERO).then_some((left, code))
    }

    fn subtract_written(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn close(&mut self, code: CloseCode) {
        if self.closing.is_none() || code.ends_access() {
            self.closing = Some(code);
        }
    }

    fn state(&self) -> OutboxState {
        OutboxState {
            bytes: self.bytes,
            in_flight: self.in_flight,
            has_lag: self.lags.is_some(),
            closing: self.closing,
            refused: self.refused,
        }
    }

    /// Called when an event is applied: removes it from the pending own events. Returns `true` if it was among them.
    fn remove_pending_own(&mut self, conversation: ConversationKey, seq: Seq) -> bool {
        let Some(pending) = &mut self.pending_own else { return false };
        let found = pending.remove(&(conversation, seq));
        self.pending_own.take_if(|pending| pending.is_empty());
        found
    }

    fn push(&mut self, queued: QueuedFrames) {
        self.enqueue(queued);
        self.wake();
    }

    fn enqueue(&mut self, queued: QueuedFrames) {
        self.bytes += queued.frame.len();
        self.frames.push_back(queued);
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.as_ref().filter(|_| !self.is_woken) {
            waker.wake_by_ref();
            self.is_woken = true;
        }
    }
}

#[cfg(test)]
mod tests;
