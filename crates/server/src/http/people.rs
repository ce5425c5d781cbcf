//! What a back end reads of the whole installation: `list_users`, `list_rooms` and `unread`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use rustc_hash::FxHashSet;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use switchboard_protocol::{Limits, ListedRoom, ListedUser, UserId, UserUnread, read_object};

use super::api::{Authenticated, authenticate, check_acts_as, check_send, read_authenticated};
use super::body;
use super::call::{Operation, respond, schema};
use super::operations::ask_other_nodes;
use super::problem::Problem;
use crate::connections::OnlineQuestion;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::grant::{Scope, UserPattern};
use switchboard_store::listing::{self, Listing};
use switchboard_store::refusal::Refusal;

/// `list_users`: all users of the installation, by number. A page may be empty although there is more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListUsers {
    /// `next` of the page before; absent for the first page.
    #[serde(default)]
    after: u64,
    /// The most users; a page also ends at `page_bytes`.
    limit: Option<u32>,
    /// Only users whose ids match; `*` stands for any characters.
    #[serde(rename = "match")]
    matches: Option<String>,
    /// Only users who are there, or only users whom the application has called gone.
    active: Option<bool>,
}

/// `list_rooms`: all rooms of the installation, by number. A page may be empty although there is more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListRooms {
    /// `next` of the page before; absent for the first page.
    #[serde(default)]
    after: u64,
    /// The most rooms; a page also ends at `page_bytes`.
    limit: Option<u32>,
    /// Only rooms whose ids match, as `#support-*`; `*` stands for any characters.
    #[serde(rename = "match")]
    matches: Option<String>,
    /// Only rooms of which this user is a member.
    member: Option<UserId>,
    /// Only rooms that any user may join, or only the others.
    public: Option<bool>,
}

/// `unread`: what users have not read, each over the 200 conversations with the latest activity.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Unread {
    /// The users, at most 1,000.
    users: Vec<UserId>,
}

/// A page of users.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct UserList {
    /// The users, by number.
    users: Vec<ListedUser>,
    /// What the next call sends as `after`.
    next: u64,
    /// Whether there is more.
    more: bool,
}

/// A page of rooms.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RoomList {
    /// The rooms, by number.
    rooms: Vec<ListedRoom>,
    /// What the next call sends as `after`.
    next: u64,
    /// Whether there is more.
    more: bool,
}

/// What users have not read, in the order asked.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct UnreadCounts {
    users: Vec<UserUnread>,
}

/// The calls of this file.
pub(super) fn operations(generator: &mut SchemaGenerator) -> [Operation; 3] {
    [
        Operation {
            name: "list_users",
            summary: "Lists all users, by number.",
            scope: Scope::People,
            request: schema::<ListUsers>(generator),
            answer: Some(schema::<UserList>(generator)),
        },
        Operation {
            name: "list_rooms",
            summary: "Lists all rooms, by number.",
            scope: Scope::People,
            request: schema::<ListRooms>(generator),
            answer: Some(schema::<RoomList>(generator)),
        },
        Operation {
            name: "unread",
            summary: "Counts what up to 1,000 users have not read.",
            scope: Scope::People,
            request: schema::<Unread>(generator),
            answer: Some(schema::<UnreadCounts>(generator)),
        },
    ]
}

pub(super) async fn list_users(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let request = read_list(&services, &parts, &mut body).await?;
        let ListUsers { after, limit, matches, active } =
            read_object(&request.text).map_err(Refusal::from)?;
        let matches = matches.as_deref().map(parse_pattern).transpose()?;
        let visible = request.grant.and_then(|grant| grant.acts_as);
        let query = listing::ListUsers { after, limit, matches, active, visible };
        let Listing { items: users, next, more } = services.store.list_users(query).await?;
        Ok((UserList { users, next, more }, request.permit))
    };
    let answered = answered.await;
    respond(&services, &parts, body, answered)
}

