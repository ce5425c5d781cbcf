//! The client's side of a WebSocket after the handshake.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What the client read from the connection: a frame, or its end.
#[derive(Debug)]
pub(crate) enum Received {
    /// A text frame with JSON.
    Frame(Value),
    /// A ping, which the client must answer.
    Ping,
    /// A close frame with this code.
    Close(u16),
    /// The byte stream has ended.
    End,
    /// An invalid frame.
    Invalid(String),
}

/// Encodes a client's text frame. Its mask is 0, which leaves the text unchanged.
pub(crate) fn text(json: &str) -> Vec<u8> {
    masked_frame(0x1, json.as_bytes())
}

pub(crate) fn pong() -> Vec<u8> {
    masked_frame(0xA, b"")
}

fn masked_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | u8::try_from(len).expect("short")),
        len => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).expect("no client sends that much").to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Decodes the server's frames. Waiting for the next one is cancel safe.
#[derive(Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    consumed: usize,
}

impl FrameReader {
    pub(crate) async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin), most: usize) -> Received {
        loop {
            if let Some((opcode, start, end)) = self.next_frame_bounds() {
                let payload = &self.bytes[start..end];
                let received = match opcode {
                    0x1 => serde_json::from_slice(payload)
                        .map_or_else(|_| Received::Invalid(format!("{payload:?}")), Received::Frame),
                    0x8 => Received::Close(u16::from_be_bytes([payload[0], payload[1]])),
                    0x9 => Received::Ping,
                    other => Received::Invalid(format!("opcode {other}")),
                };
                self.consumed = end;
                return received;
            }
            self.bytes.drain(..std::mem::take(&mut self.consumed));
            let room = self.bytes.len();
            let mut buffer = vec![0; most];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return Received::End,
                Ok(read) => self.bytes.extend(&buffer[..read]),
            }
            debug_assert!(self.bytes.len() > room);
        }
    }

    /// The opcode of the next frame and the range of its payload; `None` if not all of the frame has arrived.
    fn next_frame_bounds(&self) -> Option<(u8, usize, usize)> {
        let bytes = &self.bytes[self.consumed..];
        let (first, len) = (*bytes.first()?, usize::from(*bytes.get(1)?));
        let (start, len) = match len {
            126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
            127 => {
                let len: [u8; 8] = bytes.get(2..10)?.try_into().expect("eight bytes");
                (10, usize::try_from(u64::from_be_bytes(len)).expect("it fits"))
            }
            len => (2, len),
        };
        (bytes.len() >= start + len).then_some((
            first & 0x0F,
            self.consumed + start,
            self.consumed + start + len,
        ))
    }
}
