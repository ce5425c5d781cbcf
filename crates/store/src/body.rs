//! The two forms of an event's body. On the wire it names users by their ids, and in the store by their keys, so that an
//! event does not change when a user gets another id. docs/decisions/0052-events-name-users-by-number.md
//!
//! Earlier versions stored ids. Such a body is read as it is until it is rewritten; a key is a JSON number and an id is a
//! JSON string.

use std::convert::Infallible;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use switchboard_protocol::UserId;

use crate::record::{Kind, UserKey};

#[cfg(test)]
thread_local! {
    /// How many bodies this thread has decoded.
    pub(crate) static DECODE_COUNT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// A user as a body names them: by key or by id.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum UserRef {
    Number(i64),
    Id(UserId),
}

/// The value of a field that holds user ids.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum UserField {
    One(UserRef),
    Many(Vec<UserRef>),
    None(()),
}

/// The fields of a body, in the order of the body, each with its JSON.
struct Fields<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The stored form of a body; `None` if a user in it has no key, or if the body cannot be read.
pub(crate) fn to_stored<E>(
    kind: &Kind,
    body: &str,
    mut number_of: impl FnMut(&UserId) -> Result<Option<UserKey>, E>,
) -> Result<Option<String>, E> {
    replace_users(kind, body, |user| match user {
        UserRef::Id(id) => Ok(number_of(&id)?.map(|key| UserRef::Number(key.0))),
        number @ UserRef::Number(_) => Ok(Some(number)),
    })
}

/// The wire form of a stored body; `None` if a user in it does not exist, or if the body cannot be read.
pub(crate) fn to_wire(
    kind: &Kind,
    body: &str,
    id_of: impl Fn(UserKey) -> Option<UserId>,
) -> Option<Box<str>> {
    let wire = replace_users(kind, body, |user| match user {
        UserRef::Number(number) => Ok::<_, Infallible>(id_of(UserKey(number)).map(UserRef::Id)),
        id @ UserRef::Id(_) => Ok(Some(id)),
    });
    wire.unwrap_or_default().map(String::into_boxed_str)
}

/// Adds the keys of the users that a stored body names to `keys`; none for a body that cannot be read.
pub(crate) fn collect_user_keys(kind: &Kind, body: &str, keys: &mut Vec<UserKey>) {
    let collected = replace_users(kind, body, |user| {
        if let UserRef::Number(number) = user {
            keys.push(UserKey(number));
        }
        Ok::<_, Infallible>(Some(user))
    });
    drop(collected);
}

/// Adds the ids of the users that a body names in the form of earlier versions.
pub(crate) fn collect_user_ids(kind: &Kind, body: &str, ids: &mut Vec<UserId>) {
    let collected = replace_users(kind, body, |user| {
        if let UserRef::Id(id) = &user {
            ids.push(id.clone());
        }
        Ok::<_, Infallible>(Some(user))
    });
    drop(collected);
}

/// Replaces the users that a body names and leaves everything else as it is.
fn replace_users<E>(
    kind: &Kind,
    body: &str,
    mut other: impl FnMut(UserRef) -> Result<Option<UserRef>, E>,
) -> Result<Option<String>, E> {
    #[cfg(test)]
    DECODE_COUNT.set(DECODE_COUNT.get() + 1);
    let Ok(Fields(fields)) = serde_json::from_str(body) else { return Ok(None) };
    let mut replaced = String::with_capacity(body.len());
    for (name, value) in fields {
        replaced.push_str(if replaced.is_empty() { "{\"" } else { ",\"" });
        replaced.push_str(name);
        replaced.push_str("\":");
        if !kind.is_user_field(name) {
            replaced.push_str(value.get());
            continue;
        }
        let others = match serde_json::from_str(value.get()) {
            Ok(UserField::One(user)) => other(user)?.map(UserField::One),
            Ok(UserField::Many(users)) => {
                let mut others = Vec::with_capacity(users.len());
                for user in users {
                    let Some(user) = other(user)? else { return Ok(None) };
                    others.push(user);
                }
                Some(UserField::Many(others))
            }
            Ok(UserField::None(())) => Some(UserField::None(())),
            Err(_) => None,
        };
        let Some(json) = others.and_then(|others| serde_json::to_string(&others).ok()) else {
            return Ok(None);
        };
        replaced.push_str(&json);
    }
    replaced.push_str(if replaced.is_empty() { "{}" } else { "}" });
    Ok(Some(replaced))
}

