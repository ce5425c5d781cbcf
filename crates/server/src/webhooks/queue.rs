//! What a webhook has to send, and in which order. Nothing here knows the network or a clock.
//!
//! Entries are in lanes, one for each conversation. A lane has one request in flight, so entries arrive in the order of the
//! log. An endpoint that is at fault gets one entry at a time until it takes it. An entry that is at fault is *held*, and
//! its lane with it, while the others go on; after some tries it is *parked*, and its lane goes on. So what must be stored is one
//! position and the entries held and parked.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How many conversations are sent at a time.
const MAX_IN_FLIGHT: usize = 8;

/// How many entries may wait in memory.
const MAX_WAITING: usize = 1_024;

/// How many entries may be parked. Then the webhook is paused.
pub(super) const MAX_PARKED: usize = 1_000;

/// How many entries may be held, those behind others in their lanes included. Then nothing more is read, because what is held
/// is stored with the position twice a second.
const MAX_HELD: usize = 10_000;

/// The delays before an endpoint at fault is tried again. The last one repeats.
const ENDPOINT_DELAYS: [u64; 6] = [0, 5, 30, 120, 600, 1_800];

/// The delays before an entry at fault is tried again: ten tries in three hours.
const ENTRY_DELAYS: [u64; 9] = [5, 15, 60, 180, 600, 1_200, 1_800, 2_700, 4_200];

/// What is stored of the queue besides its position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Stored {
    /// The entries that are tried again, and those behind them in their lanes, by their numbers.
    #[serde(with = "lanes")]
    pub(super) held: BTreeMap<u64, Held>,
    /// The entries that the endpoint does not take, with their lanes.
    pub(super) parked: BTreeMap<u64, String>,
    /// That the endpoint is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<Fault>,
}

/// An entry that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) lane: String,
    pub(super) tries: u32,
    /// When it is tried again, in milliseconds since the Unix epoch.
    pub(super) next: i64,
}

/// An endpoint at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fault {
    /// Since when, in milliseconds since the Unix epoch.
    pub(super) since: i64,
    pub(super) tries: u32,
    /// When it is tried again.
    pub(super) next: i64,
    /// Whether requests are in flight that began before the fault was known.
    #[serde(skip)]
    pub(super) is_settling: bool,
}

/// An entry to be sent.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) lane: String,
    /// The entry as it was read; `None` if it has to be read again.
    pub(super) entry: Option<Box<RawValue>>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The endpoint has the entry, or the entry no longer exists.
    Taken,
    /// The endpoint is at fault. It may say when to come back.
    EndpointFault(Option<Duration>),
    /// The entry is at fault.
    EntryFault,
    /// The server could not try, or has stopped.
    NotTried,
}

impl End {
    /// The name in the metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::EndpointFault(_) => "endpoint_fault",
            Self::EntryFault => "entry_fault",
            Self::NotTried => "not_tried",
        }
    }
}

/// The entries to be sent.
#[derive(Debug)]
pub(super) struct Queue {
    /// The number after which the feed is read on.
    read: u64,
    lanes: HashMap<String, VecDeque<Item>>,
    /// The lanes whose first entry may be sent, by the number of that entry. Held ones are not among them.
    ready: BTreeMap<u64, String>,
    /// The first entries of the lanes that are held, by when they are tried again. Those in flight are not among them.
    due: BTreeSet<(i64, u64)>,
    in_flight: BTreeSet<u64>,
    /// The entries in lanes that are not held: the position is before the first one.
    undone: BTreeSet<u64>,
    stored: Stored,
}

impl Queue {
    pub(super) fn new(position: u64, stored: Stored) -> Self {
        let mut queue = Self {
            read: position,
            lanes: HashMap::new(),
            ready: BTreeMap::new(),
            due: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            undone: BTreeSet::new(),
            stored: Stored::default(),
        };
        for (number, held) in &stored.held {
            let item = Item { number: *number, lane: held.lane.clone(), entry: None };
            let lane = queue.lanes.entry(held.lane.clone()).or_default();
            if lane.is_empty() {
                queue.due.insert((held.next, *number));
            }
            lane.push_back(item);
        }
        queue.stored = stored;
        queue
    }

