//! Signals: frames about users that are not stored and have no number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reply::Profile;
use crate::{ConversationId, ReportAction, ReportId, Seq, Timestamp, UserId};

/// A signal in its wire form.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Signal {
    /// The user has read the conversation up to `upto`.
    Read {
        /// The conversation.
        conversation: ConversationId,
        /// The user.
        user: UserId,
        /// The last event read.
        upto: Seq,
    },
    /// A device of the user has received the conversation up to `upto`.
    Received {
        /// The conversation.
        conversation: ConversationId,
        /// The user.
        user: UserId,
        /// The last event received.
        upto: Seq,
    },
    /// The user is typing. It lasts 5 s, or until their message arrives.
    Typing {
        /// The conversation.
        conversation: ConversationId,
        /// The user.
        user: UserId,
    },
    /// A watched user connected or disconnected.
    Presence {
        /// The user.
        user: UserId,
        /// Whether any device of the user is connected.
        online: bool,
        /// The time at which the last device disconnected. Absent while the user is online, or if they never were.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_seen: Option<Timestamp>,
    },
    /// Another connection of the user has blocked another user, or ended a block.
    Block {
        /// The other user.
        user: UserId,
        /// Whether the other user is blocked now.
        on: bool,
    },
    /// The profile of a user has changed, for whom the connection has asked with `users`.
    Profile(Profile),
    /// A moderator has decided about a report. The author of what was reported gets `text`, and is not shown who reported it; the
    /// users who reported it get `report`.
    Notice {
        /// What was decided.
        action: ReportAction,
        /// The report, for those who made it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<ReportId>,
        /// The conversation of the message, if a message was reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conversation: Option<ConversationId>,
        /// The message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<Seq>,
        /// What the moderator tells the author.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
}

impl Signal {
    /// Every `type` of a signal.
    pub const NAMES: [&'static str; 7] =
        ["read", "received", "typing", "presence", "block", "profile", "notice"];
}
