//! What the server says that is neither an event nor a signal.
//!
//! The server encodes events ahead of time and passes them through as raw JSON, so the page of a
//! log is generic over what an event is: [`Event`] for a client, raw JSON for the server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::is_false;
use crate::{
    CommandId, ConversationId, Data, ErrorCode, Event, EventBody, Key, Limits, Role, Seq, Signal, Text,
    Timestamp, Title, UserId,
};

/// Any frame from the server.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ServerFrame {
    /// A reply, `welcome`, `gap`, `bye`.
    Reply(Reply),
    /// Something that does not last.
    Signal(Signal),
    /// Something that lasts.
    Event(Event),
}

impl ServerFrame {
    /// Every `type` that this version knows. A frame of another one is from a newer server, and to be
    /// passed over.
    pub const TYPES: [&str; REPLIES.len() + Signal::NAMES.len() + EventBody::NAMES.len()] =
        in_a_row([&REPLIES, &Signal::NAMES, EventBody::NAMES]);
}

/// Every `type` of a [`Reply`].
const REPLIES: [&str; 6] = ["welcome", "ok", "error", "pong", "gap", "bye"];

/// Three lists as one.
const fn in_a_row<const N: usize>(lists: [&[&'static str]; 3]) -> [&'static str; N] {
    let (mut all, mut list, mut from) = ([""; N], 0, 0);
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            all[from + at] = lists[list][at];
            at += 1;
        }
        (list, from) = (list + 1, from + at);
    }
    all
}

/// A frame that answers, or tells of the connection itself.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields, concrete(E = Event)))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply<E = Event> {
    /// The answer to `hello`.
    Welcome(Box<Welcome>),
    /// A command did what it says.
    Ok(Ok<E>),
    /// A command failed.
    Error(Failure),
    /// The answer to `ping`.
    Pong {
        /// The command's `id`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<CommandId>,
    },
    /// In place of a replay that would be too long: events `after + 1` to `head` are to be paged with `sync`.
    Gap {
        /// Where.
        conversation: ConversationId,
        /// The client's cursor.
        after: Seq,
        /// What follows this one comes live.
        head: Seq,
    },
    /// The server is about to close: come back after so many milliseconds.
    Bye {
        /// Milliseconds to wait, different for every client.
        retry_after: u64,
    },
}

/// The answer to `hello`.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Welcome {
    /// Who one is.
    pub user: UserId,
    /// The connection's own name, for support and logs. It gives no rights.
    pub connection: String,
    /// The server's name and version.
    pub server: String,
    /// What the server allows.
    pub limits: Limits,
    /// The first page of one's conversations, latest activity first.
    pub conversations: Vec<Summary>,
    /// Whether there are more: page on with `conversations`.
    pub more: bool,
    /// What one has not read. Servers of before do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Unread>,
}

/// What a user has not read, over the conversations with the latest activity
/// ([`Limits::UNREAD_CONVERSATIONS`]).
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Unread {
    /// Messages of others after the cursor of reading, as in a summary.
    pub messages: u64,
    /// Conversations with such messages.
    pub conversations: u64,
    /// Whether there are conversations beyond those that were counted.
    pub more: bool,
}

/// `ok`, with the command's `id` and what the command gives.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields, concrete(E = Event)))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ok<E = Event> {
    /// The command's `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CommandId>,
    /// What the command gives.
    #[serde(flatten)]
    pub body: OkBody<E>,
}