    /// The number up to which everything is taken, held or parked.
    pub(super) fn position(&self) -> u64 {
        self.undone.first().map_or(self.read, |first| first - 1)
    }

    /// The number after which the feed is read on.
    pub(super) fn read_position(&self) -> u64 {
        self.read
    }

    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Whether more entries fit.
    pub(super) fn has_room(&self) -> bool {
        self.undone.len() < MAX_WAITING / 2 && self.stored.held.len() < MAX_HELD && !self.is_full_of_parked()
    }

    /// Whether so many entries are parked that the webhook is paused.
    pub(super) fn is_full_of_parked(&self) -> bool {
        self.stored.parked.len() >= MAX_PARKED
    }

    /// The feed was read up to `number`.
    pub(super) fn passed(&mut self, number: u64) {
        self.read = self.read.max(number);
    }

    /// Adds an entry after all others of its lane.
    pub(super) fn push(&mut self, number: u64, lane: String, entry: Box<RawValue>) {
        self.passed(number);
        let waiting = self.lanes.entry(lane.clone()).or_default();
        let is_held = waiting.front().is_some_and(|first| self.stored.held.contains_key(&first.number));
        if is_held {
            self.stored.held.insert(number, Held { lane: lane.clone(), tries: 0, next: 0 });
            waiting.push_back(Item { number, lane, entry: None });
            return;
        }
        self.undone.insert(number);
        if waiting.is_empty() {
            self.ready.insert(number, lane.clone());
        }
        waiting.push_back(Item { number, lane, entry: Some(entry) });
    }

    /// The next entry to be sent at a time, if one may be.
    pub(super) fn begin(&mut self, now: i64) -> Option<Item> {
        let is_probe = match &self.stored.fault {
            Some(fault) if now < fault.next || !self.in_flight.is_empty() => return None,
            fault => fault.is_some(),
        };
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let due = self.due.first().filter(|(next, _)| *next <= now);
        // A held entry is no good probe of the endpoint, because the entry may be at fault.
        let (number, lane) = if due.is_none() || (is_probe && !self.ready.is_empty()) {
            self.ready.pop_first()?
        } else {
            let (_, number) = self.due.pop_first()?;
            (number, self.stored.held.get(&number)?.lane.clone())
        };
        let first = self.lanes.get_mut(&lane).and_then(VecDeque::front_mut)?;
        self.in_flight.insert(number);
        Some(Item { number, lane, entry: first.entry.take() })
    }

    /// The request for an entry has ended.
    pub(super) fn end(&mut self, item: Item, end: End, now: i64) {
        let Item { number, lane, .. } = &item;
        let (number, lane) = (*number, lane.clone());
        self.in_flight.remove(&number);
        match end {
            End::Taken => {
                self.endpoint_answered();
                self.stored.held.remove(&number);
                self.leave(number, &lane);
            }
            End::EntryFault => {
                self.endpoint_answered();
                self.hold(number, &lane, now);
            }
            End::EndpointFault(retry_after) => {
                self.keep(item);
                self.endpoint_failed(retry_after, now);
            }
            End::NotTried => self.keep(item),
        }
    }

    /// The first entry of a lane is done.
    fn leave(&mut self, number: u64, lane: &str) {
        self.undone.remove(&number);
        let Some(waiting) = self.lanes.get_mut(lane) else { return };
        waiting.pop_front();
        match waiting.front() {
            None => drop(self.lanes.remove(lane)),
            Some(next) => {
                let number = next.number;
                self.put(number, lane.to_owned());
            }
        }
    }

    /// The first entry of a lane may be sent: now, or when it is tried again.
    fn put(&mut self, number: u64, lane: String) {
        match self.stored.held.get(&number) {
            Some(held) => drop(self.due.insert((held.next, number))),
            None => drop(self.ready.insert(number, lane)),
        }
    }

    /// Puts an entry back that was not taken.
    fn keep(&mut self, item: Item) {
        let Item { number, lane, entry } = item;
        if let Some(first) = self.lanes.get_mut(&lane).and_then(VecDeque::front_mut) {
            first.entry = entry;
        }
        self.put(number, lane);
    }

