//! What everybody tried, was told and saw, and the laws that can be checked while it happens.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::{FxHashMap, FxHasher};
use switchboard_protocol::{ConversationId, Event, EventBody, Seq, Timestamp, UserId};
use tokio::time::Instant;

use crate::delay::Delays;

/// Moments that are kept to tell how a breach came about: about a minute of them.
const KEPT: usize = 400_000;

/// Most breaches that are told one by one. The first one matters.
const TOLD: usize = 20;

/// What a server must never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Law {
    /// Acknowledged, and not in the log under that number.
    Lost,
    /// One key at two places of the log, or one event pushed twice on a connection.
    Doubled,
    /// Two clients were told different things of one event, or one connection got them in another order.
    OutOfOrder,
    /// An event was missing, and nothing said so.
    SilentGap,
    /// Somebody saw what they may not.
    Forbidden,
    /// A retry was answered with another number.
    OtherSeq,
    /// A time, or a cursor of reading or delivery, went back.
    WentBack,
    /// A count or a message as it stands is not what the log says.
    Unlike,
    /// The server answered what it never should.
    Answer,
    /// Somebody did not get everything, or a server did not come back, in good time after the faults were over.
    Stuck,
}

/// A law that was broken.
#[derive(Debug, Clone)]
pub(crate) struct Breach {
    pub(crate) law: Law,
    pub(crate) what: String,
    /// What led to it, oldest first.
    pub(crate) history: Vec<String>,
}

/// A message that somebody tried to send.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) conversation: ConversationId,
    pub(crate) from: UserId,
    /// The device, and its place among what that device sent.
    pub(crate) device: u32,
    pub(crate) number: u64,
    /// A digest of the text.
    pub(crate) text: u64,
    /// An `ok` said so.
    pub(crate) acked: Option<(Seq, Timestamp)>,
    /// It was refused at least once, so that what was sent behind it may stand before it.
    pub(crate) refused: bool,
}

/// What is known of one event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Of what never changes.
    shape: u64,
    /// Of the content, which a deletion takes away; none before somebody saw it.
    content: Option<u64>,
    at: Timestamp,
}

/// The numbers that are printed.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub(crate) struct Counts {
    /// Messages that clients tried to send.
    pub(crate) tried: u64,
    /// Of these, acknowledged.
    pub(crate) acknowledged: u64,
    /// Acknowledged commands of other kinds: edits, deletions, reactions, comings and goings.
    pub(crate) other_acknowledged: u64,
    /// Events that arrived at devices, each counted once a device.
    pub(crate) delivered: u64,
    /// Messages shown by the SDK.
    pub(crate) shown: u64,
    /// Retries that were answered as duplicates.
    pub(crate) duplicates: u64,
    /// Commands that were refused for now (`unavailable`, `rate_limited`).
    pub(crate) refused: u64,
    /// Connections that said hello.
    pub(crate) connections: u64,
    /// Probes into conversations that the prober may not see.
    pub(crate) probes: u64,
    /// Gaps that the server told of.
    pub(crate) gaps: u64,
}

#[derive(Debug, Clone)]
enum What {
    Fault(String),
    Connected,
    Ended(String),
    Tried(String),
    Acked(String, Seq),
    Refused(String, &'static str),
    Got(ConversationId, Seq),
}

#[derive(Debug, Clone)]
struct Moment {
    at: Instant,
    device: u32,
    what: What,
}

/// An acknowledged command that is not a message.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) conversation: ConversationId,
    pub(crate) seq: Seq,
    pub(crate) kind: &'static str,
    pub(crate) from: UserId,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) counts: Counts,
    pub(crate) sends: FxHashMap<String, Sent>,
    pub(crate) logs: FxHashMap<ConversationId, Vec<Option<Seen>>>,
    /// The highest cursor of reading that a user was told.
    pub(crate) reads: FxHashMap<(UserId, ConversationId), Seq>,
    pub(crate) done: Vec<Done>,
    pub(crate) breaches: Vec<Breach>,
    /// How many there were, told or not.
    pub(crate) broken: u64,
    pub(crate) faults: u64,
    pub(crate) delays: Delays,
    moments: VecDeque<Moment>,
    names: Vec<String>,
}

/// The record of one run.
pub(crate) struct Record {
    start: Instant,
    inner: Mutex<Inner>,
}

