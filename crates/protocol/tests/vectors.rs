//! Checks the wire vectors of `testdata/protocol`. The tests of every client read the same files.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchboard_protocol::reply::{Reply, ServerFrame};
use switchboard_protocol::{
    CloseCode, Command, CommandId, ConversationId, Device, Emoji, ErrorCode, EventBody, Key, RoomId, Seq,
    Target, Text, Title, UserId, decode, is_blank,
};

/// The files that these tests read, and `fold.json`, which the store's contract suite reads.
const VECTOR_FILES: [&str; 10] = [
    "bad-commands.json",
    "closes.json",
    "commands.json",
    "errors.json",
    "fold.json",
    "frames.json",
    "ids.json",
    "numbers.json",
    "strings.json",
    "texts.json",
];

fn vectors_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/protocol")
}

fn read_cases(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(vectors_directory().join(file)).expect(file);
    let document: Value = serde_json::from_str(&text).expect(file);
    let cases = document["cases"].as_array().expect("cases").clone();
    assert!(!cases.is_empty(), "{file}");
    cases
}

/// The string field `name` of a case.
fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_else(|| panic!("{name} of {case}"))
}

#[test]
fn every_file_has_a_test_here_and_in_the_sdk_and_each_case_has_a_name_and_a_description() {
    let sdk = vectors_directory().join("../../packages/client/test/vectors.test.js");
    let sdk = std::fs::read_to_string(sdk).expect("the test of the SDK");
    let found = std::fs::read_dir(vectors_directory()).expect("a directory");
    let mut found: Vec<_> =
        found.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect();
    found.retain(|name| name != "README.md");
    found.sort_unstable();
    assert_eq!(found, VECTOR_FILES, "each file is read by a test");
    for file in VECTOR_FILES {
        assert!(sdk.contains(&format!("\"{file}\"")), "the SDK reads {file}");
        let mut names = std::collections::BTreeSet::new();
        for case in read_cases(file) {
            assert!(names.insert(text(&case, "name").to_owned()), "{file}: twice {}", case["name"]);
            assert!(text(&case, "about").ends_with('.'), "{file}: a sentence about {}", case["name"]);
        }
    }
}

#[test]
fn ids_match_their_vectors() {
    for case in read_cases("ids.json") {
        let value = text(&case, "value");
        let canonical = match text(&case, "kind") {
            "user" => UserId::parse(value).map(|id| id.to_string()),
            "room" => RoomId::parse(value).map(|id| id.to_string()),
            "conversation" => ConversationId::parse(value).map(|id| id.to_string()),
            "target" => {
                let by = UserId::parse(text(&case, "by")).expect("the sender");
                Target::parse(value).map(|target| target.resolve(&by).to_string())
            }
            other => panic!("{other}"),
        };
        assert_eq!(canonical.is_ok(), case["valid"] == true, "{case}");
        if let Ok(canonical) = canonical {
            assert_eq!(canonical, case["canonical"].as_str().unwrap_or(value), "{case}");
        }
    }
}

#[test]
fn texts_match_their_vectors() {
    for case in read_cases("texts.json") {
        let value = text(&case, "value");
        let valid = match text(&case, "kind") {
            "text" => Text::parse(value).is_ok(),
            "key" => Key::parse(value).is_ok(),
            "title" => Title::parse(value).is_ok(),
            "device" => Device::parse(value).is_ok(),
            "emoji" => Emoji::parse(value).is_ok(),
            other => panic!("{other}"),
        };
        assert_eq!(valid, case["valid"] == true, "{case}");
        if valid {
            assert_eq!(is_blank(value), case["blank"] == true, "{case}");
        }
        if let Some(folded) = case["folded"].as_str() {
            assert_eq!(Emoji::parse(value).expect("valid").folded().as_str(), folded, "{case}");
        }
    }
}

