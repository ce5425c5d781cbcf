//! Authentication: tokens of users (JWT, RFC 7519) and API keys of back ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use switchboard_protocol::{Timestamp, UserId};

use crate::config::{AuthConfig, AuthKey, ConfigError};
use switchboard_store::clock::Clock;

/// How far the token issuer's clock may be ahead of the server's, in milliseconds, before `nbf` refuses the token and `iat` is
/// ignored. `exp` has no leeway: a connection is closed when its token expires.
const CLOCK_LEEWAY_MS: i64 = 60_000;

/// The minimum length of an RSA key in DER: RS256 requires a modulus of 2048 bits or more (RFC 7518 section 3.3).
const MIN_RSA_DER: usize = 2048 / 8;

/// The last second of the year 9999, in seconds since 1970. A time in a token must not be later.
const LAST_SECOND: f64 = 253_402_300_799.0;

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
    /// Whether a revocation at `not_before` covers the token. `iat` has a resolution of seconds, so a token of the same second may
    /// be older and counts as revoked; so does a token without `iat`.
    pub(crate) fn is_revoked(&self, not_before: Option<Timestamp>) -> bool {
        not_before.is_some_and(|end| self.issued.is_none_or(|issued| issued <= end))
    }
}

/// Why a token is refused or cannot be minted. The message names the remedy and never contains the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The server has no key with which to verify tokens.
    #[error(
        "the server has no secret to verify tokens with; set SWITCHBOARD_AUTH_SECRET_FILE, or in `dev` mode \
         say `user` in place of a token"
    )]
    NotConfigured,
    /// The token is no JWT, or is signed with another algorithm than the configured one.
    #[error(
        "not a token for this server: it takes JWTs signed with {0:?}; get one from your application's back \
         end"
    )]
    Malformed(Algorithm),
    /// The signature does not match the server's key.
    #[error("the token's signature is wrong: it was made with another key than this server's, or altered")]
    Signature,
    /// The time in `exp` has passed.
    #[error("the token has expired; get a new one")]
    Expired,
    /// The time in `nbf` is still to come.
    #[error("the token is not valid yet; compare the clocks of the server and of the token's issuer")]
    NotYet,
    /// A claim is missing or wrong.
    #[error("{0}")]
    Claim(&'static str),
    /// The user was logged out everywhere after the token was issued.
    #[error(
        "the user was logged out everywhere since the token was made, or it has no `iat` that the server can \
         believe; get a new one"
    )]
    Revoked,
    /// The configured key is a public key, which cannot sign tokens.
    #[error("a public key can only verify tokens; make them where the private key is, or configure a secret")]
    CannotMint,
    /// The lifetime is shorter than a second, or ends after the year 9999.
    #[error("a token lives for at least a second, and not beyond the year 9999")]
    Lifetime,
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

/// A refused token, with what it says if its signature is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedToken {
    /// Why it is refused.
    pub(crate) error: AuthError,
    /// The user in a token with a valid signature.
    pub(crate) user: Option<UserId>,
    /// How long ago the token has expired, or how long until it becomes valid. If a clock is wrong, it is about the same for all.
    pub(crate) off_by_seconds: Option<i64>,
}

impl From<AuthError> for RefusedToken {
    fn from(error: AuthError) -> Self {
        Self { error, user: None, off_by_seconds: None }
    }
}

impl RefusedToken {
    fn of(error: AuthError, claims: &Claims) -> Self {
        Self { error, user: claims.user(), off_by_seconds: None }
    }

    /// A valid token of a user who was logged out everywhere after it was issued.
    pub(crate) fn revoked(user: &UserId) -> Self {
        Self { error: AuthError::Revoked, user: Some(user.clone()), off_by_seconds: None }
    }
}

/// The claims that the server checks. The times are NumericDates: seconds, perhaps with a fraction.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    // A claim of another type than OpenID Connect's makes no token invalid.
    name: Option<serde_json::Value>,
    picture: Option<serde_json::Value>,
}

