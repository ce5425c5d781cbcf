//! Joins the frames of live events, so that a connection that receives all of them has one write.

use bytes::Bytes;

use super::CoalescedEvent;

/// The most bytes of frames that are joined into one buffer. Copying more costs more than writing several buffers.
const MAX_JOINED_BYTES: usize = 64 * 1024;

/// Joins the frames of several events into one buffer; `None` for a single event, or if there are too many bytes.
pub(crate) fn join_frames(events: &[CoalescedEvent]) -> Option<Bytes> {
    let bytes: usize = events.iter().map(|event| event.frame.len()).sum();
    if events.len() < 2 || bytes > MAX_JOINED_BYTES {
        return None;
    }
    let mut joined = Vec::with_capacity(bytes);
    for event in events {
        joined.extend_from_slice(&event.frame);
    }
    Some(joined.into())
}
