//! Removes what a deleted room had before its last event.
//!
//! The writer does this between two batches, one slice in each transaction, because writes wait for a slice. What is left is in the
//! table of ended rooms, so that a server that was killed goes on where it was.
//!
//! The event of the end stays, and so do the memberships of those who were members then: a client that was away learns by its
//! cursor that the room has ended, however long it was away. Everything else goes, in this order: memberships that had ended before,
//! bans, reactions, edits, requests, and events.

use std::time::Duration;

/// How long a slice takes at most, besides its commit.
pub(crate) const MAX_SLICE_TIME: Duration = Duration::from_millis(5);

/// How many rows are removed between two looks at the time.
pub(crate) const ROWS_PER_STEP: u32 = 100;

/// The most rows of a slice in SQLite.
pub(crate) const MAX_ROWS_PER_SLICE: u32 = 2_000;
