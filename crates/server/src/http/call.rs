//! What the calls of back ends share: a change whose outcome is awaited, and an answer with fields of its own.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::request::Parts;
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use switchboard_protocol::UserId;
use switchboard_protocol::reply::OkBody;
use tokio::sync::oneshot;

use super::problem::Problem;
use super::respond::respond_with_json;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::grant::Scope;
use switchboard_store::origin::{BackEndOrigin, Origin};
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Submission};

/// A call, for the description of the API.
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) scope: Scope,
    pub(super) request: Value,
    /// The body of the answer, if it is more than `ok`.
    pub(super) answer: Option<Value>,
}

/// The schema of a type.
pub(super) fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// An answer without content.
#[derive(Debug, Serialize)]
pub(super) struct Done {}

/// The answer of a call.
#[derive(Serialize)]
struct Answer<T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    body: T,
}

/// Builds the response: `ok` with the fields of the answer, or the problem.
pub(super) fn respond<R: Serialize>(
    services: &Services,
    head: &Parts,
    body: Body,
    answered: Result<(R, Option<Permit>), Problem>,
) -> Response {
    let answered = answered.map(|(done, permit)| (Answer { kind: "ok", body: done }, permit));
    respond_with_json(services, head, body, answered)
}

/// What makes a call: a key, from an address, and the moderator in whose name it is made.
#[derive(Debug, Clone)]
pub(crate) struct Maker {
    pub(super) via: Via,
    pub(super) address: Option<IpAddr>,
    pub(super) by: Option<UserId>,
}

impl From<(Via, Option<IpAddr>)> for Maker {
    fn from((via, address): (Via, Option<IpAddr>)) -> Self {
        Self { via, address, by: None }
    }
}

/// Submits a change that a back end makes in the name of `actor`, and waits until it is on stable storage.
pub(super) async fn store_for_back_end(
    services: &Services,
    actor: UserId,
    change: Change,
    maker: impl Into<Maker>,
) -> Result<OkBody<Box<RawValue>>, Refusal> {
    let (reply, stored) = oneshot::channel();
    let Maker { via, address, by } = maker.into();
    let origin = Origin::BackEnd(BackEndOrigin { reply, via, address, by });
    services.store.submit(Submission { actor, change, origin }).map_err(|_| Refusal::unavailable())?;
    stored.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
}
