//! The claims of a token.

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use serde_json::{Map, Value};
use switchboard_protocol::{Timestamp, UserId};

use super::permissions::PermissionClaim;
use super::{AuthError, ProfileClaims};
use crate::config::default_permission_claim;

/// The last second of the year 9999, in seconds since 1970. A time in a token must not be later.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// The claims that the server checks. The times are NumericDates: seconds, perhaps with a fraction.
#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) exp: Option<f64>,
    pub(super) nbf: Option<f64>,
    pub(super) iat: Option<f64>,
    /// The other claims. One of a type that the server does not expect makes no token invalid.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// How a token's claims name the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserRule {
    /// The claim that has the user's id.
    pub(super) claim: String,
    /// What is put before it.
    pub(super) prefix: String,
    /// Prefixes of other issuers. No user of this issuer has an id that begins with one.
    pub(super) reserved: Vec<String>,
    /// The claim that says what the user may do.
    pub(super) permissions: String,
    /// Whether that claim may allow what the configuration does not.
    pub(super) grants: bool,
}

impl Default for UserRule {
    fn default() -> Self {
        // Who has the secret can be any user.
        Self {
            claim: "sub".to_owned(),
            prefix: String::new(),
            reserved: Vec::new(),
            permissions: default_permission_claim(),
            grants: true,
        }
    }
}

impl Claims {
    /// The user, if the claim and the prefix are a user id.
    pub(super) fn user(&self, rule: &UserRule) -> Option<UserId> {
        let claim = self.others.get(&rule.claim)?.as_str()?;
        let user = UserId::parse(&format!("{}{claim}", rule.prefix)).ok()?;
        let is_reserved = rule.reserved.iter().any(|prefix| user.as_str().starts_with(prefix));
        (!is_reserved).then_some(user)
    }

    /// What the token says its user may do. A claim that cannot be read must not be taken for none.
    pub(super) fn permissions(&self, rule: &UserRule) -> Result<Option<Box<PermissionClaim>>, AuthError> {
        let Some(claim) = self.others.get(&rule.permissions).filter(|claim| !claim.is_null()) else {
            return Ok(None);
        };
        // Serde would also read an array as the fields in their order.
        let claim = Some(claim).filter(|claim| claim.is_object());
        let read = claim
            .and_then(|claim| PermissionClaim::deserialize(claim).ok())
            .filter(PermissionClaim::is_valid);
        read.map(|read| Some(Box::new(read))).ok_or(AuthError::Claim(
            "the token's claim about what the user may do cannot be read: it has the names and values of `[permissions]`",
        ))
    }

    /// What the token says of the user for other users to see.
    pub(super) fn profile(&self) -> ProfileClaims {
        let text = |name| self.others.get(name).and_then(Value::as_str).map(str::to_owned);
        ProfileClaims { name: text("name"), picture: text("picture") }
    }

    /// Refuses times beyond the year 9999, because their issuer has counted milliseconds instead of seconds. Such a token would be
    /// valid for thousands of years.
    pub(super) fn check_seconds(&self) -> Result<(), AuthError> {
        for (time, error) in [
            (
                self.exp,
                "the token's `exp` is beyond the year 9999: it counts seconds since 1970, not milliseconds",
            ),
            (
                self.nbf,
                "the token's `nbf` is beyond the year 9999: it counts seconds since 1970, not milliseconds",
            ),
            (
                self.iat,
                "the token's `iat` is beyond the year 9999: it counts seconds since 1970, not milliseconds",
            ),
        ] {
            if time.is_some_and(|seconds| seconds > LAST_SECOND) {
                return Err(AuthError::Claim(error));
            }
        }
        Ok(())
    }

    /// When the token ends: at its `exp`, or when it has the highest age, if that is earlier. A token without `iat` may have as much
    /// time left as a new one.
    pub(super) fn end(&self, now: Timestamp, max_age: Duration) -> Result<Timestamp, AuthError> {
        let expires = self
            .exp
            .map(timestamp_of_seconds)
            .ok_or(AuthError::Claim("the token has no `exp`: it must say when it expires"))?;
        if max_age.is_zero() {
            return Ok(expires);
        }
        let max_age = crate::timers::millis(max_age);
        let issued = self.iat.map(timestamp_of_seconds);
        let end = issued.unwrap_or(now).as_millis().saturating_add(max_age);
        match issued {
            Some(_) if end <= now.as_millis() => Err(AuthError::Claim(
                "the token is older than this server allows: its `iat` is too long ago; get a new one",
            )),
            None if expires.as_millis() > end => Err(AuthError::Claim(
                "the token has no `iat`, and is valid for longer than this server allows",
            )),
            _ => Ok(expires.min(Timestamp::from_millis(end))),
        }
    }
}

/// The error for what the JWT library finds in the claims; `malformed` for what it finds elsewhere.
pub(super) fn describe_jwt_error(kind: &ErrorKind, malformed: AuthError) -> AuthError {
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

pub(super) fn timestamp_of_seconds(seconds: f64) -> Timestamp {
    // A cast of a float saturates, and the timestamp clamps the result.
    #[expect(clippy::cast_possible_truncation, reason = "saturating is what is wanted")]
    Timestamp::from_millis((seconds * 1_000.0) as i64)
}
