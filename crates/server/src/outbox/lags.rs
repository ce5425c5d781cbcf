//! The lags of one connection: the conversations that the session reads from the log, in round robin.
//!
//! A lag takes some 30 bytes in a hash map and 8 in a queue, however many events it spans. `limits.lags` bounds the number of lags,
//! because a client that stops reading gets one more for each further conversation with an event.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use switchboard_protocol::{CloseCode, Seq};

use super::{Outbox, Queue, QueuedFrames};
use crate::metrics::DropReason;
use switchboard_store::record::ConversationKey;

/// The most events that the connection itself has sent and that are remembered as part of its lags. Beyond this number, the client
/// receives the replayed event as well as its `ok`. Clients drop duplicates.
const MAX_OWN_IN_LAGS: usize = 16_384;

/// A conversation of which the session reads missed events from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lag {
    /// The conversation.
    pub(crate) conversation: ConversationKey,
    /// The last event queued; the replay starts after it.
    pub(crate) cursor: Seq,
    /// The last event not queued; live events resume after it.
    pub(crate) missed: Seq,
}

/// The events of a lag: those after `cursor`, up to `missed`.
#[derive(Debug, Clone, Copy)]
struct LagRange {
    cursor: Seq,
    missed: Seq,
}

/// All lags of a connection.
#[derive(Debug, Default)]
pub(super) struct Lags {
    spans: FxHashMap<ConversationKey, LagRange>,
    /// The conversations in the order in which they are read, each once.
    queue: VecDeque<ConversationKey>,
    /// The connection's own events within lags, which the replay skips because the client receives their `ok`.
    own_events: BTreeSet<(ConversationKey, Seq)>,
    /// The number of lags from the cursors of `hello`. They do not count against the limit, because the length of `hello` bounds
    /// them.
    resumed: usize,
}

impl Lags {
    /// Number of lags that count against the limit.
    fn count_limited(&self) -> usize {
        self.spans.len().saturating_sub(self.resumed)
    }

    /// Moves the end of a conversation's lag to `missed`. Returns `false` if the conversation has no lag.
    pub(super) fn extend(&mut self, conversation: ConversationKey, missed: Seq) -> bool {
        let span = self.spans.get_mut(&conversation);
        span.map(|span| span.missed = span.missed.max(missed)).is_some()
    }

    /// Adds a lag to a conversation that has none.
    fn add(&mut self, Lag { conversation, cursor, missed }: Lag) {
        self.spans.insert(conversation, LagRange { cursor, missed });
        self.queue.push_back(conversation);
    }

    /// Adds a lag from a cursor of `hello`.
    fn resume(&mut self, lag: Lag) {
        self.add(lag);
        self.resumed += 1;
    }

    /// The last event of a conversation's lag.
    fn missed(&self, conversation: ConversationKey) -> Option<Seq> {
        self.spans.get(&conversation).map(|span| span.missed)
    }

    /// Records that the connection itself sent an event within a lag, so that the replay skips the event.
    pub(super) fn add_own_event(&mut self, conversation: ConversationKey, seq: Seq) {
        if self.own_events.len() < MAX_OWN_IN_LAGS {
            self.own_events.insert((conversation, seq));
        }
    }

    /// The lag to read next.
    fn oldest(&self) -> Option<Lag> {
        let conversation = *self.queue.front()?;
        let LagRange { cursor, missed } = *self.spans.get(&conversation)?;
        Some(Lag { conversation, cursor, missed })
    }

    /// Advances a lag's cursor to an event read from the log. Returns `true` if the event must be queued, because it is new and the
    /// connection did not send it.
    fn advance(&mut self, conversation: ConversationKey, seq: Seq) -> bool {
        let Some(span) = self.spans.get_mut(&conversation).filter(|span| seq > span.cursor) else {
            return false;
        };
        span.cursor = seq;
        !self.own_events.remove(&(conversation, seq))
    }

    /// Called after a page of a lag was read. `found` is false if the page was empty, and then the log has no more events. Moves an
    /// unfinished lag to the end of the queue, and removes a finished one. Returns `true` if the lag is finished.
    fn finish_page(&mut self, conversation: ConversationKey, found: bool) -> bool {
        match self.queue.front() {
            Some(front) if *front == conversation => drop(self.queue.pop_front()),
            _ => self.queue.retain(|other| *other != conversation),
        }
        let span = self.spans.get(&conversation);
        if found && span.is_some_and(|span| span.cursor < span.missed) {
            self.queue.push_back(conversation);
            return false;
        }
        self.spans.remove(&conversation);
        let own = (conversation, Seq(0))..=(conversation, Seq::MAX);
        while let Some(left) = self.own_events.range(own.clone()).next().copied() {
            self.own_events.remove(&left);
        }
        true
    }
}

impl Outbox {
    /// Makes the session read the events of a conversation after `cursor` up to `missed` from the log, as a new lag or as part of
    /// its lag.
    pub(crate) fn push_lag(&self, conversation: ConversationKey, cursor: Seq, missed: Seq) {
        if cursor < missed {
            let mut inner = self.lock();
            if !inner.extend_lag(conversation, missed) {
                self.add_lag(&mut inner, Lag { conversation, cursor, missed });
            }
            inner.move_own_to_lag(conversation);
            inner.wake();
        }
    }

