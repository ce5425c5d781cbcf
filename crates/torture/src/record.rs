//! The record of a run: what the clients sent, and the answers and events that they received. It also checks the laws that can be
//! checked during the run.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::{FxHashMap, FxHasher};
use switchboard_protocol::{ConversationId, Event, EventBody, Seq, Timestamp, UserId};
use tokio::time::Instant;

use crate::delay::Delays;

/// The most history entries that are kept to explain a breach. They cover about the last minute.
const MAX_HISTORY_ENTRIES: usize = 400_000;

/// The most breaches that are reported one by one. Later ones are often consequences of the first.
const MAX_REPORTED_BREACHES: usize = 20;

/// A law of the protocol: something that a server must never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Law {
    /// An acknowledged event is not in the log under the seq that was acknowledged.
    Lost,
    /// An idempotency key is in the log twice, or an event was pushed twice on one connection.
    Doubled,
    /// Two clients received different versions of one event, or one connection received events out of order.
    OutOfOrder,
    /// An event is missing, and the server sent no `gap`.
    SilentGap,
    /// A user received something that the user may not see.
    Forbidden,
    /// A retry was acknowledged with another seq than the first attempt.
    SeqChanged,
    /// A time, or the position of a read or received cursor, went back.
    WentBack,
    /// A count, or the current state of a message, does not match the log.
    Mismatch,
    /// The server gave an answer that it must never give.
    WrongAnswer,
    /// After the faults were over, a client did not catch up in time, or a server did not recover.
    Stuck,
}

/// A law that was broken, with an explanation.
#[derive(Debug, Clone)]
pub(crate) struct Breach {
    pub(crate) law: Law,
    pub(crate) description: String,
    /// The entries of the history that led to the breach, oldest first.
    pub(crate) history: Vec<String>,
}

/// A message that a client tried to send.
#[derive(Debug, Clone)]
pub(crate) struct AttemptedSend {
    pub(crate) conversation: ConversationId,
    pub(crate) from: UserId,
    /// The device that sent the message, and the number that the device gave to the message.
    pub(crate) device: u32,
    pub(crate) number: u64,
    /// A digest of the message's text.
    pub(crate) text: u64,
    /// The seq and time in the `ok` for the message; `None` if no `ok` arrived.
    pub(crate) acked: Option<(Seq, Timestamp)>,
}

/// What the first client that received an event saw; all other clients must see the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventDigest {
    /// A digest of the parts that never change.
    unchanging: u64,
    /// A digest of the content, which a deletion erases; `None` if no client has received the content.
    content: Option<u64>,
    at: Timestamp,
}

/// How often each thing happened in a run, for the report.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub(crate) struct Counts {
    /// Messages that clients tried to send.
    pub(crate) tried: u64,
    /// How many of the messages that clients tried to send were acknowledged.
    pub(crate) acknowledged: u64,
    /// Acknowledged commands of other kinds: edits, deletions, reactions, joins, leaves.
    pub(crate) other_acknowledged: u64,
    /// Events received by devices, each counted once for each device.
    pub(crate) delivered: u64,
    /// Messages that the TypeScript SDK showed.
    pub(crate) shown: u64,
    /// Retries that were answered as duplicates.
    pub(crate) duplicates: u64,
    /// Refusals that a client may retry (`unavailable`, `rate_limited`).
    pub(crate) refused: u64,
    /// Connections that received `welcome`.
    pub(crate) connections: u64,
    /// Commands about conversations that the user may not see, which the server must refuse.
    pub(crate) probes: u64,
    /// `gap` frames that clients received.
    pub(crate) gaps: u64,
}

#[derive(Debug, Clone)]
enum HistoryKind {
    Fault(String),
    Connected,
    Disconnected(String),
    Tried(String),
    Acked(String, Seq),
    Refused(String, &'static str),
    Received(ConversationId, Seq),
}

#[derive(Debug, Clone)]
struct HistoryEntry {
    at: Instant,
    device: u32,
    entry: HistoryKind,
}

/// A command other than `send` that the server acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct AckedCommand {
    pub(crate) conversation: ConversationId,
    pub(crate) seq: Seq,
    pub(crate) kind: &'static str,
    pub(crate) from: UserId,
}

#[derive(Default)]
pub(crate) struct RecordState {
    pub(crate) counts: Counts,
    pub(crate) sends: FxHashMap<String, AttemptedSend>,
    pub(crate) logs: FxHashMap<ConversationId, Vec<Option<EventDigest>>>,
    /// The highest read cursor that the server reported to each user.
    pub(crate) reads: FxHashMap<(UserId, ConversationId), Seq>,
    pub(crate) acked_commands: Vec<AckedCommand>,
    pub(crate) breaches: Vec<Breach>,
    /// The number of all breaches, also of those that are not reported one by one.
    pub(crate) breach_count: u64,
    pub(crate) faults: u64,
    pub(crate) delays: Delays,
    history: VecDeque<HistoryEntry>,
    names: Vec<String>,
}

