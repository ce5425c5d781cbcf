//! Decodes the text of a frame to a [`Command`], or to an error that names the field at fault.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::reason::in_json_words;
use crate::{Command, CommandId, ErrorCode, WriteNumber};

/// A command with the `id` that the client gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The `id` that the client gave the command. The reply repeats it.
    pub id: Option<CommandId>,
    /// The write's number on this connection, if the client numbers its writes.
    pub number: Option<WriteNumber>,
    /// The command.
    pub command: Command,
}

/// The error for a frame that is not a valid command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The `id` that the client gave the command, if it could be read.
    pub id: Option<CommandId>,
    /// The write's number, if it could be read. It is needed so that later writes do not wait for this one.
    pub number: Option<WriteNumber>,
    /// [`ErrorCode::BadFrame`], [`ErrorCode::UnknownType`] or [`ErrorCode::BadField`].
    pub code: ErrorCode,
    /// The field that caused a [`ErrorCode::BadField`].
    pub field: Option<String>,
    /// An explanation for the author of the client.
    pub message: String,
}

/// The fields that every frame may have. The other fields are read once the type is known.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// The fields that every command may have besides its own, on a WebSocket and over HTTP.
const SOCKET_ENVELOPE: &[&str] = &["type", "id"];
const ORDERED_ENVELOPE: &[&str] = &["type", "id", "n", "after"];
const HTTP_ENVELOPE: &[&str] = &["type", "id", "as"];

/// Decodes a WebSocket text frame: a JSON object with the command's name in `type`.
pub fn decode(text: &str) -> Result<Frame, Rejected> {
    let text = without_bom(text);
    // This check is needed because serde would also accept an array with the values of the fields.
    if !is_object(text) {
        return Err(bad_frame(None, "not a JSON object: a frame is one, with a `type`".to_owned()));
    }
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| {
        if is_bad_value(text, &error) {
            return bad_field(None, "", &error);
        }
        bad_frame(None, format!("a frame is one JSON object with a `type`: {error}"))
    })?;
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
    if !Command::ORDERED.contains(&name.as_ref()) {
        return decode_fields(&name, text, id, SOCKET_ENVELOPE);
    }
    let number = match WriteNumber::read(text) {
        Ok(number) => number,
        Err((field, reason)) => return Err(bad_field(id, field, &reason)),
    };
    match decode_fields(&name, text, id, ORDERED_ENVELOPE) {
        Ok(frame) => Ok(Frame { number, ..frame }),
        Err(rejected) => Err(Rejected { number, ..rejected }),
    }
}

/// Decodes the fields of the command called `name` from an HTTP body. It skips `type`, `id` and `as`.
pub fn decode_named(name: &str, body: &str) -> Result<Frame, Rejected> {
    let body = without_bom(body);
    if !is_object(body) {
        return Err(bad_frame(None, "a command is one JSON object".to_owned()));
    }
    decode_fields(name, body, None, HTTP_ENVELOPE)
}

/// Decodes a JSON object that is not a command, with the same checks and the same error messages.
pub fn read_object<T: DeserializeOwned>(body: &str) -> Result<T, Rejected> {
    let body = without_bom(body);
    if !is_object(body) {
        return Err(bad_frame(None, "the body is one JSON object".to_owned()));
    }
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_str(body);
    let read = T::deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    read.and_then(|object| json.end().map(|()| object)).map_err(|error| {
        if error.is_data() || is_bad_value(body, &error) {
            return bad_field(None, &field_at_fault(track, &error), &error);
        }
        bad_frame(None, format!("the body is one JSON object: {error}"))
    })
}

fn bad_frame(id: Option<CommandId>, message: String) -> Rejected {
    Rejected { id, number: None, code: ErrorCode::BadFrame, field: None, message }
}

/// The text without a byte order mark, which a parser may ignore (RFC 8259 section 8.1).
fn without_bom(json: &str) -> &str {
    json.strip_prefix('\u{feff}').unwrap_or(json)
}

