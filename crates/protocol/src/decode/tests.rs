//! Tests that frames are decoded to commands, or to the right errors.

use super::*;
use crate::{Seq, Target};

fn rejected(text: &str) -> (ErrorCode, Option<String>) {
    let r = decode(text).expect_err(text);
    assert!(!r.message.is_empty());
    (r.code, r.field)
}

#[test]
fn a_send_is_read_with_its_id() {
    let frame = decode(r##"{"type":"send","id":"x","to":"#general","text":"hi"}"##).expect("a command");
    assert_eq!(frame.id, Some(CommandId::Text("x".into())));
    let Command::Send(send) = frame.command else { panic!("{:?}", frame.command) };
    assert_eq!(send.to, Target::parse("#general").expect("target"));
    assert_eq!(send.text.expect("text").as_str(), "hi");
}

#[test]
fn text_that_is_not_a_frame_is_a_bad_frame() {
    for text in [
        "",
        "hi",
        "[1]",
        r#"["ping",3]"#,
        r#"["ping"]"#,
        r#"["ping",3,{"to":"@bob"}]"#,
        "7",
        "null",
        "{",
        r#"{"type":"ping"}{"#,
        r#"{"id":1}"#,
        "{\"type\":\"ping\"} x",
    ] {
        assert_eq!(rejected(text).0, ErrorCode::BadFrame, "{text}");
    }
    let deep = format!(r#"{{"type":"send","to":"@b","data":{}"#, r#"{"a":"#.repeat(10_000));
    assert_eq!(rejected(&deep).0, ErrorCode::BadFrame);
}

#[test]
fn the_field_at_fault_is_named() {
    for (text, field) in [
        (r#"{"type":7}"#, "type"),
        (r#"{"type":"ping","id":{}}"#, "id"),
        (r#"{"type":"ping","id":18446744073709551616}"#, "id"),
        (r#"{"type":"send","text":"hi"}"#, "to"),
        (r#"{"type":"send","to":7,"text":"hi"}"#, "to"),
        (r#"{"type":"send","to":"bob","text":"hi"}"#, "to"),
        (r#"{"type":"send","to":"@bob","text":7}"#, "text"),
        (r#"{"type":"send","to":"@bob","text":"a\u0000b"}"#, "text"),
        (r#"{"type":"send","to":"@bob","text":"hi","text":"ho"}"#, "text"),
        (r#"{"type":"send","to":"@bob","text":"hi","from":"eve"}"#, "from"),
        (r#"{"type":"send","to":"@bob","data":[1]}"#, "data"),
        (r#"{"type":"send","to":"@bob","data":{"a":1,"a":2}}"#, "data"),
        (r##"{"type":"sync","conversation":"#a","after":-1}"##, "after"),
        (r##"{"type":"sync","conversation":"#a","after":9007199254740992}"##, "after"),
        (r##"{"type":"watch","users":["a","b c"]}"##, "users[1]"),
        (r##"{"type":"hello","cursors":{"#a":"x"}}"##, "cursors.#a"),
    ] {
        assert_eq!(rejected(text), (ErrorCode::BadField, Some(field.to_owned())), "{text}");
    }
}

#[test]
fn a_whole_number_is_read_in_every_json_notation() {
    for (written, n) in [("4", 4), ("4.0", 4), ("1e1", 10), ("40e-1", 4), ("4E0", 4), ("-0", 0), ("-0.0", 0)]
    {
        let id = decode(&format!(r#"{{"type":"ping","id":{written}}}"#)).expect(written).id;
        assert_eq!(id, Some(CommandId::Number(n)), "{written}");
        let seq = Seq(n.unsigned_abs());
        for (text, field) in [
            (r##""type":"read","conversation":"#a","upto":"##, "upto"),
            (r##""type":"received","conversation":"#a","upto":"##, "upto"),
            (r##""type":"sync","conversation":"#a","after":"##, "after"),
            (r##""type":"history","conversation":"#a","before":"##, "before"),
            (r##""type":"delete","conversation":"#a","target":"##, "target"),
            (r##""type":"send","to":"#a","text":"hi","reply_to":"##, "reply_to"),
            (r##""type":"members","conversation":"#a","limit":"##, "limit"),
        ] {
            let text = format!("{{{text}{written}}}");
            let command = serde_json::to_value(decode(&text).expect(&text).command).expect("json");
            assert_eq!(command[field], n, "{text}");
        }
        let hello = format!(r##"{{"type":"hello","cursors":{{"#a":{written}}}}}"##);
        let Command::Hello(hello) = decode(&hello).expect(written).command else { panic!("{hello}") };
        assert_eq!(hello.cursors.into_values().collect::<Vec<_>>(), [seq]);
    }
}

#[test]
fn an_error_names_types_of_json_and_not_of_rust() {
    let commands = [
        ("hello", "cursors"),
        ("send", "to"),
        ("send", "text"),
        ("send", "data"),
        ("send", "key"),
        ("send", "reply_to"),
        ("react", "emoji"),
        ("react", "on"),
        ("sync", "after"),
        ("sync", "limit"),
        ("history", "before"),
        ("conversations", "before"),
        ("conversations", "limit"),
        ("read", "upto"),
        ("watch", "users"),
        ("create", "room"),
        ("create", "title"),
        ("create", "public"),
        ("create", "members"),
        ("invite", "user"),
        ("invite", "role"),
        ("members", "after"),
        ("ping", "id"),
        ("ping", "type"),
    ];
    let values = [
        "7",
        "-1",
        "4.5",
        "1e999",
        "true",
        "null",
        r#""\ud83d""#,
        "[[]]",
        r#"{"a":{}}"#,
        "18446744073709551616",
    ];
    for (command, field) in commands {
        for value in values {
            let text = match field {
                "type" => format!(r#"{{"type":{value}}}"#),
                _ => format!(r#"{{"type":"{command}","{field}":{value}}}"#),
            };
            let Err(rejected) = decode(&text) else { continue };
            if rejected.code == ErrorCode::UnknownType || text.contains(r#""type":null"#) {
                continue;
            }
            assert_eq!(rejected.code, ErrorCode::BadField, "{text}: {}", rejected.message);
            let named = rejected.field.clone().unwrap_or_default();
            let others = ["to", "conversation", "target", "user", "emoji", "upto"];
            assert!(named.starts_with(field) || others.contains(&&*named), "{text}: {rejected:?}");
            for word in [
                "u32",
                "u64",
                "i64",
                "map",
                "sequence",
                "struct",
                "variant",
                "floating",
                "hex escape",
                "line 1",
            ] {
                assert!(!rejected.message.contains(word), "{text}: {}", rejected.message);
            }
        }
    }
}

#[test]
fn half_a_surrogate_pair_names_its_field() {
    for (text, field) in [
        (r##"{"type":"send","to":"#a","text":"cut \ud83d"}"##, Some("text")),
        (r##"{"type":"send","to":"#a","text":"cut \ud83d here"}"##, Some("text")),
        (r##"{"type":"send","to":"#a","text":"\ude00"}"##, Some("text")),
        (r##"{"type":"send","to":"#a","text":"\ud83d\ud83d"}"##, Some("text")),
        (r##"{"type":"send","to":"#a","data":{"a":["\ud83d"]}}"##, Some("data.a[0]")),
        (r##"{"type":"send","to":"#a","data":{"\ud83d":1}}"##, Some("data")),
        (r##"{"type":"rename","conversation":"#a","title":"\ud83d"}"##, Some("title")),
        (r##"{"type":"ping","id":"\ud83d"}"##, Some("id")),
        (r##"{"type":"\ud83d"}"##, Some("type")),
        (r##"{"type":"ping","\ud83d":1}"##, None),
    ] {
        let rejected = decode(text).expect_err(text);
        assert_eq!((rejected.code, rejected.field.as_deref()), (ErrorCode::BadField, field), "{text}");
        assert!(rejected.message.contains("surrogate"), "{text}: {}", rejected.message);
    }
    let id = decode(r##"{"type":"send","id":5,"to":"#a","text":"\ud83d"}"##).expect_err("half").id;
    assert_eq!(id, Some(CommandId::Number(5)));
}

#[test]
fn an_empty_php_array_is_accepted_or_the_error_explains_it() {
    let hello = decode(r#"{"type":"hello","cursors":[]}"#).expect("no cursors").command;
    assert!(matches!(hello, Command::Hello(hello) if hello.cursors.is_empty()));
    for (text, field, message) in [
        (r##"{"type":"hello","cursors":[1]}"##, "cursors", "not a list"),
        (r##"{"type":"send","to":"#a","data":[]}"##, "data", "an object `{…}`, not a list"),
        (r#"{"type":"watch","users":{"0":"a","2":"b"}}"#, "users", "a list `[…]`, not an object"),
        (
            r#"{"type":"history","conversation":"@b","limit":"50"}"#,
            "limit",
            "whole number from 0 to 4294967295, not a string",
        ),
        (r#"{"type":"send","to":"alice","text":"hi"}"#, "to", "`@alice`"),
        (r##"{"type":"invite","conversation":"#a","user":"@bob"}"##, "user", "without the `@`"),
    ] {
        let rejected = decode(text).expect_err(text);
        assert_eq!(rejected.field.as_deref(), Some(field), "{text}");
        assert!(rejected.message.contains(message), "{text}: {}", rejected.message);
    }
}

#[test]
fn one_byte_order_mark_is_skipped() {
    assert!(decode("\u{feff}{\"type\":\"ping\"}").is_ok());
    assert!(decode_named("ping", "\u{feff}{}").is_ok());
    assert!(decode("\u{feff}\u{feff}{\"type\":\"ping\"}").is_err());
}

#[test]
fn an_error_has_the_id_of_its_frame() {
    let r = decode(r#"{"type":"nonsense","id":9}"#).expect_err("unknown");
    assert_eq!((r.code, r.id), (ErrorCode::UnknownType, Some(CommandId::Number(9))));
    let r = decode(r#"{"id":9,"type":"send"}"#).expect_err("no to");
    assert_eq!((r.code, r.id), (ErrorCode::BadField, Some(CommandId::Number(9))));
}

#[test]
fn a_command_is_encoded_with_the_name_that_decoding_accepts() {
    let text = r##"{"type":"role","conversation":"#a","user":"bob","role":"admin"}"##;
    let command = decode(text).expect("a command").command;
    assert_eq!(serde_json::to_string(&command).expect("json"), text);
}

#[test]
fn over_http_the_fields_type_id_and_as_are_skipped() {
    let frame = decode_named("sync", r##"{"as":"alice","conversation":"#a","after":4}"##).expect("a command");
    let Command::Sync(sync) = frame.command else { panic!("{:?}", frame.command) };
    assert_eq!(sync.after, Seq(4));
    for body in ["[1]", "7", "null", "\"sync\""] {
        let rejected = decode_named("sync", body).expect_err(body);
        assert_eq!((rejected.code, rejected.field), (ErrorCode::BadFrame, None), "{body}");
    }
}

#[test]
fn an_unknown_command_is_answered_with_the_commands_of_its_interface() {
    let socket = decode(r#"{"type":"nonsense"}"#).expect_err("unknown").message;
    assert!(socket.contains("hello") && socket.contains("watch") && !socket.contains("revoke"), "{socket}");
    let http = decode_named("nonsense", "{}").expect_err("unknown").message;
    assert!(!http.contains("hello") && !http.contains("watch") && http.contains("revoke"), "{http}");
}
