//! Authentication: tokens of users (JWT, RFC 7519) and API keys of back ends.

mod api_key;
mod claims;
mod error;
mod keys;
mod metrics;
mod permissions;
mod provider;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use switchboard_protocol::{Timestamp, UserId};

pub use self::api_key::ApiKey;
use self::claims::{Claims, UserRule, timestamp_of_seconds};
pub use self::error::AuthError;
pub(crate) use self::error::RefusedToken;
use self::keys::{LocalKeys, VerifyingKey};
pub(crate) use self::metrics::TokenKeyMetrics;
pub use self::permissions::PermissionClaim;
pub(crate) use self::provider::Provider;
use crate::config::{AuthConfig, ConfigError};
use switchboard_store::clock::Clock;

/// How far the token issuer's clock may be ahead of the server's, in milliseconds, before `nbf` refuses the token and `iat` is
/// ignored. `exp` has no leeway: a connection is closed when its token expires.
const CLOCK_LEEWAY_MS: i64 = 60_000;

/// The identity in a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// When the token was issued, if `iat` is present and plausible.
    pub issued: Option<Timestamp>,
    /// When the token expires.
    pub expires: Timestamp,
    /// What the token says of the user for other users to see.
    pub claims: ProfileClaims,
    /// What the token says the user may do.
    pub permissions: Option<Box<PermissionClaim>>,
    /// Whether that may be more than the configuration allows.
    pub grants: bool,
}

/// The claims about the user's name and picture (OpenID Connect Core 1.0, section 5.1). They are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProfileClaims {
    /// The name.
    pub name: Option<String>,
    /// The URL of the picture.
    pub picture: Option<String>,
}

impl Identity {
    /// Whether the token says that its user is a moderator, and comes from an issuer that may say so.
    pub(crate) fn may_moderate(&self) -> bool {
        self.grants && self.permissions.as_ref().is_some_and(|claim| claim.may_moderate())
    }

    /// Whether a revocation at `not_before` covers the token. `iat` has a resolution of seconds, so a token of the same second may
    /// be older and counts as revoked; so does a token without `iat`.
    pub(crate) fn is_revoked(&self, not_before: Option<Timestamp>) -> bool {
        not_before.is_some_and(|end| self.issued.is_none_or(|issued| issued <= end))
    }
}

/// The claims of a minted token.
#[derive(Serialize)]
struct Minted<'a> {
    sub: &'a UserId,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Verifies tokens, and signs them if it has a secret.
pub struct Authenticator {
    local: LocalKeys,
    issuer: Option<String>,
    audience: Option<String>,
    /// The required `typ` of tokens that are verified with the keys of the configuration.
    typ: Option<String>,
    max_age: Duration,
    /// The issuers that publish their keys.
    providers: Vec<Arc<Provider>>,
    clock: Clock,
    /// The furthest that an issuer's clock has been ahead of this server's so far, in milliseconds, up to [`CLOCK_LEEWAY_MS`].
    highest_issued_lead: AtomicI64,
    /// Whether a warning was logged about an issuer whose clock is further ahead than [`CLOCK_LEEWAY_MS`].
    warned: AtomicBool,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = self.local.verify.first().map(|key| key.algorithm);
        let issuers = self.providers.len();
        f.debug_struct("Authenticator")
            .field("algorithm", &algorithm)
            .field("issuers", &issuers)
            .finish_non_exhaustive()
    }
}

/// The claims of a token whose signature was verified, as JSON.
pub(crate) fn claims_of(token: &str) -> Option<Arc<str>> {
    let payload = token.trim().split('.').nth(1)?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(payload).ok()?).ok().map(Arc::from)
}

impl Authenticator {
    /// Makes an authenticator that uses the system's clock. Fails if the public key cannot be used.
    pub fn new(config: &AuthConfig) -> Result<Self, ConfigError> {
        Self::with_clock(config, Clock::system())
    }

