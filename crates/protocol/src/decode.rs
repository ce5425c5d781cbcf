//! From a frame's bytes to a [`Command`], or to an error that names what is wrong.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{Command, CommandId, ErrorCode};

/// A command with the client's own name for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The client's `id`, repeated in the reply.
    pub id: Option<CommandId>,
    /// What the client said.
    pub command: Command,
}

/// Why a frame is not a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The client's `id`, where it could be read.
    pub id: Option<CommandId>,
    /// [`ErrorCode::BadFrame`], [`ErrorCode::UnknownType`] or [`ErrorCode::BadField`].
    pub code: ErrorCode,
    /// The field at fault, with a bad field.
    pub field: Option<String>,
    /// What to do.
    pub message: String,
}

/// What every frame has; the rest is read once the type is known.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// The fields around a command's own, by door.
const SOCKET_ENVELOPE: &[&str] = &["type", "id"];
const HTTP_ENVELOPE: &[&str] = &["type", "id", "as"];

/// Decodes a WebSocket text frame: a JSON object with the command's name in `type`.
pub fn decode(text: &str) -> Result<Frame, Rejected> {
    let bad_frame = |id, message: String| Rejected { id, code: ErrorCode::BadFrame, field: None, message };
    // serde would read the fields of a struct from an array, too.
    if !is_object(text) {
        return Err(bad_frame(None, "not a JSON object: a frame is one, with a `type`".to_owned()));
    }
    let envelope: Envelope<'_> = serde_json::from_str(text)
        .map_err(|e| bad_frame(None, format!("a frame is one JSON object with a `type`: {e}")))?;
    let id = match envelope.id.map(|raw| serde_json::from_str::<CommandId>(raw.get())) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(e)) => return Err(bad_field(None, "id", &e)),
    };
    let Some(name) = envelope.name else {
        return Err(bad_frame(id, "a frame names its command in `type`".to_owned()));
    };
    let name = match serde_json::from_str::<Cow<'_, str>>(name.get()) {
        Ok(name) => name,
        Err(e) => return Err(bad_field(id, "type", &e)),
    };
    decode_fields(&name, text, id, SOCKET_ENVELOPE)
}

/// Decodes the fields of the command called `name` from an HTTP body. `type`, `id` and `as` may
/// stand among them and are passed over.
pub fn decode_named(name: &str, body: &str) -> Result<Frame, Rejected> {
    if !is_object(body) {
        let message = "a command is one JSON object".to_owned();
        return Err(Rejected { id: None, code: ErrorCode::BadFrame, field: None, message });
    }
    decode_fields(name, body, None, HTTP_ENVELOPE)
}

/// Whether a JSON text can only be an object.
fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

fn decode_fields(
    name: &str,
    text: &str,
    id: Option<CommandId>,
    envelope: &'static [&'static str],
) -> Result<Frame, Rejected> {
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = Fields { json: &mut json, envelope };
    let Some(parsed) = Command::parse_fields(name, fields) else {
        return Err(Rejected {
            id,
            code: ErrorCode::UnknownType,
            field: None,
            message: format!("there is no such command; the commands are: {}", Command::NAMES.join(", ")),
        });
    };
    match parsed.and_then(|command| json.end().map(|()| command)) {
        Ok(command) => Ok(Frame { id, command }),
        Err(error) if error.is_data() => Err(locate(name, text, id, envelope)),
        Err(error) => Err(Rejected {
            id,
            code: ErrorCode::BadFrame,
            field: None,
            message: format!("a command is one JSON object: {error}"),
        }),
    }
}

/// Reads a faulty command again, slower, to name the field at fault.
fn locate(name: &str, text: &str, id: Option<CommandId>, envelope: &'static [&'static str]) -> Rejected {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let fields = Fields { json: &mut json, envelope };
    let tracked = serde_path_to_error::Deserializer::new(fields, &mut track);
    let error = match Command::parse_fields(name, tracked) {
        Some(Err(error)) => error.to_string(),
        _ => "the fields do not fit the command".to_owned(),
    };
    let path = track.path().to_string();
    // A missing, doubled or unknown field has no path of its own; serde's message quotes its name.
    let field = if path == "." { error.split('`').nth(1).unwrap_or_default().to_owned() } else { path };
    bad_field(id, &field, &error)
}

fn bad_field(id: Option<CommandId>, field: &str, error: &dyn fmt::Display) -> Rejected {
    let error = error.to_string();
    // The position is of use to no one who sent a single line, and where the field is known the name says more.
    let reason = error.split(" at line ").next().unwrap_or_default();
    Rejected {
        id,
        code: ErrorCode::BadField,
        field: Some(field.to_owned()).filter(|f| !f.is_empty()),
        message: if field.is_empty() { reason.to_owned() } else { format!("{field}: {reason}") },
    }
}

/// A JSON object seen without the fields of its envelope, so that each command can refuse what it
/// does not know.
struct Fields<'j, R> {
    json: &'j mut serde_json::Deserializer<R>,
    envelope: &'static [&'static str],
}

impl<'de, 'j, R: serde_json::de::Read<'de>> Deserializer<'de> for Fields<'j, R> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let outer = Outer { visitor, envelope: self.envelope };
        self.json.deserialize_map(outer)
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Outer<V> {
    visitor: V,
    envelope: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Outer<V> {
    type Value = V::Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Own { inner, envelope: self.envelope })
    }
}

struct Own<A> {
    inner: A,
    envelope: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Own<A> {
    type Error = A::Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.inner.next_key::<Cow<'de, str>>()? {
            if self.envelope.contains(&name.as_ref()) {
                self.inner.next_value::<IgnoredAny>()?;
            } else {
                return seed.deserialize(de::value::CowStrDeserializer::new(name)).map(Some);
            }
        }
        Ok(None)
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
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
    fn what_is_not_a_frame_is_called_so() {
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
    fn the_id_comes_back_with_the_error() {
        let r = decode(r#"{"type":"nonsense","id":9}"#).expect_err("unknown");
        assert_eq!((r.code, r.id), (ErrorCode::UnknownType, Some(CommandId::Number(9))));
        let r = decode(r#"{"id":9,"type":"send"}"#).expect_err("no to");
        assert_eq!((r.code, r.id), (ErrorCode::BadField, Some(CommandId::Number(9))));
    }

    #[test]
    fn a_command_is_written_by_the_name_that_it_is_read_by() {
        let text = r##"{"type":"role","conversation":"#a","user":"bob","role":"admin"}"##;
        let command = decode(text).expect("a command").command;
        assert_eq!(serde_json::to_string(&command).expect("json"), text);
    }

    #[test]
    fn over_http_the_name_is_in_the_path() {
        let frame =
            decode_named("sync", r##"{"as":"alice","conversation":"#a","after":4}"##).expect("a command");
        let Command::Sync(sync) = frame.command else { panic!("{:?}", frame.command) };
        assert_eq!(sync.after, Seq(4));
        for body in ["[1]", "7", "null", "\"sync\""] {
            let rejected = decode_named("sync", body).expect_err(body);
            assert_eq!((rejected.code, rejected.field), (ErrorCode::BadFrame, None), "{body}");
        }
    }
}