/// Whether two bodies of one kind are equal, regardless of the order of their fields and of the users in one field.
pub(crate) fn is_same_body(kind: &Kind, stored: &str, body: &str) -> bool {
    let fields = |body| {
        let mut fields = serde_json::from_str::<Map<String, Value>>(body).ok()?;
        for (name, value) in &mut fields {
            if let Value::Array(users) = value
                && kind.is_user_field(name)
            {
                users.sort_by_cached_key(Value::to_string);
            }
        }
        Some(fields)
    };
    stored == body || fields(stored).is_some_and(|stored| fields(body) == Some(stored))
}

#[cfg(test)]
mod tests {
    use switchboard_protocol::EventKind;

    use super::*;
    use crate::record::NewerKind;

    const NAMES: [&str; 3] = ["alice", "bob", "2"];

    fn key_of(user: &UserId) -> Result<Option<UserKey>, Infallible> {
        Ok((1..).zip(NAMES).find(|(_, name)| *name == user.as_str()).map(|(number, _)| UserKey(number)))
    }

    fn id_of(user: UserKey) -> Option<UserId> {
        let name = NAMES.get(usize::try_from(user.0 - 1).ok()?)?;
        UserId::parse(name).ok()
    }

    fn newer_kind() -> Kind {
        let pin = NewerKind::from_row(99, "pin".to_owned(), r#"["by","for"]"#);
        Kind::Newer(std::sync::Arc::new(pin.expect("a kind")))
    }

    #[test]
    fn replacing_users_in_a_body_keeps_every_other_byte() {
        for (kind, wire, stored) in [
            (
                EventKind::Create.into(),
                r#"{"public":true,"members":["2","bob"]}"#,
                r#"{"public":true,"members":[3,2]}"#,
            ),
            (EventKind::Create.into(), r#"{"members":[]}"#, r#"{"members":[]}"#),
            (EventKind::Role.into(), r#"{"user":"alice","role":"admin"}"#, r#"{"user":1,"role":"admin"}"#),
            (
                newer_kind(),
                r#"{"z":[1, {"by":"bob"}],"by":null,"for":"bob","a":"\u00e9 \"by\":\"bob\""}"#,
                r#"{"z":[1, {"by":"bob"}],"by":null,"for":2,"a":"\u00e9 \"by\":\"bob\""}"#,
            ),
            (newer_kind(), "{}", "{}"),
        ] {
            assert_eq!(to_stored(&kind, wire, key_of).expect("infallible").as_deref(), Some(stored));
            assert_eq!(to_wire(&kind, stored, id_of).as_deref(), Some(wire));
            // A body that an earlier version stored is already in its wire form.
            assert_eq!(to_wire(&kind, wire, id_of).as_deref(), Some(wire));
            assert_eq!(to_stored(&kind, stored, key_of).expect("infallible").as_deref(), Some(stored));
        }
    }

    #[test]
    fn a_body_that_names_no_user_is_stored_unchanged() {
        let invite = Kind::from(EventKind::Invite);
        for stored in [
            r#"{"user":4}"#,
            r#"{"user":-1}"#,
            r#"{"user":1.5}"#,
            r#"{"user":{}}"#,
            r#"{"user":"no id"}"#,
            "[]",
            "{",
            "",
        ] {
            assert_eq!(to_wire(&invite, stored, id_of), None, "{stored}");
        }
        assert_eq!(to_stored(&invite, r#"{"user":"carol"}"#, key_of), Ok(None));
    }

    #[test]
    fn equal_bodies_may_differ_in_the_order_of_fields_and_of_users() {
        let create = Kind::from(EventKind::Create);
        assert!(is_same_body(
            &create,
            r#"{"public":true,"members":[1,2]}"#,
            r#"{"members":[2,1],"public":true}"#
        ));
        assert!(!is_same_body(&create, r#"{"members":[1,2]}"#, r#"{"members":[1,3]}"#));
        let message = Kind::from(EventKind::Message);
        assert!(!is_same_body(&message, r#"{"data":{"members":[1,2]}}"#, r#"{"data":{"members":[2,1]}}"#));
    }
}
