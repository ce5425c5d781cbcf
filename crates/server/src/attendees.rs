//! Who came to this node and who left it since that was last stored.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashSet;
use switchboard_protocol::UserId;
use switchboard_store::absences::Attendance;

/// The users who came and went. The router adds them, and the task of this module takes them. There are at most as many as the
/// node had users since.
#[derive(Debug, Default)]
pub(crate) struct Attendees {
    /// Whether several nodes may share the database, so that it has to know who is connected to which.
    are_shared: bool,
    /// Whether the feed has an entry for a user who comes online.
    tells_online: bool,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    arrived: FxHashSet<UserId>,
    departed: FxHashSet<UserId>,
    /// Those who departed before the changes were taken last. They are stored a round later, because a user who has moved to
    /// another node must have a row there first.
    departed_earlier: FxHashSet<UserId>,
}

impl Attendees {
    pub(crate) fn new(are_shared: bool, tells_online: bool) -> Self {
        Self { are_shared, tells_online, changes: Mutex::default() }
    }

    /// Whether several nodes may share the database.
    pub(crate) fn are_shared(&self) -> bool {
        self.are_shared
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user came online on this node.
    pub(crate) fn arrive(&self, user: &UserId) {
        if self.are_shared || self.tells_online {
            let mut changes = self.lock();
            changes.departed.remove(user);
            changes.departed_earlier.remove(user);
            changes.arrived.insert(user.clone());
        }
    }

    /// A user went offline on this node.
    pub(crate) fn depart(&self, user: &UserId) {
        if self.are_shared {
            self.lock().departed.insert(user.clone());
        }
    }

    /// Takes what has changed: who arrived, and who had departed when this was called last.
    pub(crate) fn take(&self) -> Attendance {
        let mut changes = self.lock();
        let arrived = std::mem::take(&mut changes.arrived);
        let departed = std::mem::take(&mut changes.departed);
        let departed = std::mem::replace(&mut changes.departed_earlier, departed);
        drop(changes);
        let [arrived, departed] = [arrived, departed].map(|users| users.into_iter().collect());
        Attendance { arrived, departed, tells_online: self.tells_online, is_complete: false }
    }

    /// Takes changes back that were not stored. Later ones win.
    pub(crate) fn put_back(&self, earlier: Attendance) {
        let mut changes = self.lock();
        for user in earlier.departed {
            if !changes.arrived.contains(&user) {
                changes.departed_earlier.insert(user);
            }
        }
        changes.arrived.extend(earlier.arrived);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a name")
    }

    #[test]
    fn a_departure_is_taken_a_round_later() {
        let attendees = Attendees::new(true, false);
        attendees.depart(&user("bob"));
        assert!(attendees.take().departed.is_empty());
        assert_eq!(attendees.take().departed, [user("bob")]);
        assert!(attendees.take().departed.is_empty());
    }

    #[test]
    fn a_user_who_comes_back_before_the_departure_was_stored_did_not_leave() {
        let attendees = Attendees::new(true, false);
        attendees.depart(&user("alice"));
        attendees.take();
        attendees.depart(&user("bob"));
        attendees.arrive(&user("alice"));
        attendees.arrive(&user("bob"));
        let mut changes = attendees.take();
        changes.arrived.sort_unstable();
        assert_eq!((changes.arrived, changes.departed), (vec![user("alice"), user("bob")], vec![]));
        assert!(attendees.take().departed.is_empty());
    }

    #[test]
    fn changes_that_were_not_stored_are_taken_again_unless_later_ones_undo_them() {
        let attendees = Attendees::new(true, false);
        attendees.arrive(&user("alice"));
        attendees.depart(&user("bob"));
        attendees.depart(&user("carol"));
        attendees.take();
        attendees.arrive(&user("alice"));
        let changes = attendees.take();
        attendees.depart(&user("alice"));
        attendees.arrive(&user("bob"));
        attendees.put_back(changes);
        let mut changes = attendees.take();
        changes.arrived.sort_unstable();
        assert_eq!(changes.arrived, [user("alice"), user("bob")]);
        assert_eq!(changes.departed, [user("carol")]);
        assert_eq!(attendees.take().departed, [user("alice")], "she came before she left");
    }

    #[test]
    fn a_single_node_stores_only_who_came_and_only_if_the_feed_has_it() {
        let (quiet, telling) = (Attendees::default(), Attendees::new(false, true));
        for attendees in [&quiet, &telling] {
            attendees.arrive(&user("alice"));
            attendees.depart(&user("bob"));
        }
        assert!(quiet.take().arrived.is_empty());
        let changes = telling.take();
        assert_eq!((changes.arrived.len(), changes.departed.len()), (1, 0));
    }
}
