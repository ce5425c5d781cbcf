//! The entries of the feed as a webhook would send them, for a program that the server cannot reach: they are read from the server, and
//! sent on from here.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use url::Url;

use super::request::{Answer, Sender, body_of, client};
use super::secret::{Signer, text};
use super::settings::{Endpoint, Only, ReadEntry};
use crate::config::Secret;
use crate::http_client::HttpClient;
use crate::http_client::target::Allowed;
use switchboard_store::clock::Clock;

/// How long the server waits for an entry.
const WAIT: Duration = Duration::from_secs(25);

/// How long a call may take, the wait included.
const CALL_TIMEOUT: Duration = Duration::from_secs(40);

/// The most entries of a page.
const PAGE: u32 = 100;

/// The most bytes of a page.
const MAX_PAGE_BYTES: usize = 64 * 1024 * 1024;

/// The name from which the secret of requests is derived.
const NAME: &str = "listen";

/// What to listen to.
pub(crate) struct Listen<'a> {
    /// The server's URL.
    pub(crate) server: &'a str,
    /// An API key with the scope `feed`; a `dev` server needs none.
    pub(crate) key: Option<String>,
    /// The CA certificates that verify URLs; `None` for the system's.
    pub(crate) ca: Option<&'a Path>,
    pub(crate) types: Vec<String>,
    pub(crate) only: Vec<String>,
    pub(crate) from: String,
    /// Whether to wait for new entries at the end of the feed.
    pub(crate) follow: bool,
    /// Where the entries are sent on to.
    pub(crate) forward: Option<String>,
    /// The secret from which that of the requests is derived; `None` for a new one.
    pub(crate) secret: Option<Secret>,
}

/// Why there are no entries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// The server refuses the call; so it would the next one.
    #[error("{0}")]
    Refused(String),
    /// The server cannot be reached, or cannot answer now.
    #[error("{0}")]
    Unreachable(String),
}

/// Reads the feed.
pub(crate) struct Listener {
    http: HttpClient,
    feed: Uri,
    key: Option<String>,
    types: Vec<String>,
    only: Only,
    after: String,
    follow: bool,
    is_at_end: bool,
    forward: Option<Sender>,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Box<RawValue>>,
    next: String,
    more: bool,
}

impl Listener {
    /// Makes a listener, and the secret that signs what it sends on.
    ///
    /// # Errors
    /// A URL cannot be used, or the CA certificates cannot be read.
    pub(crate) fn new(listen: Listen<'_>) -> anyhow::Result<(Self, Option<String>)> {
        let Listen { server, key, ca, types, only, from, follow, forward, secret } = listen;
        let server = Url::parse(server).with_context(|| format!("{server} is no URL"))?;
        let url = server.join("/v1/feed").context("the server's URL")?;
        let allowed = Allowed::of(&url, true).map_err(anyhow::Error::msg)?;
        let url_of_forward = forward.clone().unwrap_or_default();
        let headers = Default::default();
        let endpoint = Endpoint { url: url_of_forward, types, only, headers, imported: true };
        let (mut forward_to, mut shown) = (None, None);
        if forward.is_some() {
            let (target, allowed) = endpoint.target(true).map_err(|(_, why)| anyhow::Error::msg(why))?;
            let secret = match secret {
                Some(secret) => secret,
                None => new_secret()?,
            };
            shown = Some(text(&secret, NAME, 1));
            let signer = Signer { master: secret, name: NAME.to_owned(), version: 1, old_until: None };
            let (http, url) = (client(ca, allowed)?, target.as_str().parse().context("the URL")?);
            forward_to = Some(Sender { http, url, headers: Default::default(), signer });
        }
        let listener = Self {
            http: client(ca, allowed)?,
            feed: url.as_str().parse().context("the server's URL")?,
            key,
            only: Only::new(&endpoint),
            types: endpoint.types,
            after: from,
            follow,
            is_at_end: false,
            forward: forward_to,
        };
        Ok((listener, shown))
    }

    /// Waits for the next entries. There may be none.
    ///
    /// # Errors
    /// There is no answer, or the server refuses.
    pub(crate) async fn next(&mut self) -> Result<Vec<Box<RawValue>>, ListenError> {
        let page = tokio::time::timeout(CALL_TIMEOUT, self.page());
        let page = page.await.unwrap_or_else(|_| Err(unreachable(&"no answer in time")))?;
        self.after = page.next;
        self.is_at_end = !self.follow && !page.more;
        let is_wanted =
            |entry: &RawValue| ReadEntry::of(entry).is_some_and(|read| self.only.wants(&read.conversation));
        Ok(page.entries.into_iter().filter(|entry| is_wanted(entry)).collect())
    }

    /// Whether all entries were read. A listener that follows the feed is never at its end.
    pub(crate) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    async fn page(&self) -> Result<Page, ListenError> {
        let wait = if self.follow { WAIT } else { Duration::ZERO };
        let mut call = json!({ "after": self.after, "limit": PAGE, "wait": wait.as_millis() });
        if !self.types.is_empty() {
            call["types"] = self.types.clone().into();
        }
        let mut request = Request::post(self.feed.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("switchboard/", env!("CARGO_PKG_VERSION")));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::new(Bytes::from(call.to_string())));
        let request = request.map_err(|error| ListenError::Refused(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_PAGE_BYTES)
            .collect()
            .await
            .map_err(|error| unreachable(&error))?;
        let body = body.to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| unreachable(&error));
        }
        let refusal = describe_problem(status, &body);
        Err(if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
            ListenError::Refused(refusal)
        } else {
            ListenError::Unreachable(refusal)
        })
    }

    /// The body of the request for an entry.
    pub(crate) fn body(entry: &RawValue) -> Option<String> {
        body_of(entry).map(|(_, body)| body)
    }

    /// Sends an entry on, if there is a URL for it. It is sent once.
    pub(crate) async fn forward(&self, entry: &RawValue) -> Option<Answer> {
        let forward = self.forward.as_ref()?;
        Some(forward.send(entry, Clock::system().now()).await.answer)
    }
}

impl Answer {
    /// The answer for a person.
    pub(crate) fn describe(&self) -> String {
        let Self { id, took, status, error, .. } = self;
        match (status, error) {
            (Some(status), _) => format!("{id}: {status} in {took} ms"),
            (None, error) => format!("{id}: {} after {took} ms", error.as_deref().unwrap_or("no answer")),
        }
    }
}

fn describe_problem(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        code: String,
        detail: String,
    }
    match serde_json::from_slice(body) {
        Ok(Problem { code, detail }) => format!("{code}: {detail}"),
        Err(_) => format!("the server answers {status}"),
    }
}

fn unreachable(error: &impl ToString) -> ListenError {
    ListenError::Unreachable(error.to_string())
}

fn new_secret() -> anyhow::Result<Secret> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    Ok(Secret::new(STANDARD.encode(bytes))?)
}
