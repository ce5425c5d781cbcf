//! Sends calls of `/v1/import`, and sends them again while the server cannot answer.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::http_client::target::Allowed;
use crate::http_client::{HttpClient, client, reason};

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the server may be unreachable, such as for an upgrade, before the import gives up.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The delay before a call is sent again.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// The longest such delay.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The most bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What became of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    Stored {
        stored: u64,
        duplicates: u64,
    },
    /// Nothing of the call is stored.
    Refused {
        /// The line at fault, from 1 on.
        line: Option<usize>,
        why: String,
    },
}

/// Why there is no outcome.
enum Failure {
    /// The next try may succeed, after this delay if there is one.
    Temporary(String, Option<Duration>),
    Final(anyhow::Error),
}

#[derive(Deserialize)]
struct Stored {
    stored: u64,
    duplicates: u64,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
    retryable: bool,
    retry_after: Option<u64>,
    field: Option<String>,
    line: Option<usize>,
}

/// A connection to the server.
pub(super) struct Sender {
    http: HttpClient,
    url: Uri,
    key: Option<String>,
    has_answered: bool,
}

impl Sender {
    /// # Errors
    /// The URL cannot be used, or the CA certificates cannot be read.
    pub(super) fn new(server: &str, key: Option<String>, ca: Option<&Path>) -> anyhow::Result<Self> {
        let url = Url::parse(server).with_context(|| format!("{server} is no URL"))?;
        let url = url.join("/v1/import").context("the server's URL")?;
        let allowed = Allowed::of(&url, true).map_err(anyhow::Error::msg)?;
        let advice = "name a file with certificates with --ca";
        let url = url.as_str().parse().context("the server's URL")?;
        Ok(Self { http: client(ca, allowed, advice)?, url, key, has_answered: false })
    }

    /// Sends lines until the server has answered. `notify` gets the reason of a delay.
    ///
    /// # Errors
    /// The server is unreachable for too long, or does not let this key import.
    pub(super) async fn send<'l>(
        &mut self,
        lines: impl Iterator<Item = &'l [u8]>,
        notify: impl Fn(&str),
    ) -> anyhow::Result<Outcome> {
        let mut body = Vec::new();
        for line in lines {
            body.extend_from_slice(line);
            body.push(b'\n');
        }
        let body = Bytes::from(body);
        let (began, mut delay) = (Instant::now(), RETRY_DELAY);
        loop {
            let tried = tokio::time::timeout(CALL_TIMEOUT, self.try_to_send(body.clone())).await;
            let late = || Err(Failure::Temporary("no answer in time".to_owned(), None));
            match tried.unwrap_or_else(|_| late()) {
                Ok(outcome) => {
                    self.has_answered = true;
                    return Ok(outcome);
                }
                Err(Failure::Final(error)) => return Err(error),
                // A failure of the first call is more likely a wrong URL than a temporary fault.
                Err(Failure::Temporary(why, _))
                    if !self.has_answered || began.elapsed() > UNREACHABLE_TIMEOUT =>
                {
                    bail!("the server does not answer: {why}");
                }
                Err(Failure::Temporary(why, wait)) => {
                    notify(&why);
                    tokio::time::sleep(wait.unwrap_or(delay)).await;
                    delay = (delay * 2).min(MAX_RETRY_DELAY);
                }
            }
        }
    }

    async fn try_to_send(&self, body: Bytes) -> Result<Outcome, Failure> {
        let temporary = |why: String| Failure::Temporary(why, None);
        let mut request = Request::post(self.url.clone())
            .header(CONTENT_TYPE, "application/x-ndjson")
            .header(USER_AGENT, concat!("switchboard/", env!("CARGO_PKG_VERSION")));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| Failure::Final(error.into()))?;
        let response = self.http.request(request).await.map_err(|error| temporary(reason(&error)))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let answer = answer.map_err(|error| temporary(error.to_string()))?.to_bytes();
        if status == StatusCode::OK {
            let Stored { stored, duplicates } =
                serde_json::from_slice(&answer).map_err(|error| Failure::Final(error.into()))?;
            return Ok(Outcome::Stored { stored, duplicates });
        }
        let Ok(problem) = serde_json::from_slice::<Problem>(&answer) else {
            return Err(temporary(format!("the server answers {status}")));
        };
        let Problem { code, detail, retryable, retry_after, field, line } = problem;
        let why = match field {
            Some(field) if !detail.starts_with(&field) => format!("{code} ({field}): {detail}"),
            _ => format!("{code}: {detail}"),
        };
        if retryable {
            return Err(Failure::Temporary(why, retry_after.map(Duration::from_millis)));
        }
        Ok(Outcome::Refused { line, why })
    }
}
