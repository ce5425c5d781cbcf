//! Fuzz targets: decode commands and ids of the protocol.

use switchboard_protocol::{
    Command, CommandId, ConversationId, ErrorCode, Rejected, RoomId, Seq, Target, UserId, decode,
    decode_named,
};

/// Decodes the text of a frame. Panics unless the result is a command, or an error that can be sent to the client. An encoded
/// command must decode to itself, and HTTP must decode it to the same command.
pub fn command(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match decode(text) {
        Ok(frame) => {
            let command = &frame.command;
            let json = serde_json::to_string(command).expect("a command is JSON");
            assert_eq!(decode(&json).as_ref().map(|frame| &frame.command), Ok(command), "{json}");
            let over_http = decode_named(command.name(), text).map(|frame| frame.command);
            assert_eq!(over_http.as_ref(), Ok(command), "{text}");
        }
        Err(rejected) => check_rejected(&rejected),
    }
    for name in Command::NAMES {
        if let Err(rejected) = decode_named(name, text) {
            check_rejected(&rejected);
            assert_ne!(rejected.code, ErrorCode::UnknownType, "{name}");
        }
    }
}

fn check_rejected(rejected: &Rejected) {
    let codes = [ErrorCode::BadFrame, ErrorCode::BadField, ErrorCode::UnknownType];
    assert!(codes.contains(&rejected.code) && !rejected.message.is_empty(), "{rejected:?}");
    assert!(rejected.field.is_none() || rejected.code == ErrorCode::BadField, "{rejected:?}");
}

/// Parses an id. Asserts of an accepted id that it is written as it was read, that an id built from its parts is equal to it, and
/// that it needs no escaping in JSON.
pub fn ids(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(user) = UserId::parse(text) {
        check_written(text, user.as_str());
        assert_eq!(Target::parse(&format!("@{text}")), Ok(Target::User(user.clone())));
        assert_eq!(ConversationId::direct(&user, &user).peers(), Some((user.clone(), user)));
    }
    if let Ok(room) = RoomId::parse(text) {
        // The `#` of a room id may be left out.
        check_written(text.strip_prefix('#').unwrap_or(text), room.as_str());
        let conversation = ConversationId::room(&room);
        assert!(conversation.is_room() && conversation.peers().is_none());
        assert_eq!(ConversationId::parse(conversation.as_str()), Ok(conversation));
    }
    if let Ok(conversation) = ConversationId::parse(text) {
        check_written(text, conversation.as_str());
        assert_eq!(Target::parse(text), Ok(Target::Conversation(conversation.clone())));
        if let Some((a, b)) = conversation.peers() {
            assert!(!conversation.is_room() && a.as_str() <= b.as_str());
            assert_eq!(ConversationId::direct(&b, &a), conversation);
            assert_eq!(Target::User(b).resolve(&a), conversation);
        }
    }
    if let Ok(target) = Target::parse(text) {
        let json = serde_json::to_string(&target).expect("JSON");
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Target>(&json).ok(), Some(target));
    }
    if let Ok(id) = serde_json::from_str::<CommandId>(text) {
        let json = serde_json::to_string(&id).expect("JSON");
        assert_eq!(serde_json::from_str::<CommandId>(&json).ok(), Some(id));
    }
    if let Ok(seq) = serde_json::from_str::<Seq>(text) {
        assert!(seq <= Seq::MAX);
        assert_eq!(serde_json::to_string(&seq).ok(), Some(seq.to_string()));
    }
}

/// Panics unless an accepted id is the text that it was read from, is no longer than two names with their marks, and has no
/// character that JSON escapes.
fn check_written(text: &str, written: &str) {
    assert_eq!(text, written);
    assert!((1..=130).contains(&text.len()), "{text:?}");
    assert_eq!(serde_json::to_string(text).expect("JSON"), format!("\"{text}\""));
}
