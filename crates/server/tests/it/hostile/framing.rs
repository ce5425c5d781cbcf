//! Invalid WebSocket framing: lengths, fragments, masks, UTF-8, floods (RFC 6455 sections 5 and 7.4.1).

use switchboard_protocol::Limits;
use tokio::time::{Duration, Instant};

use crate::support::raw::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, frame, frame_head};
use crate::support::{RawSocket, Server};

const PROTOCOL_ERROR_CODE: u16 = 1002;
const NOT_UTF8_CODE: u16 = 1007;
const POLICY_CODE: u16 = 1008;
const TOO_FAST_CODE: u16 = 4429;
const TOO_BIG_CODE: u16 = 1009;

const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;

async fn alice_socket(server: &Server) -> RawSocket {
    let mut raw = RawSocket::connect(server.address()).await;
    raw.says_hello_as("alice").await;
    raw
}

async fn socket_before_hello(server: &Server) -> RawSocket {
    let mut raw = RawSocket::connect(server.address()).await;
    raw.upgrades().await;
    raw
}

/// Asserts that a connection that sends these bytes is closed with this code, before `hello` and after.
async fn assert_closed(server: &Server, bytes: &[u8], code: u16, what: &str) {
    for mut raw in [socket_before_hello(server).await, alice_socket(server).await] {
        raw.writes(bytes).await;
        assert_eq!(raw.is_closed().await, code, "{what}");
    }
}

#[tokio::test]
async fn hostile_07_a_length_beyond_the_limit_is_refused_before_the_payload_arrives() {
    let server = Server::start().await;
    for len in [(1 << 63) - 1, u64::MAX, 1 << 32, u64::from(Limits::default().frame) + 1] {
        assert_closed(&server, &frame_head(FIN | TEXT, len), TOO_BIG_CODE, &len.to_string()).await;
        assert_closed(&server, &frame_head(FIN | BINARY, len), TOO_BIG_CODE, &len.to_string()).await;
    }
    let mut hello = socket_before_hello(&server).await;
    hello.writes(frame_head(FIN | TEXT, u64::from(Limits::default().hello_frame) + 1)).await;
    assert_eq!(hello.is_closed().await, TOO_BIG_CODE, "before `hello` the limit is lower");
}

#[tokio::test]
async fn hostile_08_a_message_one_byte_over_the_limit_is_refused_also_in_fragments() {
    let server = Server::start().await;
    let most = Limits::default().frame as usize;
    let full = vec![b' '; most];
    let mut raw = alice_socket(&server).await;
    raw.writes(frame(FIN | TEXT, &full)).await;
    assert_eq!(raw.next().await.json()["code"], "bad_frame", "just within the limit");
    raw.writes(frame(TEXT, &full[1..])).await;
    raw.writes(frame(FIN, b" ")).await;
    assert_eq!(raw.next().await.json()["code"], "bad_frame", "the same in fragments");
    raw.writes(frame(TEXT, &full[1..])).await;
    raw.writes(frame(CONTINUATION, b" ")).await;
    raw.writes(frame_head(FIN, 1)).await;
    assert_eq!(raw.is_closed().await, TOO_BIG_CODE, "closed at the first excess byte");
}

