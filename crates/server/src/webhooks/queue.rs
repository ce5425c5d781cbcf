//! What a webhook has to send, and in which order. Nothing here knows the network or a clock.
//!
//! Entries are in lanes, one for each conversation. A lane has one request in flight, so entries arrive in the order of the
//! log. An endpoint that is at fault gets one entry at a time until it takes it. An entry that is at fault is *held*, and
//! its lane with it, while the others go on; after some tries it is *parked*, and its lane goes on.
//!
//! A lane has few entries in memory. Where more wait, the lane is *behind*: the queue keeps only the number up to which it has been read,
//! and the endpoint reads that lane's next entries from the feed once those are sent. So neither a conversation that is held nor one
//! that is busier than the endpoint fills the queue, and what must be stored is one position, the entries held and parked, and a number for
//! each lane that is behind.

mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use serde_json::value::RawValue;

pub(super) use self::stored::{Fault, Held, Stored};

/// How many conversations are sent at a time.
const MAX_IN_FLIGHT: usize = 8;

/// How many of these may be tries of entries that were refused, while another entry may be sent.
const MAX_TRIES_IN_FLIGHT: usize = 4;

/// How many entries may wait in memory that are not behind the position. Nothing is read while there are more.
const MAX_WAITING: usize = 512;

/// How many entries may wait in memory in lanes that are behind the position. No lane is read while there are more.
const MAX_LOADED: usize = 512;

/// How many entries of one lane wait in memory, and are stored if the first one is held.
pub(super) const MAX_OF_LANE: usize = 32;

/// How many entries may be parked. Then the webhook is paused.
pub(super) const MAX_PARKED: usize = 1_000;

/// How many entries may be held, those behind others in their lanes included, before a lane keeps only its first. They are
/// stored with the position twice a second.
const MAX_HELD: usize = 5_000;

/// How many lanes there may be. Then nothing more is read: so many conversations have an entry at fault.
const MAX_LANES: usize = 5_000;

/// The delays before an endpoint at fault is tried again. The last one repeats.
const ENDPOINT_DELAYS: [u64; 6] = [0, 5, 30, 120, 600, 1_800];

/// The delays before an entry at fault is tried again: ten tries in three hours.
const ENTRY_DELAYS: [u64; 9] = [5, 15, 60, 180, 600, 1_200, 1_800, 2_700, 4_200];

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

/// The entries of a conversation.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Item>,
    /// The number up to which the lane was read.
    read: u64,
    /// Whether the lane was not read as far as the feed, so that its next entries must be read.
    is_behind: bool,
    /// Whether its entries are stored beside the position, which therefore passes them.
    is_aside: bool,
    /// Its turn among the lanes that may be sent.
    turn: u64,
}

/// The entries to be sent.
#[derive(Debug)]
pub(super) struct Queue {
    /// The number after which the feed is read on.
    read: u64,
    lanes: HashMap<String, Lane>,
    /// The lanes whose first entry may be sent, by their turns. Held ones are not among them.
    ready: BTreeMap<u64, String>,
    /// The last turn that was given.
    turn: u64,
    /// The first entries of the lanes that are held, by when they are tried again. Those in flight are not among them.
    due: BTreeSet<(i64, u64)>,
    in_flight: BTreeSet<u64>,
    /// The entries in lanes that are not beside the position: the position is before the first one.
    undone: BTreeSet<u64>,
    /// The lanes that have nothing in memory and are behind, in the order in which they are read.
    unread: VecDeque<String>,
    /// How many entries are in memory in lanes beside the position, those that are held left out.
    loaded: usize,
    stored: Stored,
}

impl Queue {
    pub(super) fn new(position: u64, stored: Stored) -> Self {
        let mut queue = Self {
            read: position,
            lanes: HashMap::new(),
            ready: BTreeMap::new(),
            turn: 0,
            due: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            undone: BTreeSet::new(),
            unread: VecDeque::new(),
            loaded: 0,
            stored: Stored::default(),
        };
        for (number, held) in &stored.held {
            let lane = queue.lanes.entry(held.lane.clone()).or_default();
            if lane.waiting.is_empty() {
                queue.due.insert((held.next, *number));
            }
            lane.waiting.push_back(Item { number: *number, lane: held.lane.clone(), entry: None });
            (lane.read, lane.is_aside) = (*number, true);
        }
        for (name, behind) in &stored.behind {
            let lane = queue.lanes.entry(name.clone()).or_default();
            (lane.read, lane.is_aside) = (lane.read.max(*behind), true);
            lane.is_behind = lane.read < position;
            if lane.is_behind && lane.waiting.is_empty() {
                queue.unread.push_back(name.clone());
            }
        }
        queue.stored = stored;
        queue
    }

