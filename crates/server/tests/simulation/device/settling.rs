//! Checks that the server has sent a connection every event by the end of the settling time.

use tokio::time::Instant;

use super::{Device, Session};

impl Device {
    /// In a cluster, checks that every stored event has arrived although the device requested none.
    pub(super) fn check_all_events_arrived(&self, session: &Session) {
        let Some(cluster) = &self.world.cluster else { return };
        let revoked_user = *self.world.revoked_user.lock().expect("nothing panics with it");
        // A device that did not read for a while may still miss events.
        if session.reads_from + cluster.settling_time > Instant::now() {
            return;
        }
        if revoked_user.is_some_and(|(user, at)| user == self.user && session.since <= at) {
            self.world.report_violation(&self.name, "is still connected after a revocation");
            return;
        }
        // A device that connected less than the settling time ago may also still miss events.
        if !session.welcome || session.welcomed + cluster.settling_time > Instant::now() {
            return;
        }
        let truth = self.world.lock_model();
        let missing = truth.visible_heads(self.user).into_iter().find_map(|(name, head)| {
            let next = session.next_expected.get(&name).copied();
            let first_due = |since| truth.first_seq_due_to_session(self.user, &name, since);
            // The server need not send the events of a membership that ended before this node learned that it began. The
            // node's knowledge may be as old as the connection.
            if truth.has_membership_ended(self.user, &name, next.unwrap_or_else(|| first_due(session.since)))
            {
                return None;
            }
            let next = next.unwrap_or_else(|| first_due(session.welcomed));
            let missing = (next..=head).find(|seq| !session.may_be_missing(&name, *seq))?;
            Some(format!("{name} {missing} has not arrived, of {head}"))
        });
        drop(truth);
        if let Some(missing) = missing.or_else(|| self.missing_presence(session)) {
            self.world.report_violation(&self.name, &missing);
        }
    }
}

impl Session {
    /// Whether the server need not send the event, because an `ok` acknowledged it or a `gap` skipped it.
    pub(super) fn may_be_missing(&self, name: &str, seq: u64) -> bool {
        let mut gaps = self.gaps.get(name).into_iter().flatten();
        self.own_events.contains(&(name.to_owned(), seq))
            || gaps.any(|(after, head)| *after < seq && seq <= *head)
    }
}
