//! The HTTP door: every route on one screen.

mod accept;
mod api;
mod assets;
mod body;
mod document;
mod guard;
mod health;
mod operator;
mod patience;
mod probes;
mod problem;
pub(crate) mod revoke;
pub mod spec;
mod ws;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::services::Services;

pub(crate) use accept::serve;
pub(crate) use operator::{OPERATOR_CONNECTIONS, listen as listen_for_operators, serve as serve_operators};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {accept::builder, patience::Patient, ws::shake_hands, ws::take_over};

/// Everything that the server answers.
pub(crate) fn routes(services: &Arc<Services>) -> Router {
    let operators = if services.has_operator_listener { Router::new() } else { for_operators() };
    operators
        .route("/v1/ws", get(ws::upgrade))
        .route("/v1/openapi.json", get(spec::serve_openapi))
        .route("/v1/asyncapi.json", get(spec::serve_asyncapi))
        .route("/v1/revoke", post(revoke::revoke))
        .route("/v1/{command}", post(api::command))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .fallback(get(assets::file).fallback(assets::not_get))
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(from_fn_with_state(services.clone(), guard::check))
        .with_state(services.clone())
}

/// Everything that the operators' listener answers.
fn operator_routes(services: &Arc<Services>) -> Router {
    for_operators()
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .fallback(probes::not_here)
        .layer(from_fn_with_state(services.clone(), guard::check))
        .with_state(services.clone())
}

/// What is for operators alone: on the listener of their own if there is one.
fn for_operators() -> Router<Arc<Services>> {
    Router::new().route("/healthz", get(health::delivers)).route("/metrics", get(probes::metrics))
}
