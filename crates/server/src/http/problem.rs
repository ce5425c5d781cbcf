//! Refusals over HTTP: problem JSON (RFC 9457) with the protocol's own code.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use switchboard_protocol::ErrorCode;

use crate::refusal::Refusal;

/// The body of every answer that is not 2xx.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Problem {
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
}

impl Problem {
    pub(super) fn code(&self) -> ErrorCode {
        self.code
    }

    /// The same problem with a status that says more than its code's.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status: status.as_u16(), title: status.canonical_reason().unwrap_or_default(), ..self }
    }
}

/// What a path answers that is there, but not for this method.
pub(super) async fn wrong_method() -> Problem {
    let refusal =
        Refusal::new(ErrorCode::UnknownType, "commands are said with POST, everything else with GET");
    Problem::from(refusal).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let failure = refusal.into_failure(None);
        let status = failure.code.http_status();
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        Self {
            kind: "about:blank",
            title: title.unwrap_or_default(),
            status,
            detail: failure.message,
            code: failure.code,
            retryable: failure.retryable,
            retry_after: failure.retry_after,
            field: failure.field,
        }
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        let json = serde_json::to_string(&problem).unwrap_or_default();
        let mut response = Self::new(Body::from(json));
        *response.status_mut() =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(ms) = problem.retry_after {
            // Whole seconds (RFC 9110 section 10.2.3), never too early.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        if problem.code == ErrorCode::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into()
    }
}
