//! `POST /v1/rename_user`: a back end gives a user another id.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use switchboard_protocol::{UserId, read_object};

use super::api::{check_send, read_authenticated};
use super::call::{Done, Operation, respond, schema};
use crate::services::Services;
use switchboard_store::grant::Scope;
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;
use switchboard_store::rename::{self, Rename};

/// `rename_user`: the user has another id from now on, and the old one is never given again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RenameUser {
    /// The user.
    user: UserId,
    /// The new id, which must never have been used.
    to: UserId,
}

/// The call of this file.
pub(super) fn operations(generator: &mut SchemaGenerator) -> [Operation; 1] {
    [Operation {
        name: "rename_user",
        summary: "Gives a user another id.",
        scope: Scope::Admin,
        request: schema::<RenameUser>(generator),
        answer: None,
    }]
}

/// Answers once the new id is on stable storage and the user's connections are being closed.
pub(super) async fn rename_user(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let request = read_authenticated(&services, &parts, &mut body).await?;
        request.check_back_end(Scope::Admin)?;
        request.check_unlimited()?;
        let RenameUser { user, to } = read_object(&request.text).map_err(Refusal::from)?;
        check_send(&services, &request.credentials.payer(), request.grant.as_ref(), 1)?;
        let via = request.grant.map_or(Via::USER, |grant| grant.number);
        let address = request.address.map(|address| address.to_string());
        let (database, asked) =
            (services.key_store.clone(), Rename { user: user.clone(), to: to.clone(), via, address });
        let done = tokio::task::spawn_blocking(move || rename::rename_user(&database, &asked)).await;
        let conversations = done.unwrap_or_else(|error| Err(error.into())).map_err(|error| {
            tracing::error!("rename_user: {error:#}");
            Refusal::unavailable()
        })??;
        // A session that authenticates from now on reads that the id is retired; earlier sessions are registered with the router.
        services.router.renamed(user, to, conversations).await;
        Ok((Done {}, request.permit))
    };
    let answered = answered.await;
    respond(&services, &parts, body, answered)
}
