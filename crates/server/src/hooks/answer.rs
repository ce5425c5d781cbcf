//! What the application answers.

use serde::Deserialize;
use serde_json::{Map, Value};
use switchboard_protocol::{Command, ConversationId, Edit, ErrorCode, Limits, Rename, Send, truncated};

use crate::metrics::HookFailure as Failure;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Approved, Change, Hold, request};

/// The longest reason of a refusal in bytes; the rest is cut.
const MAX_REASON: usize = 500;

/// The most rooms that a user joins by one answer.
const MAX_JOINS: usize = 100;

/// The fields of an answer; `null` and absent fields differ in `replace` only.
#[derive(Deserialize)]
struct Fields {
    action: String,
    message: Option<Value>,
    join: Option<Vec<ConversationId>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Reads an answer. An empty one, which comes with the status 204, accepts.
fn fields(body: &[u8]) -> Result<Option<Fields>, Failure> {
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(body).map(Some).map_err(|_| Failure::Unreadable)
}

impl Fields {
    /// The refusal with the application's reason.
    fn into_refusal(self) -> Refusal {
        let reason = self.message.as_ref().and_then(Value::as_str).filter(|reason| !reason.is_empty());
        match reason {
            Some(reason) => Refusal::new(ErrorCode::Refused, truncated(reason, MAX_REASON).to_owned()),
            None => Refusal::refused_by_application(),
        }
    }
}

/// The application's decision about a change.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// The change is made as requested.
    Accept,
    /// The change is made with these fields in place of the requested ones; `null` removes one.
    Replace(Map<String, Value>),
    /// The change is refused.
    Refuse(Refusal),
    /// The message waits for a moderator.
    Hold,
}

impl Action {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let Some(fields) = fields(body)? else { return Ok(Self::Accept) };
        match fields.action.as_str() {
            "accept" => Ok(Self::Accept),
            "replace" if !fields.others.is_empty() => Ok(Self::Replace(fields.others)),
            "refuse" => Ok(Self::Refuse(fields.into_refusal())),
            "hold" => Ok(Self::Hold),
            "replace" => Err(Failure::Unusable),
            _ => Err(Failure::Unreadable),
        }
    }

    /// The change to submit.
    ///
    /// # Errors
    /// The fields in place of the requested ones are not valid, or this kind of change has none of them, or is not held.
    pub(super) fn apply_to(self, change: &Change, limits: &Limits) -> Result<Change, Failure> {
        match self {
            Self::Accept => Ok(approved(change.clone(), None)),
            Self::Refuse(refusal) => Ok(Change::Refused(refusal)),
            Self::Hold => match change {
                Change::Send(send) => {
                    Ok(Change::Hold(Box::new(Hold { send: send.clone(), requested: None })))
                }
                _ => Err(Failure::Unusable),
            },
            Self::Replace(fields) => {
                let replaced = replace(change, fields).ok_or(Failure::Unusable)?;
                check(&replaced, limits)?;
                Ok(approved(replaced, Some(change.clone())))
            }
        }
    }
}

/// The change that the application has allowed. `requested` is the client's, if its content was replaced.
pub(super) fn approved(change: Change, requested: Option<Change>) -> Change {
    Change::Approved(Box::new(Approved { change, requested }))
}

/// Checks the replaced content like a client's.
fn check(replaced: &Change, limits: &Limits) -> Result<(), Failure> {
    let command = match replaced.clone() {
        Change::Send(send) => Command::Send(send),
        Change::Edit(edit) => Command::Edit(edit),
        Change::Rename(rename) => Command::Rename(rename),
        _ => return Err(Failure::Unusable),
    };
    request::check(&command, limits).map_err(|_| Failure::Unusable)
}

/// The change with other fields; `None` if it has not these fields, or if a value is not valid.
fn replace(change: &Change, fields: Map<String, Value>) -> Option<Change> {
    /// Reads a value; `null` is none.
    fn read<T: for<'de> Deserialize<'de>>(value: Value) -> Option<Option<T>> {
        serde_json::from_value(value).ok()
    }
    match change.clone() {
        Change::Send(mut send) => {
            for (name, value) in fields {
                match name.as_str() {
                    "text" => send.text = read(value)?,
                    "data" => send.data = read(value)?,
                    _ => return None,
                }
            }
            Some(Change::Send(Send { ..send }))
        }
        Change::Edit(mut edit) => {
            for (name, value) in fields {
                match name.as_str() {
                    "text" => edit.text = read(value)?,
                    "data" => edit.data = read(value)?,
                    _ => return None,
                }
            }
            Some(Change::Edit(Edit { ..edit }))
        }
        Change::Rename(mut rename) => {
            for (name, value) in fields {
                match name.as_str() {
                    "title" => rename.title = read(value)??,
                    _ => return None,
                }
            }
            Some(Change::Rename(Rename { ..rename }))
        }
        _ => None,
    }
}

