//! A message as pages and lists have it: in its current state.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::is_false;
use crate::{ConversationId, Data, Key, Seq, Text, Timestamp, UserId};

/// A message in its current state: its event with all edits, reactions and the deletion applied.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: MessageTag,
    /// The conversation.
    pub conversation: ConversationId,
    /// The message's number in the log.
    pub seq: Seq,
    /// The user who wrote it.
    pub from: UserId,
    /// The time at which the server stored it.
    pub at: Timestamp,
    /// Its idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The text for people, after the last edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// The JSON object for the application, after the last edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// The `seq` of the message that this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    /// The last edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<Edited>,
    /// Whether it was deleted.
    #[serde(default, skip_serializing_if = "is_false")]
    #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
    pub deleted: bool,
    /// For each emoji, the users who reacted with it, in the order of their reactions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
    pub reactions: BTreeMap<String, Vec<UserId>>,
}

/// The `type` of a [`Message`]: the same as its event's.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageTag {
    /// The only value.
    #[default]
    Message,
}

/// When a message was last edited.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Edited {
    /// The number of the `edit` event.
    pub seq: Seq,
    /// The time at which the server stored it.
    pub at: Timestamp,
}
