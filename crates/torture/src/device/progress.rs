//! A device's progress in one conversation.

use std::collections::BTreeMap;

use switchboard_protocol::{ConversationId, Event, EventBody, Seq, UserId};

/// How an event changes the membership of the device's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MembershipChange {
    None,
    Joined,
    Left,
}

impl MembershipChange {
    pub(crate) fn of(event: &Event, user: &UserId) -> Self {
        match &event.body {
            EventBody::Leave {} if event.from == *user => Self::Left,
            EventBody::Remove { user: gone, .. } if gone == user => Self::Left,
            _ if adds_user(event, user) => Self::Joined,
            _ => Self::None,
        }
    }

    /// How an event of this kind, stored for the device's own command, changes the user's membership.
    pub(crate) fn of_kind(kind: &str) -> Self {
        match kind {
            "leave" => Self::Left,
            "join" => Self::Joined,
            _ => Self::None,
        }
    }
}

/// Whether the event makes the user a member.
pub(crate) fn adds_user(event: &Event, user: &UserId) -> bool {
    match &event.body {
        EventBody::Join { .. } => event.from == *user,
        EventBody::Invite { user: guest, .. } => guest == user,
        _ => false,
    }
}

/// How many events of a conversation the device has received: its cursor, and the events after it.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The device has received every event up to this one.
    pub(crate) cursor: Seq,
    received_ahead: BTreeMap<u64, MembershipChange>,
    /// The event with which the user left the conversation; `None` if the user did not leave, or has rejoined.
    pub(crate) left_with: Option<Seq>,
    /// Whether a `sync` of the conversation has no answer yet.
    pub(crate) is_paging: bool,
}

impl Progress {
    pub(crate) fn at(cursor: Seq) -> Self {
        Self { cursor, received_ahead: BTreeMap::new(), left_with: None, is_paging: false }
    }

    /// The progress after the first received event of a conversation. In a room, the device needs only this event and later ones; a
    /// direct conversation is needed from its first message on.
    pub(crate) fn from_first_event(id: &ConversationId, first: Seq) -> Self {
        Self::at(if id.is_room() { Seq(first.0.saturating_sub(1)) } else { Seq(0) })
    }

    /// How many events between the cursor and `seq` the device has not received.
    pub(crate) fn count_missing_before(&self, seq: Seq) -> u64 {
        let between = seq.0.saturating_sub(self.cursor.0 + 1);
        between - self.received_ahead.range(..seq.0).count() as u64
    }

    /// Records an event. Returns `false` if it was recorded before.
    pub(crate) fn apply(&mut self, seq: Seq, change: MembershipChange) -> bool {
        if seq <= self.cursor || self.received_ahead.contains_key(&seq.0) {
            return false;
        }
        self.received_ahead.insert(seq.0, change);
        while let Some(change) = self.received_ahead.remove(&(self.cursor.0 + 1)) {
            self.cursor.0 += 1;
            match change {
                MembershipChange::None => {}
                MembershipChange::Joined => self.left_with = None,
                MembershipChange::Left => self.left_with = Some(self.cursor),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_received_ahead_are_applied_once_the_missing_ones_arrive() {
        let mut progress = Progress::at(Seq(4));
        assert!(progress.apply(Seq(7), MembershipChange::Left));
        assert_eq!(
            (progress.cursor, progress.count_missing_before(Seq(9)), progress.left_with),
            (Seq(4), 3, None)
        );
        assert!(
            progress.apply(Seq(5), MembershipChange::None) && progress.apply(Seq(6), MembershipChange::None)
        );
        assert_eq!((progress.cursor, progress.left_with), (Seq(7), Some(Seq(7))));
        assert!(!progress.apply(Seq(6), MembershipChange::None), "an event is applied once");
    }
}
