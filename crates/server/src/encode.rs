//! Frames of the server's own, as bytes.

use serde::Serialize;
use serde_json::value::RawValue;
use switchboard_protocol::CommandId;
use switchboard_protocol::reply::{Ok as OkReply, OkBody, Reply};

use crate::frame;
use crate::refusal::Refusal;

/// A frame of ours. Its types always have a JSON form.
pub(crate) fn encode(frame: &impl Serialize) -> bytes::Bytes {
    frame::text(&serde_json::to_string(frame).unwrap_or_default())
}

/// The frame that answers a command.
pub(crate) fn encode_answer(
    id: Option<CommandId>,
    answer: Result<OkBody<Box<RawValue>>, Refusal>,
) -> bytes::Bytes {
    encode(&match answer {
        Ok(body) => Reply::Ok(OkReply { id, body }),
        Err(refusal) => Reply::Error(refusal.into_failure(id)),
    })
}
