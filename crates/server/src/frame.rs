//! WebSocket frames (RFC 6455 section 5): encodes whole frames that connections can share, and decodes frames of clients without
//! allocating memory before a frame is known to be within its limits.
//!
//! `docs/decisions/0001-own-websocket-framing.md` says why this is not a library.

use bytes::Bytes;
use switchboard_protocol::CloseCode;

/// The longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL_PAYLOAD: usize = 125;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Encodes a frame of the server, which is final and unmasked.
fn encode(opcode: u8, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(FIN | opcode);
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len @ 126..=0xFFFF => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame.into()
}

/// Encodes a text frame.
pub(crate) fn text(json: &str) -> Bytes {
    encode(TEXT, json.as_bytes())
}

/// The text of a text frame of the server's own, which has no mask.
pub(crate) fn payload(frame: &[u8]) -> Option<&str> {
    let header = match frame.get(1)? {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    std::str::from_utf8(frame.get(header..)?).ok()
}

/// Encodes a binary frame. The protocol has none; only the echo server for tests of the framing sends them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn binary(payload: &[u8]) -> Bytes {
    encode(BINARY, payload)
}

/// Encodes a ping without payload.
pub(crate) fn ping() -> Bytes {
    encode(PING, b"")
}

/// Encodes the pong that answers a ping with this payload.
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    encode(PONG, payload)
}

/// Encodes a close frame.
pub(crate) fn close(code: CloseCode) -> Bytes {
    let mut payload = code.number().to_be_bytes().to_vec();
    payload.extend_from_slice(code.reason().as_bytes());
    encode(CLOSE, &payload)
}

/// A message or control frame of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping, with the payload that the pong must repeat.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// A close frame.
    Close,
}

/// What the decoder has found at the start of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecodeStep<'a> {
    /// The input does not contain a whole frame yet.
    Incomplete,
    /// A frame of this many bytes with a fragment of a message. The decoder keeps it until the message is complete.
    Fragment(usize),
    /// A frame of this many bytes that completes a message.
    Message(usize, Message<'a>),
}

/// Decodes the frames of a client, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    fragments: Option<Box<Fragments>>,
}

/// A message of which some fragments are still to come.
#[derive(Debug)]
struct Fragments {
    opcode: u8,
    count: u32,
    payload: Vec<u8>,
}

/// The limits of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageBounds {
    /// The most bytes of a message.
    pub(crate) bytes: usize,
    /// The most fragments of a message.
    pub(crate) fragments: u32,
}

/// The header of a frame, decoded and checked.
struct Header {
    is_final: bool,
    opcode: u8,
    mask: [u8; 4],
    /// The index at which the payload starts.
    start: usize,
    len: usize,
}