impl Record {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, inner: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Another device, by name; its number.
    pub(crate) fn device(&self, name: String) -> u32 {
        let mut inner = self.lock();
        inner.names.push(name);
        u32::try_from(inner.names.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn fault(&self, what: String) {
        let mut inner = self.lock();
        inner.faults += 1;
        inner.note(u32::MAX, What::Fault(what));
    }

    /// Something about a fault that is there already.
    pub(crate) fn remark(&self, what: String) {
        self.lock().note(u32::MAX, What::Fault(what));
    }

    pub(crate) fn connected(&self, device: u32) {
        let mut inner = self.lock();
        inner.counts.connections += 1;
        inner.note(device, What::Connected);
    }

    pub(crate) fn ended(&self, device: u32, why: String) {
        self.lock().note(device, What::Ended(why));
    }

    pub(crate) fn tried(&self, key: &str, sent: Sent) {
        let mut inner = self.lock();
        inner.note(sent.device, What::Tried(key.to_owned()));
        if inner.sends.insert(key.to_owned(), sent).is_none() {
            inner.counts.tried += 1;
        }
    }

    /// A send was refused for now.
    pub(crate) fn refused(&self, device: u32, key: &str, code: &'static str) {
        let mut inner = self.lock();
        inner.counts.refused += 1;
        inner.note(device, What::Refused(key.to_owned(), code));
        if let Some(sent) = inner.sends.get_mut(key) {
            sent.refused = true;
        }
    }

    /// The server said `ok` to a send.
    pub(crate) fn acked(
        &self,
        device: u32,
        key: &str,
        place: (&ConversationId, Seq, Timestamp),
        duplicate: bool,
    ) {
        let (conversation, seq, at) = place;
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.note(device, What::Acked(key.to_owned(), seq));
        inner.counts.duplicates += u64::from(duplicate);
        let Some(sent) = inner.sends.get_mut(key) else { return };
        let (first, other_place) = match sent.acked {
            None => (true, sent.conversation != *conversation),
            Some(before) => (false, before != (seq, at)),
        };
        sent.acked.get_or_insert((seq, at));
        inner.counts.acknowledged += u64::from(first);
        if other_place {
            let what =
                format!("{key} was acknowledged as {conversation} {seq:?} at {at}, and before elsewhere");
            inner.breach(Law::OtherSeq, what, &[key], Some((conversation, seq)), self.start);
        }
    }

    /// By which node the server said so.
    pub(crate) fn acked_by(&self, node: usize, event: (&ConversationId, Seq)) {
        self.lock().delays.acked(event, node);
    }

    /// An event was pushed to a device that is connected to this node, and has been listening since then.
    pub(crate) fn arrived(&self, event: &Event, node: usize, since: Instant) {
        self.lock().delays.arrived((&event.conversation, event.seq), node, since);
    }

    /// The server said `ok` to a command of another kind.
    pub(crate) fn done(&self, done: Done) {
        let mut inner = self.lock();
        inner.counts.other_acknowledged += 1;
        inner.done.push(done);
    }

    /// A user was told where their cursor of reading stands.
    pub(crate) fn read(&self, user: &UserId, conversation: &ConversationId, upto: Seq) {
        let mut inner = self.lock();
        let known = inner.reads.entry((user.clone(), conversation.clone())).or_default();
        *known = (*known).max(upto);
    }

    /// A device got an event, for the first time.
    pub(crate) fn got(&self, device: u32, event: &Event) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.counts.delivered += 1;
        inner.note(device, What::Got(event.conversation.clone(), event.seq));
        if let Some((law, what)) = inner.compare(event) {
            let key = event.key.as_ref().map(|key| key.as_str().to_owned()).unwrap_or_default();
            inner.breach(law, what, &[&key], Some((&event.conversation, event.seq)), self.start);
        }
    }

    pub(crate) fn breach(
        &self,
        law: Law,
        what: String,
        keys: &[&str],
        place: Option<(&ConversationId, Seq)>,
    ) {
        self.lock().breach(law, what, keys, place, self.start);
    }
}

impl Inner {
    fn note(&mut self, device: u32, what: What) {
        if self.moments.len() == KEPT {
            self.moments.pop_front();
        }
        self.moments.push_back(Moment { at: Instant::now(), device, what });
    }

