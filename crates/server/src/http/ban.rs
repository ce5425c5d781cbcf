//! `POST /v1/ban` and `POST /v1/bans`: moderators keep users out of the installation.
//!
//! A ban is a row of the user. Every door asks the store for it, and compares its end with the clock, so that it ends by itself. The
//! user's connections are closed as after a revocation (see `revoke.rs` beside this file): on this node at once, on others by a notice
//! or by the sweep, both of which read the row.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{BANS, HOLD, Limits, ListedBan, Timestamp, UserId, read_object};

use super::api::{Answer, check_send, read_authenticated};
use super::call::{self, Maker, Operation, schema, store_for_back_end};
use super::problem::Problem;
use super::respond::respond;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::Change;
use switchboard_store::ban::{self, NewBan};
use switchboard_store::grant::Scope;
use switchboard_store::listing::{self, Listing};
use switchboard_store::refusal::Refusal;
use switchboard_store::request::check_words;

/// `ban`: the user's connections are closed, and the user is refused everywhere until the ban ends.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ban {
    /// The user, who need not be known yet.
    user: UserId,
    /// When the ban ends; without it, it has no end.
    until: Option<Timestamp>,
    /// What the user reads.
    reason: Option<String>,
    /// What only moderators read.
    note: Option<String>,
    /// Whether the user comes in all the same, and what they send is held.
    #[serde(default)]
    shadow: bool,
    /// False ends the user's ban.
    #[serde(default = "default_true")]
    on: bool,
}

fn default_true() -> bool {
    true
}

/// `bans`: the bans that hold now, by the users' numbers. A page may be empty although there is more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Bans {
    /// `next` of the page before; absent for the first page.
    #[serde(default)]
    after: u64,
    /// The most bans; a page also ends at `page_bytes`.
    limit: Option<u32>,
}

/// A page of bans.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct BanList {
    /// The bans, by the users' numbers.
    bans: Vec<ListedBan>,
    /// What the next call sends as `after`.
    next: u64,
    /// Whether there is more.
    more: bool,
}

/// The calls of this file.
pub(super) fn operations(generator: &mut SchemaGenerator) -> [Operation; 2] {
    [
        Operation {
            name: "ban",
            summary: "Bans a user from the installation, or ends the user's ban.",
            scope: Scope::Moderate,
            request: schema::<Ban>(generator),
            answer: None,
        },
        Operation {
            name: "bans",
            summary: "Lists the bans from the installation, by the users' numbers.",
            scope: Scope::Moderate,
            request: schema::<Bans>(generator),
            answer: Some(schema::<BanList>(generator)),
        },
    ]
}

/// Answers once the ban is on stable storage and the connections are being closed.
pub(super) async fn ban(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = answer_ban(&services, &parts, &mut body).await;
    respond(&services, &parts, body, answered)
}

async fn answer_ban(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(Answer, Option<Permit>), Problem> {
    let request = read_authenticated(services, head, body).await?;
    let moderator = request.moderator(Scope::Moderate)?;
    let ban: Ban = read_object(&request.text).map_err(Refusal::from)?;
    moderator.check_sees(&ban.user)?;
    services.require_feature(if ban.shadow { HOLD } else { BANS })?;
    let (user, new) = check_ban(ban)?;
    check_send(services, &moderator.payer, moderator.grant.as_ref(), 1)?;
    Ok((ban_user(services, user, new, moderator.maker()).await?, request.permit))
}

/// Checks the texts of a ban. Its end is checked by the store, which has the clock.
fn check_ban(ban: Ban) -> Result<(UserId, Option<NewBan>), Refusal> {
    let Ban { user, until, reason, note, shadow, on } = ban;
    check_words("reason", reason.as_deref(), Limits::MAX_BAN_REASON_BYTES)?;
    check_words("note", note.as_deref(), Limits::MAX_BAN_NOTE_BYTES)?;
    if on && shadow && reason.is_some() {
        let message = "reason: the user reads it, and is not to know of a shadow ban; use `note`";
        return Err(Refusal::bad_field("reason", message));
    }
    if on {
        return Ok((user, Some(NewBan { ban: ban::Ban { until, reason, shadow }, note })));
    }
    let named = [
        ("until", until.is_some()),
        ("reason", reason.is_some()),
        ("note", note.is_some()),
        ("shadow", shadow),
    ];
    match named.into_iter().find(|(_, is_named)| *is_named) {
        Some((field, _)) => {
            Err(Refusal::bad_field(field, format!("{field}: with `on` false a ban ends; leave it out")))
        }
        None => Ok((user, None)),
    }
}

/// Bans a user, or ends the user's ban.
async fn ban_user(
    services: &Services,
    user: UserId,
    new: Option<NewBan>,
    maker: Maker,
) -> Result<Answer, Refusal> {
    let ban = new.as_ref().map(|new| new.ban.clone());
    let change = Change::Ban(new.map(Box::new));
    store_for_back_end(services, user.clone(), change, maker).await?;
    // A session that authenticates from now on reads the stored ban; earlier sessions are registered with the router.
    if let Some(ban) = ban {
        services.router.ban(user, ban).await;
    }
    Ok(OkBody::Done {})
}

pub(super) async fn bans(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let request = read_authenticated(&services, &parts, &mut body).await?;
        let moderator = request.moderator(Scope::Moderate)?;
        check_send(&services, &moderator.payer, moderator.grant.as_ref(), 1)?;
        let Bans { after, limit } = read_object(&request.text).map_err(Refusal::from)?;
        let visible = moderator.visible();
        let query = listing::ListBans { after, limit, now: services.clock.now(), visible };
        let Listing { items: bans, next, more } = services.store.list_bans(query).await?;
        Ok((BanList { bans, next, more }, request.permit))
    };
    let answered = answered.await;
    call::respond(&services, &parts, body, answered)
}
