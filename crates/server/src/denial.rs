//! Counts and logs clients that are refused before they are authenticated, by a closed list of reasons, with the client's address.
//! Refused commands are logged here, too.
//!
//! The log line contains no header, token or key. A wrong one may be a mistyped secret, or a secret for another service.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use switchboard_protocol::{ErrorCode, Timestamp};
use tracing::Span;

use crate::auth::{AuthError, RefusedToken};
use crate::metrics::Metrics;
use crate::peer::proxy_protocol::HeaderError;
use crate::throttle::{AffectedClient, NameBudget, Throttle};
use switchboard_store::clock::Clock;
use switchboard_store::refusal::Refusal;

/// The shortest time between two log lines about refused clients, besides one a minute for each user or address. So all of them are
/// named, and a flood of clients cannot fill a disk.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The longest name of a field that the log shows. No command has a longer one.
const MAX_FIELD_NAME: usize = 32;

/// Why a connection, a handshake, a request or a `hello` was refused before the client was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/operating.md describes each")]
pub enum Denial {
    MalformedRequest,
    MalformedHandshake,
    MalformedHello,
    MissingProxyHeader,
    MalformedProxyHeader,
    UntrustedProxyHeader,
    SecretInAddress,
    ForeignHost,
    ForeignOrigin,
    NoCredentials,
    MalformedToken,
    WrongSignature,
    WrongClaim,
    UnknownKey,
    EarlyToken,
    ExpiredToken,
    RevokedToken,
    Banned,
    BadKey,
    NotPermitted,
}

impl Denial {
    /// Every reason there is.
    pub const ALL: [Self; 20] = [
        Self::MalformedRequest,
        Self::MalformedHandshake,
        Self::MalformedHello,
        Self::MissingProxyHeader,
        Self::MalformedProxyHeader,
        Self::UntrustedProxyHeader,
        Self::SecretInAddress,
        Self::ForeignHost,
        Self::ForeignOrigin,
        Self::NoCredentials,
        Self::MalformedToken,
        Self::WrongSignature,
        Self::WrongClaim,
        Self::UnknownKey,
        Self::EarlyToken,
        Self::ExpiredToken,
        Self::RevokedToken,
        Self::Banned,
        Self::BadKey,
        Self::NotPermitted,
    ];

    /// The name of the reason in the log and in the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedRequest => "malformed_request",
            Self::MalformedHandshake => "malformed_handshake",
            Self::MalformedHello => "malformed_hello",
            Self::MissingProxyHeader => "missing_proxy_header",
            Self::MalformedProxyHeader => "malformed_proxy_header",
            Self::UntrustedProxyHeader => "untrusted_proxy_header",
            Self::SecretInAddress => "secret_in_address",
            Self::ForeignHost => "foreign_host",
            Self::ForeignOrigin => "foreign_origin",
            Self::NoCredentials => "no_credentials",
            Self::MalformedToken => "malformed_token",
            Self::WrongSignature => "wrong_signature",
            Self::WrongClaim => "wrong_claim",
            Self::UnknownKey => "unknown_key",
            Self::EarlyToken => "early_token",
            Self::ExpiredToken => "expired_token",
            Self::RevokedToken => "revoked_token",
            Self::Banned => "banned",
            Self::BadKey => "bad_key",
            Self::NotPermitted => "not_permitted",
        }
    }
}

impl From<&AuthError> for Denial {
    fn from(error: &AuthError) -> Self {
        match error {
            AuthError::Expired => Self::ExpiredToken,
            AuthError::Revoked => Self::RevokedToken,
            AuthError::NotYet => Self::EarlyToken,
            AuthError::Signature => Self::WrongSignature,
            AuthError::Claim(_) => Self::WrongClaim,
            AuthError::UnknownKey | AuthError::KeysAway(_) => Self::UnknownKey,
            AuthError::Malformed(_)
            | AuthError::Header(_)
            | AuthError::NotConfigured
            | AuthError::CannotMint
            | AuthError::Lifetime
            | AuthError::NoRandomness => Self::MalformedToken,
        }
    }
}

impl From<HeaderError> for Denial {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Missing | HeaderError::TimedOut => Self::MissingProxyHeader,
            HeaderError::Malformed | HeaderError::TooLong => Self::MalformedProxyHeader,
        }
    }
}

/// A refusal of a client that is not authenticated yet, or of a request for what its credentials do not permit.
#[derive(Debug, Clone)]
pub(crate) struct Denied {
    pub(crate) refusal: Refusal,
    /// The reason for the log and the metrics; `None` for a refusal that is no denial.
    pub(crate) denial: Option<Denial>,
    /// What the log says about the token, if one was refused.
    pub(crate) token: Option<Box<RefusedToken>>,
}

