//! Why a token is refused.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use switchboard_protocol::{ErrorCode, UserId};
use switchboard_store::refusal::Refusal;

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
    /// The header is one that no token for this server has.
    #[error("{0}")]
    Header(&'static str),
    /// The issuer has no key with the token's `kid`, or not any more.
    #[error("the token's `kid` is no key of its issuer; get a new one")]
    UnknownKey,
    /// The server may not know yet that the issuer has the token's key.
    #[error("the keys of the token's issuer are being fetched; try again")]
    KeysAway(Duration),
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

impl AuthError {
    /// The refusal of a command with such a token.
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::KeysAway(wait) => Refusal {
                retry_after: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                ..Refusal::new(ErrorCode::NotReady, self.to_string())
            },
            _ => Refusal::new(ErrorCode::Unauthorized, self.to_string()),
        }
    }
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
    /// A refused token with a valid signature.
    pub(super) fn of(error: AuthError, user: Option<UserId>) -> Self {
        Self { error, user, off_by_seconds: None }
    }

    /// A valid token of a user who was logged out everywhere after it was issued.
    pub(crate) fn revoked(user: &UserId) -> Self {
        Self { error: AuthError::Revoked, user: Some(user.clone()), off_by_seconds: None }
    }
}
