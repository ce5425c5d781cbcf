//! `POST /v1/<command>`: the commands of the WebSocket, one per request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use headers::HeaderMapExt as _;
use headers::authorization::{Authorization, Bearer};
use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Command, ErrorCode, Key, Permissions, Target, UserId, decode_named};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::accept::Client;
use super::acting_as::{ActingAs, acting_as};
use super::body;
use super::problem::Problem;
use super::request_span;
use super::respond::respond;
use crate::auth::{self, ApiKey, Identity};
use crate::config::Network;
use crate::denial::{Denial, Denied};
use crate::hooks::{Asker, AskingKey, Decision};
use crate::in_flight::Permit;
use crate::limiter::RateOwner;
use crate::metrics::DropReason;
use crate::places::Place;
use crate::services::Services;
use switchboard_store::grant::{KeyGrant, Scope};
use switchboard_store::origin::{BackEndOrigin, Origin, UserOrigin};
use switchboard_store::profile::People;
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Request as StoreRequest, Submission, check_not_banned, request};

/// Credentials checked longer ago than this are checked again when the body is complete, because a token may have expired or been
/// revoked in the meantime.
const MAX_CREDENTIALS_AGE: Duration = Duration::from_secs(1);

pub(super) type Answer = OkBody<Box<RawValue>>;
type Answered = Result<Answer, Refusal>;

/// The contents of the `Authorization` header.
pub(super) enum Credentials {
    /// The request has no credentials, which only a `dev` server accepts.
    None,
    /// A back end's API key, by its hash.
    Key([u8; 32]),
    /// A user's token with a valid signature and valid times.
    Token(Identity),
}

impl Credentials {
    /// The payer whose rate the request counts against.
    pub(super) fn payer(&self) -> RateOwner {
        match self {
            Self::None => RateOwner::Nobody,
            Self::Key(hash) => RateOwner::Key(*hash),
            Self::Token(identity) => RateOwner::User(identity.user.clone()),
        }
    }
}

/// An authenticated request.
pub(super) struct Authenticated {
    pub(super) credentials: Credentials,
    /// What the API key may do, if there is one.
    pub(super) grant: Option<KeyGrant>,
    /// The client's address.
    pub(super) address: Option<IpAddr>,
    /// The request's body.
    pub(super) text: String,
    /// The permit that counts the request as in flight until it is dropped.
    pub(super) permit: Option<Permit>,
}

/// The user whom a request acts for.
#[derive(Clone)]
pub(super) struct Caller {
    user: UserId,
    /// The payer whose rate the request counts against.
    payer: RateOwner,
    grant: Option<KeyGrant>,
    address: Option<IpAddr>,
    /// The claims of the user's token as JSON, where the application is asked.
    claims: Option<Arc<str>>,
    /// What the user may do; `None` if a back end acts for the user.
    permissions: Option<Arc<Permissions>>,
}

/// Answers a command with its `ok` frame, or a problem.
pub(super) async fn command(
    State(services): State<Arc<Services>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    if Command::NAMES.contains(&name.as_str()) {
        request_span::record("command", &name);
    }
    let (parts, mut body) = request.into_parts();
    let answered = answer(&services, &name, &parts, &mut body).await;
    respond(&services, &parts, body, answered)
}

async fn answer(
    services: &Services,
    name: &str,
    head: &Parts,
    body: &mut Body,
) -> Result<(Answer, Option<Permit>), Problem> {
    let request = read_authenticated(services, head, body).await?;
    request.check_scope(Scope::Act)?;
    let Authenticated { credentials, grant, address, text, permit } = request;
    let (user, payer) = identify(&credentials, &text)?;
    check_acts_as(grant.as_ref(), &user)?;
    let claims = services.hooks.as_ref().and_then(|_| claims(&head.headers, &credentials));
    let permissions = match &credentials {
        Credentials::Token(identity) => Some(services.permissions_of(Some(identity))),
        Credentials::Key(_) | Credentials::None => None,
    };
    let caller = Caller { user, payer, grant, address, claims, permissions };
    request_span::record("user", caller.user.as_str());
    let user = caller.user.clone();
    let answered = match read_command(name, &text, &head.headers, services) {
        Ok(command) => dispatch(services, head, caller, command).await,
        Err(refusal) => Err(refusal),
    };
    answered.map(|answer| (answer, permit)).map_err(|refusal| Problem::from(refusal).with_user(user))
}

