//! What the application is asked.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use switchboard_protocol::{ConversationId, Timestamp};

use super::Asker;
use crate::config::Ask;
use switchboard_store::Change;

/// The body of a question, in the form of a webhook's.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    user: &'a str,
    /// The name of the API key of the back end that acts for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<ConversationId>,
    /// What is asked about, under its name.
    #[serde(flatten)]
    about: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a [Box<RawValue>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

/// The question about a connection.
pub(super) fn about_connection(asker: &Asker, now: Timestamp) -> String {
    write(asker, Ask::Open, now, None, Map::new(), None)
}

/// The question about a change.
pub(super) fn about(
    asker: &Asker,
    ask: Ask,
    change: &Change,
    context: Option<&[Box<RawValue>]>,
    now: Timestamp,
) -> String {
    let (conversation, fields) = match change {
        Change::Send(c) => (Some(c.to.resolve(&asker.user)), object(c)),
        Change::Edit(c) => (Some(c.conversation.resolve(&asker.user)), object(c)),
        Change::React(c) => (Some(c.conversation.resolve(&asker.user)), object(c)),
        Change::Rename(c) => (Some(c.conversation.resolve(&asker.user)), object(c)),
        Change::Invite(c) | Change::InviteWithKey(c) => {
            (Some(c.conversation.resolve(&asker.user)), object(c))
        }
        Change::Create(c) => (c.room.as_ref().map(ConversationId::room), object(c)),
        _ => (None, Map::new()),
    };
    let about = Map::from_iter([(ask.as_str().to_owned(), Value::Object(fields))]);
    write(asker, ask, now, conversation, about, context)
}

/// The fields of a command, without the conversation.
fn object(command: &impl Serialize) -> Map<String, Value> {
    let mut fields = match serde_json::to_value(command) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    for name in ["to", "conversation", "room"] {
        fields.remove(name);
    }
    fields
}

fn write(
    asker: &Asker,
    ask: Ask,
    now: Timestamp,
    conversation: Option<ConversationId>,
    about: Map<String, Value>,
    context: Option<&[Box<RawValue>]>,
) -> String {
    let claims: Option<Box<RawValue>> = asker.claims.as_ref().and_then(raw);
    let data = Data {
        user: asker.user.as_str(),
        via: asker.key.as_ref().map(|key| key.name.as_str()),
        conversation,
        about,
        context,
        claims: claims.as_deref(),
        address: asker.address.map(|address| address.to_canonical().to_string()),
    };
    let body = Body { r#type: format!("ask.{}", ask.as_str()), timestamp: now, data };
    // Every value of it has a JSON form.
    serde_json::to_string(&body).unwrap_or_default()
}

fn raw(claims: &Arc<str>) -> Option<Box<RawValue>> {
    RawValue::from_string(claims.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use switchboard_protocol::{UserId, decode_named};

    use super::*;
    use switchboard_store::Request;

    fn asker() -> Asker {
        Asker {
            permissions: None,
            user: UserId::parse("alice").expect("an id"),
            claims: Some(r#"{"sub":"alice","tier":"gold"}"#.into()),
            address: Some("::ffff:192.0.2.7".parse().expect("an address")),
            key: None,
        }
    }

    fn asked(ask: Ask, command: &str, fields: &Value) -> Value {
        let command = decode_named(command, &fields.to_string()).expect("a command").command;
        let Request::Change(change) = Request::from(command) else { panic!("no change") };
        let body = about(&asker(), ask, &change, None, Timestamp::from_millis(1_795_435_200_000));
        serde_json::from_str(&body).expect("JSON")
    }

    #[test]
    fn a_question_has_the_form_of_the_contract() {
        let fields = json!({"to": "@bob", "key": "k1", "text": "hi", "reply_to": 3});
        assert_eq!(
            asked(Ask::Message, "send", &fields),
            json!({
                "type": "ask.message",
                "timestamp": "2026-11-23T12:00:00.000Z",
                "data": {
                    "user": "alice",
                    "conversation": "@alice:bob",
                    "message": {"key": "k1", "text": "hi", "reply_to": 3},
                    "claims": {"sub": "alice", "tier": "gold"},
                    "address": "192.0.2.7",
                }
            })
        );
    }

    #[test]
    fn the_fields_of_each_command_are_under_the_name_of_the_question() {
        for (ask, command, fields, about) in [
            (Ask::Edit, "edit", json!({"target": 7, "text": "b"}), json!({"target": 7, "text": "b"})),
            (
                Ask::React,
                "react",
                json!({"target": 7, "emoji": "x"}),
                json!({"target": 7, "emoji": "x", "on": true}),
            ),
            (Ask::Rename, "rename", json!({"title": "T"}), json!({"title": "T"})),
            (Ask::Invite, "invite", json!({"user": "bob"}), json!({"user": "bob", "role": "member"})),
        ] {
            let mut fields = fields;
            fields["conversation"] = json!("#a");
            let question = asked(ask, command, &fields);
            assert_eq!(question["data"][ask.as_str()], about);
            assert_eq!(question["data"]["conversation"], "#a");
        }
        let question = asked(Ask::Create, "create", &json!({"room": "a", "title": "T", "members": ["bob"]}));
        assert_eq!(question["data"]["create"], json!({"title": "T", "public": false, "members": ["bob"]}));
        assert_eq!(question["data"]["conversation"], "#a");
    }
}