/// What a command gives.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields, concrete(E = Event)))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OkBody<E = Event> {
    /// An event is on stable storage.
    Stored {
        /// Where.
        conversation: ConversationId,
        /// Its number.
        seq: Seq,
        /// When it was stored.
        at: Timestamp,
        /// True if it had been stored before: this is the first one's `seq`.
        #[serde(default, skip_serializing_if = "is_false")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        duplicate: bool,
        /// What was stored, where the application changed it: it takes the place of what was sent.
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<Box<E>>,
    },
    /// A message is on stable storage and waits for the application's decision. It is not in the log.
    Held {
        /// Where.
        conversation: ConversationId,
        /// True.
        held: bool,
        /// True if it has been held since before.
        #[serde(default, skip_serializing_if = "is_false")]
        #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
        duplicate: bool,
    },
    /// A page of the raw log (`sync`).
    Log {
        /// Where.
        conversation: ConversationId,
        /// The events, oldest first.
        events: Vec<E>,
        /// The last event of the log that one may see.
        head: Seq,
        /// Whether there are events after these.
        more: bool,
    },
    /// A page of messages as they stand now (`history`).
    History {
        /// Where.
        conversation: ConversationId,
        /// The messages, ascending.
        messages: Vec<Message>,
        /// The last event that is folded into them: live events go on from here.
        head: Seq,
        /// Whether there are messages before these.
        more: bool,
        /// Whether there are messages after these, with `around`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        more_after: Option<bool>,
    },
    /// A page of members (`members`).
    Members {
        /// Where.
        conversation: ConversationId,
        /// The members, by id.
        members: Vec<Member>,
        /// Whether there are members after these.
        more: bool,
    },
    /// A page of one's conversations (`conversations`).
    Conversations {
        /// The conversations, latest activity first.
        conversations: Vec<Summary>,
        /// Whether there are more.
        more: bool,
    },
    /// A cursor stands here now (`read`, `received`).
    Cursor {
        /// Where.
        conversation: ConversationId,
        /// The cursor.
        upto: Seq,
    },
    /// Done, with nothing to tell (`typing`, `watch`).
    Done {},
}

/// A command failed.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The command's `id`, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CommandId>,
    /// Why.
    pub code: ErrorCode,
    /// What to do, for a person.
    pub message: String,
    /// Whether the same command may succeed later, unchanged.
    pub retryable: bool,
    /// Milliseconds to wait before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The field at fault, with `bad_field` and `too_large`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The conversation at fault, for a cursor in `hello`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationId>,
    /// Until when, with `banned`. Absent if there is no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A conversation as its member sees it.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Which.
    pub conversation: ConversationId,
    /// A room's title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Title>,
    /// Whether anyone may join.
    #[serde(default, skip_serializing_if = "is_false")]
    #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
    pub public: bool,
    /// One's own role.
    pub role: Role,
    /// How many members there are.
    pub members: u64,
    /// The last event of the log.
    pub head: Seq,
    /// Its time; summaries are ordered by it.
    pub at: Timestamp,
    /// One's cursor of reading.
    pub read: Seq,
    /// One's cursor of delivery.
    pub received: Seq,
    /// Messages of others after `read`; a deleted one still counts.
    pub unread: u64,
    /// The last message as it stands now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Message>,
}

/// A message as it stands now: its event with edits, deletion and reactions folded in.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: MessageTag,
    /// Where.
    pub conversation: ConversationId,
    /// Its number in the log.
    pub seq: Seq,
    /// Who wrote it.
    pub from: UserId,
    /// When.
    pub at: Timestamp,
    /// Its idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// What a person reads, after the last edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// What an application reads, after the last edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// The message that this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    /// The last edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<Edited>,
    /// Whether it was deleted.
    #[serde(default, skip_serializing_if = "is_false")]
    #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
    pub deleted: bool,
    /// Who reacted how: users in the order of their reactions, by emoji.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "typescript", ts(optional, as = "Option<_>"))]
    pub reactions: BTreeMap<String, Vec<UserId>>,
}

/// The `type` of a [`Message`]: the same as its event's.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageTag {
    /// The only one.
    #[default]
    Message,
}

/// When a message was last edited.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Edited {
    /// The `edit` event.
    pub seq: Seq,
    /// Its time.
    pub at: Timestamp,
}