    /// The number up to which everything is taken, held, parked or in a lane that is behind.
    pub(super) fn position(&self) -> u64 {
        self.undone.first().map_or(self.read, |first| first - 1)
    }

    /// The number after which the feed is read on.
    pub(super) fn read_position(&self) -> u64 {
        self.read
    }

    /// Whether a request is in flight.
    pub(super) fn is_sending(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Whether more entries fit.
    pub(super) fn has_room(&self) -> bool {
        self.undone.len() < MAX_WAITING && self.lanes.len() < MAX_LANES && !self.is_full_of_parked()
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
    pub(super) fn push(&mut self, number: u64, name: &str, entry: Box<RawValue>) {
        self.passed(number);
        // After a restart the feed is read from the position on, and what is parked is beyond it.
        if self.stored.parked.contains_key(&number) {
            return;
        }
        let most = self.most_of_lane();
        let lane = self.lanes.entry(name.to_owned()).or_default();
        if lane.is_behind || number <= lane.read {
            return;
        }
        let is_held = lane.waiting.front().is_some_and(|first| self.stored.held.contains_key(&first.number));
        let is_full = match (is_held, lane.is_aside) {
            (true, _) => lane.waiting.len() >= most,
            (false, true) => lane.waiting.len() >= MAX_OF_LANE || self.loaded >= MAX_LOADED,
            (false, false) => lane.waiting.len() >= MAX_OF_LANE,
        };
        if is_full {
            self.fall_behind(name, is_held);
            return;
        }
        lane.read = number;
        let item = |entry| Item { number, lane: name.to_owned(), entry };
        if is_held {
            self.stored.held.insert(number, Held { lane: name.to_owned(), tries: 0, next: 0 });
            lane.waiting.push_back(item(None));
            return;
        }
        if lane.is_aside {
            self.loaded += 1;
        } else {
            self.undone.insert(number);
        }
        lane.waiting.push_back(item(Some(entry)));
        if lane.waiting.len() == 1 {
            self.give_turn(name);
        }
    }

    /// How many entries of a lane are held.
    fn most_of_lane(&self) -> usize {
        if self.stored.held.len() < MAX_HELD { MAX_OF_LANE } else { 1 }
    }

    /// A lane takes no more entries into memory.
    fn fall_behind(&mut self, name: &str, is_held: bool) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        if !lane.is_aside {
            self.loaded += lane.waiting.len();
        }
        (lane.is_behind, lane.is_aside) = (true, true);
        for item in &lane.waiting {
            self.undone.remove(&item.number);
        }
        let first = lane.waiting.front().map_or(lane.read, |first| first.number - 1);
        self.stored.behind.insert(name.to_owned(), if is_held { lane.read } else { first });
    }

    /// A lane that has to be read, and after which number; `None` if there is none or no room.
    pub(super) fn next_unread(&self) -> Option<(String, u64)> {
        let name = self.unread.front()?;
        let lane = self.lanes.get(name)?;
        (self.loaded + MAX_OF_LANE <= MAX_LOADED).then(|| (name.clone(), lane.read))
    }

    /// Adds what was read for a lane after its number: `entries`, in an order without holes, up to the number `next`.
    pub(super) fn add_read(&mut self, name: &str, next: u64, entries: Vec<(u64, Box<RawValue>)>) {
        self.unread.retain(|unread| unread != name);
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let (from, upto) = (lane.read, self.read);
        for (number, entry) in entries {
            // What follows is read with all other lanes.
            if number > from && number <= upto && !self.stored.parked.contains_key(&number) {
                lane.waiting.push_back(Item { number, lane: name.to_owned(), entry: Some(entry) });
            }
        }
        self.loaded += lane.waiting.len();
        lane.read = from.max(next.min(upto));
        lane.is_behind = lane.read < upto;
        let (read, is_behind, is_empty) = (lane.read, lane.is_behind, lane.waiting.is_empty());
        if !is_empty {
            self.give_turn(name);
        } else if is_behind {
            self.stored.behind.insert(name.to_owned(), read);
            self.unread.push_back(name.to_owned());
        } else {
            self.remove_lane(name);
        }
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
        let tries = self.in_flight.iter().filter(|number| self.stored.held.contains_key(number)).count();
        // A held entry is no good probe of the endpoint, because the entry may be at fault.
        let prefers_ready = is_probe || tries >= MAX_TRIES_IN_FLIGHT;
        let (number, name) = if due.is_none() || (prefers_ready && !self.ready.is_empty()) {
            let (_, name) = self.ready.pop_first()?;
            (self.lanes.get(&name)?.waiting.front()?.number, name)
        } else {
            let (_, number) = self.due.pop_first()?;
            (number, self.stored.held.get(&number)?.lane.clone())
        };
        let first = self.lanes.get_mut(&name).and_then(|lane| lane.waiting.front_mut())?;
        self.in_flight.insert(number);
        Some(Item { number, lane: name, entry: first.entry.take() })
    }

    /// The request for an entry has ended.
    pub(super) fn end(&mut self, item: Item, end: End, now: i64) {
        let Item { number, lane, .. } = &item;
        let (number, lane) = (*number, lane.clone());
        self.in_flight.remove(&number);
        let first = self.lanes.get(&lane).and_then(|lane| lane.waiting.front());
        debug_assert_eq!(first.map(|first| first.number), Some(number), "it is the first of its lane");
        match end {
            End::Taken => {
                self.endpoint_answered();
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
    fn leave(&mut self, number: u64, name: &str) {
        let was_held = self.stored.held.remove(&number).is_some();
        self.undone.remove(&number);
        let Some(lane) = self.lanes.get_mut(name) else { return };
        lane.waiting.pop_front();
        if lane.is_aside && !was_held {
            self.loaded -= 1;
            self.stored.behind.insert(name.to_owned(), number);
        }
        if !lane.waiting.is_empty() {
            self.give_turn(name);
        } else if lane.is_behind {
            self.unread.push_back(name.to_owned());
        } else {
            self.remove_lane(name);
        }
    }

    /// Removes a lane in which nothing waits, unless its entries will be read again.
    fn remove_lane(&mut self, name: &str) {
        let Some(lane) = self.lanes.get(name) else { return };
        if lane.read <= self.read {
            self.lanes.remove(name);
            self.stored.behind.remove(name);
        } else {
            self.stored.behind.insert(name.to_owned(), lane.read);
        }
    }

    /// Removes the lanes that were beyond the position when the webhook began, and that the feed has now reached.
    pub(super) fn remove_reached(&mut self) {
        let is_reached = |lane: &Lane| lane.waiting.is_empty() && !lane.is_behind && lane.read <= self.read;
        let behind = &mut self.stored.behind;
        self.lanes.retain(|name, lane| {
            let removes = is_reached(lane);
            if removes {
                behind.remove(name);
            }
            !removes
        });
    }

    /// The first entry of a lane may be sent after those of the lanes that have their turn already.
    fn give_turn(&mut self, name: &str) {
        self.turn += 1;
        if let Some(lane) = self.lanes.get_mut(name) {
            lane.turn = self.turn;
        }
        self.put(name);
    }

    /// The first entry of a lane may be sent: at its turn, or when it is tried again.
    fn put(&mut self, name: &str) {
        let Some(lane) = self.lanes.get(name) else { return };
        let Some(first) = lane.waiting.front() else { return };
        match self.stored.held.get(&first.number) {
            Some(held) => drop(self.due.insert((held.next, first.number))),
            None => drop(self.ready.insert(lane.turn, name.to_owned())),
        }
    }

    /// Puts an entry back that was not taken.
    fn keep(&mut self, item: Item) {
        let Item { lane: name, entry, .. } = item;
        if let Some(first) = self.lanes.get_mut(&name).and_then(|lane| lane.waiting.front_mut()) {
            first.entry = entry;
        }
        self.put(&name);
    }

    /// Holds an entry with its lane, or parks it after the last try.
    fn hold(&mut self, number: u64, name: &str, now: i64) {
        let tries = self.stored.held.get(&number).map_or(0, |held| held.tries);
        let Some(delay) = ENTRY_DELAYS.get(tries as usize) else {
            self.stored.parked.insert(number, name.to_owned());
            self.leave(number, name);
            return;
        };
        let most = self.most_of_lane();
        let was_held = self.stored.held.contains_key(&number);
        let Some(lane) = self.lanes.get_mut(name) else { return };
        if std::mem::replace(&mut lane.is_aside, true) && !was_held {
            self.loaded -= lane.waiting.len();
        }
        for item in &mut lane.waiting {
            item.entry = None;
            self.undone.remove(&item.number);
        }
        if lane.waiting.len() > most {
            lane.waiting.truncate(most);
            lane.is_behind = true;
            lane.read = lane.waiting.back().map_or(number, |last| last.number);
        }
        for item in &lane.waiting {
            let held = Held { lane: name.to_owned(), tries: 0, next: 0 };
            self.stored.held.entry(item.number).or_insert(held);
        }
        if lane.is_behind {
            self.stored.behind.insert(name.to_owned(), lane.read);
        } else {
            self.stored.behind.remove(name);
        }
        let next = after(now, *delay);
        self.stored.held.insert(number, Held { lane: name.to_owned(), tries: tries + 1, next });
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

fn after(now: i64, seconds: u64) -> i64 {
    now.saturating_add(i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
