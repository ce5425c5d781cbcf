//! Checks that every request must pass: its origin, its `Host`, and no secret in its URL.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use switchboard_protocol::ErrorCode;
use tracing::Span;

use super::accept::Client;
use super::problem::{DeniedRequest, Problem};
use super::request_span;
use crate::denial::{Denial, Denied};
use crate::services::Services;
use switchboard_store::refusal::Refusal;

/// Query parameters that usually hold a secret.
const SECRET_PARAMETERS: [&str; 10] = [
    "token",
    "access_token",
    "id_token",
    "auth_token",
    "jwt",
    "auth",
    "authorization",
    "key",
    "api_key",
    "apikey",
];

/// Checks a request before it is routed.
pub(super) async fn check_request(
    State(services): State<Arc<Services>>,
    request: Request,
    next: Next,
) -> Response {
    let client = request.extensions().get::<Client>().map(|client| client.address);
    let checked = check_query(request.uri())
        .and_then(|()| check_host(&services, request.headers()))
        .and_then(|()| check_origin(&services, request.method(), request.headers()));
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if let (Some(denied), Some(address)) = (response.extensions_mut().remove::<DeniedRequest>(), client) {
        let DeniedRequest { denial, token } = denied;
        if let Some(user) = token.as_ref().and_then(|token| token.user.as_ref()) {
            request_span::record("user", user.as_str());
        }
        services.denials.record(denial, token.as_deref(), address, Span::current);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Refuses secrets in the URL, because URLs end up in logs and browser histories.
fn check_query(uri: &Uri) -> Result<(), Problem> {
    let secret = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
    };
    if uri.query().is_some_and(|query| query.split('&').any(secret)) {
        let message =
            "do not put a token into the URL: send it in `hello`, or over HTTP in the header Authorization";
        return Err(Denied::unauthorized(Denial::SecretInAddress, message).into());
    }
    Ok(())
}

/// Protects a `dev` server, which does not authenticate, against DNS rebinding: a web page whose author makes its host name resolve
/// to this machine.
fn check_host(services: &Services, headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !services.is_dev() || is_loopback(host_name(host)) {
        return Ok(());
    }
    let message =
        "a `dev` server answers on this machine only: use 127.0.0.1, [::1] or localhost in the address";
    Err(Problem::from(Denied::new(Denial::ForeignHost, Refusal::new(ErrorCode::Forbidden, message)))
        .with_status(StatusCode::MISDIRECTED_REQUEST))
}

/// The `host` of `host:port`.
pub(super) fn host_name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    }
}

pub(super) fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Admits pages of the server itself and of the configured origins. Clients that are not browsers send no `Origin`, and
/// authenticate with a token.
fn check_origin(services: &Services, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let upgrade = headers.contains_key(header::UPGRADE);
    let Some(origin) = headers.get(header::ORIGIN).filter(|_| upgrade || !method.is_safe()) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_same_origin(origin, host)
        || services.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    {
        return Ok(());
    }
    let message = "pages of this origin may not connect; the operator lists it in `allowed_origins`";
    Err(Denied::new(Denial::ForeignOrigin, Refusal::new(ErrorCode::Forbidden, message)).into())
}

/// Whether a page of `origin` was loaded from `host`. Either may contain the scheme's default port, which some proxies add.
fn is_same_origin(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let without_port =
        |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
    without_port(authority) == without_port(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_the_url_is_refused() {
        for (uri, ok) in [
            ("/v1/ws", true),
            ("/v1/ws?v=1", true),
            ("/v1/ws?token=x", false),
            ("/v1/ws?v=1&access_Token=x", false),
            ("/v1/ws?jwt", false),
            ("/v1/ws?author=x", true),
        ] {
            assert_eq!(check_query(&Uri::from_static(uri)).is_ok(), ok, "{uri}");
        }
    }

    #[test]
    fn origins_that_differ_only_in_the_default_port_are_the_same() {
        for (origin, host, same) in [
            ("https://x", "x", true),
            ("https://x", "x:443", true),
            ("https://x:443", "x", true),
            ("http://x", "x:80", true),
            ("http://X", "x", true),
            ("http://[::1]", "[::1]:80", true),
            ("http://x:9501", "x:9501", true),
            ("https://x", "x:80", false),
            ("http://x", "x:443", false),
            ("https://x:8443", "x", false),
            ("https://x", "x:8443", false),
            ("https://y", "x:443", false),
            ("https://x", "", false),
            ("null", "x", false),
            ("null", "null", false),
            ("", "", false),
        ] {
            assert_eq!(is_same_origin(origin, host), same, "{origin} at {host}");
        }
    }

    #[test]
    fn only_loopback_addresses_and_localhost_are_loopback() {
        for (host, loopback) in [
            ("127.0.0.1:9501", true),
            ("[::1]:9501", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("evil.example:9501", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(host_name(host)), loopback, "{host}");
        }
    }
}