/// The application's decision about a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// The user comes in.
    Accept {
        /// The rooms that the user joins first.
        join: Vec<ConversationId>,
    },
    /// The user does not come in.
    Refuse(Refusal),
}

impl Opened {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let Some(fields) = fields(body)? else { return Ok(Self::Accept { join: Vec::new() }) };
        match fields.action.as_str() {
            "accept" => {
                let join = fields.join.unwrap_or_default();
                if join.len() > MAX_JOINS { Err(Failure::Unreadable) } else { Ok(Self::Accept { join }) }
            }
            "refuse" => Ok(Self::Refuse(fields.into_refusal())),
            _ => Err(Failure::Unreadable),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use switchboard_protocol::decode_named;

    use super::*;
    use switchboard_store::Request;

    fn change(name: &str, fields: &Value) -> Change {
        match Request::from(decode_named(name, &fields.to_string()).expect("a command").command) {
            Request::Change(change) => change,
            other => panic!("{other:?}"),
        }
    }

    fn parse(answer: &Value) -> Result<Action, Failure> {
        Action::parse(answer.to_string().as_bytes())
    }

    #[test]
    fn an_answer_that_is_none_of_the_contract_is_a_failure() {
        for answer in ["x", "[]", "{}", "null", r#"{"action":1}"#, r#"{"action":"Accept"}"#] {
            assert_eq!(Action::parse(answer.as_bytes()).err(), Some(Failure::Unreadable), "{answer}");
            assert_eq!(Opened::parse(answer.as_bytes()).err(), Some(Failure::Unreadable), "{answer}");
        }
        assert_eq!(Action::parse(br#"{"action":"replace"}"#).err(), Some(Failure::Unusable));
        assert_eq!(Action::parse(b""), Ok(Action::Accept), "204");
        assert_eq!(parse(&json!({"action": "accept", "profile": {"name": "A"}})), Ok(Action::Accept));
    }

    #[test]
    fn a_reason_is_cut_at_a_character_and_its_absence_still_refuses() {
        let Ok(Action::Refuse(long)) = parse(&json!({"action": "refuse", "message": "ä".repeat(300)}))
        else {
            panic!("refused")
        };
        assert_eq!((long.code, long.message.len()), (ErrorCode::Refused, 500));
        for message in [json!(null), json!(7), json!("")] {
            let Ok(Action::Refuse(none)) = parse(&json!({"action": "refuse", "message": message})) else {
                panic!("refused")
            };
            assert_eq!(none, Refusal::refused_by_application());
        }
    }

    #[test]
    fn a_replacement_changes_what_it_names_and_removes_null() {
        let send = change("send", &json!({"to": "@bob", "key": "k", "text": "a", "data": {"x": 1}}));
        let limits = Limits::default();
        let replace = |fields: Value| parse(&fields).and_then(|action| action.apply_to(&send, &limits));
        let replaced = replace(json!({"action": "replace", "text": null})).expect("a message with data");
        let Change::Approved(approved) = replaced else { panic!("{replaced:?}") };
        let (Change::Send(stored), Some(Change::Send(requested))) = (approved.change, approved.requested)
        else {
            panic!("a message")
        };
        assert_eq!((stored.text, stored.data.is_some(), stored.key.is_some()), (None, true, true));
        assert_eq!(requested.text.expect("text").as_str(), "a");
        for wrong in [
            json!({"action": "replace", "text": null, "data": null}),
            json!({"action": "replace", "text": 7}),
            json!({"action": "replace", "to": "@eve"}),
            json!({"action": "replace", "text": "x".repeat(limits.text as usize + 1)}),
        ] {
            assert_eq!(replace(wrong.clone()).err(), Some(Failure::Unusable), "{wrong}");
        }
        let react = change("react", &json!({"conversation": "@bob", "target": 1, "emoji": "x"}));
        let action = parse(&json!({"action": "replace", "emoji": "y"})).expect("an action");
        assert_eq!(action.apply_to(&react, &limits).err(), Some(Failure::Unusable));
    }

    #[test]
    fn only_a_message_is_held() {
        let hold = || parse(&json!({"action": "hold"})).expect("an action");
        let send = change("send", &json!({"to": "@bob", "key": "k", "text": "a"}));
        let held = hold().apply_to(&send, &Limits::default());
        assert!(matches!(held, Ok(Change::Hold(hold)) if hold.requested.is_none()));
        let edit = change("edit", &json!({"conversation": "@bob", "target": 1, "text": "b"}));
        assert_eq!(hold().apply_to(&edit, &Limits::default()).err(), Some(Failure::Unusable));
    }
}
