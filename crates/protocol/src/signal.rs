//! Everything that does not last: signals have no number and are not stored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConversationId, Seq, Timestamp, UserId};

/// A signal, as it goes over the wire.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Signal {
    /// Somebody has read up to here.
    Read {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// The last event read.
        upto: Seq,
    },
    /// Some device of somebody has everything up to here.
    Received {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// The last event received.
        upto: Seq,
    },
    /// Somebody is typing; it lasts 5 s, or until their message comes.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
    },
    /// Somebody on the screen came or went.
    Presence {
        /// Who.
        user: UserId,
        /// Whether any device of theirs is connected.
        online: bool,
        /// When the last device left; absent while online, and if never seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_seen: Option<Timestamp>,
    },
}

impl Signal {
    /// Every `type` of a signal.
    pub const NAMES: [&'static str; 4] = ["read", "received", "typing", "presence"];
}
