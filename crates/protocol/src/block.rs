//! Whom a user blocks, and what stands in place of messages that a user may not see.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{PersonName, Seq, Timestamp, UserId};

/// A user whom the user blocks.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Block {
    /// The blocked user.
    pub user: UserId,
    /// The blocked user's name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PersonName>,
    /// When the user was blocked.
    pub at: Timestamp,
}

/// A message that `history` leaves out, because the user blocks its author.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WithheldMessage {
    /// The message's number in the log.
    pub seq: Seq,
    /// The author.
    pub from: UserId,
    /// When the message was stored.
    pub at: Timestamp,
}
