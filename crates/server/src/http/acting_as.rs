//! The field `as` of a request: the user whom a back end acts for.

use serde::Deserialize;
use switchboard_protocol::{UserId, read_object};

use switchboard_store::refusal::Refusal;

/// The field `as` of a request.
pub(super) enum ActingAs {
    User(UserId),
    Absent,
    /// The body is not a JSON object. This is reported only to a client with valid credentials.
    Unreadable(Refusal),
}

/// Reads the field `as`.
///
/// # Errors
/// The field is invalid.
pub(super) fn acting_as(body: &str) -> Result<ActingAs, Refusal> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(rename = "as")]
        user: Option<UserId>,
    }
    match read_object::<Fields>(body) {
        Ok(Fields { user: Some(user) }) => Ok(ActingAs::User(user)),
        Ok(Fields { user: None }) => Ok(ActingAs::Absent),
        Err(rejected) if rejected.field.as_deref() == Some("as") => Err(rejected.into()),
        Err(rejected) => Ok(ActingAs::Unreadable(rejected.into())),
    }
}
