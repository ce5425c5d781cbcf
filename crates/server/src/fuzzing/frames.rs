//! Fuzz target: decodes WebSocket frames that arrive whole and in pieces.

use std::collections::VecDeque;

use switchboard_protocol::CloseCode;

use crate::frame::{DecodeStep, Decoder, Message, MessageBounds};

/// The maximum length of a frame header: 2 bytes, an extended length of 8 and a mask of 4.
const MAX_HEADER_BYTES: usize = 14;

/// The messages of a client, and the code with which the server closed, if it did.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    messages: Vec<(String, Vec<u8>)>,
    close_code: Option<CloseCode>,
}

/// Decodes the bytes of a connection. The first byte sets the limits of a message, and the second says how the rest is split
/// into reads. Panics unless every split gives the same messages, and the buffer stays bounded.
pub fn frames(bytes: &[u8]) {
    let [most, pieces, stream @ ..] = bytes else { return };
    let bounds = MessageBounds { bytes: 1 << (most % 11), fragments: 1 + u32::from(most / 11) };
    let whole = decode_pieces([stream].into_iter(), bounds);
    let size = 1 + usize::from(pieces % 32);
    assert_eq!(decode_pieces(stream.chunks(size), bounds), whole, "in pieces of {size}");
    // The sizes of the pieces come from the bytes themselves.
    let mut sizes: VecDeque<usize> = stream.iter().map(|byte| 1 + usize::from(byte % 7)).collect();
    let mut rest = stream;
    let uneven = std::iter::from_fn(|| {
        let (piece, after) = rest.split_at(sizes.pop_front()?.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(decode_pieces(uneven, bounds), whole, "in uneven pieces");
}

/// Decodes bytes that arrive in pieces, as `session/socket.rs` does: it buffers an incomplete frame.
fn decode_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>, bounds: MessageBounds) -> Decoded {
    let mut decoder = Decoder::default();
    let mut kept = Vec::new();
    let mut messages = Vec::new();
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut used = 0;
        while used < kept.len() {
            match decoder.decode_next(&mut kept[used..], bounds) {
                Ok(DecodeStep::Incomplete) => break,
                Ok(DecodeStep::Fragment(len)) => used += len,
                Ok(DecodeStep::Message(len, message)) => {
                    used += len;
                    messages.push(to_owned_message(message, bounds));
                }
                Err(code) => return Decoded { messages, close_code: Some(code) },
            }
        }
        kept.drain(..used);
        // The decoder does not buffer a frame that is over the bounds.
        assert!(kept.len() < MAX_HEADER_BYTES + bounds.bytes.max(125), "{} bytes are kept", kept.len());
        let held = decoder.buffered_bytes();
        assert!(held <= 2 * bounds.bytes.max(8), "{held} bytes are held for fragments");
    }
    Decoded { messages, close_code: None }
}

fn to_owned_message(message: Message<'_>, bounds: MessageBounds) -> (String, Vec<u8>) {
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