/// The record of one run, which all of its clients share.
pub(crate) struct Record {
    start: Instant,
    inner: Mutex<RecordState>,
}

impl Record {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, inner: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, RecordState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Registers a device by name; returns its number.
    pub(crate) fn register_device(&self, name: String) -> u32 {
        let mut inner = self.lock();
        inner.names.push(name);
        u32::try_from(inner.names.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn record_fault(&self, description: String) {
        let mut inner = self.lock();
        inner.faults += 1;
        inner.push_history(u32::MAX, HistoryKind::Fault(description));
    }

    /// Adds an entry to the history about a fault that was recorded before.
    pub(crate) fn record_fault_detail(&self, description: String) {
        self.lock().push_history(u32::MAX, HistoryKind::Fault(description));
    }

    pub(crate) fn record_connected(&self, device: u32) {
        let mut inner = self.lock();
        inner.counts.connections += 1;
        inner.push_history(device, HistoryKind::Connected);
    }

    pub(crate) fn record_disconnected(&self, device: u32, reason: String) {
        self.lock().push_history(device, HistoryKind::Disconnected(reason));
    }

    pub(crate) fn record_send(&self, key: &str, sent: AttemptedSend) {
        let mut inner = self.lock();
        inner.push_history(sent.device, HistoryKind::Tried(key.to_owned()));
        if inner.sends.insert(key.to_owned(), sent).is_none() {
            inner.counts.tried += 1;
        }
    }

    /// Records that a send got a retryable refusal.
    pub(crate) fn record_refusal(&self, device: u32, key: &str, code: &'static str) {
        let mut inner = self.lock();
        inner.counts.refused += 1;
        inner.push_history(device, HistoryKind::Refused(key.to_owned(), code));
    }

    /// Records that a send got its `ok`.
    pub(crate) fn record_ack(
        &self,
        device: u32,
        key: &str,
        position: (&ConversationId, Seq, Timestamp),
        duplicate: bool,
    ) {
        let (conversation, seq, at) = position;
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.push_history(device, HistoryKind::Acked(key.to_owned(), seq));
        inner.counts.duplicates += u64::from(duplicate);
        let Some(sent) = inner.sends.get_mut(key) else { return };
        let (first, other_position) = match sent.acked {
            None => (true, sent.conversation != *conversation),
            Some(before) => (false, before != (seq, at)),
        };
        sent.acked.get_or_insert((seq, at));
        inner.counts.acknowledged += u64::from(first);
        if other_position {
            let description = format!(
                "{key} was acknowledged as {conversation} {seq:?} at {at}, and before with another number"
            );
            inner.breach(Law::SeqChanged, description, &[key], Some((conversation, seq)), self.start);
        }
    }

    /// Records which node sent the `ok` for an event.
    pub(crate) fn record_ack_for_delay(&self, node: usize, event: (&ConversationId, Seq)) {
        self.lock().delays.on_ack(event, node);
    }

    /// Records that an event was pushed to a device that is connected to the node `node` and has been reading since `since`.
    pub(crate) fn record_delivery_delay(&self, event: &Event, node: usize, since: Instant) {
        self.lock().delays.on_delivery((&event.conversation, event.seq), node, since);
    }

    /// Records that a command other than `send` got its `ok`.
    pub(crate) fn record_command_ack(&self, command: AckedCommand) {
        let mut inner = self.lock();
        inner.counts.other_acknowledged += 1;
        inner.acked_commands.push(command);
    }

    /// Records that the server reported a user's read cursor.
    pub(crate) fn record_read_cursor(&self, user: &UserId, conversation: &ConversationId, upto: Seq) {
        let mut inner = self.lock();
        let known = inner.reads.entry((user.clone(), conversation.clone())).or_default();
        *known = (*known).max(upto);
    }

    /// Records that a device received an event for the first time.
    pub(crate) fn record_received(&self, device: u32, event: &Event) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.counts.delivered += 1;
        inner.push_history(device, HistoryKind::Received(event.conversation.clone(), event.seq));
        if let Some((law, description)) = inner.compare_with_first_seen(event) {
            let key = event.key.as_ref().map(|key| key.as_str().to_owned()).unwrap_or_default();
            inner.breach(law, description, &[&key], Some((&event.conversation, event.seq)), self.start);
        }
    }

    pub(crate) fn breach(
        &self,
        law: Law,
        description: String,
        keys: &[&str],
        position: Option<(&ConversationId, Seq)>,
    ) {
        self.lock().breach(law, description, keys, position, self.start);
    }
}

impl RecordState {
    fn push_history(&mut self, device: u32, entry: HistoryKind) {
        if self.history.len() == MAX_HISTORY_ENTRIES {
            self.history.pop_front();
        }
        self.history.push_back(HistoryEntry { at: Instant::now(), device, entry });
    }