    /// Holds an entry with its lane, or parks it after the last try.
    fn hold(&mut self, number: u64, lane: &str, now: i64) {
        let tries = self.stored.held.get(&number).map_or(0, |held| held.tries);
        let Some(delay) = ENTRY_DELAYS.get(tries as usize) else {
            self.stored.held.remove(&number);
            self.stored.parked.insert(number, lane.to_owned());
            self.leave(number, lane);
            return;
        };
        for item in self.lanes.get_mut(lane).into_iter().flatten() {
            item.entry = None;
            self.undone.remove(&item.number);
            let held = Held { lane: lane.to_owned(), tries: 0, next: 0 };
            self.stored.held.entry(item.number).or_insert(held);
        }
        let next = after(now, *delay);
        self.stored.held.insert(number, Held { lane: lane.to_owned(), tries: tries + 1, next });
        self.due.insert((next, number));
    }

    /// The endpoint is no longer at fault, unless it answered a request that was in flight with one that failed.
    fn endpoint_answered(&mut self) {
        match &mut self.stored.fault {
            Some(fault) if fault.is_settling => fault.is_settling = !self.in_flight.is_empty(),
            fault => *fault = None,
        }
    }

    fn endpoint_failed(&mut self, retry_after: Option<Duration>, now: i64) {
        // Requests that were in flight together fail together, and count once. After that there is one at a time.
        let fault = match self.stored.fault.take() {
            Some(fault) if fault.is_settling && !self.in_flight.is_empty() => fault,
            Some(fault) if fault.is_settling => Fault { is_settling: false, ..fault },
            Some(fault) => Fault { tries: fault.tries + 1, ..fault },
            None => Fault { since: now, tries: 0, next: now, is_settling: !self.in_flight.is_empty() },
        };
        let delay = ENDPOINT_DELAYS[(fault.tries as usize).min(ENDPOINT_DELAYS.len() - 1)];
        let delay = delay.max(retry_after.map_or(0, |after| after.as_secs()));
        self.stored.fault = Some(Fault { next: fault.next.max(after(now, delay)), ..fault });
    }

    /// When the next entry may be sent that may not be now.
    #[cfg(test)]
    fn next_due(&self) -> Option<i64> {
        match &self.stored.fault {
            Some(fault) => Some(fault.next),
            None => self.stored.held.values().map(|held| held.next).filter(|next| *next > 0).min(),
        }
    }
}

/// How what is held is stored: by lanes, of which only the first entry has been tried.
mod lanes {
    use std::collections::{BTreeMap, HashMap};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Held;

    #[derive(Default, Serialize, Deserialize)]
    struct Lane {
        tries: u32,
        next: i64,
        numbers: Vec<u64>,
    }

    pub(super) fn serialize<S: Serializer>(held: &BTreeMap<u64, Held>, to: S) -> Result<S::Ok, S::Error> {
        let mut lanes = HashMap::<&str, Lane>::new();
        for (number, held) in held {
            let lane = lanes.entry(&held.lane).or_insert_with(|| Lane {
                tries: held.tries,
                next: held.next,
                numbers: Vec::new(),
            });
            lane.numbers.push(*number);
        }
        lanes.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u64, Held>, D::Error> {
        let lanes = HashMap::<String, Lane>::deserialize(from)?;
        let held = lanes.into_iter().flat_map(|(lane, Lane { tries, next, numbers })| {
            numbers.into_iter().enumerate().map(move |(place, number)| {
                let (tries, next) = if place == 0 { (tries, next) } else { (0, 0) };
                (number, Held { lane: lane.clone(), tries, next })
            })
        });
        Ok(held.collect())
    }
}

fn after(now: i64, seconds: u64) -> i64 {
    now.saturating_add(i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX))
}

impl Stored {
    /// Has the parked entries sent again.
    pub(super) fn unpark(&mut self) {
        for (number, lane) in std::mem::take(&mut self.parked) {
            self.held.insert(number, Held { lane, tries: 0, next: 0 });
        }
    }

    /// Forgets the entries after a number, which will be read again.
    pub(super) fn rewind(&mut self, number: u64) {
        self.held.retain(|held, _| *held <= number);
        self.parked.retain(|parked, _| *parked <= number);
        self.fault = None;
    }
}

#[cfg(test)]
mod tests;
