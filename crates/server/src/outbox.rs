//! What waits to be written to one connection: bounded, and honest about what did not fit.
//!
//! An event that does not fit leaves a [`Lag`] behind: the conversation is then read from the log, and
//! live events of it only move the lag's end, until the reading has reached it. Nothing is lost and
//! nothing comes twice, because an event is either queued or within a lag, decided under one lock.
//!
//! Lags are bounded by `limits.lags`. A connection that needs more of them is closed with 1013, and no event is queued any
//! more: what the client has then ends somewhere, and it resumes from there.

mod hold;
mod lags;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use switchboard_protocol::{CloseCode, Limits, Seq};
use tokio::time::Instant;

use self::hold::Hold;
pub(crate) use self::lags::Lag;
use self::lags::Lags;
use crate::metrics::{Drop, Metrics};
use crate::record::ConversationKey;
use crate::refusal::Refusal;

/// Frames of capacity that an idle connection keeps.
const KEPT: usize = 4;

/// Own events that a connection may not have come by. More are told besides their `ok`.
const MAX_OWN: usize = 1_024;

/// An event that waits to be queued for the sessions of its conversation.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) seq: Seq,
    pub(crate) frame: Bytes,
    /// The connection that it came over, which is not told.
    pub(crate) own: Option<Arc<Outbox>>,
    /// When it was on stable storage.
    pub(crate) stored: Instant,
}

/// A frame that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    /// The whole WebSocket frame.
    pub(crate) frame: Bytes,
    /// For a live event, when it was on stable storage.
    pub(crate) stored: Option<Instant>,
}

/// The queue of one connection. The router fills it, the session empties it.
#[derive(Debug)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    /// How many writes the store's writer, and nobody else, has given back; it changes under the lock.
    given_back: AtomicU64,
    /// Bytes that may wait before events are left to the log: `limits.queue`.
    limit: usize,
    /// Conversations that may be read from the log at a time: `limits.lags`.
    max_lags: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Queued>,
    /// In `frames`, and in what the session has taken but not written.
    bytes: usize,
    /// None on a connection that lags nowhere, which is nearly every one.
    lags: Option<Box<Lags>>,
    /// The connection is being closed because it had too many lags. Events are no longer queued: some before them are missing.
    cut: bool,
    /// The connection's own events that it has not come by yet in the order of their conversations.
    own: BTreeSet<(ConversationKey, Seq)>,
    /// The answer to the last ping: one is enough for any number of them (RFC 6455 section 5.5.3).
    pong: Option<Bytes>,
    /// Writes whose outcome is not queued yet.
    in_flight: u32,
    closing: Option<CloseCode>,
    /// Nothing is stored, because the client may not know yet that a write was not.
    hold: Option<Box<Hold>>,
    waker: Option<Waker>,
    /// The session has been woken and has not looked since.
    woken: bool,
}

/// How many writes had been given back when this one was made: its place among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn(u64);

/// What a session looks at when it wakes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    /// Bytes that wait.
    pub(crate) bytes: usize,
    /// Writes without an outcome.
    pub(crate) in_flight: u32,
    /// Whether there is something to read from the log.
    pub(crate) behind: bool,
    /// Whether the connection is to be closed once all is written.
    pub(crate) closing: Option<CloseCode>,
}

