//! Closes the connections of banned users.

use serde_json::value::RawValue;
use switchboard_protocol::reply::Reply;
use switchboard_protocol::{CloseCode, UserId};

use super::LocalNode;
use crate::encode::encode;
use crate::metrics::DropReason;
use switchboard_store::ban::Ban;
use switchboard_store::check_not_banned;

impl LocalNode {
    /// Sends a ban that holds now to every session of its user, attaching ones included, and closes them.
    pub(super) fn close_banned(&self, user: &UserId, ban: &Ban) {
        let Err(refusal) = check_not_banned(Some(ban), self.clock.now()) else { return };
        let frame = encode(&Reply::<Box<RawValue>>::Error(refusal.into_failure(None)));
        for outbox in self.registry.all_sessions_of(user) {
            // A session that is closing already has the frame.
            if outbox.state().closing == Some(CloseCode::Banned) {
                continue;
            }
            self.metrics.count_dropped(DropReason::Banned);
            outbox.push_reply(frame.clone());
            outbox.close(CloseCode::Banned);
        }
    }
}
