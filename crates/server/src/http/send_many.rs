//! `POST /v1/send_many`: a back end sends one message to each of many users.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::stream;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::json;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Command, Data, Key, Send, SendResult, Target, Text, UserId};

use super::api::{Caller, check_send, submit_checked};
use super::call::{Operation, respond, schema};
use super::people::{check_users, read_bulk};
use super::problem::Problem;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::grant::Scope;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, request};

/// How many of the messages of one call wait for the store, or for the application, at a time. They share transactions.
const MESSAGES_IN_FLIGHT: usize = 64;

/// The longest `key`: the recipient's id is added to it, and the result is a message's key.
const MAX_KEY_BYTES: usize = Key::MAX_BYTES - UserId::MAX_BYTES - 1;

/// `send_many`: one direct message to each of up to 1,000 users.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendMany {
    /// The sender.
    #[serde(rename = "as")]
    sender: UserId,
    /// The recipients, at most 1,000.
    users: Vec<UserId>,
    /// The idempotency key, at most 63 characters. The message to a user has the key `key:user`, so a call that is repeated stores
    /// only what it has not stored.
    key: Key,
    /// The text.
    text: Option<Text>,
    /// A JSON object for the application.
    data: Option<Data>,
}

/// What became of each message, in the order of `users`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SentMany {
    results: Vec<SendResult>,
}

/// The call of this file.
pub(super) fn operations(generator: &mut SchemaGenerator) -> [Operation; 1] {
    // As in the other calls in the name of a user, `as` is beside the fields.
    let sender = json!({ "type": "object", "properties": { "as": schema::<UserId>(generator) } });
    [Operation {
        name: "send_many",
        summary: "Sends a direct message to each of up to 1,000 users.",
        scope: Scope::Act,
        request: json!({ "allOf": [schema::<SendMany>(generator), sender] }),
        answer: Some(schema::<SentMany>(generator)),
    }]
}

pub(super) async fn send_many(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = answer(&services, &parts, &mut body).await;
    respond(&services, &parts, body, answered)
}

async fn answer(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(SentMany, Option<Permit>), Problem> {
    let (request, many, _bulk) = read_bulk::<SendMany>(services, head, body, Scope::Act).await?;
    check_users(&many.users)?;
    if many.key.as_str().len() > MAX_KEY_BYTES {
        let message =
            format!("key: at most {MAX_KEY_BYTES} characters, because the recipient's id is added to it");
        return Err(Refusal::too_large("key", message).into());
    }
    let caller = request.acts_as(many.sender.clone())?;
    let messages = many.users.iter().map(|user| many.message_to(user)).collect::<Result<Vec<_>, _>>()?;
    // The messages differ in their recipients only.
    if let Some(first) = messages.first() {
        request::check(&Command::Send(first.clone()), &services.limits)?;
    }
    let payer = request.credentials.payer();
    let price = u32::try_from(messages.len()).unwrap_or(u32::MAX).max(1);
    check_send(services, &payer, request.grant.as_ref(), price)?;
    let sends = many.users.into_iter().zip(messages);
    let sends = sends.map(|(user, message)| send(services, head, caller.clone(), user, message));
    let results = stream::iter(sends).buffered(MESSAGES_IN_FLIGHT).collect().await;
    Ok((SentMany { results }, request.permit))
}

impl SendMany {
    fn message_to(&self, user: &UserId) -> Result<Send, Refusal> {
        let key = Key::parse(format!("{}:{user}", self.key.as_str()));
        let key = key.map_err(|_| Refusal::bad_field("key", "key: 1 to 63 visible characters"))?;
        let to = Target::parse(&format!("@{user}"));
        let to = to.map_err(|_| Refusal::bad_field("users", "users: ids of users"))?;
        let (text, data) = (self.text.clone(), self.data.clone());
        Ok(Send { to, key: Some(key), text, data, reply_to: None })
    }
}

async fn send(services: &Services, head: &Parts, caller: Caller, user: UserId, message: Send) -> SendResult {
    let sent = submit_checked(services, head, caller, Change::Send(message)).await;
    let mut result = SendResult {
        user,
        conversation: None,
        seq: None,
        at: None,
        duplicate: false,
        held: false,
        error: None,
    };
    match sent {
        Ok(OkBody::Stored { conversation, seq, at, duplicate, .. }) => {
            result.conversation = Some(conversation);
            (result.seq, result.at, result.duplicate) = (Some(seq), Some(at), duplicate);
        }
        Ok(OkBody::Held { conversation, duplicate, .. }) => {
            result.conversation = Some(conversation);
            (result.held, result.duplicate) = (true, duplicate);
        }
        Ok(_) => result.error = Some(Refusal::unavailable().into_failure(None)),
        Err(refusal) => result.error = Some(refusal.into_failure(None)),
    }
    result
}