impl Claims {
    fn user(&self) -> Option<UserId> {
        self.sub.as_deref().and_then(|sub| UserId::parse(sub).ok())
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

struct Keys {
    verify: DecodingKey,
    /// The key for signing tokens; `None` if the configured key is a public key.
    mint: Option<EncodingKey>,
    validation: Validation,
    algorithm: Algorithm,
}

impl Keys {
    /// The user in a token that has a claim that is wrong and a valid signature.
    fn user_of(&self, token: &str, error: AuthError) -> Option<UserId> {
        if !matches!(error, AuthError::Claim(_)) {
            return None;
        }
        let signature_only = validation(self.algorithm, None, None);
        let signature_only = Validation { validate_aud: false, ..signature_only };
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.verify, &signature_only);
        decoded.ok().and_then(|decoded| decoded.claims.user())
    }
}

/// Verifies tokens, and signs them if it has a secret.
pub struct Authenticator {
    keys: Option<Keys>,
    issuer: Option<String>,
    audience: Option<String>,
    clock: Clock,
    /// The furthest that an issuer's clock has been ahead of this server's so far, in milliseconds, up to [`CLOCK_LEEWAY_MS`].
    highest_issued_lead: AtomicI64,
    /// Whether a warning was logged about an issuer whose clock is further ahead than [`CLOCK_LEEWAY_MS`].
    warned: AtomicBool,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = self.keys.as_ref().map(|keys| keys.algorithm);
        f.debug_struct("Authenticator").field("algorithm", &algorithm).finish_non_exhaustive()
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

    /// Makes an authenticator that uses the given clock. Fails if the public key cannot be used.
    pub fn with_clock(config: &AuthConfig, clock: Clock) -> Result<Self, ConfigError> {
        let (issuer, audience) = (config.issuer.clone(), config.audience.clone());
        let keys = match &config.key {
            None => None,
            Some(key) => {
                let (verify, algorithm, mint) = match key {
                    AuthKey::Secret(secret) => {
                        let (verify, mint) = (DecodingKey::from_secret, EncodingKey::from_secret);
                        (verify(secret.expose()), Algorithm::HS256, Some(mint(secret.expose())))
                    }
                    AuthKey::PublicKey(pem) => {
                        let (key, algorithm) = parse_public_key(pem)?;
                        (key, algorithm, None)
                    }
                };
                let validation = validation(algorithm, issuer.as_deref(), audience.as_deref());
                Some(Keys { verify, mint, validation, algorithm })
            }
        };
        Ok(Self {
            keys,
            issuer,
            audience,
            clock,
            highest_issued_lead: AtomicI64::new(0),
            warned: AtomicBool::new(false),
        })
    }

    /// Verifies a token. The configured key determines the algorithm, not the token's header; `sub` must be a user id, `exp` in the
    /// future, `nbf` at most 60 s in the future, and `iss` and `aud` as configured.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        self.check(token).map_err(|refused| refused.error)
    }

