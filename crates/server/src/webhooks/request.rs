//! One request to an endpoint, and what its answer means.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::{Timestamp, truncated};
use tokio::time::Instant;

use super::queue::End;
use super::secret::Signer;
use super::target::{Allowed, Resolver};
use crate::config::WebhooksConfig;
use switchboard_store::tls_client::{root_certificates, verifying_config};

/// How long a request may take, its answer included.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The most bytes that are read of an answer. Its body means nothing; it is read so that the connection can be used again.
const MAX_ANSWER_BYTES: usize = 16_384;

/// How long an idle connection is kept. It is shorter than the time-outs of web servers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The longest time that an endpoint can ask for with `retry-after`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// The longest reason that is kept of an answer.
const MAX_REASON_BYTES: usize = 200;

/// A client of endpoints. It follows no redirects.
pub(super) type Client = legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// The client for the addresses that an endpoint may have.
///
/// # Errors
/// The CA certificates cannot be read.
pub(super) fn client(config: &WebhooksConfig, allowed: Allowed) -> anyhow::Result<Client> {
    let roots = if allowed == Allowed::Private {
        rustls::RootCertStore::empty()
    } else {
        let advice = "the system has no CA certificates; install `ca-certificates`, or set `webhooks.ca`";
        root_certificates(config.ca.as_deref(), advice)?
    };
    let mut connector = HttpConnector::new_with_resolver(Resolver(allowed));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let tls = HttpsConnectorBuilder::new().with_tls_config(verifying_config(roots)?).https_or_http();
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(tls.enable_http1().wrap_connector(connector)))
}

/// A request that is sent.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) http: Client,
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

impl Sender {
    /// Sends an entry and waits for the answer.
    pub(super) async fn send(&self, entry: &RawValue, now: Timestamp) -> Sent {
        let began = Instant::now();
        let Ok(Described { kind, at, id }) = serde_json::from_str(entry.get()) else {
            tracing::error!("a bug: an entry of the feed has no id, type or time");
            return Sent::of_nothing(now);
        };
        let body = Body { kind: &kind, timestamp: at, data: entry };
        let body = serde_json::to_string(&body).unwrap_or_default();
        let (seconds, signature) = self.signer.sign(&id, now, &body);
        let answered = match self.request(&id, (&seconds, &signature), body) {
            Ok(request) => tokio::time::timeout(TIMEOUT, self.exchange(request)).await,
            Err(error) => Ok(Err(error.to_string())),
        };
        let answered = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let answer = |status: Option<StatusCode>, error| Answer {
            id: id.clone().into_owned(),
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
            Err(error) => Err(truncated(&error.to_string(), MAX_REASON_BYTES).to_owned()),
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

/// The causes of an error.
fn reason(error: &legacy::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        causes.push(next.to_string());
        cause = next.source();
    }
    truncated(&causes.join(": "), MAX_REASON_BYTES).to_owned()
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