pub(super) async fn list_rooms(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let request = read_list(&services, &parts, &mut body).await?;
        let ListRooms { after, limit, matches, member, public } =
            read_object(&request.text).map_err(Refusal::from)?;
        let matches = matches.as_deref().map(parse_room_pattern).transpose()?;
        let mut visible = request.grant.as_ref().and_then(|grant| grant.acts_as.clone());
        if let Some(member) = &member {
            check_acts_as(request.grant.as_ref(), member)?;
            // The rooms of a user whom the key sees are rooms with such a member.
            visible = None;
        }
        let query = listing::ListRooms { after, limit, matches, member, public, visible };
        let Listing { items: rooms, next, more } = services.store.list_rooms(query).await?;
        Ok((RoomList { rooms, next, more }, request.permit))
    };
    let answered = answered.await;
    respond(&services, &parts, body, answered)
}

/// Checks the key of a list, counts it against the key's rate, and reads the request.
async fn read_list(services: &Services, head: &Parts, body: &mut Body) -> Result<Authenticated, Problem> {
    let request = read_authenticated(services, head, body).await?;
    request.check_back_end(Scope::People)?;
    check_send(services, &request.credentials.payer(), request.grant.as_ref(), 1)?;
    Ok(request)
}

fn parse_pattern(pattern: &str) -> Result<UserPattern, Refusal> {
    pattern.parse().map_err(|wrong| Refusal::bad_field("match", format!("match: {wrong}")))
}

fn parse_room_pattern(pattern: &str) -> Result<UserPattern, Refusal> {
    let Some(name) = pattern.strip_prefix('#') else {
        return Err(Refusal::bad_field("match", "match: begin with `#`, as in `#support-*`"));
    };
    parse_pattern(name)
}

pub(super) async fn unread(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = count_unread(&services, &parts, &mut body).await;
    respond(&services, &parts, body, answered)
}

async fn count_unread(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(UnreadCounts, Option<Permit>), Problem> {
    let (request, Unread { users }, _bulk) = read_bulk(services, head, body, Scope::People).await?;
    check_users(&users)?;
    for user in &users {
        check_acts_as(request.grant.as_ref(), user)?;
    }
    let price = u32::try_from(users.len()).unwrap_or(u32::MAX).max(1);
    check_send(services, &request.credentials.payer(), request.grant.as_ref(), price)?;
    let online = find_online_users(services, &users).await;
    let mut counts = services.store.unread(users).await?;
    for count in counts.iter_mut().filter(|count| online.contains(&count.user)) {
        count.online = true;
        count.last_seen = None;
    }
    Ok((UnreadCounts { users: counts }, request.permit))
}

/// The users among `users` who are connected to any node. A node that does not answer in time counts as one without connections.
async fn find_online_users(services: &Services, users: &[UserId]) -> FxHashSet<UserId> {
    let mut online = services.connections.online_users(users);
    ask_other_nodes(services, &OnlineQuestion { online: users.to_vec() }, &mut online).await;
    online.into_iter().collect()
}

/// Checks the key of a call whose body has up to `limits.bulk` bytes, and only then reads the body. The permit counts the call among
/// those with large bodies.
pub(super) async fn read_bulk<T: for<'de> Deserialize<'de>>(
    services: &Services,
    head: &Parts,
    body: &mut Body,
    scope: Scope,
) -> Result<(Authenticated, T, Permit), Problem> {
    let max_bytes = services.limits.bulk as usize;
    body::check_head(&head.headers, max_bytes)?;
    let request = authenticate(services, head).await?;
    request.check_back_end(scope)?;
    let bulk = services.bulk_calls.begin(request.credentials.payer(), Limits::MAX_CONCURRENT_BULK_CALLS)?;
    let text = body::read(body, max_bytes, services.tasks.stop()).await?;
    let asked = read_object(&text).map_err(Refusal::from)?;
    Ok((request, asked, bulk))
}

/// Checks how many users a call names.
pub(super) fn check_users(users: &[UserId]) -> Result<(), Refusal> {
    if users.len() > Limits::BULK_USERS {
        let message = format!("users: at most {} at a time", Limits::BULK_USERS);
        return Err(Refusal::too_large("users", message));
    }
    Ok(())
}
