//! Slots for sessions and users. A free index is reused with another generation, so that a reference to one occupant never
//! reaches the next occupant.

use slab::Slab;

/// An index, and the generation of its occupant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot {
    index: u32,
    /// The number of the insertion. It wraps around after 2^32 insertions, and no reference is kept for that long.
    generation: u32,
}

impl Slot {
    pub(super) const MIN: Self = Self { index: 0, generation: 0 };
    pub(super) const MAX: Self = Self { index: u32::MAX, generation: u32::MAX };
}

/// Values that are found by their slots.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slab: Slab<(u32, T)>,
    insertions: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slab: Slab::new(), insertions: 0 }
    }
}

fn index_as_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or_else(|_| unreachable!("a process has fewer than 2^32 sockets"))
}

impl<T> Slots<T> {
    pub(super) fn insert(&mut self, value: T) -> Slot {
        self.insertions = self.insertions.wrapping_add(1);
        let index = index_as_u32(self.slab.insert((self.insertions, value)));
        Slot { index, generation: self.insertions }
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&T> {
        let (generation, value) = self.slab.get(slot.index as usize)?;
        (*generation == slot.generation).then_some(value)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let (generation, value) = self.slab.get_mut(slot.index as usize)?;
        (*generation == slot.generation).then_some(value)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        self.get(slot)?;
        self.slab.try_remove(slot.index as usize).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        let entries = self.slab.iter();
        entries.map(|(index, (generation, value))| {
            (Slot { index: index_as_u32(index), generation: *generation }, value)
        })
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slab.iter_mut().map(|(_, (_, value))| value)
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.slab.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_a_removed_value_finds_nothing() {
        let mut slots = Slots::default();
        let alice = slots.insert("alice");
        assert_eq!(slots.remove(alice), Some("alice"));
        let mallory = slots.insert("mallory");
        assert_eq!(alice.index, mallory.index, "the index is reused");
        assert_eq!(slots.get(alice), None);
        assert_eq!(slots.get_mut(alice), None);
        assert_eq!(slots.remove(alice), None);
        assert_eq!(slots.get(mallory), Some(&"mallory"));
    }
}
