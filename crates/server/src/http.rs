//! The HTTP API: every route on one screen.

mod accept;
mod acting_as;
mod api;
mod assets;
mod ban;
mod body;
mod call;
mod delete_room;
mod document;
pub(crate) mod feed;
mod guard;
mod health;
mod import;
mod moderator;
mod operations;
mod operator;
mod people;
mod probes;
mod problem;
mod profiles;
mod rename;
pub(crate) mod reports;
mod request_span;
mod respond;
pub(crate) mod revoke;
mod send_many;
pub mod spec;
mod webhooks;
mod write_timeout;
mod ws;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use crate::services::Services;

/// How long a stopping server waits for the rest of a request that has begun to arrive, and for a client that does not read its
/// response. Most requests arrive whole, and a client whose request was cut sends it again.
const STOP_GRACE: Duration = Duration::from_secs(1);

pub(crate) use accept::serve;
pub(crate) use operator::{OPERATOR_CONNECTIONS, listen as listen_for_operators, serve as serve_operators};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {accept::builder, write_timeout::WriteTimeoutStream, ws::accept_handshake, ws::take_over};

/// The routes of the clients' listener.
pub(crate) fn routes(services: &Arc<Services>) -> Router {
    let operators = if services.has_operator_listener { Router::new() } else { operator_only_routes() };
    operators
        .route("/v1/ws", get(ws::upgrade))
        .route("/v1/openapi.json", get(spec::serve_openapi))
        .route("/v1/asyncapi.json", get(spec::serve_asyncapi))
        .route("/v1/revoke", post(revoke::revoke))
        .route("/v1/ban", post(ban::ban))
        .route("/v1/bans", post(ban::bans))
        .route("/v1/reports", post(reports::reports))
        .route("/v1/resolve", post(reports::resolve))
        .route("/v1/moderate/history", post(reports::history))
        .route("/v1/profiles", post(profiles::profiles))
        .route("/v1/list_users", post(people::list_users))
        .route("/v1/list_rooms", post(people::list_rooms))
        .route("/v1/unread", post(people::unread))
        .route("/v1/send_many", post(send_many::send_many))
        .route("/v1/rename_user", post(rename::rename_user))
        .route("/v1/delete_room", post(delete_room::delete_room))
        .route("/v1/import", post(import::import))
        .route("/v1/feed", post(feed::page).get(feed::stream))
        .merge(webhook_routes())
        .route("/v1/{command}", post(api::command))
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/version", get(operations::version))
        .fallback(get(assets::serve_file).fallback(assets::reject_method))
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(from_fn_with_state(services.clone(), guard::check_request))
        .layer(from_fn(request_span::enter))
        .with_state(services.clone())
}

/// The routes of the operators' listener.
fn operator_routes(services: &Arc<Services>) -> Router {
    let operations = Router::new()
        .route("/connections", get(operations::connections))
        .route("/connections/close", post(operations::close))
        .route("/rooms", get(operations::rooms))
        .route("/sizes", get(operations::sizes))
        .layer(from_fn_with_state(services.clone(), operations::check_access));
    operator_only_routes()
        .merge(operations)
        .route("/version", get(operations::version))
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .fallback(probes::unknown_operator_path)
        .layer(from_fn_with_state(services.clone(), guard::check_request))
        .layer(from_fn(request_span::enter))
        .with_state(services.clone())
}

/// The routes of the operators' listener while the server stops. They do not own the store, because its writer ends with the last
/// owner, and the server waits for the writer.
fn operator_routes_while_stopping(services: &Services) -> Router {
    let (tasks, metrics) = (services.tasks.clone(), services.metrics.clone());
    let stopping = move || std::future::ready(probes::stopping_response(&tasks));
    let metrics =
        move |headers: HeaderMap| std::future::ready(probes::metrics_while_stopping(&metrics, &headers));
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(stopping.clone()))
        .route("/healthz", get(stopping))
        .route("/metrics", get(metrics))
        .route("/version", get(operations::version))
        .fallback(probes::unknown_operator_path)
        .layer(from_fn(request_span::enter))
}

/// The calls about webhooks.
fn webhook_routes() -> Router<Arc<Services>> {
    Router::new()
        .route("/v1/add_webhook", post(webhooks::add))
        .route("/v1/list_webhooks", post(webhooks::list))
        .route("/v1/pause_webhook", post(webhooks::pause))
        .route("/v1/resume_webhook", post(webhooks::resume))
        .route("/v1/rotate_webhook", post(webhooks::rotate))
        .route("/v1/replay_webhook", post(webhooks::replay))
        .route("/v1/test_webhook", post(webhooks::test))
        .route("/v1/remove_webhook", post(webhooks::remove))
}

/// Routes for operators only: on the operators' listener if there is one.
fn operator_only_routes() -> Router<Arc<Services>> {
    Router::new().route("/healthz", get(health::check_delivery)).route("/metrics", get(probes::metrics))
}