    /// Holds an event against what others were told of it.
    pub(crate) fn compare(&mut self, event: &Event) -> Option<(Law, String)> {
        let log = self.logs.entry(event.conversation.clone()).or_default();
        let Some(index) = usize::try_from(event.seq.0).ok().and_then(|seq| seq.checked_sub(1)) else {
            return Some((Law::OutOfOrder, format!("an event without a place: {event:?}")));
        };
        if log.len() <= index {
            log.resize(index + 1, None);
        }
        let new = Seen { shape: shape(event), content: content(event), at: event.at };
        let about = || format!("{} {:?}", event.conversation, event.seq);
        let breach = match &mut log[index] {
            Some(old) if old.shape != new.shape || old.at != new.at => {
                Some((Law::OutOfOrder, format!("{} is two things: now {event:?}", about())))
            }
            Some(old) if old.content.is_some() && new.content.is_some() && old.content != new.content => {
                Some((Law::OutOfOrder, format!("{} has two contents: now {event:?}", about())))
            }
            Some(old) => {
                old.content = old.content.or(new.content);
                None
            }
            empty => {
                *empty = Some(new);
                None
            }
        };
        if breach.is_some() {
            return breach;
        }
        let before = index.checked_sub(1).and_then(|i| log[i]).is_some_and(|seen| seen.at > new.at);
        let after = log.get(index + 1).copied().flatten().is_some_and(|seen| seen.at < new.at);
        (before || after).then(|| (Law::WentBack, format!("the time of {} went back", about())))
    }

    fn breach(
        &mut self,
        law: Law,
        what: String,
        keys: &[&str],
        place: Option<(&ConversationId, Seq)>,
        start: Instant,
    ) {
        self.broken += 1;
        if self.breaches.len() < TOLD {
            let history = self.history(keys, place, start);
            self.breaches.push(Breach { law, what, history });
        }
    }

    /// What happened to these keys and at this place, and the faults and connections between the first and the last of it.
    fn history(&self, keys: &[&str], place: Option<(&ConversationId, Seq)>, start: Instant) -> Vec<String> {
        let about = |what: &What| match what {
            What::Tried(key) | What::Acked(key, _) | What::Refused(key, _) => keys.contains(&key.as_str()),
            What::Got(conversation, seq) => {
                place.is_some_and(|(c, s)| c == conversation && seq.0.abs_diff(s.0) <= 1)
            }
            What::Fault(_) | What::Connected | What::Ended(_) => false,
        };
        let Some(first) = self.moments.iter().position(|moment| about(&moment.what)) else {
            return Vec::new();
        };
        let last = self.moments.iter().rposition(|moment| about(&moment.what)).unwrap_or(first);
        // What was going on just before belongs to it.
        let first = first.saturating_sub(50);
        // Whoever only got it may come and go.
        let speaks = |what: &What| about(what) && !matches!(what, What::Got(..));
        let speakers: Vec<u32> = self
            .moments
            .range(first..=last)
            .filter(|moment| speaks(&moment.what))
            .map(|m| m.device)
            .collect();
        let tells = |moment: &&Moment| match moment.what {
            What::Fault(_) => true,
            What::Connected | What::Ended(_) => speakers.contains(&moment.device),
            _ => about(&moment.what),
        };
        let told = self.moments.range(first..=last).filter(tells);
        told.take(200).map(|moment| self.describe(moment, start)).collect()
    }

    fn describe(&self, moment: &Moment, start: Instant) -> String {
        let time = moment.at.duration_since(start).as_secs_f64();
        let name = self.names.get(moment.device as usize).map_or("nemesis", String::as_str);
        let what = match &moment.what {
            What::Fault(what) => what.clone(),
            What::Connected => "said hello".to_owned(),
            What::Ended(why) => format!("lost its connection: {why}"),
            What::Tried(key) => format!("sends {key}"),
            What::Acked(key, seq) => format!("is told ok: {key} is {}", seq.0),
            What::Refused(key, code) => format!("is refused {key}: {code}"),
            What::Got(conversation, seq) => format!("gets {conversation} {}", seq.0),
        };
        format!("{time:10.3} {name}: {what}")
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}: {}", self.law, self.what)?;
        self.history.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// A digest of anything.
pub(crate) fn digest(value: impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A digest of what of an event never changes, its time excepted.
fn shape(event: &Event) -> u64 {
    let bare = match &event.body {
        EventBody::Message { .. } => format!("message {:?}", event.key),
        EventBody::Edit { target, .. } => format!("edit {target:?}"),
        other => format!("{other:?}"),
    };
    digest((bare, event.from.as_str()))
}

/// A digest of an event's content; none if a deletion has taken it, or if it has none.
fn content(event: &Event) -> Option<u64> {
    match &event.body {
        EventBody::Message { text, data, reply_to, deleted: false } => {
            Some(digest(format!("{text:?} {data:?} {reply_to:?}")))
        }
        EventBody::Edit { text, data, deleted: false, .. } => Some(digest(format!("{text:?} {data:?}"))),
        _ => None,
    }
}
