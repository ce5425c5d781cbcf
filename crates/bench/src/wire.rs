//! A client's WebSocket frames (RFC 6455), without I/O. Only what a load generator needs: text frames without fragments, pings and
//! close frames.

use memchr::memmem;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The mask may be constant: it protects proxies from hostile pages (RFC 6455 section 10.3), and a benchmark has neither.
const MASK: [u8; 4] = [0x5a, 0x31, 0xc4, 0x8e];

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerWireFrame<'a> {
    Text(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// A close frame with its status code (RFC 6455 section 7.4), if it has one.
    Close(Option<u16>),
}

/// The request of the handshake (RFC 6455 section 4.1). `headers` are complete header lines.
pub(crate) fn handshake_request(path: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// The length of the handshake's response once it is complete, `None` before that. An error if the server refused the handshake.
pub(crate) fn upgrade_response_length(input: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memmem::find(input, b"\r\n\r\n") else { return Ok(None) };
    if input.starts_with(b"HTTP/1.1 101") {
        Ok(Some(end + 4))
    } else {
        Err(String::from_utf8_lossy(input).lines().next().unwrap_or_default().to_owned())
    }
}

/// Appends a text frame to `out`.
pub(crate) fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    write_frame(out, TEXT, payload);
}

/// Appends a pong, the answer to a ping, to `out`.
pub(crate) fn write_pong(out: &mut Vec<u8>, payload: &[u8]) {
    write_frame(out, PONG, payload);
}

fn write_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(FIN | opcode);
    match payload.len() {
        short @ 0..=125 => out.push(MASKED | short as u8),
        medium @ 126..=0xffff => {
            out.push(MASKED | 126);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(MASKED | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    let start = out.len();
    out.extend(payload);
    apply_mask(&mut out[start..]);
}

/// Masks a payload, or removes the mask: it is the same operation.
pub(crate) fn apply_mask(payload: &mut [u8]) {
    payload.iter_mut().zip(MASK.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

/// Decodes the first frame of `input`. Returns it with its length, or `None` while it is incomplete.
pub(crate) fn decode_frame(input: &[u8]) -> Result<Option<(ServerWireFrame<'_>, usize)>, String> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    let (len, start) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize, 10)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (usize::from(short), 2),
    };
    let Some(payload) = input.get(start..start + len) else { return Ok(None) };
    let frame = match first & 0x0f {
        TEXT => ServerWireFrame::Text(payload),
        PING => ServerWireFrame::Ping(payload),
        PONG => ServerWireFrame::Pong,
        CLOSE => ServerWireFrame::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
        other => return Err(format!("a frame with opcode {other}")),
    };
    Ok(Some((frame, start + len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_masked() {
        let mut out = Vec::new();
        write_text(&mut out, b"hi");
        assert_eq!(out, [0x81, 0x82, 0x5a, 0x31, 0xc4, 0x8e, b'h' ^ 0x5a, b'i' ^ 0x31]);
    }

    #[test]
    fn a_frame_is_decoded_when_it_is_complete() {
        for len in [0, 125, 126, 0xffff, 0x1_0000] {
            let payload = vec![b'x'; len];
            let mut frame = Vec::new();
            write_text(&mut frame, &payload);
            // Removes the mask, because frames of a server have no mask.
            let head = frame.len() - len - 4;
            frame.drain(head..head + 4);
            frame[1] &= 0x7f;
            frame[head..].copy_from_slice(&payload);
            assert_eq!(decode_frame(&frame), Ok(Some((ServerWireFrame::Text(&payload), frame.len()))));
            assert_eq!(decode_frame(&frame[..frame.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn a_refused_handshake_returns_the_status_line() {
        assert_eq!(upgrade_response_length(b"HTTP/1.1 101 Switching\r\n"), Ok(None));
        assert_eq!(upgrade_response_length(b"HTTP/1.1 101 Switching\r\n\r\nrest"), Ok(Some(26)));
        assert_eq!(
            upgrade_response_length(b"HTTP/1.1 429 Too Many\r\n\r\n"),
            Err("HTTP/1.1 429 Too Many".to_owned())
        );
    }
}
