//! Fuzz target: decodes WebSocket frames that arrive whole and in pieces.

use std::collections::VecDeque;

use switchboard_protocol::CloseCode;

use crate::frame::{Bounds, Decoder, Message, Step};

/// The maximum length of a frame header: 2 bytes, an extended length of 8 and a mask of 4.
const HEADER: usize = 14;

/// The messages of a client, and the code with which the server closed, if it did.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    messages: Vec<(String, Vec<u8>)>,
    ended: Option<CloseCode>,
}

/// Decodes the bytes of a connection. The first byte sets the limits of a message, and the second says how the rest is split
/// into reads. Panics unless every split gives the same messages, and the buffer stays bounded.
pub fn frames(bytes: &[u8]) {
    let [most, pieces, stream @ ..] = bytes else { return };
    let bounds = Bounds { bytes: 1 << (most % 11), fragments: 1 + u32::from(most / 11) };
    let whole = heard([stream].into_iter(), bounds);
    let size = 1 + usize::from(pieces % 32);
    assert_eq!(heard(stream.chunks(size), bounds), whole, "in pieces of {size}");
    // The sizes of the pieces come from the bytes themselves.
    let mut sizes: VecDeque<usize> = stream.iter().map(|byte| 1 + usize::from(byte % 7)).collect();
    let mut rest = stream;
    let uneven = std::iter::from_fn(|| {
        let (piece, after) = rest.split_at(sizes.pop_front()?.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(heard(uneven, bounds), whole, "in uneven pieces");
}

/// Decodes bytes that arrive in pieces, as `session/socket.rs` does: it buffers an incomplete frame.
fn heard<'a>(pieces: impl Iterator<Item = &'a [u8]>, bounds: Bounds) -> Heard {
    let mut decoder = Decoder::default();
    let mut kept = Vec::new();
    let mut messages = Vec::new();
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut used = 0;
        while used < kept.len() {
            match decoder.step(&mut kept[used..], bounds) {
                Ok(Step::Incomplete) => break,
                Ok(Step::Fragment(len)) => used += len,
                Ok(Step::Message(len, message)) => {
                    used += len;
                    messages.push(owned(message, bounds));
                }
                Err(code) => return Heard { messages, ended: Some(code) },
            }
        }
        kept.drain(..used);
        // The decoder does not buffer a frame that is over the bounds.
        assert!(kept.len() < HEADER + bounds.bytes.max(125), "{} bytes are kept", kept.len());
        let held = decoder.held();
        assert!(held <= 2 * bounds.bytes.max(8), "{held} bytes are held for fragments");
    }
    Heard { messages, ended: None }
}

fn owned(message: Message<'_>, bounds: Bounds) -> (String, Vec<u8>) {
    let (kind, payload, most) = match message {
        Message::Text(text) => ("text", text.as_bytes(), bounds.bytes),
        Message::Binary(payload) => ("binary", payload, bounds.bytes),
        Message::Ping(payload) => ("ping", payload, 125),
        Message::Pong => ("pong", &[][..], 0),
        Message::Close => ("close", &[][..], 0),
    };
    assert!(payload.len() <= most, "a {kind} of {} bytes", payload.len());
    (kind.to_owned(), payload.to_vec())
}
