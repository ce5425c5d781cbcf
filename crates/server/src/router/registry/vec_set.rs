//! A set that is iterated for every event and rarely changed: a vector, with an index once it is large.

use std::hash::Hash;
use std::ops::Deref;

use rustc_hash::FxHashMap;

/// From this number of elements on, a set has an index. A smaller set is scanned, which takes less time than hashing.
const MIN_INDEXED_LEN: usize = 64;

/// A set of small values in no particular order.
#[derive(Debug, Clone)]
pub(crate) struct VecSet<T> {
    elements: Vec<T>,
    /// The position of each element; `None` in a small set.
    index: Option<Box<FxHashMap<T, usize>>>,
}

impl<T> Default for VecSet<T> {
    fn default() -> Self {
        Self { elements: Vec::new(), index: None }
    }
}

impl<T> Deref for VecSet<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.elements
    }
}

impl<T: Copy + Eq + Hash> VecSet<T> {
    /// Adds an element, which must not be in the set yet.
    pub(crate) fn insert(&mut self, element: T) {
        if let Some(index) = &mut self.index {
            index.insert(element, self.elements.len());
        }
        self.elements.push(element);
        if self.index.is_none() && self.elements.len() >= MIN_INDEXED_LEN {
            let index = self.elements.iter().enumerate().map(|(place, element)| (*element, place));
            self.index = Some(Box::new(index.collect()));
        }
    }

    /// Removes an element in constant time. Returns whether the set contained it.
    pub(crate) fn remove(&mut self, element: T) -> bool {
        let place = match &mut self.index {
            Some(index) => index.remove(&element),
            None => self.elements.iter().position(|other| *other == element),
        };
        let Some(place) = place else { return false };
        self.elements.swap_remove(place);
        if let (Some(index), Some(moved)) = (&mut self.index, self.elements.get(place)) {
            index.insert(*moved, place);
        }
        self.shrink();
        true
    }

    /// Halves the capacity once at most a quarter of it is in use. So the cost of moving elements stays in proportion to the
    /// removals.
    fn shrink(&mut self) {
        let (len, capacity) = (self.elements.len(), self.elements.capacity());
        if capacity >= MIN_INDEXED_LEN && len <= capacity / 4 {
            self.elements.shrink_to(capacity / 2);
            if let Some(index) = &mut self.index {
                index.shrink_to(capacity / 2);
            }
        }
        if len < MIN_INDEXED_LEN / 2 {
            self.index = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_set_has_the_elements_that_were_inserted_and_not_removed(changes in proptest::collection::vec((any::<bool>(), 0..200_u32), 0..2_000)) {
            let (mut set, mut model) = (VecSet::default(), std::collections::BTreeSet::new());
            for (add, element) in changes {
                if !add {
                    prop_assert_eq!(set.remove(element), model.remove(&element));
                } else if model.insert(element) {
                    set.insert(element);
                }
                prop_assert_eq!(set.index.as_ref().map_or(set.len(), |index| index.len()), set.len());
            }
            let mut elements = set.to_vec();
            elements.sort_unstable();
            prop_assert_eq!(elements, model.into_iter().collect::<Vec<_>>());
        }
    }
}
