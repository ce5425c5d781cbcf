//! `POST /v1/revoke`: a back end logs a user out everywhere.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{UserId, read_object};
use tokio::sync::oneshot;

use super::api::{Answer, check_back_end, check_send, read_body, respond};
use super::problem::Problem;
use crate::origin::Origin;
use crate::refusal::Refusal;
use crate::services::Services;
use crate::store::{Change, Submission};

/// `revoke`: the user's tokens that there are now are good no more, and their connections are closed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    /// Whose.
    user: UserId,
    /// This time counts also where one further ahead is noted: the server's clock was wrong at an earlier `revoke`.
    #[serde(default)]
    replace: bool,
}

/// Answers once the revocation is on stable storage and the connections are being closed.
pub(super) async fn revoke(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let revoked = async {
        let body = read_body(&parts.headers, body, services.limits.frame as usize).await?;
        let payer = check_back_end(&services, &parts.headers).await?;
        let Revoke { user, replace } = read_object(&body).map_err(Refusal::from)?;
        check_send(&services, &payer, 1)?;
        obey(&services, user, replace).await.map_err(Problem::from)
    };
    respond(&services, revoked.await)
}

/// Logs a user out everywhere.
pub(crate) async fn obey(services: &Services, user: UserId, replace: bool) -> Result<Answer, Refusal> {
    let (reply, stored) = oneshot::channel();
    let change = Change::Revoke { until: services.authenticator.latest_issued(), replace };
    let submission = Submission { actor: user.clone(), change, origin: Origin::Call(reply) };
    services.store.submit(submission).map_err(|_| Refusal::unavailable())?;
    stored.await.unwrap_or_else(|_| Err(Refusal::unavailable()))?;
    // Whoever comes in from here on reads what was stored; those who came before are with the router.
    services.router.revoke(user).await;
    Ok(OkBody::Done {})
}
