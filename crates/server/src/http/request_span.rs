//! A tracing span for each request, so that every log line of its handling names the request.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::accept::Client;

/// The response header with the request's id, which a client can quote to an operator.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header with the trace of the caller (W3C Trace Context, section 3.2).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Answers a request within its span. The span has the template of the route instead of the path, because a client may put anything
/// into the path.
pub(super) async fn enter(request: Request, next: Next) -> Response {
    let id = Uuid::now_v7().to_string();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let address = request.extensions().get::<Client>().map(|client| client.address);
    // The span has the level `error`, so that no `log.level` removes it while it shows the line.
    let span = tracing::error_span!(
        "request",
        request = id,
        trace = trace_id(request.headers()),
        method = request.method().as_str(),
        path = matched.as_ref().map(MatchedPath::as_str),
        address = address.map(tracing::field::display),
        command = Empty,
        user = Empty,
    );
    #[cfg(feature = "otlp")]
    crate::log::otlp::continue_trace(&span, request.headers());
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    span.in_scope(|| {
        let duration_ms = began.elapsed().as_millis() as u64;
        tracing::debug!(status = response.status().as_u16(), duration_ms, "answered a request");
    });
    response.headers_mut().extend(HeaderValue::try_from(id).ok().map(|id| (REQUEST_ID, id)));
    response
}

/// Adds a field to the span of the request, such as the user, which is known once the credentials have been checked.
pub(super) fn record(field: &'static str, value: &str) {
    Span::current().record(field, value);
}

/// The trace id in `traceparent`, which is `00-<trace id>-<span id>-<flags>`. Later versions of the header may have more parts.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get(TRACEPARENT)?.to_str().ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|b| b != b'0');
    let versioned = is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    (versioned && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_names_a_trace() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (value, valid) in [
            (format!("00-{TRACE}-00f067aa0ba902b7-01"), true),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01-more"), true),
            (format!("00-{TRACE}-00f067aa0ba902b7-01-more"), false),
            (format!("ff-{TRACE}-00f067aa0ba902b7-01"), false),
            (format!("00-{TRACE}-0000000000000000-01"), false),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), false),
            (format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()), false),
            (format!("00-{TRACE}-00f067aa0ba902b7"), false),
            (String::new(), false),
        ] {
            let headers = HeaderMap::from_iter([(TRACEPARENT, value.parse().expect("a value"))]);
            assert_eq!(trace_id(&headers), valid.then_some(TRACE), "{value}");
        }
    }
}
