//! `POST /v1/delete_room`: a back end deletes a room.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use switchboard_protocol::{ConversationId, UserId, read_object};

use super::api::{Answer, check_send, read_authenticated};
use super::call::{Operation, schema, store_for_back_end};
use super::problem::Problem;
use super::respond::respond;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::Change;
use switchboard_store::grant::Scope;
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;

/// `delete_room`: ends a room for all of its members. Its content is removed, and its id is never given again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteRoom {
    /// The room.
    conversation: ConversationId,
    /// The user in whose name the room is deleted: `from` of its last event. Without it, the name of the API key.
    #[serde(rename = "as")]
    acts_as: Option<UserId>,
}

/// The call of this file.
pub(super) fn operations(generator: &mut SchemaGenerator) -> [Operation; 1] {
    [Operation {
        name: "delete_room",
        summary: "Deletes a room.",
        scope: Scope::Admin,
        request: schema::<DeleteRoom>(generator),
        answer: None,
    }]
}

/// Answers once the room's last event is on stable storage. What the room had before is removed afterwards.
pub(super) async fn delete_room(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = answer(&services, &parts, &mut body).await;
    respond(&services, &parts, body, answered)
}

async fn answer(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(Answer, Option<Permit>), Problem> {
    let request = read_authenticated(services, head, body).await?;
    request.check_back_end(Scope::Admin)?;
    request.check_unlimited()?;
    let DeleteRoom { conversation, acts_as } = read_object(&request.text).map_err(Refusal::from)?;
    if !conversation.is_room() {
        let message = "conversation: a direct conversation cannot be deleted; name a room";
        return Err(Refusal::bad_field("conversation", message).into());
    }
    check_send(services, &request.credentials.payer(), request.grant.as_ref(), 1)?;
    let key = request.grant.as_ref();
    let actor = acts_as.or_else(|| UserId::parse(&key?.name).ok());
    let actor = actor.ok_or_else(|| {
        let message = "as: name the user in whose name the room is deleted; the API key's name is no user id";
        Refusal::bad_field("as", message)
    })?;
    let via = key.map_or(Via::USER, |grant| grant.number);
    let change = Change::DeleteRoom(conversation);
    let answer = store_for_back_end(services, actor, change, (via, request.address)).await?;
    Ok((answer, request.permit))
}