impl Denied {
    pub(crate) fn new(denial: Denial, refusal: Refusal) -> Self {
        Self { refusal, denial: Some(denial), token: None }
    }

    /// The credentials are missing or invalid.
    pub(crate) fn unauthorized(denial: Denial, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(denial, Refusal::new(ErrorCode::Unauthorized, message))
    }
}

impl From<RefusedToken> for Denied {
    fn from(token: RefusedToken) -> Self {
        let denied = Self::new(Denial::from(&token.error), token.error.refusal());
        Self { token: Some(Box::new(token)), ..denied }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, denial: None, token: None }
    }
}

/// Counts and logs refused clients, and logs refused commands.
#[derive(Debug)]
pub(crate) struct Denials {
    metrics: Arc<Metrics>,
    log: Throttle,
    /// A throttle for each code, so that a flood of one does not hide the others.
    refusals: Vec<(ErrorCode, Throttle)>,
}

impl Denials {
    pub(crate) fn new(metrics: Arc<Metrics>, budget: &NameBudget) -> Self {
        Denial::ALL.into_iter().for_each(|denial| metrics.add_denial_reason(denial.as_str()));
        let throttle = || Throttle::once_per(LOG_INTERVAL).with_names(budget);
        let refusals = ErrorCode::ALL.into_iter().map(|code| (code, throttle())).collect();
        Self { metrics, log: throttle(), refusals }
    }

    /// Counts a refused client, and logs it in the span that names its address. At most one line a second, besides one a minute for
    /// each reason and client.
    pub(crate) fn record(
        &self,
        denial: Denial,
        token: Option<&RefusedToken>,
        address: IpAddr,
        span: impl FnOnce() -> Span,
    ) {
        let reason = denial.as_str();
        self.metrics.count_denied(reason);
        let user = token.and_then(|token| token.user.as_ref());
        let affected = user.map_or(AffectedClient::Address(address), AffectedClient::User);
        let Some(count) = self.log.record_event_for((reason, affected)) else { return };
        let suppressed = count - 1;
        let off_by =
            |error| token.filter(|token| token.error == error).and_then(|token| token.off_by_seconds);
        let (expired_seconds, early_seconds) = (off_by(AuthError::Expired), off_by(AuthError::NotYet));
        span().in_scope(|| {
            tracing::warn!(reason, expired_seconds, early_seconds, suppressed, "a client was turned away");
        });
    }

    /// Logs a refused command in the span that names its request or connection. At most one line a second for each code, besides
    /// one a minute for each client.
    pub(crate) fn log_refusal(
        &self,
        code: ErrorCode,
        field: Option<&str>,
        affected: Option<AffectedClient<'_>>,
        span: impl FnOnce() -> Span,
    ) {
        let throttle = self.refusals.iter().find(|(other, _)| *other == code);
        let due = throttle.and_then(|(_, throttle)| match affected {
            Some(affected) => throttle.record_event_for(affected),
            None => throttle.record_event(),
        });
        let Some(count) = due else { return };
        let (suppressed, field) = (count - 1, field.and_then(known_field_name));
        span().in_scope(|| match code {
            ErrorCode::RateLimited => {
                tracing::warn!(code = code.as_str(), suppressed, "a limit refused a command");
            }
            ErrorCode::Unavailable => {
                tracing::warn!(code = code.as_str(), suppressed, "the server could not execute a command");
            }
            _ => tracing::info!(code = code.as_str(), field, suppressed, "refused a command"),
        });
    }

    /// Logs how many lines were suppressed at the end of a flood, and since when, if no later line has reported that.
    pub(crate) fn flush(&self) {
        if let Some(unlogged) = self.log.take_unlogged() {
            let (suppressed, since) = (unlogged.count, time_ago(unlogged.age));
            tracing::warn!(suppressed, %since, "more clients were turned away");
        }
        for (code, throttle) in &self.refusals {
            let Some(unlogged) = throttle.take_unlogged() else { continue };
            let (code_name, suppressed, since) = (code.as_str(), unlogged.count, time_ago(unlogged.age));
            match code {
                ErrorCode::RateLimited | ErrorCode::Unavailable => {
                    tracing::warn!(code = code_name, suppressed, %since, "refused more commands before");
                }
                _ => tracing::info!(code = code_name, suppressed, %since, "refused more commands before"),
            }
        }
    }
}

/// The time `age` ago, by the system's clock.
fn time_ago(age: Duration) -> Timestamp {
    let age = crate::timers::millis(age);
    Timestamp::from_millis(Clock::system().now().as_millis().saturating_sub(age))
}

/// The name of a command's field for the log; `None` if the client may have made it up.
fn known_field_name(field: &str) -> Option<&str> {
    let name = field.split(['.', '[']).next()?;
    let is_name = name.len() <= MAX_FIELD_NAME && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_name.then_some(name)
}
