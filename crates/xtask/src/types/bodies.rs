//! What commands give, each kind by a name of its own: ts-rs knows the cases of an enum by their fields alone.

use switchboard_protocol::Event;
use switchboard_protocol::reply::OkBody;
use ts_rs::{Config, TS};

use super::print::declaration;
use super::shape::{self, Shape};

/// The cases of [`OkBody`] in their order: a name, the field that only this one has, and what it is.
const CASES: [(&str, &str, &str); 7] = [
    ("StoredBody", "seq", "An event is on stable storage."),
    ("LogBody", "events", "A page of the raw log (`sync`)."),
    ("HistoryBody", "messages", "A page of messages as they stand now (`history`)."),
    ("MembersBody", "members", "A page of members (`members`)."),
    ("ConversationsBody", "conversations", "A page of one's conversations (`conversations`)."),
    ("CursorBody", "upto", "A cursor stands here now (`read`, `received`)."),
    ("DoneBody", "", "Done, with nothing to tell (`typing`, `watch`)."),
];

/// The cases, taken apart.
fn cases(config: &Config) -> Vec<Shape> {
    let Shape::Any(cases) = shape::parse(&OkBody::<Event>::inline(config)) else {
        unreachable!("there are several")
    };
    assert_eq!(cases.len(), CASES.len(), "each case of OkBody has a name in bodies.rs");
    for (case, (name, field, _)) in cases.iter().zip(CASES) {
        let found = matches!(case, Shape::Object(fields) if fields.iter().any(|f| f.name == field));
        assert!(found || field.is_empty(), "{name} is known by `{field}`: {case:?}");
    }
    cases
}

/// Declares each case, and then the choice between them.
pub(super) fn declare(config: &Config, docs: &str) -> String {
    let each = CASES.iter().zip(cases(config));
    let each = each.map(|((name, _, docs), case)| declaration(docs, name, &case) + "\n");
    let names = CASES.map(|(name, ..)| Shape::Text(name.to_owned()));
    each.collect::<String>() + &declaration(docs, "OkBody", &Shape::Any(names.into()))
}

/// The same type, but the cases in it by the name of their choice.
pub(super) fn by_name(config: &Config, shape: Shape) -> Shape {
    match shape {
        Shape::All(parts) => Shape::All(parts.into_iter().map(|part| by_name(config, part)).collect()),
        Shape::Any(parts) if parts == cases(config) => Shape::Text("OkBody".to_owned()),
        other => other,
    }
}
