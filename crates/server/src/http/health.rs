//! `/healthz`: checks delivery end to end, not only that the process answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::services::Services;

/// Runs each step of a message's delivery and reports the times. 503 if a step failed.
pub(super) async fn check_delivery(State(services): State<Arc<Services>>) -> Response {
    let report = services.health.report(&services.store, services.bus.as_deref()).await;
    let status = if report.delivers { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}