    /// Makes an authenticator that uses the given clock. Fails if a public key cannot be used.
    pub fn with_clock(config: &AuthConfig, clock: Clock) -> Result<Self, ConfigError> {
        let (issuer, audience) = (config.issuer.clone(), config.audience.clone());
        Ok(Self {
            local: LocalKeys::new(&config.keys, issuer.as_deref(), audience.as_deref())?,
            issuer,
            audience,
            typ: config.typ.clone(),
            max_age: config.max_token_age,
            providers: provider::providers(config, &clock),
            clock,
            highest_issued_lead: AtomicI64::new(0),
            warned: AtomicBool::new(false),
        })
    }

    /// The issuers that publish their keys.
    pub(crate) fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }

    /// Verifies a token. The key determines the algorithm, not the token's header; the user's claim must be a user id, `exp` in the
    /// future, `nbf` at most 60 s in the future, and `iss` and `aud` as configured.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        self.check(token).map_err(|refused| refused.error)
    }

    /// Verifies a token as [`Self::verify`] does. The error says whose token it is, for the log.
    pub(crate) fn check(&self, token: &str) -> Result<Identity, RefusedToken> {
        // A token from a file or the clipboard may end with a line break.
        let token = token.trim();
        match self.provider_of(token) {
            Some(provider) => {
                let header = read_header(token, AuthError::Header("the token is no JWT"))?;
                let issued = unverified::<IssuedAt>(token).and_then(|claims| claims.iat);
                let found = provider.key(&header, issued.map(timestamp_of_seconds))?;
                self.check_claims(found.key(), found.key().verify(token), token, provider.user())
            }
            None => self.check_local(token),
        }
    }

    /// The issuer whose token it claims to be. No other key may verify it.
    fn provider_of(&self, token: &str) -> Option<&Arc<Provider>> {
        if self.providers.is_empty() {
            return None;
        }
        let issuer = unverified::<IssuedBy>(token)?.iss?;
        self.providers.iter().find(|provider| provider.issuer() == issuer)
    }

    /// Verifies a token with the keys of the configuration.
    fn check_local(&self, token: &str) -> Result<Identity, RefusedToken> {
        let Some(first) = self.local.verify.first() else {
            return Err(if self.providers.is_empty() {
                AuthError::NotConfigured.into()
            } else {
                AuthError::Claim("the token's `iss` is none of the issuers of this server").into()
            });
        };
        let malformed = AuthError::Malformed(first.algorithm);
        let header = read_header(token, malformed)?;
        let mut keys = self.local.verify.iter().filter(|key| key.algorithm == header.alg).peekable();
        if keys.peek().is_none() {
            return Err(malformed.into());
        }
        let is_typ = |typ: &String| header.typ.as_ref().is_some_and(|given| given.eq_ignore_ascii_case(typ));
        if self.typ.as_ref().is_some_and(|typ| !is_typ(typ)) {
            let error =
                "the token's header has another `typ` than `auth.typ`: it was made for something else";
            return Err(AuthError::Header(error).into());
        }
        while let Some(key) = keys.next() {
            let verified = key.verify(token);
            if !matches!(verified, Err(AuthError::Signature)) || keys.peek().is_none() {
                return self.check_claims(key, verified, token, &UserRule::default());
            }
        }
        Err(AuthError::Signature.into())
    }

    /// Checks the claims of a token whose signature was verified.
    fn check_claims(
        &self,
        key: &VerifyingKey,
        verified: Result<Claims, AuthError>,
        token: &str,
        rule: &UserRule,
    ) -> Result<Identity, RefusedToken> {
        let claims = verified
            .map_err(|error| RefusedToken { user: key.user_of(token, error, rule), ..error.into() })?;
        let refused = |error| RefusedToken::of(error, claims.user(rule));
        claims.check_seconds().map_err(refused)?;
        let now = self.clock.now();
        let expires = claims.end(now, self.max_age).map_err(refused)?;
        if expires <= now {
            let ago = (now.as_millis() - expires.as_millis()) / 1_000;
            return Err(RefusedToken { off_by_seconds: Some(ago), ..refused(AuthError::Expired) });
        }
        let begins = claims.nbf.map(|nbf| timestamp_of_seconds(nbf).as_millis());
        if let Some(begins) = begins.filter(|begins| *begins > now.as_millis() + CLOCK_LEEWAY_MS) {
            let ahead = (begins - now.as_millis()) / 1_000;
            return Err(RefusedToken { off_by_seconds: Some(ahead), ..refused(AuthError::NotYet) });
        }
        let user = claims.user(rule).ok_or(AuthError::Claim(
            "the token's `sub` (or `user_claim`, with its issuer's `prefix`) must be the user's id: 1 to 64 characters of A-Z a-z \
             0-9 . _ ~ + = | @ -, the first a letter or a digit",
        ))?;
        Ok(Identity {
            user,
            issued: claims.iat.and_then(|iat| self.trusted_issue_time(timestamp_of_seconds(iat), now)),
            expires,
            claims: claims.profile(),
            permissions: claims.permissions(rule).map_err(refused)?,
            grants: rule.grants,
        })
    }

    /// Returns when a token was issued; `None` if that time is too far in the future, because the issuer's clock is wrong.
    fn trusted_issue_time(&self, issued: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let ahead = issued.as_millis().saturating_sub(now.as_millis());
        if ahead <= CLOCK_LEEWAY_MS {
            self.highest_issued_lead.fetch_max(ahead, Ordering::Relaxed);
            return Some(issued);
        }
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                ahead_ms = ahead,
                "a token's `iat` is ahead of this server's clock and not believed: compare the clocks"
            );
        }
        None
    }

    /// The time up to which a revocation must cover tokens now. It is the highest `iat` that a token issued until now can have: the
    /// current time, plus the furthest that an issuer's clock has been ahead since the start.
    pub(crate) fn latest_issued(&self) -> Timestamp {
        Timestamp::from_millis(
            self.clock.now().as_millis() + self.highest_issued_lead.load(Ordering::Relaxed),
        )
    }

    /// Signs a token for `user` that is valid for `ttl`, rounded up to a second. Fails unless the first configured key is a secret.
    pub fn mint(&self, user: &UserId, ttl: Duration) -> Result<String, AuthError> {
        if self.local.verify.is_empty() {
            return Err(AuthError::NotConfigured);
        }
        let key = self.local.mint.as_ref().ok_or(AuthError::CannotMint)?;
        let now = self.clock.now().as_millis().div_euclid(1_000);
        let last = Timestamp::from_millis(i64::MAX).as_millis() / 1_000;
        let ttl = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        let exp = i64::try_from(ttl).ok().and_then(|ttl| now.checked_add(ttl)).ok_or(AuthError::Lifetime)?;
        if exp <= now || exp > last {
            return Err(AuthError::Lifetime);
        }
        let (iss, aud) = (self.issuer.as_deref(), self.audience.as_deref());
        let claims = Minted { sub: user, iat: now, exp, iss, aud };
        let header = Header::new(Algorithm::HS256);
        let header = Header { typ: self.typ.clone().or(header.typ.clone()), ..header };
        jsonwebtoken::encode(&header, &claims, key).map_err(|_| AuthError::CannotMint)
    }
}

/// Reads the header of a token. A verifier must know every extension that is marked critical (RFC 7515 section 4.1.11), and this one
/// knows none.
fn read_header(token: &str, malformed: AuthError) -> Result<Header, AuthError> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| malformed)?;
    if header.crit.is_some() { Err(malformed) } else { Ok(header) }
}

#[derive(Deserialize)]
struct IssuedBy {
    iss: Option<String>,
}

#[derive(Deserialize)]
struct IssuedAt {
    iat: Option<f64>,
}

/// Claims of a token that is not verified yet.
fn unverified<T: DeserializeOwned>(token: &str) -> Option<T> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
mod tests;