/// Whether a JSON text can only be an object.
fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// Whether the text is valid by JSON's grammar although it was refused. Then one of its values is invalid, such as half a
/// surrogate pair (RFC 8259 section 8.2) or a number beyond the range of a double (section 6).
fn is_bad_value(json: &str, error: &serde_json::Error) -> bool {
    error.is_syntax() && serde_json::from_str::<IgnoredAny>(json).is_ok()
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
            number: None,
            code: ErrorCode::UnknownType,
            field: None,
            message: format!(
                "there is no such command; the commands are: {}",
                command_names(envelope).join(", ")
            ),
        });
    };
    match parsed.and_then(|command| json.end().map(|()| command)) {
        Ok(command) => Ok(Frame { id, number: None, command }),
        Err(error) if error.is_data() || is_bad_value(text, &error) => {
            Err(reject_bad_field(name, text, id, envelope))
        }
        Err(error) => Err(bad_frame(id, format!("a command is one JSON object: {error}"))),
    }
}

/// The names of the commands that exist on a WebSocket, or of those that exist over HTTP.
fn command_names(envelope: &'static [&'static str]) -> Vec<&'static str> {
    if envelope != HTTP_ENVELOPE {
        return Command::NAMES.to_vec();
    }
    let mut names: Vec<_> =
        Command::NAMES.iter().copied().filter(|name| !Command::SOCKET_ONLY.contains(name)).collect();
    names.extend(Command::HTTP_ONLY);
    names
}

/// Decodes an invalid command again, with slower code that finds which field is invalid.
fn reject_bad_field(
    name: &str,
    text: &str,
    id: Option<CommandId>,
    envelope: &'static [&'static str],
) -> Rejected {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let fields = Fields { json: &mut json, envelope };
    let tracked = serde_path_to_error::Deserializer::new(fields, &mut track);
    match Command::parse_fields(name, tracked) {
        Some(Err(error)) => bad_field(id, &field_at_fault(track, &error), &error),
        _ => bad_field(id, "", &"the fields do not fit the command"),
    }
}

/// The name of the invalid field. The JSON library gives no path for a missing, duplicate or unknown field, but its message
/// quotes the name.
fn field_at_fault(track: serde_path_to_error::Track, error: &serde_json::Error) -> String {
    let path = track.path().to_string();
    // The path ends with `?` if the library could not read a name.
    let path = path.trim_end_matches('?').trim_end_matches('.');
    if path.is_empty() {
        error.to_string().split('`').nth(1).unwrap_or_default().to_owned()
    } else {
        path.to_owned()
    }
}

fn bad_field(id: Option<CommandId>, field: &str, error: &dyn fmt::Display) -> Rejected {
    let reason = in_json_words(&error.to_string());
    Rejected {
        id,
        number: None,
        code: ErrorCode::BadField,
        field: Some(field.to_owned()).filter(|f| !f.is_empty()),
        message: if field.is_empty() { reason } else { format!("{field}: {reason}") },
    }
}

/// A JSON object, read without the fields of its envelope (`type`, `id` and so on), so that each command can refuse unknown
/// fields.
struct Fields<'j, R> {
    json: &'j mut serde_json::Deserializer<R>,
    envelope: &'static [&'static str],
}

impl<'de, 'j, R: serde_json::de::Read<'de>> Deserializer<'de> for Fields<'j, R> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let fields = FieldsVisitor { visitor, envelope: self.envelope };
        self.json.deserialize_map(fields)
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct FieldsVisitor<V> {
    visitor: V,
    envelope: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for FieldsVisitor<V> {
    type Value = V::Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(FieldsAccess { inner, envelope: self.envelope })
    }
}

struct FieldsAccess<A> {
    inner: A,
    envelope: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for FieldsAccess<A> {
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
mod tests;
