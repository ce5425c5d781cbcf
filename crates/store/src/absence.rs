//! What is known of users who are away, as both stores have it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switchboard_protocol::{Seq, Timestamp, UserId};

use crate::key::{ConversationKey, UserKey};

/// The consumer of the feed that finds what users have missed.
pub(crate) const CONSUMER: &str = "missed";

/// A question for what users have missed.
#[derive(Debug, Clone, Copy)]
pub struct MissedQuery {
    /// The number in the feed after which messages are examined.
    pub after: u64,
    /// Only messages that were stored up to this time are examined.
    pub before: Timestamp,
    /// Rooms with more members are left out.
    pub most_members: u32,
}

/// What users have missed.
#[derive(Debug, Clone, Default)]
pub struct MissedPage {
    /// The number in the feed up to which messages were examined.
    pub next: u64,
    /// Whether there is more to examine now.
    pub more: bool,
    /// One item for each user and conversation.
    pub messages: Vec<MissedMessage>,
}

/// What a user has missed in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedMessage {
    /// The user's key.
    pub user: UserKey,
    /// The user.
    pub name: UserId,
    /// When the user was last seen, in milliseconds since the Unix epoch; 0 for never.
    pub absence: i64,
    /// The conversation.
    pub conversation: ConversationKey,
    /// How many of its messages the user has not read.
    pub unread: u64,
    /// The last of them that was examined.
    pub seq: Seq,
    /// When that was stored, in milliseconds since the Unix epoch.
    pub at: i64,
}

/// The entry `user.missed`, as it is stored: the conversation is a key, because its id may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MissedEntry {
    /// In how many conversations messages were missed.
    pub(crate) conversations: u64,
    /// How many messages of them are unread.
    pub(crate) messages: u64,
    /// The latest of the messages.
    pub(crate) latest: (ConversationKey, Seq),
    /// Since when the user is away; `None` for a user who was never connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
}

impl MissedEntry {
    /// The type of the entry.
    pub(crate) const KIND: &str = "user.missed";

    /// One entry for each user.
    pub(crate) fn of_users(messages: &[MissedMessage]) -> Vec<(UserKey, Self)> {
        let mut users = BTreeMap::<UserKey, Vec<&MissedMessage>>::new();
        for missed in messages {
            users.entry(missed.user).or_default().push(missed);
        }
        let entry = |(user, messages): (UserKey, Vec<&MissedMessage>)| {
            let latest = messages.iter().max_by_key(|missed| (missed.at, missed.conversation))?;
            let entry = Self {
                conversations: messages.len() as u64,
                messages: messages.iter().map(|missed| missed.unread).sum(),
                latest: (latest.conversation, latest.seq),
                since: (latest.absence > 0).then(|| Timestamp::from_millis(latest.absence)),
            };
            Some((user, entry))
        };
        users.into_iter().filter_map(entry).collect()
    }
}

/// What has changed on a node since it last said so.
#[derive(Debug, Clone, Default)]
pub struct Attendance {
    /// Users who connected.
    pub arrived: Vec<UserId>,
    /// Users who went offline. A user may have arrived, too: they came before they left.
    pub departed: Vec<UserId>,
    /// Whether users who come online have an entry `user.online`.
    pub tells_online: bool,
    /// Whether `arrived` has every user of the node.
    pub is_complete: bool,
}
