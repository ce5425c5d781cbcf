//! An issuer that publishes its keys (OpenID Connect): which keys it has, and when they are fetched.
//!
//! The keys are fetched by one task for each issuer, never while a token is verified. So a client that sends tokens with made-up
//! key ids causes no more than one fetch in [`FetchPace::spacing`](crate::config::FetchPace).

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, USER_AGENT};
use hyper::{Request, StatusCode};
use jsonwebtoken::Header;
use serde::Deserialize;
use switchboard_protocol::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::TokenKeyMetrics;
use super::claims::UserRule;
use super::keys::{VerifyingKey, parse_key_set};
use super::{AuthError, CLOCK_LEEWAY_MS};
use crate::config::{AuthConfig, FetchPace, IssuerConfig};
use crate::http_client::target::Allowed;
use crate::http_client::{self, HttpClient, reason, short};
use switchboard_store::clock::Clock;

/// How long a request may take, its answer included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of an answer. A set of three RSA keys with their certificates has 10 KB.
const MAX_ANSWER_BYTES: usize = 262_144;

/// The time after which a client may try again whose token's key is being fetched.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// An issuer that publishes its keys.
pub(crate) struct Provider {
    config: IssuerConfig,
    ca: Option<std::path::PathBuf>,
    user: UserRule,
    pace: FetchPace,
    clock: Clock,
    keys: RwLock<Arc<KeySet>>,
    /// Wakes the task that fetches, because a token names a key that is not known.
    wanted: Notify,
    /// When the last fetch began.
    attempted: Mutex<Option<Instant>>,
    /// The URL of the keys, once it is discovered.
    discovered: Mutex<Option<Url>>,
}

/// The keys of an issuer.
#[derive(Default)]
struct KeySet {
    keys: Vec<VerifyingKey>,
    /// When the fetch began that found them; `None` before the first one.
    fetched: Option<Timestamp>,
}

/// A key in a set.
pub(super) struct FoundKey {
    set: Arc<KeySet>,
    index: usize,
}

impl FoundKey {
    pub(super) fn key(&self) -> &VerifyingKey {
        &self.set.keys[self.index]
    }
}

/// The issuers of a configuration that publish their keys.
pub(super) fn providers(config: &AuthConfig, clock: &Clock) -> Vec<Arc<Provider>> {
    let provider = |issuer: &IssuerConfig| {
        let others = config.issuers.iter().map(|other| &other.prefix);
        let reserved = others.filter(|other| other.len() > issuer.prefix.len()).cloned().collect();
        Arc::new(Provider {
            config: issuer.clone(),
            ca: config.ca.clone(),
            user: UserRule {
                claim: issuer.user_claim.clone(),
                prefix: issuer.prefix.clone(),
                reserved,
                permissions: issuer.claims.clone(),
                grants: issuer.grants,
            },
            pace: config.pace,
            clock: clock.clone(),
            keys: RwLock::default(),
            wanted: Notify::new(),
            attempted: Mutex::default(),
            discovered: Mutex::default(),
        })
    };
    config.issuers.iter().map(provider).collect()
}

impl Provider {
    /// The `iss` of its tokens.
    pub(crate) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// How its tokens name the user.
    pub(super) fn user(&self) -> &UserRule {
        &self.user
    }

    /// The key that a token's header names. `issued` is the time in the token, which is not verified yet.
    ///
    /// # Errors
    /// The issuer has no such key, or may have had one since its keys were fetched.
    pub(super) fn key(&self, header: &Header, issued: Option<Timestamp>) -> Result<FoundKey, AuthError> {
        let set = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let now = self.clock.now().as_millis();
        let keep = crate::timers::millis(self.pace.keep);
        let Some(fetched) = set.fetched.map(Timestamp::as_millis).filter(|at| now.saturating_sub(*at) < keep)
        else {
            return Err(self.want_keys());
        };
        let fits = |key: &&VerifyingKey| key.algorithm == header.alg;
        let mut named = set.keys.iter().enumerate().filter(|(_, key)| match &header.kid {
            Some(id) => key.id.as_ref() == Some(id),
            None => fits(key),
        });
        match (named.next(), named.next()) {
            (Some((index, key)), more) if fits(&key) && (header.kid.is_some() || more.is_none()) => {
                Ok(FoundKey { set: set.clone(), index })
            }
            (Some(_), _) if header.kid.is_some() => {
                Err(AuthError::Header("the token's `alg` is not the one of its key"))
            }
            (Some(_), _) => {
                Err(AuthError::Header("the token's header has no `kid`, and its issuer has several keys"))
            }
            (None, _) => {
                let away = self.want_keys();
                // The issuer published the key when it signed the token, or before. So a set that was read later has the key, or
                // else the key was removed. The clocks may differ.
                let is_later = |issued: Timestamp| {
                    issued.as_millis().min(now).saturating_add(CLOCK_LEEWAY_MS) <= fetched
                };
                if issued.is_none_or(is_later) { Err(AuthError::UnknownKey) } else { Err(away) }
            }
        }
    }

