//! `POST /v1/revoke`: a back end logs a user out everywhere.
//!
//! # What a revocation does
//! 1. [`revoke_user`] submits [`Change::Revoke`]. The store keeps the latest `iat` that a token can have by now as the user's
//!    `not_before`. From then on, `api.rs` and `session/hello.rs` refuse a token with that `iat`, an earlier one or none.
//! 2. The router publishes a notice to the user's other nodes, and closes the user's sessions on this node. An attaching session
//!    notices that between two pages of memberships, or at the end. A later session reads `not_before` in its snapshot.
//! 3. Another node queries `not_before`, because the notice may be old, and closes the live sessions that attached with an earlier
//!    one (`router/cluster/verify.rs`). It also does so in each sweep, because notices may be lost.
//! 4. The snapshot of a session that attaches there may be older than the revocation. So the user is marked with `must_compare`: when a session of
//!    the user becomes live, the node compares the user's memberships and `not_before` with the store again.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{UserId, read_object};

use super::api::{Answer, check_send, read_authenticated};
use super::call::{Maker, store_for_back_end};
use super::problem::Problem;
use super::respond::respond;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::Change;
use switchboard_store::grant::Scope;
use switchboard_store::refusal::Refusal;

/// `revoke`: the user's existing tokens become invalid, and the user's connections are closed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    /// The user.
    user: UserId,
    /// Replaces an earlier revocation even if that one has a later time, because the server's clock was wrong then.
    #[serde(default)]
    replace: bool,
}

/// Answers once the revocation is on stable storage and the connections are being closed.
pub(super) async fn revoke(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = answer(&services, &parts, &mut body).await;
    respond(&services, &parts, body, answered)
}

async fn answer(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(Answer, Option<Permit>), Problem> {
    let request = read_authenticated(services, head, body).await?;
    let moderator = request.moderator(Scope::Revoke)?;
    let Revoke { user, replace } = read_object(&request.text).map_err(Refusal::from)?;
    moderator.check_sees(&user)?;
    check_send(services, &moderator.payer, moderator.grant.as_ref(), 1)?;
    Ok((revoke_user(services, user, replace, moderator.maker()).await?, request.permit))
}

/// Logs a user out everywhere.
pub(crate) async fn revoke_user(
    services: &Services,
    user: UserId,
    replace: bool,
    maker: impl Into<Maker>,
) -> Result<Answer, Refusal> {
    let change = Change::Revoke { until: services.authenticator.latest_issued(), replace };
    store_for_back_end(services, user.clone(), change, maker).await?;
    // A session that authenticates from now on reads the stored revocation; earlier sessions are registered with the router.
    services.router.revoke(user).await;
    Ok(OkBody::Done {})
}
