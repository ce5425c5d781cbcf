//! Gives each variant of `OkBody` a name of its own in TypeScript, because ts-rs writes an untagged enum's variants
//! without names.

use switchboard_protocol::Event;
use switchboard_protocol::reply::OkBody;
use ts_rs::{Config, TS};

use super::print::declaration;
use super::shape::{self, Shape};

/// The variants of [`OkBody`] in their order: name, the field that only this variant has, docs.
const VARIANTS: [(&str, &str, &str); 8] = [
    ("StoredBody", "seq", "An event is on stable storage."),
    ("HeldBody", "held", "A message waits for the application's decision, and is not in the log."),
    ("LogBody", "events", "A page of the raw log (`sync`)."),
    ("HistoryBody", "messages", "A page of messages as they stand now (`history`)."),
    ("MembersBody", "members", "A page of members (`members`)."),
    ("ConversationsBody", "conversations", "A page of one's conversations (`conversations`)."),
    ("CursorBody", "upto", "A cursor stands here now (`read`, `received`)."),
    ("DoneBody", "", "Done, with nothing to tell (`typing`, `watch`)."),
];

/// Parses the variants.
fn variants(config: &Config) -> Vec<Shape> {
    let Shape::Any(variants) = shape::parse(&OkBody::<Event>::inline(config)) else {
        unreachable!("OkBody has several variants")
    };
    assert_eq!(variants.len(), VARIANTS.len(), "VARIANTS in bodies.rs lists each variant of OkBody");
    for (variant, (name, field, _)) in variants.iter().zip(VARIANTS) {
        let found = matches!(variant, Shape::Object(fields) if fields.iter().any(|f| f.name == field));
        assert!(found || field.is_empty(), "{name} has the field `{field}`: {variant:?}");
    }
    variants
}

/// Declares each variant, then the union of all.
pub(super) fn declare(config: &Config, docs: &str) -> String {
    let each = VARIANTS.iter().zip(variants(config));
    let each = each.map(|((name, _, docs), variant)| declaration(docs, name, &variant) + "\n");
    let names = VARIANTS.map(|(name, ..)| Shape::Text(name.to_owned()));
    each.collect::<String>() + &declaration(docs, "OkBody", &Shape::Any(names.into()))
}

/// Replaces the inlined variants by the name `OkBody`.
pub(super) fn by_name(config: &Config, shape: Shape) -> Shape {
    match shape {
        Shape::All(parts) => Shape::All(parts.into_iter().map(|part| by_name(config, part)).collect()),
        Shape::Any(parts) if parts == variants(config) => Shape::Text("OkBody".to_owned()),
        other => other,
    }
}
