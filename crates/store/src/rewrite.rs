//! Rewrites the bodies of events that an earlier version stored. Those bodies name users by id; new ones name them by key.
//!
//! The writer does this between two batches, one portion in each transaction. Portions are short, because writes wait for
//! them. At opening the whole rewrite would delay the start of a large installation. The position is stored with each
//! portion, so that after an interruption nothing is repeated.

use std::time::Duration;

use switchboard_protocol::EventKind;

/// How many events a portion reads at most. A portion takes a few milliseconds, in which writes wait.
pub(crate) const MAX_EVENTS_PER_PORTION: u64 = 5_000;
/// How many conversations a portion examines at most.
pub(crate) const MAX_CONVERSATIONS_PER_PORTION: u64 = 1_000;

/// How long a writer that is never idle serves batches before it rewrites the next portion.
pub(crate) const REWRITE_INTERVAL: Duration = Duration::from_millis(200);

/// The kinds whose bodies earlier versions stored with ids. Kinds added later were never stored that way, so this list is
/// complete.
pub(crate) const KINDS: [EventKind; 4] =
    [EventKind::Create, EventKind::Invite, EventKind::Remove, EventKind::Role];

/// The last event that the rewrite has examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) conversation: i64,
    pub(crate) seq: u64,
}

/// A conversation that may have events to rewrite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) conversation: i64,
    /// Whether it is a room. Events of a direct conversation name no users.
    pub(crate) is_room: bool,
    pub(crate) head: u64,
}

/// A range of a room's events: after one event, up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventRange {
    pub(crate) conversation: i64,
    pub(crate) after: u64,
    pub(crate) upto: u64,
}

/// The ranges of a portion of at most `events` events, and the position after them; `None` if no conversations are left.
/// `candidates` are the conversations from the position `from` on, in order.
pub(crate) fn next_portion(
    from: Position,
    candidates: &[Candidate],
    events: u64,
) -> (Vec<EventRange>, Option<Position>) {
    let (mut sections, mut left) = (Vec::new(), events.max(1));
    let mut next = None;
    for candidate in candidates {
        let Candidate { conversation, is_room, head } = *candidate;
        let after = if conversation == from.conversation { from.seq } else { 0 };
        let upto = head.min(after.saturating_add(left));
        if is_room && upto > after {
            sections.push(EventRange { conversation, after, upto });
            left -= upto - after;
            if upto < head || left == 0 {
                return (sections, Some(Position { conversation, seq: upto }));
            }
        }
        next = Some(Position { conversation, seq: head });
    }
    (sections, next)
}
