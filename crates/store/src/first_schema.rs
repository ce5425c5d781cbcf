//! An installation of the first schema, to test how later versions read and migrate it. Its bodies name users by id.

use crate::block::View;
use crate::record::{Kind, LogEvent};
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

/// The users, in the order of their keys. The id "2" looks like the key of another user.
const USERS: [&str; 5] = ["alice", "bob", "carol", "2", "erin"];

pub(crate) const CONVERSATIONS: [&str; 3] = ["#old", "@alice:bob", "#late"];

/// An event: index of the conversation, kind, index of the sender, number of messages up to this event, key, body.
type EventRow = (usize, EventKind, usize, u64, Option<&'static str>, &'static str);

/// The events, of every kind, in the order of the log.
const EVENTS: [EventRow; 17] = [
    (1, EventKind::Create, 1, 0, None, r#"{"title":"Old","public":true,"members":["2","bob","carol"]}"#),
    (1, EventKind::Message, 1, 1, Some("a1"), r#"{"text":"first"}"#),
    (1, EventKind::Message, 2, 2, Some("b1"), r#"{"text":"\"user\":\"bob\"","reply_to":2}"#),
    (1, EventKind::Edit, 1, 2, None, r#"{"target":2,"text":"1st"}"#),
    (1, EventKind::React, 2, 2, None, r#"{"target":2,"emoji":"x","on":true}"#),
    (1, EventKind::Message, 1, 3, Some("a2"), r#"{"deleted":true}"#),
    (1, EventKind::Delete, 1, 3, None, r#"{"target":6}"#),
    (1, EventKind::Remove, 1, 3, None, r#"{"user":"carol"}"#),
    (1, EventKind::Invite, 1, 3, None, r#"{"user":"erin","role":"reader"}"#),
    (1, EventKind::Role, 1, 3, None, r#"{"user":"bob","role":"admin"}"#),
    (1, EventKind::Rename, 1, 3, None, r#"{"title":"Older"}"#),
    (1, EventKind::Leave, 4, 3, None, "{}"),
    (1, EventKind::Join, 4, 3, None, "{}"),
    (1, EventKind::Invite, 1, 3, None, r#"{"user":"carol","role":"member"}"#),
    (1, EventKind::Remove, 1, 3, None, r#"{"user":"2"}"#),
    (2, EventKind::Message, 1, 1, Some("d1"), r#"{"text":"hi"}"#),
    (3, EventKind::Create, 2, 0, None, r#"{"public":false,"members":["alice"]}"#),
];

/// The bodies that name users, as a later version rewrites them.
pub(crate) const REWRITTEN_BODIES: [&str; 7] = [
    r#"{"title":"Old","public":true,"members":[4,2,3]}"#,
    r#"{"user":3}"#,
    r#"{"user":5,"role":"reader"}"#,
    r#"{"user":2,"role":"admin"}"#,
    r#"{"user":3,"role":"member"}"#,
    r#"{"user":4}"#,
    r#"{"public":false,"members":[1]}"#,
];

/// The rows of conversations and members that result from the events.
const INSERT_DERIVED_ROWS: &str = r#"
    INSERT INTO conversations (name, title, public, head, messages, last_message, members, admins, at) VALUES
        ('#old', 'Older', true, 15, 3, 6, 4, 2, 1015), ('@alice:bob', NULL, false, 1, 1, 1, 2, 0, 1001),
        ('#late', NULL, false, 1, 0, 0, 2, 1, 1001);
    INSERT INTO members (conversation, "user", role, since, until, read, received, sent, read_messages, read_sent)
    VALUES (1, 1, 2, 1, NULL, 1, 1, 2, 0, 0), (1, 2, 2, 1, NULL, 3, 3, 1, 2, 1), (1, 3, 1, 14, NULL, 14, 14, 0, 3, 0),
        (1, 4, 1, 13, 15, 13, 13, 0, 3, 0), (1, 5, 0, 9, NULL, 9, 9, 0, 3, 0), (2, 1, 1, 0, NULL, 0, 0, 1, 0, 0),
        (2, 2, 1, 0, NULL, 0, 0, 0, 0, 0), (3, 2, 2, 1, NULL, 1, 1, 0, 0, 0), (3, 1, 1, 1, NULL, 1, 1, 0, 0, 0);
    INSERT INTO amendments (conversation, target, seq) VALUES (1, 2, 4), (1, 6, 7);
    INSERT INTO reactions (conversation, target, emoji, "user", since, until) VALUES (1, 2, 'x', 2, 5, NULL);
"#;

/// The SQL that inserts all sample rows. It works in both databases, because both number users and conversations from
/// 1.
pub(crate) fn insert_statements() -> String {
    let users = USERS.map(|name| format!("('{name}')")).join(", ");
    let mut sql = format!("INSERT INTO users (name) VALUES {users}; {INSERT_DERIVED_ROWS}");
    for (seq, (conversation, kind, sender, messages, key, body)) in numbered_events() {
        let key = key.map_or("NULL".to_owned(), |key| format!("'{key}'"));
        sql += &format!(
            "INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
             VALUES ({conversation}, {seq}, {}, {sender}, {}, {messages}, {key}, '{body}');\n",
            kind.number(),
            1_000 + seq
        );
    }
    sql
}

/// The events' frames on the wire, which are the same in every version.
pub(crate) fn expected_frames() -> Vec<String> {
    let events = numbered_events().map(|(seq, (conversation, kind, sender, _, key, body))| LogEvent {
        conversation: ConversationId::parse(CONVERSATIONS[conversation - 1]).expect("an id"),
        seq: Seq(seq),
        kind: Kind::Known(kind),
        from: UserId::parse(USERS[sender - 1]).expect("an id"),
        at: Timestamp::from_millis(i64::try_from(1_000 + seq).expect("a time")),
        key: key.map(Into::into),
        body: body.into(),
    });
    events.map(|event| event.to_json_for(View::Whole)).collect()
}

fn numbered_events() -> impl Iterator<Item = (u64, EventRow)> {
    let mut seqs = [0; CONVERSATIONS.len()];
    EVENTS.into_iter().map(move |event| {
        let seq = &mut seqs[event.0 - 1];
        *seq += 1;
        (*seq, event)
    })
}
