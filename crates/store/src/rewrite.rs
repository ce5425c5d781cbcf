//! Rewrites the bodies of events that an earlier version has stored: they name users by id, and new ones by number.
//!
//! The writer does it between two batches, a portion in each transaction, because each portion is short and other
//! writers would wait longer for a lock. At opening it would keep a large installation from starting. The position
//! is stored with each portion, so an interruption repeats nothing.

use std::time::Duration;

use switchboard_protocol::EventKind;

/// Events that a portion reads, and conversations that it passes over: a few milliseconds, in which writes wait.
pub(crate) const MAX_EVENTS_PER_PORTION: u64 = 5_000;
pub(crate) const MAX_CONVERSATIONS_PER_PORTION: u64 = 1_000;

/// How long a writer that is never idle serves batches before it rewrites a portion.
pub(crate) const REWRITE_INTERVAL: Duration = Duration::from_millis(200);

/// The kinds whose bodies earlier versions have stored with ids. Later kinds never were, so the list is complete for good.
pub(crate) const KINDS: [EventKind; 4] =
    [EventKind::Create, EventKind::Invite, EventKind::Remove, EventKind::Role];

/// The last event that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) conversation: i64,
    pub(crate) seq: u64,
}

/// A conversation that may have events to rewrite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) conversation: i64,
    /// No event of a direct conversation names a user.
    pub(crate) is_room: bool,
    pub(crate) head: u64,
}

/// Events of a room: those behind one of them, up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) conversation: i64,
    pub(crate) after: u64,
    pub(crate) upto: u64,
}

/// The sections of a portion of at most so many events, and the position behind them; `None` if there are no conversations
/// behind it. The candidates are the conversations from the position on, in order.
pub(crate) fn portion(
    from: Position,
    candidates: &[Candidate],
    events: u64,
) -> (Vec<Section>, Option<Position>) {
    let (mut sections, mut left) = (Vec::new(), events.max(1));
    let mut next = None;
    for candidate in candidates {
        let Candidate { conversation, is_room, head } = *candidate;
        let after = if conversation == from.conversation { from.seq } else { 0 };
        let upto = head.min(after.saturating_add(left));
        if is_room && upto > after {
            sections.push(Section { conversation, after, upto });
            left -= upto - after;
            if upto < head || left == 0 {
                return (sections, Some(Position { conversation, seq: upto }));
            }
        }
        next = Some(Position { conversation, seq: head });
    }
    (sections, next)
}
