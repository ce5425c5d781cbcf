//! `POST /v1/<command>`: the same words as over the socket, one at a time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::value::RawValue;
use switchboard_protocol::reply::{Ok as OkReply, OkBody, Reply};
use switchboard_protocol::{Command, ErrorCode, Key, Target, UserId, decode_named, read_object};
use tokio::sync::oneshot;

use super::problem::Problem;
use crate::auth::{ApiKey, AuthError};
use crate::intake;
use crate::metrics::Drop;
use crate::origin::{Origin, Payer};
use crate::refusal::Refusal;
use crate::services::Services;
use crate::store::{Change, Request as Wish, Submission};

/// Time for the body to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Answer = OkBody<Box<RawValue>>;

/// Whom a request is for.
struct Caller {
    user: UserId,
    /// Whose rate it counts against.
    payer: Payer,
}

/// Answers a command with its `ok` frame, or a problem.
pub(super) async fn command(
    State(services): State<Arc<Services>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let answered = async {
        let body = read_body(&parts.headers, body, services.limits.frame as usize).await?;
        let caller = identify(&services, &parts.headers, &body).await?;
        let command = read_command(&name, &body, &parts.headers, &services)?;
        obey(&services, caller, command).await.map_err(Problem::from)
    };
    respond(&services, answered.await)
}

/// The `ok` frame, or the problem.
pub(super) fn respond(services: &Services, answered: Result<Answer, Problem>) -> Response {
    match answered {
        Ok(body) => {
            let json = serde_json::to_string(&Reply::Ok(OkReply { id: None, body })).unwrap_or_default();
            ([(header::CONTENT_TYPE, "application/json")], json).into_response()
        }
        Err(problem) => {
            services.metrics.refused(problem.code());
            problem.into_response()
        }
    }
}

pub(super) async fn read_body(headers: &HeaderMap, body: Body, most: usize) -> Result<String, Problem> {
    check_encoding(headers)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        // A form of a foreign page cannot send this type without asking first (Fetch, CORS-safelisted headers).
        let refusal =
            Refusal::new(ErrorCode::BadFrame, "the body is JSON: send `content-type: application/json`");
        return Err(Problem::from(refusal).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await;
    let read = read.map_err(|_| {
        let refusal = Refusal::new(ErrorCode::BadFrame, "the body did not come in time");
        Problem::from(refusal).with_status(StatusCode::REQUEST_TIMEOUT)
    })?;
    let bytes = read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Refusal::new(ErrorCode::TooLarge, format!("the body has at most {most} bytes")),
        None => Refusal::new(ErrorCode::BadFrame, "the body broke off"),
    })?;
    let text = String::from_utf8(bytes.to_bytes().into());
    let text =
        text.map_err(|_| Refusal::new(ErrorCode::BadFrame, "the body is JSON in UTF-8, and not compressed"))?;
    // A command without fields needs no body.
    Ok(if text.is_empty() { "{}".to_owned() } else { text })
}

/// Bodies come as they are: to unpack one would make a small request a large one.
fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let plain = |coding: &str| matches!(coding.trim(), "" | "identity");
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    if codings.all(|value| value.to_str().is_ok_and(|value| value.split(',').all(plain))) {
        return Ok(());
    }
    let message = "bodies are not decompressed: send the JSON as it is, without `content-encoding`";
    let refusal = Refusal::new(ErrorCode::BadFrame, message);
    Err(Problem::from(refusal).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// Whom a back end acts for.
enum Acting {
    As(UserId),
    /// It does not say.
    Nobody,
    /// The body is not a JSON object, which is told once it is known who says it.
    Unreadable(Refusal),
}

/// Reads `as`; what is wrong with it is told at once.
fn acting(body: &str) -> Result<Acting, Refusal> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(rename = "as")]
        user: Option<UserId>,
    }
    match read_object::<Fields>(body) {
        Ok(Fields { user: Some(user) }) => Ok(Acting::As(user)),
        Ok(Fields { user: None }) => Ok(Acting::Nobody),
        Err(rejected) if rejected.field.as_deref() == Some("as") => Err(rejected.into()),
        Err(rejected) => Ok(Acting::Unreadable(rejected.into())),
    }
}

