//! The conversations that one connection reads from the log: found by their key, read in turns, and bounded in number.
//!
//! A lag is some 30 bytes in a hash map and 8 in a queue, however many events it spans. Their number is bounded by
//! `limits.lags`, because a client that stops reading gains one for each further conversation in which something happens.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use switchboard_protocol::{CloseCode, Seq};

use super::{Inner, Outbox, Queued};
use crate::metrics::Drop;
use crate::record::ConversationKey;

/// Own events within lags that are remembered. A replay has those beyond besides their `ok`; clients drop what they have.
const MAX_OWN_REPLAYED: usize = 16_384;

/// A conversation that the connection reads from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Which.
    pub(crate) conversation: ConversationKey,
    /// The last event that was queued.
    pub(crate) cursor: Seq,
    /// The last event that was not: live again after this one.
    pub(crate) missed: Seq,
}

/// The events of a lag: those after `cursor`, up to `missed`.
#[derive(Debug, Clone, Copy)]
struct Span {
    cursor: Seq,
    missed: Seq,
}

/// All lags of a connection.
#[derive(Debug, Default)]
pub(super) struct Lags {
    spans: FxHashMap<ConversationKey, Span>,
    /// The order in which they are read. Each lag is in it once.
    turns: VecDeque<ConversationKey>,
    /// The connection's own events within lags, of which `ok` tells.
    own: BTreeSet<(ConversationKey, Seq)>,
    /// Lags that come from the client's cursors. The length of `hello` bounds them, and they do not count.
    resumed: usize,
}

impl Lags {
    /// Lags that count against the limit.
    fn counted(&self) -> usize {
        self.spans.len().saturating_sub(self.resumed)
    }

    /// Moves the end of a conversation's lag on; whether there is one.
    pub(super) fn extend(&mut self, conversation: ConversationKey, missed: Seq) -> bool {
        let span = self.spans.get_mut(&conversation);
        span.map(|span| span.missed = span.missed.max(missed)).is_some()
    }

    /// Adds a lag to a conversation that has none.
    fn add(&mut self, Lag { conversation, cursor, missed }: Lag) {
        self.spans.insert(conversation, Span { cursor, missed });
        self.turns.push_back(conversation);
    }

    /// Adds a lag that comes from the client's cursors.
    fn resume(&mut self, lag: Lag) {
        self.add(lag);
        self.resumed += 1;
    }

    /// The end of a conversation's lag.
    fn missed(&self, conversation: ConversationKey) -> Option<Seq> {
        self.spans.get(&conversation).map(|span| span.missed)
    }

    /// An event within a lag is the connection's own.
    pub(super) fn add_own(&mut self, conversation: ConversationKey, seq: Seq) {
        if self.own.len() < MAX_OWN_REPLAYED {
            self.own.insert((conversation, seq));
        }
    }

    /// The lag that is read next.
    fn next(&self) -> Option<Lag> {
        let conversation = *self.turns.front()?;
        let Span { cursor, missed } = *self.spans.get(&conversation)?;
        Some(Lag { conversation, cursor, missed })
    }

    /// An event of a lag was read from the log; whether it is to be queued.
    fn read(&mut self, conversation: ConversationKey, seq: Seq) -> bool {
        let Some(span) = self.spans.get_mut(&conversation).filter(|span| seq > span.cursor) else {
            return false;
        };
        span.cursor = seq;
        !self.own.remove(&(conversation, seq))
    }

    /// A page of a lag was read, which was empty if there is no more to see. A lag with more to read goes behind the others;
    /// whether this one is over.
    fn turn(&mut self, conversation: ConversationKey, more: bool) -> bool {
        match self.turns.front() {
            Some(front) if *front == conversation => drop(self.turns.pop_front()),
            _ => self.turns.retain(|other| *other != conversation),
        }
        let span = self.spans.get(&conversation);
        if more && span.is_some_and(|span| span.cursor < span.missed) {
            self.turns.push_back(conversation);
            return false;
        }
        self.spans.remove(&conversation);
        let own = (conversation, Seq(0))..=(conversation, Seq::MAX);
        while let Some(left) = self.own.range(own.clone()).next().copied() {
            self.own.remove(&left);
        }
        true
    }
}

