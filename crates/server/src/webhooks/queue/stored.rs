//! What is stored of a queue beside its position.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is stored of the queue besides its position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::webhooks) struct Stored {
    /// The entries that are tried again, and the first ones behind them in their lanes, by their numbers.
    #[serde(with = "lanes")]
    pub(in crate::webhooks) held: BTreeMap<u64, Held>,
    /// The lanes that are behind the position, and the number after which their entries are neither taken nor held.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::webhooks) behind: BTreeMap<String, u64>,
    /// The entries that the endpoint does not take, with their lanes.
    pub(in crate::webhooks) parked: BTreeMap<u64, String>,
    /// That the endpoint is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::webhooks) fault: Option<Fault>,
}

/// An entry that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::webhooks) struct Held {
    pub(in crate::webhooks) lane: String,
    pub(in crate::webhooks) tries: u32,
    /// When it is tried again, in milliseconds since the Unix epoch.
    pub(in crate::webhooks) next: i64,
}

/// An endpoint at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::webhooks) struct Fault {
    /// Since when, in milliseconds since the Unix epoch.
    pub(in crate::webhooks) since: i64,
    pub(in crate::webhooks) tries: u32,
    /// When it is tried again.
    pub(in crate::webhooks) next: i64,
    /// Whether requests are in flight that began before the fault was known.
    #[serde(skip)]
    pub(in crate::webhooks) is_settling: bool,
}

impl Stored {
    /// Has the parked entries sent again.
    pub(in crate::webhooks) fn unpark(&mut self) {
        for (number, lane) in std::mem::take(&mut self.parked) {
            self.held.insert(number, Held { lane, tries: 0, next: 0 });
        }
    }

    /// Forgets the entries after a number, which will be read again.
    pub(in crate::webhooks) fn rewind(&mut self, number: u64) {
        self.held.retain(|held, _| *held <= number);
        self.parked.retain(|parked, _| *parked <= number);
        self.behind.retain(|_, behind| *behind < number);
        self.fault = None;
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