#[tokio::test]
async fn hostile_09_a_message_of_too_many_fragments_is_refused() {
    let server = Server::start().await;
    for payload in ["", "x"] {
        let mut raw = alice_socket(&server).await;
        raw.writes(frame(TEXT, payload.as_bytes())).await;
        let thousand = frame(CONTINUATION, payload.as_bytes()).repeat(1_000);
        let mut written = 0;
        while written < 1_000 && raw.tries_to_write(&thousand).await.is_ok() {
            written += 1;
        }
        assert_eq!(raw.next().await.close_code(), POLICY_CODE, "after {written} thousand");
    }
    // A message may have as many fragments as the limit allows.
    let mut raw = alice_socket(&server).await;
    raw.writes(frame(TEXT, br#"{"type":"#)).await;
    raw.writes(frame(CONTINUATION, b"").repeat(Limits::default().fragments as usize - 2)).await;
    raw.writes(frame(FIN, br#""ping"}"#)).await;
    assert_eq!(raw.next().await.json()["type"], "pong");
}

#[tokio::test]
async fn hostile_11_broken_framing_is_a_protocol_error() {
    let server = Server::start().await;
    let ping = br#"{"type":"ping"}"#;
    let mut unmasked = vec![FIN | TEXT, 15];
    unmasked.extend(ping);
    let fragmented = |second: Vec<u8>| [frame(TEXT, b"{"), second].concat();
    for (bytes, what) in [
        (unmasked, "an unmasked frame"),
        (frame(FIN | RSV1 | TEXT, ping), "RSV1 without compression"),
        (frame(FIN | RSV2 | TEXT, ping), "RSV2"),
        (frame(FIN | RSV3 | PING, b""), "RSV3"),
        (frame(PING, b""), "a ping in fragments"),
        (frame(CLOSE, b""), "a close frame in fragments"),
        (frame_head(FIN | PING, 126), "a ping over 125 bytes"),
        (frame_head(FIN | PONG, 70_000), "a pong of 70,000 bytes"),
        (frame_head(FIN | CLOSE, 126), "a close frame over 125 bytes"),
        (frame(FIN | CONTINUATION, b"x"), "the end of nothing"),
        (fragmented(frame(FIN | TEXT, b"}")), "a message within a message"),
        (fragmented(frame(FIN | BINARY, b"}")), "another kind of message within a message"),
        (frame(FIN | CLOSE, b"x"), "half a close code"),
        (frame(FIN | CLOSE, &999_u16.to_be_bytes()), "a close code below all"),
        (frame(FIN | CLOSE, &1005_u16.to_be_bytes()), "a close code that is never sent"),
        (frame(FIN | CLOSE, &5000_u16.to_be_bytes()), "a close code above all"),
    ] {
        assert_closed(&server, &bytes, PROTOCOL_ERROR_CODE, what).await;
    }
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        assert_closed(&server, &frame(FIN | opcode, b""), PROTOCOL_ERROR_CODE, "a reserved opcode").await;
    }
}

#[tokio::test]
async fn hostile_12_text_that_is_not_utf8_is_refused_in_any_fragmentation() {
    let server = Server::start().await;
    let euro = "€".as_bytes();
    let halves = |second: &[u8]| [frame(TEXT, &euro[..2]), frame(FIN, second)].concat();
    for (bytes, what) in [
        (frame(FIN | TEXT, b"\xFF"), "a byte that UTF-8 does not have"),
        (frame(FIN | TEXT, b"\xC0\x80"), "an overlong NUL"),
        (frame(FIN | TEXT, b"\xED\xA0\x80"), "a surrogate"),
        (frame(FIN | TEXT, &euro[..2]), "two thirds of a character"),
        (halves(b"x"), "another byte than the last third"),
        (halves(b""), "no last third"),
        (frame(FIN | CLOSE, b"\x03\xE8\xFF"), "a reason that is not UTF-8"),
    ] {
        assert_closed(&server, &bytes, NOT_UTF8_CODE, what).await;
    }
    let mut raw = alice_socket(&server).await;
    let text = r#"{"type":"send","to":"@bob","key":"k","text":"€"}"#.as_bytes();
    let cut = text.len() - 3;
    raw.writes(frame(TEXT, &text[..cut])).await;
    raw.writes(frame(FIN | PING, b"between")).await;
    raw.writes(frame(FIN, &text[cut..])).await;
    let pong = raw.next().await;
    assert_eq!((pong.opcode, &pong.payload[..]), (PONG, &b"between"[..]));
    assert_eq!(raw.next().await.json()["seq"], 1, "a character may be split over fragments");
}

#[tokio::test]
async fn hostile_12_a_binary_frame_is_an_error_and_the_connection_stays_open() {
    let server = Server::start().await;
    let mut raw = alice_socket(&server).await;
    for bytes in [&b"\xFF\x00"[..], br#"{"type":"ping"}"#, b""] {
        raw.writes(frame(FIN | BINARY, bytes)).await;
        assert_eq!(raw.next().await.json()["code"], "bad_frame");
    }
    raw.is_still_open().await;
    let mut raw = socket_before_hello(&server).await;
    raw.writes(frame(FIN | BINARY, br#"{"type":"hello","user":"alice"}"#)).await;
    assert_eq!(raw.is_closed().await, POLICY_CODE, "the first frame is `hello`");
}

#[tokio::test]
async fn a_close_is_answered_and_ends_the_connection() {
    let server = Server::start().await;
    for payload in [&b""[..], b"\x03\xE8", b"\x03\xE8bye", b"\x0F\xA0"] {
        let mut raw = alice_socket(&server).await;
        raw.writes(frame(FIN | CLOSE, payload)).await;
        assert_eq!(raw.next().await.close_code(), 1000);
        raw.is_disconnected().await;
    }
}

#[tokio::test]
async fn commands_before_a_close_frame_are_answered_before_the_close() {
    let server = Server::start().await;
    let mut raw = alice_socket(&server).await;
    let mut bytes = Vec::new();
    for key in ["a", "b", "c"] {
        let send = format!(r##"{{"type":"send","id":"{key}","to":"@bob","key":"{key}","text":"hi"}}"##);
        bytes.extend(frame(FIN | TEXT, send.as_bytes()));
    }
    bytes.extend(frame(FIN | CLOSE, b"\x03\xE8"));
    // Any frame after a close frame is ignored (RFC 6455 section 5.5.1).
    bytes.extend(frame(FIN | TEXT, br#"{"type":"send","to":"@bob","key":"d","text":"too late"}"#));
    raw.writes(bytes).await;
    for seq in 1..=3 {
        assert_eq!(raw.next().await.json()["seq"], seq);
    }
    assert_eq!(raw.next().await.close_code(), 1000);
    raw.wait_for_end().await;
    assert_eq!(server.connects("alice").await.log("@bob").await.len(), 3);
}

#[tokio::test]
async fn hostile_13_a_flood_of_pings_counts_against_the_rate() {
    let server = Server::start_with(|config| config.limits.frames_per_connection = 20).await;
    for opcode in [PING, PONG] {
        let mut raw = alice_socket(&server).await;
        let started = Instant::now();
        // The rate allows a burst of five seconds' worth. Beyond it the server answers no ping and then closes the connection.
        while raw.tries_to_write(frame(FIN | opcode, b"")).await.is_ok() {
            assert!(
                started.elapsed() < Duration::from_secs(15),
                "the server did not close the flooding connection"
            );
            tokio::task::yield_now().await;
        }
        let allowed = 100 + 20 * (started.elapsed().as_secs() + 1);
        let (mut pongs, mut has_retry_after) = (0, false);
        let code = loop {
            let next = raw.next().await;
            match next.opcode {
                PONG => pongs += 1,
                TEXT => {
                    let error = next.json();
                    assert_eq!(error["code"], "rate_limited");
                    has_retry_after = error["retry_after"].as_u64() >= Some(5_000);
                }
                _ => break next.close_code(),
            }
        };
        assert_eq!((has_retry_after, code), (true, TOO_FAST_CODE), "the error has a `retry_after`");
        assert!(pongs <= allowed, "{pongs} pongs, with 20 a second and a burst of 100");
    }
}

/// Pings and pongs that are allowed before `hello`: `MAX_CONTROL_FRAMES` in `session/hello.rs`.
const CONTROL_FRAMES_BEFORE_HELLO: usize = 10;

#[tokio::test]
async fn hostile_13_more_than_ten_pings_before_hello_close_the_connection() {
    let server = Server::start().await;
    let mut few = socket_before_hello(&server).await;
    for _ in 0..CONTROL_FRAMES_BEFORE_HELLO / 2 {
        few.writes(frame(FIN | PING, b"x")).await;
        assert_eq!(few.next().await.opcode, PONG);
        few.writes(frame(FIN | PONG, b"x")).await;
    }
    few.says(r#"{"type":"hello","user":"alice"}"#).await;
    assert_eq!(few.next().await.json()["type"], "welcome");
    for opcode in [PING, PONG] {
        let mut many = socket_before_hello(&server).await;
        many.writes(frame(FIN | opcode, b"x").repeat(CONTROL_FRAMES_BEFORE_HELLO + 1)).await;
        let mut frame = many.next().await;
        while frame.opcode == PONG {
            frame = many.next().await;
        }
        assert_eq!(frame.json()["code"], "unauthorized", "an error that is not retryable");
        assert_eq!(many.is_closed().await, POLICY_CODE);
    }
}

#[tokio::test]
async fn hostile_13_pongs_do_not_queue_up_for_a_client_that_does_not_read() {
    const PINGS: u32 = 200_000;
    let server = Server::start().await;
    let mut raw = RawSocket::connect_with_buffer(server.address(), 4_096).await;
    raw.says_hello_as("alice").await;
    for number in 0..PINGS {
        let mut payload = [0; 125];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        raw.writes(frame(FIN | PING, &payload)).await;
    }
    let (mut pongs, mut last) = (0, None);
    while last != Some(PINGS - 1) {
        let pong = raw.next().await;
        assert_eq!(pong.opcode, PONG);
        let number = u32::from_be_bytes(pong.payload[..4].try_into().expect("four bytes"));
        assert!(last < Some(number), "{number} after {last:?}");
        (pongs, last) = (pongs + 1, Some(number));
    }
    // Some pongs wait in the kernel's buffers, but the server itself queues one pong at a time.
    assert!(pongs < PINGS / 10, "{pongs} of {PINGS} pongs waited");
}
