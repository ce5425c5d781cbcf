//! The calls of back ends whose answer is a JSON object with fields of its own.

use axum::body::Body;
use axum::http::request::Parts;
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;

use super::problem::Problem;
use super::respond::respond_with_json;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::grant::Scope;

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