impl Outbox {
    pub(crate) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let (limit, max_lags) = (limits.queue as usize, limits.lags as usize);
        Self { inner: Mutex::default(), given_back: AtomicU64::new(0), limit, max_lags, metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics halfway.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues live events of a conversation, oldest first, or leaves them to the log; how many were queued. Of the
    /// connection's own, its `ok` tells instead.
    pub(crate) fn push_events(&self, conversation: ConversationKey, events: &[Gathered]) -> u64 {
        let mut inner = self.lock();
        let (mut queued, mut fell_behind) = (0, false);
        for event in events {
            let own = event.own.as_ref().is_some_and(|own| std::ptr::eq(Arc::as_ptr(own), self));
            let own = inner.comes_by(conversation, event.seq) || own;
            if inner.cut {
                continue;
            }
            let full = inner.bytes + event.frame.len() > self.limit;
            match inner.lag_of(conversation) {
                Some(lags) => {
                    lags.extend(conversation, event.seq);
                    if own {
                        lags.add_own(conversation, event.seq);
                    }
                }
                None if own => {}
                None if full => {
                    let cursor = Seq(event.seq.0 - 1);
                    self.add_lag(&mut inner, Lag { conversation, cursor, missed: event.seq });
                    fell_behind = true;
                }
                None => {
                    inner.queue(Queued { frame: event.frame.clone(), stored: Some(event.stored) });
                    queued += 1;
                }
            }
        }
        if fell_behind || queued > 0 {
            inner.wake();
        }
        queued
    }

    /// Notes an own event before it is queued for its conversation's sessions: this one may not be among them yet, and comes
    /// by it later. Of no use where it could not have been so.
    pub(crate) fn note_own(&self, conversation: ConversationKey, seq: Seq) {
        let mut inner = self.lock();
        if inner.own.len() < MAX_OWN {
            inner.own.insert((conversation, seq));
        }
    }

    /// Queues a signal, if there is room: signals do not last.
    pub(crate) fn push_signal(&self, frame: &Bytes) {
        let mut inner = self.lock();
        if inner.bytes + frame.len() > self.limit {
            self.metrics.dropped(Drop::SignalQueueFull);
        } else {
            inner.push(Queued { frame: frame.clone(), stored: None });
        }
    }

    /// Queues a reply. It always fits: a session reads no more commands while it is over its limit.
    pub(crate) fn push_reply(&self, frame: Bytes) {
        self.lock().push(Queued { frame, stored: None });
    }

    /// Answers a ping, in place of an answer that still waits.
    pub(crate) fn set_pong(&self, frame: Bytes) {
        let mut inner = self.lock();
        inner.pong = Some(frame);
        inner.wake();
    }

    /// Queues the reply to a write.
    pub(crate) fn push_outcome(&self, frame: Bytes) {
        let mut inner = self.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        inner.push(Queued { frame, stored: None });
    }

    /// Queues the refusal of a write that was given back.
    pub(crate) fn push_given_back(&self, frame: Bytes) {
        let mut inner = self.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        inner.push(Queued { frame, stored: None });
        let bytes = inner.bytes;
        inner.hold.get_or_insert_with(|| Box::new(Hold::given_back())).told_given_back(bytes);
    }

    /// Queues the refusal of a write that was not made. It is part of the hold that it is due to.
    pub(crate) fn push_held(&self, frame: Bytes) {
        let mut inner = self.lock();
        inner.push(Queued { frame, stored: None });
        let bytes = inner.bytes;
        if let Some(hold) = &mut inner.hold {
            hold.told(bytes);
        }
    }

    /// The turn of a write that is to be made now, or what it is told: an earlier one was not stored, and the client may not
    /// know. Whoever gives one back later finds this one out of turn.
    pub(crate) fn turn(&self) -> Result<Turn, Refusal> {
        let mut inner = self.lock();
        if let Some(refusal) = inner.hold.as_ref().and_then(|hold| hold.refusal()) {
            return Err(refusal);
        }
        inner.hold = None;
        Ok(Turn(self.given_back.load(Ordering::Relaxed)))
    }

    /// What a write is told that is over a rate, which lets the next one through after `wait`. It holds what follows:
    /// pipelined sends keep their order though the buckets are filling all the time.
    pub(crate) fn over_rate(&self, wait: Duration) -> Refusal {
        let mut inner = self.lock();
        if let Some(refusal) = inner.hold.as_ref().and_then(|hold| hold.refusal()) {
            return refusal;
        }
        let hold = inner.hold.insert(Box::new(Hold::over_rate(wait)));
        hold.refusal().unwrap_or_else(|| Refusal::too_fast(wait))
    }

    /// Whether a write was given back since this turn.
    pub(crate) fn is_past(&self, turn: Turn) -> bool {
        self.given_back.load(Ordering::Relaxed) != turn.0
    }

    /// The writer gives a write back. What was made behind it is out of turn; what comes now has to wait.
    pub(crate) fn give_back(&self) {
        let mut inner = self.lock();
        inner.hold();
        self.given_back.fetch_add(1, Ordering::Relaxed);
    }

    /// The store does not take a write: what comes now has to wait, what it has taken goes on.
    pub(crate) fn hold(&self) {
        self.lock().hold();
    }

    /// The client is listened to again, for the first time since `paused`.
    pub(crate) fn resume(&self, paused: Instant) {
        if let Some(hold) = &mut self.lock().hold {
            hold.resume(paused);
        }
    }

    /// A write was submitted.
    pub(crate) fn submitted(&self) {
        self.lock().in_flight += 1;
    }

    /// Closes the connection once everything queued is written and every write has its outcome. The
    /// first reason stands, but for a revocation: that does not wait for a client that has said goodbye and reads slowly.
    pub(crate) fn close(&self, code: CloseCode) {
        let mut inner = self.lock();
        inner.close(code);
        inner.wake();
    }

    /// The same, when no write will have an outcome any more.
    pub(crate) fn abandon(&self, code: CloseCode) {
        let mut inner = self.lock();
        inner.in_flight = 0;
        inner.close(code);
        inner.wake();
    }

    /// Whom to wake, and how things stand. One call, so that nothing comes between the two.
    pub(crate) fn watch(&self, waker: &Waker) -> State {
        let mut inner = self.lock();
        inner.woken = false;
        if !inner.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        inner.state()
    }

    /// How things stand.
    pub(crate) fn state(&self) -> State {
        self.lock().state()
    }

    /// Takes everything that waits, in exchange for an empty queue, after `written` bytes of what was taken before have
    /// left. The bytes of what is taken count until then.
    pub(crate) fn take(&self, written: usize, empty: &mut VecDeque<Queued>) {
        let mut inner = self.lock();
        inner.written(written);
        if let Some(frame) = inner.pong.take() {
            // "As soon as is practical" (RFC 6455 section 5.5.2): whoever asks whether we are here need not wait for what else does.
            inner.bytes += frame.len();
            inner.frames.push_front(Queued { frame, stored: None });
        }
        // A small buffer goes to and fro; of an idle connection, it is here.
        if !inner.frames.is_empty() || inner.frames.capacity() == 0 {
            std::mem::swap(&mut inner.frames, empty);
        } else {
            *empty = VecDeque::new();
        }
        if inner.frames.capacity() > KEPT {
            inner.frames = VecDeque::new();
        }
    }

    /// So many bytes have left.
    pub(crate) fn written(&self, bytes: usize) {
        self.lock().written(bytes);
    }
}

impl Inner {
    /// Until the client has been told that a write was given back, and has had time to hear it.
    fn hold(&mut self) {
        self.hold.get_or_insert_with(|| Box::new(Hold::given_back())).give_back();
    }

    fn written(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(hold) = &mut self.hold {
            hold.written(bytes);
        }
    }

    fn close(&mut self, code: CloseCode) {
        if self.closing.is_none() || code == CloseCode::Revoked {
            self.closing = Some(code);
        }
    }

    fn state(&self) -> State {
        State {
            bytes: self.bytes,
            in_flight: self.in_flight,
            behind: self.lags.is_some(),
            closing: self.closing,
        }
    }

    /// The connection comes by an event; whether it is its own.
    fn comes_by(&mut self, conversation: ConversationKey, seq: Seq) -> bool {
        if self.own.is_empty() {
            return false;
        }
        let found = self.own.remove(&(conversation, seq));
        if self.own.is_empty() {
            // Without its last node, which an empty set keeps.
            self.own = BTreeSet::new();
        }
        found
    }

    fn push(&mut self, queued: Queued) {
        self.queue(queued);
        self.wake();
    }

    fn queue(&mut self, queued: Queued) {
        self.bytes += queued.frame.len();
        self.frames.push_back(queued);
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.as_ref().filter(|_| !self.woken) {
            waker.wake_by_ref();
            self.woken = true;
        }
    }
}

#[cfg(test)]
mod tests;
