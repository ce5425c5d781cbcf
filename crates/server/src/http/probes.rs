//! Probes and metrics for operators and orchestrators.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use switchboard_protocol::ErrorCode;

use super::problem::Problem;
use crate::metrics::Metrics;
use crate::services::Services;
use crate::tasks::Tasks;
use switchboard_store::refusal::Refusal;

/// `/livez`: always reports success, because a process that answers is alive.
pub(super) async fn livez() -> &'static str {
    "alive\n"
}

/// The query parameters of `/readyz`.
#[derive(Debug, Deserialize)]
pub(super) struct ReadyQuery {
    exclude: Option<ExcludedCheck>,
}

/// The checks that can be excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ExcludedCheck {
    /// The check of writes. An installation with one server excludes it, so that the server still serves reads while it refuses
    /// writes.
    Writes,
}

/// `/readyz`: reports success if the server is not stopping, and the store can be read and, unless that check is excluded, written.
pub(super) async fn readyz(
    State(services): State<Arc<Services>>,
    query: Result<Query<ReadyQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(ReadyQuery { exclude })) = query else {
        let refusal = Refusal::new(ErrorCode::BadField, "exclude: the only value is `writes`");
        return Problem::from(refusal).into_response();
    };
    match reason_not_ready(&services, exclude).await {
        None => "ready\n".into_response(),
        Some(reason) => not_ready(reason),
    }
}

fn not_ready(reason: String) -> Response {
    let refusal = Refusal { message: reason.into(), ..Refusal::unavailable() };
    Problem::from(refusal).into_response()
}

/// The response of `/readyz` while the server stops.
pub(super) fn stopping_response(tasks: &Tasks) -> Response {
    not_ready(stop_reason(tasks))
}

/// Why the server stops.
fn stop_reason(tasks: &Tasks) -> String {
    let failed = tasks.failure().map(|failure| format!("{failure}; the server is shutting down"));
    failed.unwrap_or_else(|| "stopping".to_owned())
}

/// Why `/readyz` answers 503, if it does.
async fn reason_not_ready(services: &Services, exclude: Option<ExcludedCheck>) -> Option<String> {
    if services.tasks.failure().is_some() || services.tasks.stop().is_cancelled() {
        return Some(stop_reason(&services.tasks));
    }
    if let Some(fault) = services.store.write_fault().filter(|_| exclude != Some(ExcludedCheck::Writes)) {
        return Some(format!("writes are refused: {fault}"));
    }
    let readable = services.readiness.check(|| services.store.probe()).await;
    (!readable).then(|| "the store cannot be read".to_owned())
}

/// The response of the operators' listener for any other path.
pub(super) async fn unknown_operator_path() -> Problem {
    let message =
        "this listener serves /livez, /readyz, /healthz, /metrics, /version, /connections, /rooms and /sizes";
    Refusal::new(ErrorCode::NotFound, message).into()
}

/// `/metrics`, in the text format of OpenMetrics for clients that accept it, otherwise in that of Prometheus.
pub(super) async fn metrics(State(services): State<Arc<Services>>, headers: HeaderMap) -> Response {
    services.metrics.set_ready(reason_not_ready(&services, None).await.is_none());
    services.metrics.set_write_fault(services.store.write_fault());
    services.metrics.set_queues(services.store.queued_writes(), replay_lag(&services).await);
    encode(&services.metrics, &headers)
}

/// How many events all connections have still to read from the log. The connections are only looked at if one has a lag.
async fn replay_lag(services: &Services) -> u64 {
    if services.metrics.lag_count.get() == 0 {
        return 0;
    }
    let connections = services.connections.clone();
    tokio::task::spawn_blocking(move || connections.slowest_connections(0).0.lag_events)
        .await
        .unwrap_or_default()
}

/// `/metrics` while the server stops.
pub(super) fn metrics_while_stopping(metrics: &Metrics, headers: &HeaderMap) -> Response {
    metrics.set_ready(false);
    encode(metrics, headers)
}

fn encode(metrics: &Metrics, headers: &HeaderMap) -> Response {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (kind, text) = if accepted.any(|value| value.contains("application/openmetrics-text")) {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.encode())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", metrics.encode_for_prometheus())
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
