//! `/healthz`: whether a message would arrive now, not only whether something answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::services::Services;

/// Tries what a message needs, and says how long each step took. 503 if one of them failed.
pub(super) async fn delivers(State(services): State<Arc<Services>>) -> Response {
    let report = services.health.report(&services).await;
    let status = if report.delivers { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}
