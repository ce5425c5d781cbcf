//! How far a device is in one conversation.

use std::collections::BTreeMap;

use switchboard_protocol::{ConversationId, Event, EventBody, Seq, UserId};

/// What an event means for whether the user may see what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Event,
    Comes,
    Goes,
}

impl Step {
    pub(crate) fn of(event: &Event, user: &UserId) -> Self {
        match &event.body {
            EventBody::Leave {} if event.from == *user => Self::Goes,
            EventBody::Remove { user: gone } if gone == user => Self::Goes,
            _ if comes_in(event, user) => Self::Comes,
            _ => Self::Event,
        }
    }

    /// The same for one's own command.
    pub(crate) fn of_kind(kind: &str) -> Self {
        match kind {
            "leave" => Self::Goes,
            "join" => Self::Comes,
            _ => Self::Event,
        }
    }
}

/// Whether the event brings the user in.
pub(crate) fn comes_in(event: &Event, user: &UserId) -> bool {
    match &event.body {
        EventBody::Join { .. } => event.from == *user,
        EventBody::Invite { user: guest, .. } => guest == user,
        _ => false,
    }
}

/// A cursor, and what has come ahead of it.
#[derive(Debug)]
pub(crate) struct Place {
    /// Everything up to here has arrived.
    pub(crate) cursor: Seq,
    ahead: BTreeMap<u64, Step>,
    /// The event with which the user left, while they are out.
    pub(crate) left: Option<Seq>,
    /// A page is under way.
    pub(crate) paging: bool,
}

impl Place {
    pub(crate) fn at(cursor: Seq) -> Self {
        Self { cursor, ahead: BTreeMap::new(), left: None, paging: false }
    }

    /// Where one is in a conversation that one has not heard of before this event. Whoever comes into a room begins there; a
    /// direct conversation begins with its first message.
    pub(crate) fn at_the_beginning_of(id: &ConversationId, first: Seq) -> Self {
        Self::at(if id.is_room() { Seq(first.0.saturating_sub(1)) } else { Seq(0) })
    }

    /// How many events between the cursor and this one have not come.
    pub(crate) fn missing_before(&self, seq: Seq) -> u64 {
        let between = seq.0.saturating_sub(self.cursor.0 + 1);
        between - self.ahead.range(..seq.0).count() as u64
    }

    /// Takes an event in; `false` if it was there already.
    pub(crate) fn take(&mut self, seq: Seq, step: Step) -> bool {
        if seq <= self.cursor || self.ahead.contains_key(&seq.0) {
            return false;
        }
        self.ahead.insert(seq.0, step);
        while let Some(step) = self.ahead.remove(&(self.cursor.0 + 1)) {
            self.cursor.0 += 1;
            match step {
                Step::Event => {}
                Step::Comes => self.left = None,
                Step::Goes => self.left = Some(self.cursor),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_ahead_waits_for_what_is_missing() {
        let mut place = Place::at(Seq(4));
        assert!(place.take(Seq(7), Step::Goes));
        assert_eq!((place.cursor, place.missing_before(Seq(9)), place.left), (Seq(4), 3, None));
        assert!(place.take(Seq(5), Step::Event) && place.take(Seq(6), Step::Event));
        assert_eq!((place.cursor, place.left), (Seq(7), Some(Seq(7))));
        assert!(!place.take(Seq(6), Step::Event), "once");
    }
}
