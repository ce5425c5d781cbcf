//! The subscriptions that the router wants. The router never waits for the bus: it changes this table, and the subscription
//! manager applies the changes. The backlog is bounded by the number of addresses.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;

use super::subject::{Slot, SubjectKey};
use crate::bus::Address;

/// The subscriptions that the router wants.
#[derive(Debug, Default)]
pub(super) struct DesiredSubscriptions {
    table: Mutex<DesiredTable>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct DesiredTable {
    /// The desired keys of each hash slot.
    slots: FxHashMap<Slot, FxHashSet<u64>>,
    /// Slots that changed since the last [`DesiredSubscriptions::take_changes`].
    changed: FxHashSet<Slot>,
    /// Addresses for which the router waits for [`crate::bus::BusEvent::Subscribed`].
    unconfirmed: FxHashMap<SubjectKey, Address>,
}

/// The changes of the table since they were last taken.
#[derive(Debug, Default)]
pub(super) struct DesiredChanges {
    pub(super) slots: Vec<(Slot, DesiredKeys)>,
    pub(super) unconfirmed: Vec<Address>,
}

/// The desired keys of a slot.
#[derive(Debug)]
pub(super) enum DesiredKeys {
    /// All desired keys of the slot, because there are few: at most as many as the caller of
    /// [`DesiredSubscriptions::take_changes`] gave.
    Few(Vec<u64>),
    /// The slot has too many desired keys for exact subscriptions, so it needs a wildcard.
    Many,
}

impl DesiredSubscriptions {
    fn lock_table(&self) -> MutexGuard<'_, DesiredTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subject of this node itself, whose subscription is not confirmed to the router.
    pub(super) fn add(&self, subject: SubjectKey) {
        let mut table = self.lock_table();
        if table.slots.entry(subject.slot()).or_default().insert(subject.key) {
            table.changed.insert(subject.slot());
        }
        drop(table);
        self.changed.notify_one();
    }

    pub(super) fn subscribe(&self, address: Address) {
        let subject = SubjectKey::for_address(&address);
        self.lock_table().unconfirmed.insert(subject, address);
        self.add(subject);
    }

    pub(super) fn remove(&self, subject: SubjectKey) {
        let mut table = self.lock_table();
        table.unconfirmed.remove(&subject);
        let Some(keys) = table.slots.get_mut(&subject.slot()) else { return };
        if keys.remove(&subject.key) {
            if keys.is_empty() {
                table.slots.remove(&subject.slot());
            }
            table.changed.insert(subject.slot());
            drop(table);
            self.changed.notify_one();
        }
    }

    pub(super) fn contains(&self, subject: SubjectKey) -> bool {
        self.lock_table().slots.get(&subject.slot()).is_some_and(|keys| keys.contains(&subject.key))
    }

    /// Waits until the table has changed since the last call.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    /// Takes the changes since the last call. For a changed slot with at most `few` desired keys, they contain the keys.
    pub(super) fn take_changes(&self, few: usize) -> DesiredChanges {
        let mut table = self.lock_table();
        let table = &mut *table;
        let keys = |slot: &Slot| match table.slots.get(slot) {
            Some(keys) if keys.len() > few => DesiredKeys::Many,
            keys => DesiredKeys::Few(keys.into_iter().flatten().copied().collect()),
        };
        let slots = table.changed.iter().map(|slot| (*slot, keys(slot))).collect();
        table.changed.clear();
        DesiredChanges { slots, unconfirmed: table.unconfirmed.drain().map(|(_, address)| address).collect() }
    }
}
