//! Encodes commands as text frames, and decodes the server's frames.

use serde::{Serialize, de};
use serde_json::Value;
use switchboard_protocol::reply::ServerFrame;
use switchboard_protocol::{Command, WriteNumber};

use crate::ClientError;

/// How many characters of an invalid frame an error message shows.
const MAX_EXCERPT_CHARS: usize = 200;

/// A command in its JSON form, in which `type` comes first.
#[derive(Serialize)]
struct OutgoingCommand<'a> {
    #[serde(flatten)]
    command: &'a Command,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    #[serde(flatten)]
    number: Option<WriteNumber>,
}

/// Encodes a command as the text of a frame. This cannot fail, because every map in a command has string keys.
pub(crate) fn encode(command: &Command, id: Option<i64>, number: Option<WriteNumber>) -> String {
    serde_json::to_string(&OutgoingCommand { command, id, number }).expect("a command has a JSON form")
}

/// Decodes a frame of the server. Returns `None` if only a newer version knows the frame's type.
pub(crate) fn decode(text: &str) -> Result<Option<ServerFrame>, ClientError> {
    serde_json::from_str(text).map(Some).or_else(|source| {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let kind = frame.get("type").and_then(Value::as_str);
        if kind.is_some_and(|kind| !ServerFrame::FRAME_TYPES.contains(&kind)) {
            Ok(None)
        } else {
            Err(not_understood_error(text, source))
        }
    })
}

/// The error for an `ok` that has the fields of another command's answer.
pub(crate) fn wrong_answer_error(command: &Command) -> ClientError {
    let what = format_args!("it is no answer to `{}`", command.name());
    not_understood_error(r#"{"type":"ok", …}"#, de::Error::custom(what))
}

/// The error for a binary frame, because the protocol uses text frames only.
pub(crate) fn not_text_error(bytes: &[u8]) -> ClientError {
    not_understood_error(&String::from_utf8_lossy(bytes), de::Error::custom("a binary frame"))
}

fn not_understood_error(frame: &str, source: serde_json::Error) -> ClientError {
    ClientError::NotUnderstood { frame: frame.chars().take(MAX_EXCERPT_CHARS).collect(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_begins_with_its_type() {
        let ping = switchboard_protocol::Ping {}.into();
        assert_eq!(encode(&ping, Some(7), None), r#"{"type":"ping","id":7}"#);
        assert_eq!(encode(&ping, None, None), r#"{"type":"ping"}"#);
        let leave = switchboard_protocol::Leave {
            conversation: switchboard_protocol::Target::parse("#a").expect("a room"),
        }
        .into();
        let number = WriteNumber { n: 7, after: 5 };
        let frame = r##"{"type":"leave","conversation":"#a","id":7,"n":7,"after":5}"##;
        assert_eq!(encode(&leave, Some(7), Some(number)), frame);
    }

    #[test]
    fn the_error_for_an_invalid_frame_quotes_it() {
        for error in [decode("nonsense").expect_err("no JSON"), not_text_error(b"nonsense")] {
            assert!(error.to_string().contains("cannot understand the frame nonsense"), "{error}");
        }
    }
}
