//! Where this node wants to listen. The router says so without waiting, however long the bus takes: what has not been
//! done yet is bounded by the addresses there are.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;

use super::subject::{Place, Slot};
use crate::bus::Address;

/// Where this node wants to listen.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    slots: FxHashMap<Slot, FxHashSet<u64>>,
    /// Slots that have changed since they were looked at.
    changed: FxHashSet<Slot>,
    /// Addresses whose asker waits to hear that the bus has them.
    asked: FxHashMap<Place, Address>,
}

/// What has changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) slots: Vec<(Slot, Keys)>,
    pub(super) asked: Vec<Address>,
}

/// What is wanted of a slot.
#[derive(Debug)]
pub(super) enum Keys {
    /// So few.
    Few(Vec<u64>),
    /// More than were asked for.
    Many,
}

impl Wanted {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, place: Place) {
        let mut table = self.table();
        if table.slots.entry(place.slot()).or_default().insert(place.key) {
            table.changed.insert(place.slot());
        }
        drop(table);
        self.changed.notify_one();
    }

    pub(super) fn listen(&self, address: Address) {
        let place = Place::of(&address);
        self.table().asked.insert(place, address);
        self.add(place);
    }

    pub(super) fn ignore(&self, place: Place) {
        let mut table = self.table();
        table.asked.remove(&place);
        let Some(keys) = table.slots.get_mut(&place.slot()) else { return };
        if keys.remove(&place.key) {
            if keys.is_empty() {
                table.slots.remove(&place.slot());
            }
            table.changed.insert(place.slot());
            drop(table);
            self.changed.notify_one();
        }
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        self.table().slots.get(&place.slot()).is_some_and(|keys| keys.contains(&place.key))
    }

    /// Something has changed since this was last awaited.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What has changed since the last time; the keys of slots that have at most `few`.
    pub(super) fn take_changes(&self, few: usize) -> Changes {
        let mut table = self.table();
        let table = &mut *table;
        let keys = |slot: &Slot| match table.slots.get(slot) {
            Some(keys) if keys.len() > few => Keys::Many,
            keys => Keys::Few(keys.into_iter().flatten().copied().collect()),
        };
        let slots = table.changed.iter().map(|slot| (*slot, keys(slot))).collect();
        table.changed.clear();
        Changes { slots, asked: table.asked.drain().map(|(_, address)| address).collect() }
    }
}
