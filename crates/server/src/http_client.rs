//! The client of the HTTP servers that the configuration or an operator names: endpoints of webhooks, the application's hook, and
//! issuers of tokens. It follows no redirects.

pub(crate) mod target;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use switchboard_protocol::truncated;
use switchboard_store::tls_client::{root_certificates, verifying_config};

use self::target::{Allowed, Resolver};

/// How long an idle connection is kept. It is shorter than the time-outs of web servers, because a request that meets a
/// connection that is being closed fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The longest reason that is kept of a failure.
const MAX_REASON_BYTES: usize = 200;

/// A client that connects to allowed addresses only.
pub(crate) type HttpClient = legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// The client for the addresses that a server may have. `advice` says what to do if the system has no CA certificates.
///
/// # Errors
/// The CA certificates cannot be read.
pub(crate) fn client(
    ca: Option<&Path>,
    allowed: Allowed,
    advice: &'static str,
) -> anyhow::Result<HttpClient> {
    let roots =
        if allowed == Allowed::Private { RootCertStore::empty() } else { root_certificates(ca, advice)? };
    client_with(roots, allowed)
}

/// The client for the addresses that a server may have, which trusts these authorities.
///
/// # Errors
/// TLS cannot be set up.
pub(crate) fn client_with(roots: RootCertStore, allowed: Allowed) -> anyhow::Result<HttpClient> {
    let mut connector = HttpConnector::new_with_resolver(Resolver(allowed));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let tls = HttpsConnectorBuilder::new().with_tls_config(verifying_config(roots)?).https_or_http();
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(tls.enable_http1().wrap_connector(connector)))
}

/// The causes of an error.
pub(crate) fn reason(error: &legacy::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        causes.push(next.to_string());
        cause = next.source();
    }
    short(&causes.join(": "))
}

/// The beginning of a reason.
pub(crate) fn short(reason: &str) -> String {
    truncated(reason, MAX_REASON_BYTES).to_owned()
}
