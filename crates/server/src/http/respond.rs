//! The responses of the calls under `/v1`: JSON, or a problem that is counted and logged.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use switchboard_protocol::reply::{Ok as OkReply, Reply};
use tracing::Span;

use super::accept::Client;
use super::api::Answer;
use super::body;
use super::problem::Problem;
use crate::encode;
use crate::in_flight::Permit;
use crate::services::Services;
use crate::throttle::AffectedClient;

/// Builds the response: the `ok` frame or the problem. `body` is what was not read of the request.
pub(super) fn respond(
    services: &Services,
    head: &Parts,
    body: Body,
    answered: Result<(Answer, Option<Permit>), Problem>,
) -> Response {
    let answered = answered.map(|(answer, permit)| (Reply::Ok(OkReply { id: None, body: answer }), permit));
    respond_with_json(services, head, body, answered)
}

/// Builds the response: the answer as JSON, or the problem. The permit is passed on with the response, because the connection
/// keeps it until the client has read the response. What is left of the body of a refused request is read and dropped.
pub(super) fn respond_with_json(
    services: &Services,
    head: &Parts,
    body: Body,
    answered: Result<(impl Serialize, Option<Permit>), Problem>,
) -> Response {
    if answered.is_err() {
        body::discard(&services.tasks, &head.headers, body);
    }
    let encoded = answered.and_then(|(answer, permit)| Ok((encode::to_json(&answer)?, permit)));
    match encoded {
        Ok((json, permit)) => {
            let mut response = ([(header::CONTENT_TYPE, "application/json")], json).into_response();
            if let Some(permit) = permit {
                response.extensions_mut().insert(Arc::new(permit));
            }
            response
        }
        Err(problem) => refuse(services, head, problem),
    }
}

/// Counts and logs a problem, and builds its response.
pub(super) fn refuse(services: &Services, head: &Parts, problem: Problem) -> Response {
    services.metrics.count_refused(problem.code());
    if !problem.is_denial() {
        let address = head.extensions.get::<Client>().map(|client| AffectedClient::Address(client.address));
        let affected = problem.user().map(AffectedClient::User).or(address);
        services.denials.log_refusal(problem.code(), problem.field(), affected, Span::current);
    }
    problem.into_response()
}