    /// Compares an event with the versions of it that other clients received.
    pub(crate) fn compare_with_first_seen(&mut self, event: &Event) -> Option<(Law, String)> {
        let log = self.logs.entry(event.conversation.clone()).or_default();
        let Some(index) = usize::try_from(event.seq.0).ok().and_then(|seq| seq.checked_sub(1)) else {
            return Some((Law::OutOfOrder, format!("an event without a number: {event:?}")));
        };
        if log.len() <= index {
            log.resize(index + 1, None);
        }
        let new = EventDigest {
            unchanging: unchanging_digest(event),
            content: content_digest(event),
            at: event.at,
        };
        let about = || format!("{} {:?}", event.conversation, event.seq);
        let breach = match &mut log[index] {
            Some(old) if old.unchanging != new.unchanging || old.at != new.at => {
                Some((Law::OutOfOrder, format!("{} has two versions: now {event:?}", about())))
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
        description: String,
        keys: &[&str],
        position: Option<(&ConversationId, Seq)>,
        start: Instant,
    ) {
        self.breach_count += 1;
        if self.breaches.len() < MAX_REPORTED_BREACHES {
            let history = self.relevant_history(keys, position, start);
            self.breaches.push(Breach { law, description, history });
        }
    }

    /// The history of the messages with these keys and of the event at this position. It includes all faults and connections
    /// between its first and its last entry.
    fn relevant_history(
        &self,
        keys: &[&str],
        position: Option<(&ConversationId, Seq)>,
        start: Instant,
    ) -> Vec<String> {
        let is_about = |entry: &HistoryKind| match entry {
            HistoryKind::Tried(key) | HistoryKind::Acked(key, _) | HistoryKind::Refused(key, _) => {
                keys.contains(&key.as_str())
            }
            HistoryKind::Received(conversation, seq) => {
                position.is_some_and(|(c, s)| c == conversation && seq.0.abs_diff(s.0) <= 1)
            }
            HistoryKind::Fault(_) | HistoryKind::Connected | HistoryKind::Disconnected(_) => false,
        };
        let Some(first) = self.history.iter().position(|one| is_about(&one.entry)) else {
            return Vec::new();
        };
        let last = self.history.iter().rposition(|one| is_about(&one.entry)).unwrap_or(first);
        // Some entries before the first one are included, because they may show the cause.
        let first = first.saturating_sub(50);
        // Connections are shown only of devices that sent the messages, not of devices that only received the event.
        let sends = |entry: &HistoryKind| is_about(entry) && !matches!(entry, HistoryKind::Received(..));
        let senders: Vec<u32> =
            self.history.range(first..=last).filter(|one| sends(&one.entry)).map(|one| one.device).collect();
        let explains = |one: &&HistoryEntry| match one.entry {
            HistoryKind::Fault(_) => true,
            HistoryKind::Connected | HistoryKind::Disconnected(_) => senders.contains(&one.device),
            _ => is_about(&one.entry),
        };
        let chosen = self.history.range(first..=last).filter(explains);
        chosen.take(200).map(|one| self.describe(one, start)).collect()
    }

    fn describe(&self, one: &HistoryEntry, start: Instant) -> String {
        let time = one.at.duration_since(start).as_secs_f64();
        let name = self.names.get(one.device as usize).map_or("nemesis", String::as_str);
        let description = match &one.entry {
            HistoryKind::Fault(description) => description.clone(),
            HistoryKind::Connected => "connected".to_owned(),
            HistoryKind::Disconnected(reason) => format!("disconnected: {reason}"),
            HistoryKind::Tried(key) => format!("sends {key}"),
            HistoryKind::Acked(key, seq) => format!("receives ok: {key} is {}", seq.0),
            HistoryKind::Refused(key, code) => format!("receives an error for {key}: {code}"),
            HistoryKind::Received(conversation, seq) => format!("receives {conversation} {}", seq.0),
        };
        format!("{time:10.3} {name}: {description}")
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}: {}", self.law, self.description)?;
        self.history.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// A hash of any value, which is compared in place of the value to save memory.
pub(crate) fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A digest of the parts of an event that never change, without its time.
fn unchanging_digest(event: &Event) -> u64 {
    let unchanging = match &event.body {
        EventBody::Message { .. } => format!("message {:?}", event.key),
        EventBody::Edit { target, .. } => format!("edit {target:?}"),
        other => format!("{other:?}"),
    };
    hash_of((unchanging, event.from.as_str()))
}

/// A digest of an event's content; `None` if a deletion erased it, or if the event has none.
fn content_digest(event: &Event) -> Option<u64> {
    match &event.body {
        EventBody::Message { text, data, reply_to, deleted: false } => {
            Some(hash_of(format!("{text:?} {data:?} {reply_to:?}")))
        }
        EventBody::Edit { text, data, deleted: false, .. } => Some(hash_of(format!("{text:?} {data:?}"))),
        _ => None,
    }
}
