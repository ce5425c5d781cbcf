//! Refusals over HTTP: problem JSON (RFC 9457) with the protocol's own code.

use std::num::NonZeroU32;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use switchboard_protocol::{Command, ErrorCode, Timestamp, UserId};

use crate::auth::RefusedToken;
use crate::denial::{Denial, Denied};
use switchboard_store::refusal::Refusal;

/// The body of every response that is not 2xx. It is boxed, so that the results of checks are small.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Problem(Box<ProblemFields>);

/// The body of every response that is not 2xx.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemFields {
    /// Always `about:blank`: `code` says more than a link would.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What to do, for a person.
    detail: String,
    /// The same code as in an `error` frame.
    code: ErrorCode,
    /// Whether the same request may succeed later, unchanged.
    retryable: bool,
    /// Milliseconds to wait before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The line of an import at fault, from 1 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    /// The scope that the API key does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    permission: Option<&'static str>,
    /// With `banned`: when the ban ends; absent if it has no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// With `bad_cursor` of the feed: the oldest cursor that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<String>,
    /// With `bad_cursor` of the feed: the newest cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest: Option<String>,
    /// The reason for the denial metrics and the log, if the request was denied.
    #[serde(skip)]
    denial: Option<Denial>,
    /// What the log says about the token, if one was refused.
    #[serde(skip)]
    token: Option<Box<RefusedToken>>,
    /// The user whom the request acts for, if that is known, for the log.
    #[serde(skip)]
    user: Option<UserId>,
}

/// A denial, in the extensions of a response. The guard counts and logs it, because it knows the client's address.
#[derive(Debug, Clone)]
pub(super) struct DeniedRequest {
    pub(super) denial: Denial,
    pub(super) token: Option<Box<RefusedToken>>,
}

impl Problem {
    pub(super) fn code(&self) -> ErrorCode {
        self.0.code
    }

    pub(super) fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The user whom the request acts for, if that is known.
    pub(super) fn user(&self) -> Option<&UserId> {
        self.0.user.as_ref()
    }

    /// Records the user whom the request acts for.
    pub(super) fn with_user(mut self, user: UserId) -> Self {
        self.0.user = Some(user);
        self
    }

    /// Whether the guard counts and logs this problem as a denial.
    pub(super) fn is_denial(&self) -> bool {
        self.0.denial.is_some()
    }

    /// Replaces the status of the code by a more specific one.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status.as_u16();
        self.0.title = status.canonical_reason().unwrap_or_default();
        self
    }
}

/// The response for a path that does not support the method.
pub(super) async fn wrong_method(method: Method) -> Problem {
    let message = if method == Method::OPTIONS {
        "CORS is not offered: pages of other origins use the WebSocket at /v1/ws, and commands over HTTP come from a back end"
    } else {
        "use POST for commands and GET for everything else"
    };
    Problem::from(Refusal::new(ErrorCode::UnknownType, message)).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The paths of one segment, which clients often request with a trailing slash. The hint names the right one.
const SINGLE_SEGMENT_PATHS: [&str; 9] = [
    "/embed",
    "/moderate",
    "/livez",
    "/readyz",
    "/healthz",
    "/metrics",
    "/switchboard.js",
    "/switchboard-chat.js",
    "/switchboard-launcher.js",
];

/// The problem for an unknown path, with a hint.
pub(super) fn unknown_path(path: &str) -> Problem {
    let tidy = format!("/{}", path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"));
    let name = tidy.strip_prefix("/v1/").unwrap_or(&tidy[1..]);
    let message =
        if path != tidy && (tidy.starts_with("/v1/") || SINGLE_SEGMENT_PATHS.contains(&tidy.as_str())) {
            format!("there is nothing at this path; did you mean {tidy}, without extra slashes?")
        } else if Command::NAMES.contains(&name) || Command::HTTP_ONLY.contains(&name) {
            format!("there is nothing at this path; send a command with POST to /v1/{name}")
        } else if path.contains("/v1/") {
            "there is nothing at this path; a proxy that serves the server below a path must strip that path"
                .to_owned()
        } else {
            "there is nothing at this path; commands are at /v1/<command>, the chat page at /".to_owned()
        };
    Refusal::new(ErrorCode::NotFound, message).into()
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Denied::from(refusal).into()
    }
}

impl From<Denied> for Problem {
    fn from(Denied { refusal, denial, token }: Denied) -> Self {
        let (permission, line) = (refusal.permission, refusal.line.map(NonZeroU32::get));
        let (oldest, newest) = refusal.cursors().cloned().unzip();
        let failure = refusal.into_failure(None);
        let status = failure.code.http_status();
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        Self(Box::new(ProblemFields {
            kind: "about:blank",
            title: title.unwrap_or_default(),
            status,
            detail: failure.message,
            code: failure.code,
            retryable: failure.retryable,
            retry_after: failure.retry_after,
            field: failure.field,
            line,
            permission,
            until: failure.until,
            oldest,
            newest,
            denial,
            token,
            user: None,
        }))
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        let json = serde_json::to_string(&problem).unwrap_or_default();
        let problem = *problem.0;
        let mut response = Self::new(Body::from(json));
        *response.status_mut() =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(ms) = problem.retry_after {
            // Whole seconds (RFC 9110 section 10.2.3), rounded up.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        if problem.code == ErrorCode::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(denial) = problem.denial {
            response.extensions_mut().insert(DeniedRequest { denial, token: problem.token });
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into()
    }
}
