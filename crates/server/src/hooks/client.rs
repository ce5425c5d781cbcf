//! Sends questions: HTTP, signed as Standard Webhooks (standardwebhooks.com) describe it.

use std::error::Error as _;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use rustls::RootCertStore;
use uuid::Uuid;

use crate::config::{HooksConfig, SigningKey};
use crate::http_client::target::Allowed;
use crate::http_client::{HttpClient, client_with};
use crate::metrics::HookFailure as Failure;
use crate::signature::sign;
use switchboard_store::clock::Clock;
use switchboard_store::tls_client::root_certificates;

/// The most bytes of an answer.
const MAX_ANSWER_BYTES: usize = 65_536;

/// The client of the application's back end.
#[derive(Debug)]
pub(super) struct HookClient {
    http: HttpClient,
    url: Uri,
    key: SigningKey,
    clock: Clock,
}

impl HookClient {
    /// Makes the client, and reads the CA certificates that it needs.
    ///
    /// # Errors
    /// There are none, or they cannot be read.
    pub(super) fn new(config: &HooksConfig, clock: Clock) -> anyhow::Result<Self> {
        let roots = if config.url.scheme() == "https" {
            let advice = "the system has no CA certificates; install `ca-certificates`, or set `hooks.ca`";
            root_certificates(config.ca.as_deref(), advice)?
        } else {
            RootCertStore::empty()
        };
        // The URL is the operator's own, and may be one of this machine or of a private network.
        let http = client_with(roots, Allowed::All)?;
        let url = config.url.as_str().parse().context("the URL of the hook")?;
        Ok(Self { http, url, key: config.key.clone(), clock })
    }

    /// Sends a question and returns the body of the answer, which is empty after the status 204.
    pub(super) async fn post(&self, question: String) -> Result<Bytes, Failure> {
        let id = format!("ask_{}", Uuid::now_v7().simple());
        let seconds = self.clock.now().as_millis().div_euclid(1_000).to_string();
        let signature = sign(self.key.expose(), &id, &seconds, &question);
        let request = Request::post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("switchboard/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(Full::from(question))
            .map_err(|_| Failure::Connection)?;
        let response = self.http.request(request).await.map_err(|error| {
            tracing::debug!(%error, cause = error.source(), "the hook cannot be asked");
            if error.is_connect() { Failure::NoConnection } else { Failure::Connection }
        })?;
        match response.status() {
            StatusCode::NO_CONTENT => return Ok(Bytes::new()),
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                return Err(Failure::Rejected);
            }
            _ => return Err(Failure::Status),
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() { Failure::TooLarge } else { Failure::Connection }
        })?;
        let body = body.to_bytes();
        // An empty body accepts only with the status 204.
        if body.is_empty() { Err(Failure::Unreadable) } else { Ok(body) }
    }
}
