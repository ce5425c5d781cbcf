//! One request to an endpoint, and what its answer means.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::Timestamp;
use tokio::time::Instant;

use super::queue::End;
use super::secret::Signer;
use crate::http_client::target::Allowed;
use crate::http_client::{self, HttpClient, reason, short};

/// How long a request may take, its answer included.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The most bytes that are read of an answer. Its body means nothing; it is read so that the connection can be used again.
const MAX_ANSWER_BYTES: usize = 16_384;

/// The longest time that an endpoint can ask for with `retry-after`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// The client for the addresses that an endpoint may have. `ca` are the certificates that verify it; `None` for the system's.
///
/// # Errors
/// The CA certificates cannot be read.
pub(super) fn client(ca: Option<&Path>, allowed: Allowed) -> anyhow::Result<HttpClient> {
    let advice = "the system has no CA certificates; install `ca-certificates`, or set `webhooks.ca`";
    http_client::client(ca, allowed, advice)
}

/// A request that is sent.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) http: HttpClient,
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) signer: Signer,
}

/// How a request ended, as `webhook list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The entry's id.
    pub(super) id: String,
    pub(super) at: Timestamp,
    /// How long it took, in milliseconds.
    pub(super) took: u64,
    /// The status, if the endpoint answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    /// Why there is no status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// What a request came to.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) answer: Answer,
    pub(super) end: End,
    /// The endpoint wants nothing more.
    pub(super) is_gone: bool,
}

impl Sent {
    /// There is nothing to send, because the feed no longer has the entry.
    pub(super) fn of_nothing(now: Timestamp) -> Self {
        let answer = Answer { id: String::new(), at: now, took: 0, status: None, error: None };
        Self { answer, end: End::Taken, is_gone: false }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: Timestamp,
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Described<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    at: Timestamp,
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
}

/// The id of an entry, and the body of its request.
pub(super) fn body_of(entry: &RawValue) -> Option<(String, String)> {
    let Described { kind, at, id } = serde_json::from_str(entry.get()).ok()?;
    let body = Body { kind: &kind, timestamp: at, data: entry };
    Some((id.into_owned(), serde_json::to_string(&body).ok()?))
}

impl Sender {
    /// Sends an entry and waits for the answer.
    pub(super) async fn send(&self, entry: &RawValue, now: Timestamp) -> Sent {
        let began = Instant::now();
        let Some((id, body)) = body_of(entry) else {
            tracing::error!("a bug: an entry of the feed has no id, type or time");
            return Sent::of_nothing(now);
        };
        let (seconds, signature) = self.signer.sign(&id, now, &body);
        let answered = match self.request(&id, (&seconds, &signature), body) {
            Ok(request) => tokio::time::timeout(TIMEOUT, self.exchange(request)).await,
            Err(error) => Ok(Err(error.to_string())),
        };
        let answered = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let answer = |status: Option<StatusCode>, error| Answer {
            id: id.clone(),
            at: now,
            took,
            status: status.map(|status| status.as_u16()),
            error,
        };
        match answered {
            Ok((status, retry_after)) => Sent {
                answer: answer(Some(status), None),
                end: meaning(status, retry_after),
                is_gone: status == StatusCode::GONE,
            },
            Err(error) => {
                Sent { answer: answer(None, Some(error)), end: End::EndpointFault(None), is_gone: false }
            }
        }
    }
}

impl Sender {
    fn request(
        &self,
        id: &str,
        (seconds, signature): (&str, &str),
        body: String,
    ) -> hyper::http::Result<Request<Full<Bytes>>> {
        let agent = HeaderValue::from_static(concat!("switchboard/", env!("CARGO_PKG_VERSION")));
        let mut request = Request::post(self.url.clone())
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(Full::new(Bytes::from(body)))?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, agent);
        headers.extend(self.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(request)
    }

    /// Sends a request and reads the whole answer, because a back end that dies within its answer may not have the entry.
    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Option<Duration>), String> {
        let response = self.http.request(request).await.map_err(|error| reason(&error))?;
        let (status, retry_after) = (response.status(), retry_after(&response));
        match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
            Ok(_) => Ok((status, retry_after)),
            // An answer that is too long is cut, and so is its connection.
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Ok((status, retry_after)),
            Err(error) => Err(short(&error.to_string())),
        }
    }
}

/// What a status means for the entry.
fn meaning(status: StatusCode, retry_after: Option<Duration>) -> End {
    match status.as_u16() {
        200..=299 => End::Taken,
        408 | 410 | 425 | 429 => End::EndpointFault(retry_after),
        400..=499 => End::EntryFault,
        _ => End::EndpointFault(retry_after),
    }
}

/// The seconds in `retry-after`. Its other form, a date, is not obeyed.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_the_endpoint_or_the_entry_is_at_fault() {
        let means = |status| meaning(StatusCode::from_u16(status).expect("a status"), None);
        for taken in [200, 201, 202, 204, 299] {
            assert_eq!(means(taken), End::Taken, "{taken}");
        }
        for endpoint in [301, 302, 307, 408, 410, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(means(endpoint), End::EndpointFault(None), "{endpoint}");
        }
        for entry in [400, 401, 403, 404, 409, 413, 422, 451] {
            assert_eq!(means(entry), End::EntryFault, "{entry}");
        }
    }
}
