use proptest::prelude::*;

use super::*;

const BOUNDS: MessageBounds = MessageBounds { bytes: 64, fragments: 4 };

/// Encodes a frame as a client does, with a mask. `first` is its first byte.
fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(MASKED | len as u8),
        len => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
    frame.extend(masked);
    frame
}

/// Decodes `frames` with a new decoder. Returns the messages, or the code with which the server would close the connection.
fn decode_all(frames: &[Vec<u8>]) -> Result<Vec<String>, CloseCode> {
    let mut decoder = Decoder::default();
    let mut input = frames.concat();
    let (mut at, mut heard) = (0, Vec::new());
    loop {
        match decoder.decode_next(&mut input[at..], BOUNDS)? {
            DecodeStep::Incomplete => return Ok(heard),
            DecodeStep::Fragment(len) => at += len,
            DecodeStep::Message(len, message) => {
                heard.push(format!("{message:?}"));
                at += len;
            }
        }
    }
}

#[test]
fn messages_of_a_client_are_decoded() {
    let frames = [
        client_frame(0x81, b"{}"),
        client_frame(0x89, b"p"),
        client_frame(0x8A, b""),
        client_frame(0x82, b"\xFF"),
        client_frame(0x88, b""),
    ];
    assert_eq!(
        decode_all(&frames).expect("legal"),
        [r#"Text("{}")"#, "Ping([112])", "Pong", "Binary([255])", "Close"]
    );
}

#[test]
fn fragments_are_joined_with_pings_between_them() {
    let frames = [
        client_frame(0x01, b"\xC3"),
        client_frame(0x89, b""),
        client_frame(0x00, b"\xA4"),
        client_frame(0x80, b"b"),
        client_frame(0x81, b"c"),
    ];
    assert_eq!(decode_all(&frames).expect("legal"), ["Ping([])", "Text(\"äb\")", "Text(\"c\")"]);
}

#[test]
fn broken_framing_is_answered_with_the_close_code_for_it() {
    let unmasked = vec![0x81, 0x01, b'a'];
    let huge = [&[0x81, 0xFF][..], &(u64::MAX >> 1).to_be_bytes()].concat();
    for (frames, code) in [
        (vec![unmasked], CloseCode::Protocol),
        (vec![client_frame(0xC1, b"a")], CloseCode::Protocol),
        (vec![client_frame(0x83, b"a")], CloseCode::Protocol),
        (vec![client_frame(0x8B, b"a")], CloseCode::Protocol),
        (vec![client_frame(0x09, b"a")], CloseCode::Protocol),
        (vec![client_frame(0x89, &[0; 126])], CloseCode::Protocol),
        (vec![client_frame(0x80, b"a")], CloseCode::Protocol),
        (vec![client_frame(0x01, b"a"), client_frame(0x81, b"a")], CloseCode::Protocol),
        (vec![client_frame(0x88, b"\x03")], CloseCode::Protocol),
        (vec![client_frame(0x88, &1005_u16.to_be_bytes())], CloseCode::Protocol),
        (vec![client_frame(0x88, b"\x03\xE8\xFF")], CloseCode::NotUtf8),
        (vec![client_frame(0x81, b"\xFF")], CloseCode::NotUtf8),
        (vec![client_frame(0x01, b"\xC3"), client_frame(0x80, b"a")], CloseCode::NotUtf8),
        (vec![huge], CloseCode::TooBig),
        (vec![client_frame(0x81, &[b'a'; 65])], CloseCode::TooBig),
        (vec![client_frame(0x01, &[b'a'; 64]), client_frame(0x00, b"a")], CloseCode::TooBig),
        (
            vec![
                client_frame(0x01, b""),
                client_frame(0x00, b""),
                client_frame(0x00, b""),
                client_frame(0x00, b""),
                client_frame(0x00, b""),
            ],
            CloseCode::Policy,
        ),
    ] {
        assert_eq!(decode_all(&frames), Err(code), "{frames:x?}");
    }
    assert!(decode_all(&[client_frame(0x81, &[b'a'; 64])]).is_ok());
}

#[test]
fn a_frame_over_the_limit_is_refused_at_its_header() {
    // The payload of 65 bytes is over the limit, so the decoder fails before it arrives.
    assert_eq!(Decoder::default().decode_next(&mut [0x81, MASKED | 65], BOUNDS), Err(CloseCode::TooBig));
}

#[test]
fn lengths_are_written_in_the_shortest_form() {
    for (len, header) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        assert_eq!(text(&"x".repeat(len)).len(), len + header);
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::default();
        let mut at = 0;
        while let Ok(DecodeStep::Fragment(len) | DecodeStep::Message(len, _)) = decoder.decode_next(&mut bytes[at..], BOUNDS) {
            prop_assert!(len > 0);
            at += len;
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_incomplete(payload in "[a-z]{0,60}", cut in 0_usize..60) {
        let frame = client_frame(0x81, payload.as_bytes());
        let mut part = frame[..cut.min(frame.len() - 1)].to_vec();
        let mut decoder = Decoder::default();
        prop_assert_eq!(decoder.decode_next(&mut part, BOUNDS), Ok(DecodeStep::Incomplete));
    }
}
