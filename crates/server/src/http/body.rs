//! Reads request bodies. The headers are checked first, then the credentials, and only then is the body read, into one bounded
//! buffer.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, StatusCode, header};
use headers::{ContentLength, ContentType, HeaderMapExt as _, Mime};
use http_body_util::BodyExt as _;
use switchboard_protocol::ErrorCode;
use tokio_util::sync::CancellationToken;

use super::STOP_GRACE;
use super::problem::Problem;
use crate::tasks::Tasks;
use switchboard_store::refusal::Refusal;

/// The time-out of the whole body. A later body is answered with 408.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of a refused request's body that are read and dropped, so that a client which is still writing receives the
/// response instead of a connection reset. If the body is longer, the connection is closed.
const MAX_DISCARDED_BYTES: usize = 256 * 1024;

/// The time-out of a refused request's body, after which the connection is closed.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// The type of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyType {
    /// One JSON object.
    Json,
    /// A JSON object a line.
    JsonLines,
}

impl BodyType {
    /// The media type, and what to send in place of another one.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Json => ("application/json", "the body is JSON: send `content-type: application/json`"),
            Self::JsonLines => {
                ("application/x-ndjson", "the body is JSON Lines: send `content-type: application/x-ndjson`")
            }
        }
    }
}

/// Refuses a body of another type than JSON, and one whose declared length is over `max_bytes`.
pub(super) fn check_head(headers: &HeaderMap, max_bytes: usize) -> Result<(), Problem> {
    check_head_of(headers, BodyType::Json, max_bytes)
}

/// Refuses a body of another type, and one whose declared length is over `max_bytes`.
pub(super) fn check_head_of(headers: &HeaderMap, wanted: BodyType, max_bytes: usize) -> Result<(), Problem> {
    check_encoding(headers)?;
    let kind = headers.typed_get::<ContentType>().map(Mime::from);
    let (name, advice) = wanted.name();
    if kind.is_none_or(|kind| kind.essence_str() != name) {
        // An HTML form of another page cannot send these types without a CORS preflight (Fetch, CORS-safelisted headers).
        let refusal = Refusal::new(ErrorCode::BadFrame, advice);
        return Err(Problem::from(refusal).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    if headers.typed_get::<ContentLength>().is_some_and(|length| length.0 > max_bytes as u64) {
        return Err(body_too_large(max_bytes).into());
    }
    Ok(())
}

/// Refuses compressed bodies, because a small request could then expand to a large one.
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

/// Reads a body of at most `max_bytes`. A command without fields needs no body: an empty one counts as `{}`.
pub(super) async fn read(
    body: &mut Body,
    max_bytes: usize,
    stop: &CancellationToken,
) -> Result<String, Problem> {
    let text = String::from_utf8(read_bytes(body, max_bytes, stop).await?);
    let text =
        text.map_err(|_| Refusal::new(ErrorCode::BadFrame, "the body is JSON in UTF-8, and not compressed"))?;
    Ok(if text.is_empty() { "{}".to_owned() } else { text })
}

/// Reads a body of at most `max_bytes`.
pub(super) async fn read_bytes(
    body: &mut Body,
    max_bytes: usize,
    stop: &CancellationToken,
) -> Result<Vec<u8>, Problem> {
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    let read = tokio::select! {
        read = tokio::time::timeout(BODY_TIMEOUT, collect(body, max_bytes)) => read,
        () = stopped => return Err(Refusal::unavailable().into()),
    };
    let bytes = read.map_err(|_| {
        let refusal = Refusal::new(ErrorCode::BadFrame, "the body did not arrive in time");
        Problem::from(refusal).with_status(StatusCode::REQUEST_TIMEOUT)
    })??;
    Ok(bytes)
}

/// Copies the body into one buffer. The frames themselves are not kept, because each is a slice of hyper's read buffer and keeps
/// the whole buffer alive: 8 KiB for a single byte.
async fn collect(body: &mut Body, max_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::new(ErrorCode::BadFrame, "the body is incomplete"))?;
        // Trailers are ignored.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > max_bytes - bytes.len() {
            return Err(body_too_large(max_bytes));
        }
        reserve(&mut bytes, data.len(), max_bytes);
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Reserves room for `additional` bytes: at most twice the current capacity or what is needed, and never more than `max_bytes`.
/// Ignores `Content-Length`, because a large value costs the client nothing.
fn reserve(bytes: &mut Vec<u8>, additional: usize, max_bytes: usize) {
    let needed = bytes.len() + additional;
    if needed > bytes.capacity() {
        let capacity = needed.max(bytes.capacity() * 2).min(max_bytes);
        bytes.reserve_exact(capacity - bytes.len());
    }
}

fn body_too_large(max_bytes: usize) -> Refusal {
    Refusal::new(ErrorCode::TooLarge, format!("the body has at most {max_bytes} bytes"))
}

/// Reads and drops the rest of a refused request's body in a task of its own, so that the response does not wait for it.
pub(super) fn discard(tasks: &Tasks, headers: &HeaderMap, body: Body) {
    // A client that sends `Expect: 100-continue` (RFC 9110 section 10.1.1) reads the response before it sends the body.
    if body.is_end_stream() || headers.contains_key(header::EXPECT) {
        return;
    }
    let stop = tasks.stop().clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = tokio::time::timeout(DISCARD_TIMEOUT, drain(body)) => {}
            () = stop.cancelled() => {}
        }
    });
}

async fn drain(mut body: Body) {
    let mut left = MAX_DISCARDED_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
        let Some(rest) = left.checked_sub(bytes) else { return };
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    /// A body that arrives one byte at a time, each in its own buffer.
    fn slow_body(bytes: usize) -> Body {
        Body::from_stream(stream::iter((0..bytes).map(|_| Ok::<_, Infallible>(Bytes::from_static(b"x")))))
    }

    #[tokio::test]
    async fn the_buffer_is_bounded_by_the_limit_and_by_twice_the_body() {
        for bytes in [1, 100, 1_000, 4_096] {
            let read = collect(&mut slow_body(bytes), 4_096).await.expect("within the limit");
            assert_eq!(read.len(), bytes);
            assert!(read.capacity() <= 4_096.min(2 * bytes), "{} for {bytes}", read.capacity());
        }
        let refusal = collect(&mut slow_body(4_097), 4_096).await.expect_err("one byte too many");
        assert_eq!(refusal.code, ErrorCode::TooLarge);
    }

    #[test]
    fn a_declared_length_over_the_limit_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        for (length, ok) in [("0", true), ("100", true), ("101", false), ("18446744073709551615", false)] {
            headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from_static(length));
            assert_eq!(check_head(&headers, 100).is_ok(), ok, "{length}");
        }
    }
}
