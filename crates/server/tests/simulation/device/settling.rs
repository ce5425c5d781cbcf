//! What a connection is to have heard when everything had the time to arrive.

use tokio::time::Instant;

use super::{Device, Session};

impl Device {
    /// In a cluster, what was stored has come to everybody by now, without anybody asking for it.
    pub(super) fn has_settled(&self, session: &Session) {
        let Some(cluster) = &self.world.cluster else { return };
        let sent_away = *self.world.sent_away.lock().expect("nothing panics with it");
        // A device that reads nothing for a while does not have it yet.
        if session.reads_from + cluster.settling > Instant::now() {
            return;
        }
        if sent_away.is_some_and(|(user, at)| user == self.user && session.since <= at) {
            self.world.breaks(&self.name, "was logged out everywhere, and is still connected");
            return;
        }
        // The same for one that came in late.
        if !session.welcome || session.welcomed + cluster.settling > Instant::now() {
            return;
        }
        let truth = self.world.truth();
        let missing = truth.visible_of(self.user).into_iter().find_map(|(name, head)| {
            let next = session.next.get(&name).copied();
            let first_due = |since| truth.first_due(self.user, &name, since);
            // Of a stay that ended before this node knew of its beginning nobody hears until they come back. What the node
            // knew may be as old as the connection.
            if truth.stay_is_over(self.user, &name, next.unwrap_or_else(|| first_due(session.since))) {
                return None;
            }
            let next = next.unwrap_or_else(|| first_due(session.welcomed));
            let missing = (next..=head).find(|seq| !session.is_told(&name, *seq))?;
            Some(format!("{name} {missing} has never come, of {head}"))
        });
        drop(truth);
        if let Some(missing) = missing.or_else(|| self.misses(session)) {
            self.world.breaks(&self.name, &missing);
        }
    }
}

impl Session {
    /// Whether an event needs not come: `ok` has told of it, or `gap` has.
    pub(super) fn is_told(&self, name: &str, seq: u64) -> bool {
        let mut gaps = self.gaps.get(name).into_iter().flatten();
        self.own.contains(&(name.to_owned(), seq)) || gaps.any(|(after, head)| *after < seq && seq <= *head)
    }
}