    /// Adds or extends a lag of the events after a cursor of `hello` up to `missed`. These lags do not count against the limit: the
    /// length of `hello` bounds them, and a client that was closed as a slow consumer must be able to resume.
    pub(crate) fn resume_from(&self, conversation: ConversationKey, cursor: Seq, missed: Seq) {
        if cursor < missed {
            let mut inner = self.lock();
            if !inner.too_far_behind && !inner.extend_lag(conversation, missed) {
                self.metrics.lag_count.inc();
                inner.lags.get_or_insert_default().resume(Lag { conversation, cursor, missed });
            }
            inner.move_own_to_lag(conversation);
            inner.wake();
        }
    }

    /// Adds a lag to a conversation that has none, or closes the connection if there are too many.
    pub(super) fn add_lag(&self, inner: &mut Queue, lag: Lag) {
        if inner.too_far_behind {
            return;
        }
        let lags = inner.lags.get_or_insert_default();
        if lags.count_limited() < self.max_lags as usize {
            self.metrics.lag_count.inc();
            lags.add(lag);
        } else {
            self.close_slow_locked(inner);
        }
    }

    /// Closes the connection of a slow consumer with 1013, because the server can no longer track which events it has missed. No
    /// further event is queued, so that the client's cursors stay correct and it can resume.
    pub(crate) fn close_slow_consumer(&self) {
        let mut inner = self.lock();
        self.close_slow_locked(&mut inner);
        inner.wake();
    }

    fn close_slow_locked(&self, inner: &mut Queue) {
        if !std::mem::replace(&mut inner.too_far_behind, true) {
            self.metrics.count_dropped(DropReason::TooFarBehind);
            self.drop_lags(inner);
            inner.close(CloseCode::TryLater);
        }
    }

    fn drop_lags(&self, inner: &mut Queue) {
        let lags = inner.lags.take().map_or(0, |lags| lags.spans.len());
        self.metrics.lag_count.dec_by(i64::try_from(lags).unwrap_or_default());
    }

    /// How many conversations have a lag, and how many events are in all of them.
    pub(crate) fn total_lag(&self) -> (usize, u64) {
        let inner = self.lock();
        let spans = inner.lags.iter().flat_map(|lags| lags.spans.values());
        let events = spans.map(|span| span.missed.0.saturating_sub(span.cursor.0)).sum();
        (inner.lags.as_ref().map_or(0, |lags| lags.spans.len()), events)
    }

    /// Whether the connection is being closed because it needs too many lags.
    pub(crate) fn is_too_far_behind(&self) -> bool {
        self.lock().too_far_behind
    }

    /// The lag to read next.
    pub(crate) fn next_lag(&self) -> Option<Lag> {
        self.lock().lags.as_ref()?.oldest()
    }

    /// Queues a page of events that was read for a lag, oldest first, each with its seq. An empty page ends the lag. A page that was asked
    /// for in an earlier block epoch is dropped, because it may show what the user does not see by now; the session reads it again.
    pub(crate) fn push_replayed(&self, conversation: ConversationKey, epoch: u64, events: Vec<(Seq, Bytes)>) {
        let mut inner = self.lock();
        if inner.block_epoch != epoch {
            return;
        }
        let Some(mut lags) = inner.lags.take_if(|lags| lags.missed(conversation).is_some()) else { return };
        let found = !events.is_empty();
        for (seq, frame) in events {
            if lags.advance(conversation, seq) {
                self.metrics.replayed.inc();
                inner.push(QueuedFrames::single(frame));
            }
        }
        if lags.finish_page(conversation, found) {
            self.metrics.lag_count.dec();
        }
        // A connection without lags keeps no memory for them.
        inner.lags = (!lags.spans.is_empty()).then_some(lags);
    }
}

impl Queue {
    /// Moves the connection's own events that a conversation's lag covers from the pending ones to the lag, whose replay skips
    /// them.
    fn move_own_to_lag(&mut self, conversation: ConversationKey) {
        let (Some(lags), Some(pending)) = (&mut self.lags, &mut self.pending_own) else { return };
        let Some(missed) = lags.missed(conversation) else { return };
        let within = (conversation, Seq(0))..=(conversation, missed);
        let own: Vec<_> = pending.range(within).copied().collect();
        for (_, seq) in own {
            pending.remove(&(conversation, seq));
            lags.add_own_event(conversation, seq);
        }
        self.pending_own.take_if(|pending| pending.is_empty());
    }

    /// The lags of the connection, if this conversation has one.
    pub(super) fn lag_of(&mut self, conversation: ConversationKey) -> Option<&mut Lags> {
        self.lags.as_deref_mut().filter(|lags| lags.missed(conversation).is_some())
    }

    /// Moves the end of a conversation's lag to `missed`. Returns `false` if the conversation has no lag.
    fn extend_lag(&mut self, conversation: ConversationKey, missed: Seq) -> bool {
        self.lags.as_mut().is_some_and(|lags| lags.extend(conversation, missed))
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.drop_lags(&mut self.lock());
    }
}
