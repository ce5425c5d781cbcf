//! What operators and their machines ask.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use switchboard_protocol::ErrorCode;

use super::problem::Problem;
use crate::refusal::Refusal;
use crate::services::Services;

/// Alive: the process answers.
pub(super) async fn live() -> &'static str {
    "alive\n"
}

/// How `/readyz` may be asked.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    exclude: Option<Excluded>,
}

/// What need not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Excluded {
    /// Where no other server could take them, a server that refuses writes must stay in its service for reads.
    Writes,
}

/// Ready: not stopping, and the store reads and, unless that is excluded, writes.
pub(super) async fn ready(
    State(services): State<Arc<Services>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let Ok(Query(Asked { exclude })) = asked else {
        let refusal = Refusal::new(ErrorCode::BadField, "exclude may be writes");
        return Problem::from(refusal).into_response();
    };
    let not_ready = |message: &str| {
        let refusal = Refusal { message: message.to_owned().into(), ..Refusal::unavailable() };
        Problem::from(refusal).into_response()
    };
    if let Some(failure) = services.tasks.failure() {
        return not_ready(&format!("{failure}; the server ends"));
    }
    if services.tasks.stop().is_cancelled() {
        return not_ready("stopping");
    }
    if let Some(fault) = services.store.write_fault().filter(|_| exclude != Some(Excluded::Writes)) {
        return not_ready(&format!("writes are refused: {fault}"));
    }
    if services.readiness.check(|| services.store.probe()).await {
        "ready\n".into_response()
    } else {
        not_ready("the store cannot be read")
    }
}

/// What any other path of the operators' listener answers.
pub(super) async fn not_here() -> Problem {
    Refusal::new(ErrorCode::NotFound, "operators find /livez, /readyz, /healthz and /metrics here").into()
}

/// Prometheus' text format.
pub(super) async fn metrics(State(services): State<Arc<Services>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], services.metrics.encode()).into_response()
}
