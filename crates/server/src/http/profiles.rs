//! `POST /v1/profiles`: a back end changes the profiles of many users.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Avatar, Data, Limits, PROFILES, PersonName, SetProfile, UserId, read_object};

use super::api::{Answer, Authenticated, authenticate, check_acts_as, check_send};
use super::body;
use super::call::{Operation, schema, store_for_back_end};
use super::problem::Problem;
use super::respond::respond;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::grant::Scope;
use switchboard_store::profile::ProfileChange;
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, request};

/// `profiles`: changes the profiles of users, all of them or none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Profiles {
    /// The users, at most 1,000.
    profiles: Vec<ProfileOf>,
}

/// The call of this file.
pub(super) fn operations(generator: &mut SchemaGenerator) -> [Operation; 1] {
    [Operation {
        name: "profiles",
        summary: "Changes the profiles of users.",
        scope: Scope::People,
        request: schema::<Profiles>(generator),
        answer: None,
    }]
}

/// A user's profile. An absent field stays as it is; `null` removes it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProfileOf {
    /// The user.
    user: UserId,
    /// The name for people.
    #[serde(default, deserialize_with = "deserialize_nullable")]
    name: Option<Option<PersonName>>,
    /// The picture.
    #[serde(default, deserialize_with = "deserialize_nullable")]
    avatar: Option<Option<Avatar>>,
    /// The JSON object for the application. It is as public as the name.
    #[serde(default, deserialize_with = "deserialize_nullable")]
    data: Option<Option<Data>>,
    /// False if the user is gone: they cannot sign in and are not found, and keep their name and messages.
    active: Option<bool>,
}

/// Reads a field that is there: `null` becomes `Some(None)`, and only an absent field `None`.
fn deserialize_nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// Answers once the profiles are on stable storage.
pub(super) async fn profiles(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = answer(&services, &parts, &mut body).await;
    respond(&services, &parts, body, answered)
}

async fn answer(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(Answer, Option<Permit>), Problem> {
    let max_bytes = services.limits.bulk as usize;
    body::check_head(&head.headers, max_bytes)?;
    let request = authenticate(services, head).await?;
    request.check_back_end(Scope::People)?;
    services.require_feature(PROFILES)?;
    let Authenticated { credentials, grant, address, permit, .. } = request;
    let _bulk = services.bulk_calls.begin(credentials.payer(), Limits::MAX_CONCURRENT_BULK_CALLS)?;
    let text = body::read(body, max_bytes, services.tasks.stop()).await?;
    let Profiles { profiles } = read_object(&text).map_err(Refusal::from)?;
    drop(text);
    if profiles.len() > Limits::PROFILES {
        let message = format!("profiles: at most {} at a time", Limits::PROFILES);
        return Err(Refusal::too_large("profiles", message).into());
    }
    let filter = services.filter.as_ref().filter(|_| !grant.as_ref().is_some_and(|grant| grant.unasked));
    let mut changes = Vec::with_capacity(profiles.len());
    for (place, profile) in profiles.into_iter().enumerate() {
        let ProfileOf { user, name, avatar, data, active } = profile;
        check_acts_as(grant.as_ref(), &user)?;
        let fields = SetProfile { name, avatar, data };
        let checked = check_fields(services, &fields)
            .and_then(|()| filter.map_or(Ok(()), |filter| filter.check_profile(&fields)));
        checked.map_err(|refusal| with_profile_place(refusal, place))?;
        changes.push(ProfileChange { user, fields, active });
    }
    let gone: Vec<_> = changes
        .iter()
        .filter(|change| change.active == Some(false))
        .map(|change| change.user.clone())
        .collect();
    let Ok(actor) = UserId::parse("key") else { return Err(Refusal::unavailable().into()) };
    let change = Change::SetProfiles(changes);
    check_send(services, &credentials.payer(), grant.as_ref(), change.cost())?;
    let via = grant.map_or(Via::USER, |grant| grant.number);
    store_for_back_end(services, actor, change, (via, address)).await?;
    // A session that authenticates from now on reads that its user is gone; earlier sessions are registered with the router.
    for user in gone {
        services.router.revoke(user).await;
    }
    Ok((OkBody::Done {}, permit))
}

fn check_fields(services: &Services, fields: &SetProfile) -> Result<(), Refusal> {
    request::check_profile(fields)?;
    services.profiles.check_by_key(fields)
}

/// Names the profile in a refusal.
fn with_profile_place(refusal: Refusal, place: usize) -> Refusal {
    let field = refusal.field.as_deref().map(|field| format!("profiles[{place}].{field}").into());
    Refusal { field, ..refusal }
}