impl Decoder {
    /// How many bytes are allocated for an incomplete message.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.fragments.as_ref().map_or(0, |fragments| fragments.payload.capacity())
    }

    /// Frees the memory of a fragmented message that the caller has handled.
    pub(crate) fn free_memory(&mut self) {
        if self.fragments.as_ref().is_some_and(|fragments| fragments.count == 0) {
            self.fragments = None;
        }
    }

    /// Decodes the frame at the start of `input`, and unmasks it in place. An error is the code with which to close the connection,
    /// and no more input may be decoded after it.
    pub(crate) fn decode_next<'a>(
        &'a mut self,
        input: &'a mut [u8],
        bounds: MessageBounds,
    ) -> Result<DecodeStep<'a>, CloseCode> {
        let Some(header) = self.decode_header(input, bounds)? else { return Ok(DecodeStep::Incomplete) };
        let end = header.start + header.len;
        let Some(payload) = input.get_mut(header.start..end) else { return Ok(DecodeStep::Incomplete) };
        unmask(payload, header.mask);
        match header.opcode {
            PING => Ok(DecodeStep::Message(end, Message::Ping(payload))),
            PONG => Ok(DecodeStep::Message(end, Message::Pong)),
            CLOSE => check_close(payload).map(|()| DecodeStep::Message(end, Message::Close)),
            opcode if header.is_final && self.fragments.is_none() => {
                Ok(DecodeStep::Message(end, complete_message(opcode, payload)?))
            }
            opcode => self.add_fragment(&header, opcode, payload, end, bounds),
        }
    }

    fn add_fragment<'a>(
        &'a mut self,
        header: &Header,
        opcode: u8,
        payload: &[u8],
        end: usize,
        bounds: MessageBounds,
    ) -> Result<DecodeStep<'a>, CloseCode> {
        let first = || Box::new(Fragments { opcode, count: 0, payload: Vec::new() });
        let fragments = self.fragments.get_or_insert_with(first);
        fragments.count += 1;
        if fragments.count > bounds.fragments {
            return Err(CloseCode::Policy);
        }
        fragments.payload.extend_from_slice(payload);
        if !header.is_final {
            return Ok(DecodeStep::Fragment(end));
        }
        // The returned message borrows this buffer, so the buffer stays until it is released or the next message starts.
        fragments.count = 0;
        complete_message(fragments.opcode, &fragments.payload)
            .map(|message| DecodeStep::Message(end, message))
    }

    /// Reads and checks a frame's header; `None` while it is incomplete.
    fn decode_header(&mut self, input: &[u8], bounds: MessageBounds) -> Result<Option<Header>, CloseCode> {
        self.free_memory();
        let [first, second, rest @ ..] = input else { return Ok(None) };
        let (fin, opcode, short) = (first & FIN != 0, first & 0x0F, second & !MASKED);
        // No extension is negotiated, so no RSV bit means anything (RFC 6455 section 5.2); a client masks
        // every frame (section 5.1).
        if first & RSV != 0 || second & MASKED == 0 {
            return Err(CloseCode::Protocol);
        }
        let continued = self.fragments.is_some();
        match opcode {
            0 if !continued => return Err(CloseCode::Protocol),
            TEXT | BINARY if continued => return Err(CloseCode::Protocol),
            0 | TEXT | BINARY => {}
            CLOSE | PING | PONG if fin && usize::from(short) <= MAX_CONTROL_PAYLOAD => {}
            _ => return Err(CloseCode::Protocol),
        }
        let (len, mask) = match (short, rest) {
            (126, [a, b, mask @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), mask),
            (127, [a, b, c, d, e, f, g, h, mask @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), mask)
            }
            (126 | 127, _) => return Ok(None),
            (short, mask) => (u64::from(short), mask),
        };
        let held = self.fragments.as_ref().map_or(0, |fragments| fragments.payload.len());
        let room = (bounds.bytes - held.min(bounds.bytes)) as u64;
        if opcode < CLOSE && len > room {
            return Err(CloseCode::TooBig);
        }
        let [a, b, c, d, ..] = mask else { return Ok(None) };
        let start = input.len() - mask.len() + 4;
        Ok(Some(Header { is_final: fin, opcode, mask: [*a, *b, *c, *d], start, len: len as usize }))
    }
}

fn complete_message(opcode: u8, payload: &[u8]) -> Result<Message<'_>, CloseCode> {
    if opcode == BINARY {
        return Ok(Message::Binary(payload));
    }
    std::str::from_utf8(payload).map(Message::Text).map_err(|_| CloseCode::NotUtf8)
}

/// Checks the payload of a close frame: it must be empty, or have a code that may be sent and a reason in UTF-8 (RFC 6455 sections
/// 5.5.1 and 7.4).
fn check_close(payload: &[u8]) -> Result<(), CloseCode> {
    match payload {
        [] => Ok(()),
        [_] => Err(CloseCode::Protocol),
        [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
            1000..=1003 | 1007..=1014 | 3000..=4999 => {
                std::str::from_utf8(reason).map(drop).map_err(|_| CloseCode::NotUtf8)
            }
            _ => Err(CloseCode::Protocol),
        },
    }
}

/// Unmasks a payload (RFC 6455 section 5.3), eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests;