/// A member of a conversation.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
    /// Their cursor of reading.
    pub read: Seq,
    /// Their cursor of delivery.
    pub received: Seq,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_the_contract_is_understood() {
        for (text, wanted) in [
            (
                r##"{"type":"ok","id":1,"conversation":"@alice:bob","seq":7,"at":"2026-11-23T12:00:00.000Z"}"##,
                "Stored",
            ),
            (r##"{"type":"ok","conversation":"#a","events":[],"head":7,"more":false}"##, "Log"),
            (r##"{"type":"ok","conversation":"#a","messages":[],"head":7,"more":false}"##, "History"),
            (r##"{"type":"ok","conversation":"#a","members":[],"more":false}"##, "Members"),
            (r##"{"type":"ok","conversations":[],"more":false}"##, "Conversations"),
            (r##"{"type":"ok","conversation":"#a","upto":4}"##, "Cursor"),
            (r##"{"type":"ok","id":"x"}"##, "Done"),
            (r##"{"type":"gap","conversation":"#general","after":41,"head":9000}"##, "Gap"),
            (r##"{"type":"bye","retry_after":700}"##, "Bye"),
            (r##"{"type":"pong"}"##, "Pong"),
            (r##"{"type":"error","id":1,"code":"not_found","message":"m","retryable":false}"##, "Error"),
            (r##"{"type":"presence","user":"bob","online":true}"##, "Presence"),
            (r##"{"type":"read","conversation":"#a","user":"bob","upto":3}"##, "Signal"),
            (
                r##"{"type":"message","conversation":"@alice:bob","seq":7,"from":"alice","at":"2026-11-23T12:00:00.000Z","key":"a1","text":"hi"}"##,
                "Event",
            ),
            (
                r##"{"type":"leave","conversation":"#a","seq":7,"from":"alice","at":"2026-11-23T12:00:00.000Z"}"##,
                "Leave",
            ),
        ] {
            let frame: ServerFrame = serde_json::from_str(text).expect(text);
            assert!(format!("{frame:?}").contains(wanted), "{text} became {frame:?}");
        }
    }

    /// What a schema says of `type`, wherever it does.
    fn types(schema: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
        let tag = schema.pointer("/properties/type/const").and_then(|tag| tag.as_str());
        found.extend(tag.map(str::to_owned));
        match schema {
            serde_json::Value::Object(inner) => inner.values().for_each(|inner| types(inner, found)),
            serde_json::Value::Array(inner) => inner.iter().for_each(|inner| types(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn every_type_is_known() {
        let mut found = std::collections::BTreeSet::new();
        types(schemars::schema_for!(ServerFrame).as_value(), &mut found);
        assert_eq!(found, ServerFrame::TYPES.map(str::to_owned).into());
    }

    #[test]
    fn an_event_of_a_newer_server_keeps_its_place_and_its_fields() {
        let text = r##"{"type":"poll","question":"?","conversation":"#a","seq":7,"from":"alice","at":"2026-11-23T12:00:00.000Z"}"##;
        let page =
            format!(r##"{{"type":"ok","conversation":"#a","events":[{text}],"head":7,"more":false}}"##);
        let page = serde_json::from_str::<Reply>(&page).expect("a page");
        let Reply::Ok(Ok { body: OkBody::Log { events, .. }, .. }) = page else { panic!("{page:?}") };
        for event in [serde_json::from_str(text).expect("an event"), ServerFrame::Event(events[0].clone())] {
            let ServerFrame::Event(event) = event else { panic!("{event:?}") };
            assert_eq!((event.seq, event.from.as_str()), (Seq(7), "alice"));
            assert!(matches!(&event.body, crate::EventBody::Unknown(fields) if fields["question"] == "?"));
            let again: serde_json::Value = serde_json::to_value(&event).expect("json");
            assert_eq!(again, serde_json::from_str::<serde_json::Value>(text).expect("json"));
        }
    }

    #[test]
    fn replies_are_written_as_the_contract_shows() {
        let ok: Reply = Reply::Ok(Ok {
            id: Some(CommandId::Number(1)),
            body: OkBody::Stored {
                conversation: ConversationId::parse("@alice:bob").expect("id"),
                seq: Seq(7),
                at: Timestamp::from_millis(1_795_435_200_000),
                duplicate: false,
                event: None,
            },
        });
        insta::assert_snapshot!(
            serde_json::to_string(&ok).expect("json"),
            @r#"{"type":"ok","id":1,"conversation":"@alice:bob","seq":7,"at":"2026-11-23T12:00:00.000Z"}"#
        );
    }
}
