//! Encodes the frames that the server sends.

use serde::Serialize;
use serde_json::value::RawValue;
use switchboard_protocol::CommandId;
use switchboard_protocol::reply::{Ok as OkReply, OkBody, Reply};

use crate::frame;
use switchboard_store::refusal::Refusal;

/// The error frame for a frame that could not be encoded. It is a constant, because encoding it must not fail, too.
const UNENCODABLE_ERROR_FRAME: &str = r#"{"type":"error","code":"unavailable","message":"the server could not encode this frame; its log says why","retryable":true}"#;

/// Encodes a frame of the server. If it has no JSON form, which is a bug, the log has an error line, and the client receives the
/// error `unavailable` instead.
pub(crate) fn encode(frame: &impl Serialize) -> bytes::Bytes {
    frame::text(&to_json(frame).unwrap_or_else(|_| UNENCODABLE_ERROR_FRAME.to_owned()))
}

/// Encodes the answer to a command. If an `ok` cannot be encoded, the result is an error frame.
pub(crate) fn encode_answer(
    id: Option<CommandId>,
    answer: Result<OkBody<Box<RawValue>>, Refusal>,
) -> bytes::Bytes {
    match answer {
        Ok(body) => match to_json(&Reply::Ok(OkReply { id: id.clone(), body })) {
            Ok(json) => frame::text(&json),
            Err(refusal) => encode(&Reply::<Box<RawValue>>::Error(refusal.into_failure(id))),
        },
        Err(refusal) => encode(&Reply::<Box<RawValue>>::Error(refusal.into_failure(id))),
    }
}

/// Encodes a reply as JSON. If that fails, logs the cause, and returns the refusal to send instead.
pub(crate) fn to_json(reply: &impl Serialize) -> Result<String, Refusal> {
    serde_json::to_string(reply).map_err(|error| {
        tracing::error!(%error, "cannot encode a reply");
        Refusal { message: "the server could not encode its answer".into(), ..Refusal::unavailable() }
    })
}

#[cfg(test)]
mod tests {
    use serde::ser::Error as _;
    use serde_json::Value;
    use switchboard_protocol::ErrorCode;

    use super::*;

    /// A value that has no JSON form.
    struct Unserializable;

    impl Serialize for Unserializable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("a bug that this test wants"))
        }
    }

    #[test]
    fn a_frame_that_cannot_be_encoded_reaches_the_client_as_an_error() {
        assert_eq!(encode(&Unserializable), frame::text(UNENCODABLE_ERROR_FRAME));
        let told: Value = serde_json::from_str(UNENCODABLE_ERROR_FRAME).expect("JSON");
        let reply: Reply = serde_json::from_value(told).expect("a reply");
        assert!(matches!(reply, Reply::Error(failure) if failure.retryable));
        assert_eq!(to_json(&Unserializable).expect_err("refused").code, ErrorCode::Unavailable);
    }
}