impl Outbox {
    /// Leaves the events after `cursor` up to `missed` to the log.
    pub(crate) fn push_lag(&self, conversation: ConversationKey, cursor: Seq, missed: Seq) {
        if cursor < missed {
            let mut inner = self.lock();
            if !inner.extend_lag(conversation, missed) {
                self.add_lag(&mut inner, Lag { conversation, cursor, missed });
            }
            inner.leave_own(conversation);
            inner.wake();
        }
    }

    /// Leaves the events after a cursor of `hello` up to `missed` to the log. These lags do not count against the limit: the
    /// length of `hello` bounds them, and a client that is cut must be able to resume.
    pub(crate) fn resume_from(&self, conversation: ConversationKey, cursor: Seq, missed: Seq) {
        if cursor < missed {
            let mut inner = self.lock();
            if !inner.cut && !inner.extend_lag(conversation, missed) {
                self.metrics.catching_up.inc();
                inner.lags.get_or_insert_default().resume(Lag { conversation, cursor, missed });
            }
            inner.leave_own(conversation);
            inner.wake();
        }
    }

    /// Adds a lag to a conversation that has none, or cuts the connection if that is one too many.
    pub(super) fn add_lag(&self, inner: &mut Inner, lag: Lag) {
        if inner.cut {
            return;
        }
        let lags = inner.lags.get_or_insert_default();
        if lags.counted() < self.max_lags {
            self.metrics.catching_up.inc();
            lags.add(lag);
        } else {
            self.cut_locked(inner);
        }
    }

    /// Closes the connection with 1013, because the server can no longer keep what the client misses. The client resumes by
    /// its cursors: no further event is queued, so that they stay true.
    pub(crate) fn cut(&self) {
        let mut inner = self.lock();
        self.cut_locked(&mut inner);
        inner.wake();
    }

    fn cut_locked(&self, inner: &mut Inner) {
        if !std::mem::replace(&mut inner.cut, true) {
            self.metrics.dropped(Drop::TooFarBehind);
            self.forget_lags(inner);
            inner.close(CloseCode::TryLater);
        }
    }

    fn forget_lags(&self, inner: &mut Inner) {
        let lags = inner.lags.take().map_or(0, |lags| lags.spans.len());
        self.metrics.catching_up.dec_by(i64::try_from(lags).unwrap_or_default());
    }

    /// The conversation to read from the log next.
    pub(crate) fn next_lag(&self) -> Option<Lag> {
        self.lock().lags.as_ref()?.next()
    }

    /// Queues what was read for a lag: events with their seq, oldest first. None at all means that there
    /// is no more to see. The conversations that lag take turns.
    pub(crate) fn push_replayed(&self, conversation: ConversationKey, events: Vec<(Seq, Bytes)>) {
        let mut inner = self.lock();
        let Some(mut lags) = inner.lags.take_if(|lags| lags.missed(conversation).is_some()) else { return };
        let found = !events.is_empty();
        for (seq, frame) in events {
            if lags.read(conversation, seq) {
                self.metrics.replayed.inc();
                inner.push(Queued { frame, stored: None });
            }
        }
        if lags.turn(conversation, found) {
            self.metrics.catching_up.dec();
        }
        // A connection that has caught up holds nothing of it.
        inner.lags = (!lags.spans.is_empty()).then_some(lags);
    }
}

impl Inner {
    /// Leaves to a conversation's lag which events in it are the connection's own.
    fn leave_own(&mut self, conversation: ConversationKey) {
        let Some(lags) = self.lags.as_mut().filter(|_| !self.own.is_empty()) else { return };
        let Some(missed) = lags.missed(conversation) else { return };
        let within = (conversation, Seq(0))..=(conversation, missed);
        let own: Vec<_> = self.own.range(within).copied().collect();
        for (_, seq) in own {
            self.own.remove(&(conversation, seq));
            lags.add_own(conversation, seq);
        }
    }

    /// The lags, if there is one of this conversation.
    pub(super) fn lag_of(&mut self, conversation: ConversationKey) -> Option<&mut Lags> {
        self.lags.as_deref_mut().filter(|lags| lags.missed(conversation).is_some())
    }

    /// Moves the end of a conversation's lag on; whether there is one.
    fn extend_lag(&mut self, conversation: ConversationKey, missed: Seq) -> bool {
        self.lags.as_mut().is_some_and(|lags| lags.extend(conversation, missed))
    }
}

impl std::ops::Drop for Outbox {
    fn drop(&mut self) {
        self.forget_lags(&mut self.lock());
    }
}