    /// Verifies a token as [`Self::verify`] does. The error says whose token it is, for the log.
    pub(crate) fn check(&self, token: &str) -> Result<Identity, RefusedToken> {
        let keys = self.keys.as_ref().ok_or(AuthError::NotConfigured)?;
        let malformed = AuthError::Malformed(keys.algorithm);
        // A token from a file or the clipboard may end with a line break.
        let token = token.trim();
        let header = jsonwebtoken::decode_header(token).map_err(|_| malformed)?;
        // A verifier must know every extension that is marked critical (RFC 7515 section 4.1.11), and this one knows none.
        if header.alg != keys.algorithm || header.crit.is_some() {
            return Err(malformed.into());
        }
        let claims = match jsonwebtoken::decode::<Claims>(token, &keys.verify, &keys.validation) {
            Ok(decoded) => decoded.claims,
            Err(error) => {
                let error = describe_jwt_error(error.kind(), malformed);
                return Err(RefusedToken { user: keys.user_of(token, error), ..error.into() });
            }
        };
        let refused = |error| RefusedToken::of(error, &claims);
        check_seconds(&claims).map_err(refused)?;
        let now = self.clock.now();
        let no_end = AuthError::Claim("the token has no `exp`: it must say when it expires");
        let expires = timestamp_of_seconds(claims.exp.ok_or_else(|| refused(no_end))?);
        if expires <= now {
            let ago = (now.as_millis() - expires.as_millis()) / 1_000;
            return Err(RefusedToken { off_by_seconds: Some(ago), ..refused(AuthError::Expired) });
        }
        let begins = claims.nbf.map(|nbf| timestamp_of_seconds(nbf).as_millis());
        if let Some(begins) = begins.filter(|begins| *begins > now.as_millis() + CLOCK_LEEWAY_MS) {
            let ahead = (begins - now.as_millis()) / 1_000;
            return Err(RefusedToken { off_by_seconds: Some(ahead), ..refused(AuthError::NotYet) });
        }
        let user = claims.user().ok_or(AuthError::Claim(
            "the token's `sub` must be the user's id: 1 to 64 characters of A-Z a-z 0-9 . _ ~ + = | @ -, the \
             first a letter or a digit",
        ))?;
        Ok(Identity {
            user,
            issued: claims.iat.and_then(|iat| self.trusted_issue_time(timestamp_of_seconds(iat), now)),
            expires,
            claims: ProfileClaims { name: text_of(claims.name), picture: text_of(claims.picture) },
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

    /// Signs a token for `user` that is valid for `ttl`, rounded up to a second. Fails unless the configured key is a secret.
    pub fn mint(&self, user: &UserId, ttl: Duration) -> Result<String, AuthError> {
        let keys = self.keys.as_ref().ok_or(AuthError::NotConfigured)?;
        let key = keys.mint.as_ref().ok_or(AuthError::CannotMint)?;
        let now = self.clock.now().as_millis().div_euclid(1_000);
        let last = Timestamp::from_millis(i64::MAX).as_millis() / 1_000;
        let ttl = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        let exp = i64::try_from(ttl).ok().and_then(|ttl| now.checked_add(ttl)).ok_or(AuthError::Lifetime)?;
        if exp <= now || exp > last {
            return Err(AuthError::Lifetime);
        }
        let (iss, aud) = (self.issuer.as_deref(), self.audience.as_deref());
        let claims = Minted { sub: user, iat: now, exp, iss, aud };
        jsonwebtoken::encode(&Header::new(keys.algorithm), &claims, key).map_err(|_| AuthError::CannotMint)
    }
}

/// The checks of the JWT library: signature, `iss` and `aud`. [`Authenticator::verify`] checks the times itself, with the server's
/// clock.
fn validation(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims.clear();
    if let Some(issuer) = issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    if let Some(audience) = audience {
        validation.set_audience(&[audience]);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    validation
}

fn describe_jwt_error(kind: &ErrorKind, malformed: AuthError) -> AuthError {
    const ISSUER: AuthError = AuthError::Claim("the token's `iss` is not the issuer that this server trusts");
    const AUDIENCE: AuthError = AuthError::Claim(
        "the token's `aud` is not this server's audience: it was made for another service, or `auth.audience` \
         is not set",
    );
    match kind {
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidIssuer => ISSUER,
        ErrorKind::InvalidAudience => AUDIENCE,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => ISSUER,
        ErrorKind::MissingRequiredClaim(_) => AUDIENCE,
        ErrorKind::Json(_) => AuthError::Claim(
            "the token's claims cannot be read: `sub` is a string, `exp` and `nbf` are seconds since 1970",
        ),
        _ => malformed,
    }
}

/// Refuses times beyond the year 9999, because their issuer has counted milliseconds instead of seconds. Such a token would be
/// valid for thousands of years.
fn check_seconds(claims: &Claims) -> Result<(), AuthError> {
    for (time, error) in [
        (
            claims.exp,
            "the token's `exp` is beyond the year 9999: it counts seconds since 1970, not milliseconds",
        ),
        (
            claims.nbf,
            "the token's `nbf` is beyond the year 9999: it counts seconds since 1970, not milliseconds",
        ),
        (
            claims.iat,
            "the token's `iat` is beyond the year 9999: it counts seconds since 1970, not milliseconds",
        ),
    ] {
        if time.is_some_and(|seconds| seconds > LAST_SECOND) {
            return Err(AuthError::Claim(error));
        }
    }
    Ok(())
}

fn text_of(claim: Option<serde_json::Value>) -> Option<String> {
    match claim {
        Some(serde_json::Value::String(text)) => Some(text),
        _ => None,
    }
}

fn timestamp_of_seconds(seconds: f64) -> Timestamp {
    // A cast of a float saturates, and the timestamp clamps the result.
    #[expect(clippy::cast_possible_truncation, reason = "saturating is what is wanted")]
    Timestamp::from_millis((seconds * 1_000.0) as i64)
}

/// Parses the key in a PEM file. Returns it with the only algorithm with which it may be used.
fn parse_public_key(pem: &str) -> Result<(DecodingKey, Algorithm), ConfigError> {
    if pem.contains("PRIVATE KEY") {
        return Err(ConfigError::new(
            "`auth.public_key` is a private key; this server needs the public half only: \
             `openssl pkey -in KEY -pubout`",
        ));
    }
    if pem.contains("BEGIN CERTIFICATE") {
        return Err(ConfigError::new(
            "`auth.public_key` is a certificate; take the key out of it: \
             `openssl x509 -in CERT -pubkey -noout`",
        ));
    }
    let bytes = pem.as_bytes();
    let size = |key: &DecodingKey| key.try_get_as_bytes().map_or(0, <[u8]>::len);
    if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        if size(&key) < MIN_RSA_DER {
            return Err(ConfigError::new(
                "`auth.public_key` is an RSA key of less than 2048 bits; make a longer one",
            ));
        }
        return Ok((key, Algorithm::RS256));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        // ES256 is the curve P-256, whose points take 65 bytes, or 33 compressed (SEC 1 section 2.3.3).
        if ![65, 33].contains(&size(&key)) {
            return Err(ConfigError::new(
                "`auth.public_key` is on another curve than P-256, the one of ES256",
            ));
        }
        return Ok((key, Algorithm::ES256));
    }
    if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
        return Ok((key, Algorithm::EdDSA));
    }
    Err(ConfigError::new(
        "`auth.public_key` is not a public key in PEM (-----BEGIN PUBLIC KEY-----) of type RSA, P-256 or \
         Ed25519",
    ))
}

/// The API key of a back end: `sbk_` and 256 random bits in base64url. It is shown once, when it is created. The server stores only
/// its hash.
pub struct ApiKey(String);

impl ApiKey {
    /// The prefix of every key, so that secret scanners find a leaked key, and the server can tell a key from a token.
    pub const PREFIX: &'static str = "sbk_";

    /// Generates a new key. Fails if the operating system gives no random bytes.
    pub fn generate() -> Result<Self, AuthError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| AuthError::NoRandomness)?;
        Ok(Self(format!("{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// The text of the key, which is shown only once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The SHA-256 hash of a key, which the store keeps and looks up. Passwords need a slow, salted hash, because they can be
    /// guessed. 256 random bits cannot be guessed, so a fast hash is enough. For the same reason the lookup need not take constant
    /// time.
    pub fn hash(key: &str) -> [u8; 32] {
        Sha256::digest(key.as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

#[cfg(test)]
mod tests;
