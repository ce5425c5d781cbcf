//! What operators and their machines ask.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::refusal::Refusal;
use crate::services::Services;

/// How long the database may take to answer a read before the server counts as not ready.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Alive: the process answers.
pub(super) async fn live() -> &'static str {
    "alive\n"
}

/// Ready: not stopping, and the store reads and writes.
pub(super) async fn ready(State(services): State<Arc<Services>>) -> Response {
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
    if !services.store.is_writable() {
        return not_ready(
            "the store takes no writes: SQLite after a failed fsync until a restart, PostgreSQL until it is reached again",
        );
    }
    // Any read will do; nobody's key has this hash.
    match tokio::time::timeout(READ_TIMEOUT, services.store.api_key([0; 32])).await {
        Ok(Ok(_)) => "ready\n".into_response(),
        _ => not_ready("the store cannot be read"),
    }
}

/// Prometheus' text format.
pub(super) async fn metrics(State(services): State<Arc<Services>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], services.metrics.encode()).into_response()
}