    /// Wakes the task that fetches, and returns when the client may try again.
    fn want_keys(&self) -> AuthError {
        self.wanted.notify_one();
        let attempted = *self.attempted.lock().unwrap_or_else(PoisonError::into_inner);
        let since = attempted.map(|at| at.elapsed());
        let wait = since.map_or(Duration::ZERO, |since| self.pace.spacing.saturating_sub(since));
        AuthError::KeysAway(wait + RETRY_DELAY)
    }

    /// Fetches the keys again and again, until the server stops.
    pub(crate) async fn run(self: Arc<Self>, metrics: TokenKeyMetrics, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let fetched = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                fetched = self.fetch() => fetched,
            };
            metrics.count(self.issuer(), fetched.is_ok());
            match &fetched {
                Ok(count) => {
                    metrics.set_keys(self.issuer(), *count, self.clock.now());
                    if failures > 0 {
                        tracing::info!(
                            issuer = self.issuer(),
                            failures,
                            "the keys of a token issuer are fetched again"
                        );
                    }
                    failures = 0;
                }
                Err(error) => {
                    failures += 1;
                    // An issuer that is away for a day must not fill the log.
                    if failures.is_power_of_two() {
                        tracing::warn!(
                            issuer = self.issuer(),
                            failures,
                            error,
                            "cannot fetch the keys of a token issuer; the old ones are used for up to 7 days"
                        );
                    }
                }
            }
            let refresh = if fetched.is_ok() { self.pace.refresh } else { self.pace.spacing };
            let wanted = async {
                self.wanted.notified().await;
                tokio::time::sleep_until(began + self.pace.spacing).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(began + refresh) => {}
                () = wanted => {}
            }
        }
    }

    /// Fetches the keys once, and returns how many can verify tokens. The old ones stay if it fails.
    ///
    /// # Errors
    /// The issuer does not answer, or answers something else.
    pub(crate) async fn fetch(&self) -> Result<usize, String> {
        *self.attempted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let fetched = self.clock.now();
        let answer = tokio::time::timeout(TIMEOUT, self.fetch_answer()).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let parsed = answer.and_then(|answer| {
            parse_key_set(&answer, &self.config.issuer, &self.config.audience).map_err(str::to_owned)
        });
        let keys = parsed.inspect_err(|_| self.set_discovered(None))?;
        let ids = |keys: &[VerifyingKey]| keys.iter().filter_map(|key| key.id.clone()).collect::<Vec<_>>();
        let count = keys.len();
        let new = Arc::new(KeySet { keys, fetched: Some(fetched) });
        let old =
            std::mem::replace(&mut *self.keys.write().unwrap_or_else(PoisonError::into_inner), new.clone());
        let (old, new) = (ids(&old.keys), ids(&new.keys));
        if old != new {
            let added = new.iter().filter(|id| !old.contains(id)).count();
            let removed = old.iter().filter(|id| !new.contains(id)).count();
            tracing::info!(
                issuer = self.issuer(),
                keys = count,
                added,
                removed,
                "the keys of a token issuer"
            );
        }
        Ok(count)
    }

    async fn fetch_answer(&self) -> Result<Bytes, String> {
        let url = self.keys_url().await?;
        self.get(&url).await
    }

    /// The URL of the keys: the configured one, or the one in the issuer's document (OpenID Connect Discovery 1.0, section 4).
    async fn keys_url(&self) -> Result<Url, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let known = self.discovered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let url: Url = self.config.url().parse().map_err(|_| "its URL cannot be used".to_owned())?;
        if self.config.jwks.is_some() {
            return Ok(url);
        }
        let document = self.get(&url).await.map_err(|error| format!("{url}: {error}"))?;
        let document: Document = serde_json::from_slice(&document)
            .map_err(|_| format!("{url}: the answer is no document with `issuer` and `jwks_uri`"))?;
        if document.issuer != self.config.issuer {
            return Err(format!("{url}: the document is of another issuer"));
        }
        let keys = Url::parse(&document.jwks_uri)
            .ok()
            .filter(|keys| keys.scheme() == "https" || url.scheme() == "http")
            .ok_or_else(|| format!("{url}: its `jwks_uri` is no https URL"))?;
        self.set_discovered(Some(keys.clone()));
        Ok(keys)
    }

    fn set_discovered(&self, url: Option<Url>) {
        *self.discovered.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }

    /// A client for one fetch. Connections are not kept, because the next fetch is long after.
    fn client(&self, url: &Url) -> Result<HttpClient, String> {
        let allowed = Allowed::of(url, true).and_then(|allowed| allowed.check_address(url).map(|()| allowed));
        let allowed = allowed.map_err(|advice| short(&format!("{url}: {advice}")))?;
        let advice = "the system has no CA certificates; install `ca-certificates`, or set `auth.ca`";
        http_client::client(self.ca.as_deref(), allowed, advice).map_err(|error| short(&format!("{error:#}")))
    }

    async fn get(&self, url: &Url) -> Result<Bytes, String> {
        let request = Request::get(url.as_str())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("switchboard/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::new()))
            .map_err(|error| error.to_string())?;
        let response = self.client(url)?.request(request).await.map_err(|error| reason(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("the status is {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| short(&error.to_string()))
    }
}