async fn identify(services: &Services, headers: &HeaderMap, body: &str) -> Result<Caller, Refusal> {
    let acting = acting(body)?;
    let Some(bearer) = bearer(headers)? else {
        return match acting {
            Acting::As(user) if services.is_dev() => Ok(Caller { user, payer: Payer::Nobody }),
            Acting::Unreadable(refusal) if services.is_dev() => Err(refusal),
            Acting::Nobody if services.is_dev() => {
                Err(Refusal::new(ErrorCode::Unauthorized, "say whom you act for: `\"as\":\"alice\"`"))
            }
            _ => Err(Refusal::new(
                ErrorCode::Unauthorized,
                "send `Authorization: Bearer <a user's token, or an API key>`",
            )),
        };
    };
    if bearer.starts_with(ApiKey::PREFIX) {
        let payer = check_key(services, bearer).await?;
        return match acting {
            Acting::As(user) => Ok(Caller { user, payer }),
            Acting::Unreadable(refusal) => Err(refusal),
            Acting::Nobody => {
                Err(Refusal::bad_field("as", "as: an API key says whom it acts for, `\"as\":\"alice\"`"))
            }
        };
    }
    let user = check_token(services, bearer).await?;
    match acting {
        Acting::As(other) if other != user => Err(Refusal::forbidden(
            "a user's token acts for that user only; leave `as` out, or use an API key",
        )),
        _ => Ok(Caller { payer: Payer::User(user.clone()), user }),
    }
}

async fn check_key(services: &Services, key: &str) -> Result<Payer, Refusal> {
    let hash = ApiKey::hash(key);
    let name = services.store.api_key(hash).await?;
    let wrong = || Refusal::new(ErrorCode::Unauthorized, "the API key is wrong or was revoked");
    name.map(|_| Payer::Key(hash)).ok_or_else(wrong)
}

/// Whose token it is, if it is good.
async fn check_token(services: &Services, token: &str) -> Result<UserId, Refusal> {
    let unauthorized = |error: AuthError| Refusal::new(ErrorCode::Unauthorized, error.to_string());
    let identity = services.authenticator.verify(token).map_err(unauthorized)?;
    let not_before = services.store.not_before(&identity.user).await?;
    if identity.is_revoked(not_before) {
        return Err(unauthorized(AuthError::Revoked));
    }
    Ok(identity.user)
}

/// Whoever asks this is a back end, with an API key; whom it acts for does not matter.
pub(super) async fn check_back_end(services: &Services, headers: &HeaderMap) -> Result<Payer, Refusal> {
    match bearer(headers)? {
        None if services.is_dev() => Ok(Payer::Nobody),
        None => Err(Refusal::new(ErrorCode::Unauthorized, "send `Authorization: Bearer <an API key>`")),
        Some(key) if key.starts_with(ApiKey::PREFIX) => check_key(services, key).await,
        Some(token) => {
            check_token(services, token).await?;
            Err(Refusal::forbidden("this takes an API key; a user's token does not do"))
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => {
            Err(Refusal::new(ErrorCode::Unauthorized, "the header is `Authorization: Bearer <token or key>`"))
        }
    }
}

fn read_command(
    name: &str,
    body: &str,
    headers: &HeaderMap,
    services: &Services,
) -> Result<Command, Refusal> {
    if Command::SOCKET_ONLY.contains(&name) {
        let message = "this command makes sense on a connection only: use the WebSocket at /v1/ws";
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
                "key: it differs from the header Idempotency-Key; send one of them",
            ));
        }
        send.key = Some(key);
    }
    intake::check(&command, &services.limits)?;
    Ok(command)
}

async fn obey(services: &Services, caller: Caller, command: Command) -> Result<Answer, Refusal> {
    match Wish::from(command) {
        Wish::Change(change) => change_for(services, caller, change).await,
        Wish::Query(query) => services.store.query(&caller.user, query).await,
        Wish::Typing(target) => typing(services, caller, &target).await,
        Wish::Ping => Ok(OkBody::Done {}),
        Wish::Hello | Wish::Watch(_) => Err(Refusal::not_found()),
    }
}

async fn change_for(services: &Services, caller: Caller, change: Change) -> Result<Answer, Refusal> {
    // Cursors count here, too: a request is dearer than a frame, and nothing else bounds its rate.
    check_send(services, &caller.payer, change.price())?;
    let change = match change {
        Change::Invite(invite) if !matches!(caller.payer, Payer::User(_)) => Change::InviteWithKey(invite),
        change => change,
    };
    let (reply, answer) = oneshot::channel();
    let submission = Submission { actor: caller.user, change, origin: Origin::Call(reply) };
    services.store.submit(submission).map_err(|_| Refusal::unavailable())?;
    answer.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
}

/// Counts a command that stores.
pub(super) fn check_send(services: &Services, payer: &Payer, price: u32) -> Result<(), Refusal> {
    let counted = services.limiter.check_send(payer, price);
    counted.inspect_err(|_| services.metrics.dropped(Drop::RateLimit))
}

async fn typing(services: &Services, caller: Caller, target: &Target) -> Result<Answer, Refusal> {
    services
        .limiter
        .check_typing(&caller.payer)
        .inspect_err(|_| services.metrics.dropped(Drop::RateLimit))?;
    let conversation = target.resolve(&caller.user);
    let standing = services.store.standing(&caller.user, conversation.clone()).await?;
    services.tell_typing(caller.user, conversation, standing, None);
    Ok(OkBody::Done {})
}
