//! Between the protocol's words and the text of a frame.

use serde::{Serialize, de};
use serde_json::Value;
use switchboard_protocol::Command;
use switchboard_protocol::reply::ServerFrame;

use crate::ClientError;

/// How many characters of a frame that makes no sense are shown: enough to know it by.
const EXCERPT: usize = 200;

/// A command as it is on the wire, its `type` first.
#[derive(Serialize)]
struct Outgoing<'a> {
    #[serde(flatten)]
    command: &'a Command,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
}

/// The text of a command's frame. Every map in a command has strings for keys, which is all that JSON asks for.
pub(crate) fn encode(command: &Command, id: Option<i64>) -> String {
    serde_json::to_string(&Outgoing { command, id }).expect("a command has a JSON form")
}

/// What the server said; `None` if that is of a kind that only a newer version knows.
pub(crate) fn decode(text: &str) -> Result<Option<ServerFrame>, ClientError> {
    serde_json::from_str(text).map(Some).or_else(|source| {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let kind = frame.get("type").and_then(Value::as_str);
        if kind.is_some_and(|kind| !ServerFrame::TYPES.contains(&kind)) {
            Ok(None)
        } else {
            Err(not_understood(text, source))
        }
    })
}

/// A frame in binary: the server has nothing to say in it.
pub(crate) fn not_text(bytes: &[u8]) -> ClientError {
    not_understood(&String::from_utf8_lossy(bytes), de::Error::custom("a binary frame"))
}

fn not_understood(frame: &str, source: serde_json::Error) -> ClientError {
    ClientError::NotUnderstood { frame: frame.chars().take(EXCERPT).collect(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_begins_with_its_type() {
        let ping = switchboard_protocol::Ping {}.into();
        assert_eq!(encode(&ping, Some(7)), r#"{"type":"ping","id":7}"#);
        assert_eq!(encode(&ping, None), r#"{"type":"ping"}"#);
    }

    #[test]
    fn what_makes_no_sense_is_quoted() {
        for error in [decode("nonsense").expect_err("no JSON"), not_text(b"nonsense")] {
            assert!(error.to_string().contains("cannot understand the frame nonsense"), "{error}");
        }
    }
}