#[test]
fn a_string_that_is_not_well_formed_is_refused_with_its_field() {
    for case in read_cases("strings.json") {
        let frame = format!(r#"{{"type":"send","to":"@bob","text":{}}}"#, text(&case, "json"));
        match (decode(&frame), case["valid"] == true) {
            (Ok(frame), true) => {
                let Command::Send(send) = frame.command else { panic!("{case}") };
                assert_eq!(send.text.expect("a text").as_str(), text(&case, "value"), "{case}");
            }
            (Err(rejected), false) => {
                assert_eq!((rejected.code, rejected.field.as_deref()), (ErrorCode::BadField, Some("text")));
                assert!(text(&case, "well_formed").contains('\u{fffd}'), "{case}");
            }
            (other, _) => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn whole_numbers_are_read_in_every_json_notation() {
    for case in read_cases("numbers.json") {
        let number = text(&case, "json");
        let read = decode(&format!(r##"{{"type":"read","conversation":"#a","upto":{number}}}"##));
        match (read, case["valid"] == true) {
            (Ok(frame), true) => {
                let Command::Read(read) = frame.command else { panic!("{case}") };
                assert_eq!(Some(read.upto.0), case["value"].as_u64(), "{case}");
            }
            (Err(rejected), false) => {
                assert_eq!((rejected.code, rejected.field.as_deref()), (ErrorCode::BadField, Some("upto")));
            }
            (other, _) => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn commands_are_decoded_and_encoded_without_a_change() {
    let mut named = std::collections::BTreeSet::new();
    for case in read_cases("commands.json") {
        let frame =
            decode(&case["frame"].to_string()).unwrap_or_else(|rejected| panic!("{case}: {rejected:?}"));
        named.insert(frame.command.name());
        let mut written = serde_json::to_value(&frame.command).expect("JSON");
        if let Some(id) = frame.id {
            written["id"] = serde_json::to_value::<CommandId>(id).expect("JSON");
        }
        if let Some(number) = frame.number {
            written["n"] = number.n.into();
            written["after"] = number.after.into();
        }
        assert_eq!(written, case["frame"], "{case}");
    }
    assert_eq!(named, Command::NAMES.iter().copied().collect(), "a vector for every command");
    for case in read_cases("bad-commands.json") {
        let rejected = decode(text(&case, "json")).expect_err(text(&case, "json"));
        assert_eq!(rejected.code.as_str(), text(&case, "code"), "{case}");
        assert_eq!(rejected.field.as_deref(), case["field"].as_str(), "{case}");
    }
}

#[test]
fn frames_are_decoded_and_encoded_without_a_change() {
    let mut types = std::collections::BTreeSet::new();
    for case in read_cases("frames.json") {
        let frame = serde_json::from_value::<ServerFrame>(case["frame"].clone());
        if case["unknown"] == true {
            match (frame, case["frame"]["seq"].as_u64()) {
                (Ok(ServerFrame::Event(event)), Some(seq)) => {
                    assert!(event.seq == Seq(seq) && matches!(event.body, EventBody::Unknown(_)), "{case}");
                }
                (Err(_), None) => assert!(!ServerFrame::FRAME_TYPES.contains(&text(&case["frame"], "type"))),
                (other, _) => panic!("{case}: {other:?}"),
            }
            continue;
        }
        let frame = frame.unwrap_or_else(|error| panic!("{case}: {error}"));
        if let ServerFrame::Event(event) = &frame {
            assert!(!matches!(event.body, EventBody::Unknown(_)), "{case}");
        }
        types.insert(text(&case["frame"], "type").to_owned());
        if case["extra"] != true {
            let mut written = match &frame {
                ServerFrame::Reply(reply) => serde_json::to_value(reply),
                ServerFrame::Signal(signal) => serde_json::to_value(signal),
                ServerFrame::Event(event) => serde_json::to_value(event),
            }
            .expect("JSON");
            // A limit that is newer than the vector has its default.
            let all = written.get_mut("limits").and_then(Value::as_object_mut);
            if let (Some(all), Some(known)) = (all, case["frame"]["limits"].as_object()) {
                all.retain(|name, _| known.contains_key(name));
            }
            assert_eq!(written, case["frame"], "{case}");
        }
    }
    // The vectors of errors are in another file.
    types.insert("error".to_owned());
    assert_eq!(types, ServerFrame::FRAME_TYPES.map(str::to_owned).into(), "a vector for every type");
}

#[test]
fn every_error_says_whether_to_retry_the_command() {
    let mut codes = Vec::new();
    for case in read_cases("errors.json") {
        let frame = serde_json::from_value::<Reply>(case["frame"].clone());
        let Ok(Reply::Error(failure)) = frame else { panic!("{case}: {frame:?}") };
        let unknown = case["unknown"] == true;
        assert_eq!(failure.code == ErrorCode::Unknown, unknown, "{case}");
        assert_eq!(failure.retryable, case["again"] == true, "{case}");
        if unknown {
            continue;
        }
        assert_eq!(failure.code.retryable(), failure.retryable, "{case}");
        let written = serde_json::to_value(Reply::<Value>::Error(failure.clone()));
        assert_eq!(written.expect("JSON"), case["frame"], "{case}");
        codes.push(failure.code);
    }
    for code in ErrorCode::ALL {
        assert!(codes.contains(&code), "a vector for {code:?}");
    }
}

#[test]
fn close_codes_say_whether_to_reconnect() {
    let cases = read_cases("closes.json");
    for case in &cases {
        let number = case["code"].as_u64().and_then(|code| u16::try_from(code).ok()).expect("a code");
        assert_eq!(json!(CloseCode::allows_reconnect(number)), case["reconnect"], "{case}");
    }
    for code in CloseCode::ALL {
        assert!(cases.iter().any(|case| case["code"] == code.number()), "a vector for {code:?}");
    }
}
