//! What a back end sees of the whole installation: its users, its rooms, and what users have not read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::is_false;
use crate::reply::{Failure, Profile};
use crate::{ConversationId, Seq, Timestamp, Title, UserId};

/// A user in `list_users`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedUser {
    /// The user's number, which never changes and is never given again.
    pub number: u64,
    /// The user, and the profile.
    #[serde(flatten)]
    pub profile: Profile,
    /// False if the application said that the user is gone.
    pub active: bool,
    /// When the user's last device disconnected; absent if none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

/// A room in `list_rooms`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedRoom {
    /// The room's number, which is never given again.
    pub number: u64,
    /// The room.
    pub conversation: ConversationId,
    /// The title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Title>,
    /// Whether any user may join.
    pub public: bool,
    /// How many milliseconds there are between two messages of a member at least, if the room is in slow mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow: Option<u32>,
    /// False if a user who was removed may not join again; otherwise absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoin: Option<bool>,
    /// The number of members.
    pub members: u64,
    /// The number of messages, deleted ones included.
    pub messages: u64,
    /// The last event of the log.
    pub head: Seq,
    /// The time of that event.
    pub at: Timestamp,
}

/// A ban in `bans`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedBan {
    /// The number of the banned user.
    pub number: u64,
    /// The banned user.
    pub user: UserId,
    /// When the ban ends; absent if it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When it was made.
    pub at: Timestamp,
    /// Whether the user comes in all the same, and what they send is held.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shadow: bool,
    /// What the user reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What only moderators read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a user has not read (`unread`), over the 200 conversations with the latest activity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserUnread {
    /// The user.
    pub user: UserId,
    /// Messages of others that the user has not read.
    pub messages: u64,
    /// Conversations with such messages.
    pub conversations: u64,
    /// Whether the user is connected.
    pub online: bool,
    /// When the user's last device disconnected; absent while one is connected, and if none ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Whether the user has more conversations than were counted.
    pub more: bool,
}

/// What became of the message to one recipient of `send_many`: it has `conversation`, `seq` and `at`, or `held`, or `error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SendResult {
    /// The recipient.
    pub user: UserId,
    /// The direct conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationId>,
    /// The message's number in its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// When it was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// True if an earlier call had stored it; `seq` and `at` are those of that one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// True if it waits for the application's decision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Why it was not stored. The others are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}