/// Checks the credentials and the payer's number of requests in flight, and only then reads the body.
pub(super) async fn read_authenticated(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<Authenticated, Problem> {
    let (headers, max_bytes) = (&head.headers, services.limits.frame as usize);
    body::check_head(headers, max_bytes)?;
    let mut request = authenticate(services, head).await?;
    let checked = Instant::now();
    request.text = body::read(body, max_bytes, services.tasks.stop()).await?;
    if checked.elapsed() > MAX_CREDENTIALS_AGE {
        request.credentials = verify_credentials(services, headers)?;
        request.grant = confirm_credentials(services, &request.credentials, request.address).await?;
    }
    Ok(request)
}

/// Checks the credentials of a request and the payer's number of requests in flight. The text is still empty.
pub(super) async fn authenticate(services: &Services, head: &Parts) -> Result<Authenticated, Problem> {
    let credentials = verify_credentials(services, &head.headers)?;
    // The permit is taken before the query of the store, so that the number of requests that wait for the store is bounded, too.
    let permit = take_permit(services, &credentials)?;
    let address = head.extensions.get::<Client>().map(|client| client.address);
    let grant = confirm_credentials(services, &credentials, address).await?;
    if let Some(place) = head.extensions.get::<Arc<Place>>() {
        // If the connection has been evicted before, this changes nothing, and the connection ends.
        place.mark_authenticated();
    }
    if let Some(grant) = &grant {
        store_use(services, grant);
    }
    Ok(Authenticated { credentials, grant, address, text: String::new(), permit })
}

impl Authenticated {
    /// The back end as one that acts for a user, whom its key must allow.
    pub(super) fn acts_as(&self, user: UserId) -> Result<Caller, Denied> {
        check_acts_as(self.grant.as_ref(), &user)?;
        let (payer, grant) = (self.credentials.payer(), self.grant.clone());
        Ok(Caller { user, payer, grant, address: self.address, claims: None, permissions: None })
    }

    /// Checks that a key has a scope. Users' tokens have none, and may do what the call allows to users.
    pub(super) fn check_scope(&self, scope: Scope) -> Result<(), Denied> {
        match &self.grant {
            Some(grant) if !grant.scopes.allow(scope) => {
                Err(Denied::new(Denial::NotPermitted, Refusal::out_of_scope(scope)))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the request comes from a back end whose key has a scope.
    pub(super) fn check_back_end(&self, scope: Scope) -> Result<(), Denied> {
        if matches!(self.credentials, Credentials::Token(_)) {
            let refusal = Refusal::forbidden("this needs an API key; a user's token is not enough");
            return Err(Denied::new(Denial::NotPermitted, refusal));
        }
        self.check_scope(scope)
    }

    /// Checks that the key may read everything, because the call is about the whole installation.
    pub(super) fn check_unlimited(&self) -> Result<(), Denied> {
        if self.grant.as_ref().is_some_and(|grant| grant.acts_as.is_some() || grant.no_text) {
            let message =
                "this is about all conversations, and the API key was made with `--as` or `--no-text`";
            return Err(Denied::new(Denial::NotPermitted, Refusal::forbidden(message)));
        }
        Ok(())
    }
}

/// Checks the credentials of a request again that has waited.
pub(super) async fn authenticate_again(services: &Services, head: &Parts) -> Result<(), Denied> {
    let credentials = verify_credentials(services, &head.headers)?;
    let address = head.extensions.get::<Client>().map(|client| client.address);
    confirm_credentials(services, &credentials, address).await.map(drop)
}

fn take_permit(services: &Services, credentials: &Credentials) -> Result<Option<Permit>, Refusal> {
    let (limits, payer) = (&services.limits, credentials.payer());
    let most = match payer {
        RateOwner::Nobody => return Ok(None),
        RateOwner::Key(_) => limits.requests_per_key,
        RateOwner::User(_) => limits.requests_per_user,
    };
    let permit = services.in_flight.begin(payer, most);
    permit.map(Some).inspect_err(|_| services.metrics.count_dropped(DropReason::RateLimit))
}

/// Determines the user whom a request acts for, from its credentials and the `as` of its body.
fn identify(credentials: &Credentials, body: &str) -> Result<(UserId, RateOwner), Denied> {
    let payer = credentials.payer();
    match (acting_as(body)?, credentials) {
        (ActingAs::User(user), Credentials::Key(_) | Credentials::None) => Ok((user, payer)),
        (ActingAs::Unreadable(refusal), Credentials::Key(_) | Credentials::None) => Err(refusal.into()),
        (ActingAs::Absent, Credentials::Key(_)) => {
            let message = "as: with an API key, name the user to act as: `\"as\":\"alice\"`";
            Err(Refusal::bad_field("as", message).into())
        }
        (ActingAs::Absent, Credentials::None) => {
            Err(Denied::unauthorized(Denial::NoCredentials, "name the user to act as: `\"as\":\"alice\"`"))
        }
        (ActingAs::User(other), Credentials::Token(identity)) if other != identity.user => {
            let message = "a user's token acts for that user only; leave `as` out, or use an API key";
            Err(Denied::new(Denial::NotPermitted, Refusal::forbidden(message)))
        }
        (_, Credentials::Token(identity)) => Ok((identity.user.clone(), payer)),
    }
}

/// Reads and verifies the credentials of a request as far as possible without the store.
///
/// # Errors
/// Required credentials are missing, or they are invalid.
fn verify_credentials(services: &Services, headers: &HeaderMap) -> Result<Credentials, Denied> {
    match bearer(headers)?.as_ref().map(Authorization::token) {
        None if services.is_dev() => Ok(Credentials::None),
        None => Err(Denied::unauthorized(
            Denial::NoCredentials,
            "send `Authorization: Bearer <a user's token, or an API key>`",
        )),
        Some(key) if key.starts_with(ApiKey::PREFIX) => Ok(Credentials::Key(ApiKey::hash(key))),
        Some(token) => Ok(Credentials::Token(services.authenticator.check(token)?)),
    }
}

/// Checks in the store that the API key may be used now and from this address, or that the token is not revoked.
async fn confirm_credentials(
    services: &Services,
    credentials: &Credentials,
    address: Option<IpAddr>,
) -> Result<Option<KeyGrant>, Denied> {
    match credentials {
        Credentials::None => Ok(None),
        Credentials::Key(hash) => match services.store.api_key(*hash).await? {
            Some(grant) => check_grant(services, grant, address).map(Some),
            None => Err(Denied::unauthorized(Denial::BadKey, "the API key is wrong or was revoked")),
        },
        Credentials::Token(identity) => {
            let standing = services.store.standing(&identity.user).await?;
            let allowed = services.check_standing(&identity.user, Some(identity), &standing);
            allowed.map(|()| None).map_err(|(denied, _)| denied)
        }
    }
}

/// Checks when the key expires, and from where it may be used.
fn check_grant(services: &Services, grant: KeyGrant, address: Option<IpAddr>) -> Result<KeyGrant, Denied> {
    if grant.expires.is_some_and(|expires| expires <= services.clock.now()) {
        return Err(Denied::unauthorized(Denial::BadKey, "the API key has expired, or was rotated"));
    }
    let is_in = |network: &str| {
        let network = network.parse::<Network>();
        network.is_ok_and(|network| address.is_some_and(|address| network.contains(address)))
    };
    if grant.addresses.as_deref().is_some_and(|networks| !networks.split(',').any(is_in)) {
        let refusal = Refusal::forbidden("the API key may not be used from this address");
        return Err(Denied::new(Denial::NotPermitted, refusal));
    }
    Ok(grant)
}

/// Stores the hour of a key's last use, if it is another one than before.
fn store_use(services: &Services, grant: &KeyGrant) {
    let hour = KeyGrant::hour_of(services.clock.now());
    if grant.used.is_none_or(|used| used < hour) {
        let Ok(actor) = UserId::parse("key") else { return };
        let change = Change::UseKey(grant.number, hour);
        // If the store takes no writes, the next use of the hour after stores it.
        let origin = Origin::Call(oneshot::channel().0);
        let _ = services.store.submit(Submission { actor, change, origin });
    }
}

/// Checks that a key may act for a user.
pub(super) fn check_acts_as(grant: Option<&KeyGrant>, user: &UserId) -> Result<(), Denied> {
    let pattern = grant.and_then(|grant| grant.acts_as.as_ref());
    if pattern.is_none_or(|pattern| pattern.matches(user)) {
        return Ok(());
    }
    let message =
        "the API key was made for other users: `switchboard key list` shows the pattern of their ids";
    Err(Denied::new(Denial::NotPermitted, Refusal::forbidden(message)))
}

fn bearer(headers: &HeaderMap) -> Result<Option<Authorization<Bearer>>, Denied> {
    headers.typed_try_get().map_err(|_| {
        let message = "the header is `Authorization: Bearer <token or key>`";
        Denied::unauthorized(Denial::NoCredentials, message)
    })
}

fn read_command(
    name: &str,
    body: &str,
    headers: &HeaderMap,
    services: &Services,
) -> Result<Command, Refusal> {
    if Command::SOCKET_ONLY.contains(&name) {
        let message = "this command needs a connection: use the WebSocket at /v1/ws";
        return Err(Refusal::new(ErrorCode::UnknownType, message));
    }
    let mut command = decode_named(name, body).map_err(Refusal::from)?.command;
    if let (Command::Send(send), Some(key)) = (&mut command, headers.get("idempotency-key")) {
        let key = key
            .to_str()
            .ok()
            .map(|key| key.strip_prefix('"').and_then(|k| k.strip_suffix('"')).unwrap_or(key));
        let key = key.and_then(|key| Key::parse(key).ok());
        let key =
            key.ok_or_else(|| Refusal::bad_field("key", "Idempotency-Key: 1 to 128 visible characters"))?;
        if send.key.as_ref().is_some_and(|other| *other != key) {
            return Err(Refusal::bad_field(
                "key",
                "key: it differs from the header Idempotency-Key; send only one of them",
            ));
        }
        send.key = Some(key);
    }
    services.check_feature(&command)?;
    request::check(&command, &services.limits)?;
    Ok(command)
}

async fn dispatch(services: &Services, head: &Parts, caller: Caller, command: Command) -> Answered {
    let request = StoreRequest::from(command);
    // A token was checked before the body was read, and the store checks the user of each change.
    if !matches!((&caller.payer, &request), (RateOwner::User(_), _) | (_, StoreRequest::Change(_))) {
        let standing = services.store.standing(&caller.user).await?;
        check_not_banned(standing.ban.as_ref(), services.clock.now())?;
    }
    match request {
        StoreRequest::Change(change) => submit_change(services, head, caller, change).await,
        StoreRequest::Query(query) => services.store.query(&caller.user, query).await,
        StoreRequest::Typing(target) => typing(services, caller, &target).await,
        StoreRequest::People(query) => {
            let counted = services.limiter.check_people(&caller.payer, &query);
            counted.inspect_err(|_| services.metrics.count_dropped(DropReason::RateLimit))?;
            let permissions = caller.permissions.as_ref().unwrap_or(&services.permissions);
            let People { users, more } =
                services.store.people(&caller.user, query, permissions.directory).await?;
            Ok(OkBody::Users { users, more })
        }
        StoreRequest::Ping => Ok(OkBody::Done {}),
        StoreRequest::Hello | StoreRequest::Watch(_) | StoreRequest::Token(_) => Err(Refusal::not_found()),
    }
}

async fn submit_change(services: &Services, head: &Parts, caller: Caller, change: Change) -> Answered {
    check_change(services, &caller, &change)?;
    submit_checked(services, head, caller, change).await
}

fn check_change(services: &Services, caller: &Caller, change: &Change) -> Result<(), Refusal> {
    if change.cursor().is_some() {
        let counted = services.limiter.check_cursor(&caller.payer);
        counted.inspect_err(|_| services.metrics.count_dropped(DropReason::RateLimit))?;
    } else {
        check_send(services, &caller.payer, caller.grant.as_ref(), change.cost())?;
    }
    if let Change::SetProfile(fields) = change {
        match &caller.payer {
            RateOwner::User(user) => services.check_own_profile(user, fields)?,
            RateOwner::Key(_) | RateOwner::Nobody => services.profiles.check_by_key(fields)?,
        }
    }
    Ok(())
}

/// Submits a change that was counted against the payer's rates.
pub(super) async fn submit_checked(
    services: &Services,
    head: &Parts,
    caller: Caller,
    change: Change,
) -> Answered {
    let change = match change {
        Change::Invite(invite) if may_reopen(&caller) => Change::InviteWithKey(invite),
        change => change,
    };
    let Decision { change, turn } = ask_application(services, head, &caller, change).await?;
    let (reply, outcome) = oneshot::channel();
    let origin = match (caller.permissions, caller.payer) {
        (Some(permissions), _) => Origin::User(UserOrigin { reply, permissions }),
        (None, RateOwner::User(_)) => Origin::Call(reply),
        (None, RateOwner::Key(_) | RateOwner::Nobody) => {
            let via = caller.grant.map_or(Via::USER, |grant| grant.number);
            Origin::BackEnd(BackEndOrigin { reply, via, address: caller.address, by: None })
        }
    };
    let submission = Submission { actor: caller.user, change, origin };
    services.store.submit(submission).map_err(|_| Refusal::unavailable())?;
    drop(turn);
    outcome.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
}

/// Whether an invitation may bring back a room that all its members have left. A key that acts for some users reads only what they
/// may read, and would read the whole log.
fn may_reopen(caller: &Caller) -> bool {
    !matches!(caller.payer, RateOwner::User(_))
        && caller.grant.as_ref().is_none_or(|grant| grant.acts_as.is_none())
}

/// Asks the application about a change, if it is to be asked. Returns what to submit.
async fn ask_application(
    services: &Services,
    head: &Parts,
    caller: &Caller,
    change: Change,
) -> Result<Decision, Refusal> {
    let unasked = caller.grant.as_ref().is_some_and(|grant| grant.unasked);
    let change = if unasked { change } else { services.filter_words(change) };
    let asked = services.hooks.as_ref().filter(|_| !unasked);
    let Some((hooks, about)) =
        asked.and_then(|hooks| Some((hooks, hooks.question_about(&caller.user, &change)?)))
    else {
        return Ok(Decision { change, turn: None });
    };
    let key = caller.grant.as_ref().map(|grant| AskingKey {
        number: grant.number,
        name: grant.name.clone(),
        address: caller.address,
    });
    // The address of a back end is not that of the user.
    let address = caller.address.filter(|_| matches!(caller.payer, RateOwner::User(_)));
    let (user, claims) = (caller.user.clone(), caller.claims.clone());
    let asker = Asker { user, claims, permissions: caller.permissions.clone(), address, key };
    let decision = hooks.begin(asker, about, change).await.map_err(|_| Refusal::unavailable())?;
    // The user or the key may have been revoked during the question.
    authenticate_again(services, head).await.map_err(|denied| denied.refusal)?;
    Ok(decision)
}

/// The claims of a user's token as JSON.
fn claims(headers: &HeaderMap, credentials: &Credentials) -> Option<Arc<str>> {
    let Credentials::Token(_) = credentials else { return None };
    auth::claims_of(bearer(headers).ok()??.token())
}

/// Counts a write against the payer's rate of sends.
pub(super) fn check_send(
    services: &Services,
    payer: &RateOwner,
    grant: Option<&KeyGrant>,
    price: u32,
) -> Result<(), Refusal> {
    let own_rate = grant.and_then(|grant| grant.rate);
    let counted = services.limiter.check_send(payer, own_rate, price);
    counted.inspect_err(|_| services.metrics.count_dropped(DropReason::RateLimit))
}

async fn typing(services: &Services, caller: Caller, target: &Target) -> Result<Answer, Refusal> {
    services
        .limiter
        .check_typing(&caller.payer)
        .inspect_err(|_| services.metrics.count_dropped(DropReason::RateLimit))?;
    let conversation = target.resolve(&caller.user);
    let standing = services.store.check_write_access(&caller.user, conversation.clone()).await?;
    services.publish_typing(caller.user, conversation, standing, None);
    Ok(OkBody::Done {})
}
